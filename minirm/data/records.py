"""Every accepted file format → `Comparison`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minirm.data.dialogue import (
    Turn,
    check_text,
    parse_message,
    parse_prompt,
    parse_response,
    split_dialogues,
    split_messages,
)
from minirm.data.files import Row, find_files, read_rows
from minirm.errors import InputError, field_error, list_names


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt and the K responses that were judged against each other.

    A pair is K=2 with scores (1.0, 0.0). A conversation without a judgement (for the language-model stage) is K=1.
    """

    prompt: tuple[Turn, ...]
    """The dialogue before the response; () when there is none. A plain prompt is one user turn."""
    responses: tuple[str, ...]
    """K texts."""
    scores: tuple[float, ...]
    """K numbers, higher is better; equal scores are a tie."""
    margin: float = 0.0
    """How far apart, in logits, the rewards of a better and a worse response should be."""
    weight: float = 1.0
    """How much this comparison counts in the loss."""
    probability: float = 1.0
    """How probable it is that a higher score means a better response; 1 is a hard label, 0.5 says nothing."""
    subset: str = ""
    """Name of the part of a benchmark that it belongs to."""
    source: str = ""
    """Where it was read: "file:line"."""
    id: object = None
    """The record's own "id", as it stands there; None where it has none."""
    steps: tuple[tuple[str, ...], ...] | None = None
    """The texts of each response's steps, which `join_steps` makes into the response; None: it has no steps."""
    step_labels: tuple[tuple[float, ...], ...] | None = None
    """A label for each step: 1 right, 0 wrong, or how probably right it is."""
    is_judged: bool = True
    """False: a text to learn from, whose score of 0 says nothing."""

    def __post_init__(self):
        if not self.responses or len(self.responses) != len(self.scores):
            raise ValueError(
                f"{len(self.responses)} responses, {len(self.scores)} scores: must be as many, at least one"
            )
        counts = [[len(of_one) for of_one in part or ()] for part in (self.steps, self.step_labels)]
        if counts[0] != counts[1] or (counts[0] and (len(counts[0]) != len(self.responses) or 0 in counts[0])):
            raise ValueError(f"steps {counts[0]}, labels {counts[1]}: must be as many, at least one to a response")


def join_steps(steps: Sequence[str]) -> str:
    """Return the response that its steps make up, each on a line of its own."""
    return "\n".join(steps)


PAIR = (1.0, 0.0)
UNJUDGED = (0.0,)
LARGEST = 1e18  # of margins and weights: training multiplies them in float32, which ends at 3.4e38
OPTIONAL = ("margin", "weight", "probability", "subset", "id", "source")  # columns that hold no response


def read_comparisons(paths: Sequence[str | Path], *, format: str | None = None) -> Iterator[Comparison]:
    """Return an iterator over the comparisons in the files, in order, holding one record in memory at a time.

    Args:
        paths: files and folders; data/README.md lists what they may hold.
        format: a key of `FORMATS`; None recognises the format of each file by its first record.
    Raises:
        InputError: at once if a path or the format is wrong; while iterating if a record is.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f'format "{format}": unknown: must be one of {", ".join(FORMATS)}')
    files = find_files(paths)
    return (comparison for file in files for comparison in parse_rows(read_rows(file), format=format))


def parse_rows(rows: Iterator[Row], *, format: str | None = None) -> Iterator[Comparison]:
    """Yield the comparison in each row of one file, all in the format of the first."""
    for place, fields in rows:
        try:
            format = format or recognise_format(fields)
            yield parse_record(fields, format, place)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None


def recognise_format(fields: dict) -> str:
    """Return the first of `FORMATS` all of whose keys the record has."""
    for name, (keys, _) in FORMATS.items():
        if all(key in fields for key in keys) and (name != "ranking" or len(_ranked_columns(fields)) > 1):
            return name
    named = (keys for name, (keys, _) in FORMATS.items() if name not in ("ranking", "rewardbench"))
    accepted = ", ".join("+".join(keys) for keys in named)
    rule = f"a record holds {accepted}, or prompt and columns named like 'most preferable response'"
    raise InputError(f"found keys {list_names(fields) or 'none'}: no accepted format: {rule}")


def parse_record(fields: dict, format: str, place: str = "") -> Comparison:
    """Return the comparison that a record of the named format holds."""
    keys, parse = FORMATS[format]
    for key in keys:
        if key not in fields:
            raise InputError(f'field "{key}": missing: format {format} needs it; found keys {list_names(fields)}')
    prompt, responses, scores = parse(fields)
    probability = _number(fields, "probability", 1.0)
    if not 0 <= probability <= 1 or (probability < 1 and len(responses) != 2):
        raise field_error("probability", probability, "must lie between 0 and 1, and 1 unless the record is a pair")
    margin, weight = _number(fields, "margin", 0.0), _number(fields, "weight", 1.0)
    if not abs(margin) <= LARGEST:
        raise field_error("margin", margin, f"must lie between -{LARGEST:g} and {LARGEST:g}")
    if not 1 / LARGEST <= weight <= LARGEST:
        raise field_error("weight", weight, f"must be above 0, and lie between {1 / LARGEST:g} and {LARGEST:g}")
    subset = "" if fields.get("subset") is None else check_text(fields["subset"], "subset")
    comparison = Comparison(prompt, responses, scores, margin, weight, probability, subset, place, fields.get("id"))
    if format != "stepwise":
        return replace(comparison, is_judged=scores is not UNJUDGED)
    labels = tuple(_probability(label, f"labels[{i}]") for i, label in enumerate(fields["labels"]))
    return replace(comparison, steps=(tuple(fields["completions"]),), step_labels=(labels,), is_judged=False)


def to_json(comparison: Comparison) -> dict:
    """Return the record, in messages form, from which `read_comparisons` makes the same comparison again."""
    record: dict = {"prompt": [{"role": turn.role, "content": turn.text} for turn in comparison.prompt]}
    if comparison.steps is not None and len(comparison.responses) == 1:
        record |= {"completions": list(comparison.steps[0]), "labels": list(comparison.step_labels[0])}
    elif not comparison.is_judged:
        record["response"] = comparison.responses[0]
    elif comparison.scores == PAIR:
        for key, response in zip(("chosen", "rejected"), comparison.responses, strict=True):
            record[key] = [{"role": "assistant", "content": response}]
    else:
        judged = zip(comparison.responses, comparison.scores, strict=True)
        record["responses"] = [{"text": response, "score": score} for response, score in judged]
    defaults = {"margin": 0.0, "weight": 1.0, "probability": 1.0, "subset": "", "id": None}
    return record | {k: getattr(comparison, k) for k, default in defaults.items() if getattr(comparison, k) != default}


Judged = tuple[tuple[Turn, ...], tuple[str, ...], tuple[float, ...]]  # prompt, responses, scores


def _pair(fields: dict) -> Judged:
    """Two texts, two dialogues in text, two lists of messages, or lists of good and of bad responses."""
    chosen, rejected = _messages_within(fields["chosen"]), _messages_within(fields["rejected"])
    if _is_texts(chosen) or _is_texts(rejected):
        return _good_and_bad(fields.get("prompt"), chosen, rejected)
    if isinstance(chosen, list):
        prompt = parse_prompt(fields.get("prompt"))
        prompt, *pair = split_messages(prompt, _dialogue(chosen, "chosen"), _dialogue(rejected, "rejected"))
        return prompt, tuple(pair), PAIR
    return _pair_of_texts(fields.get("prompt"), chosen, rejected)


def _pair_of_texts(prompt: object, chosen: object, rejected: object) -> Judged:
    if prompt in (None, "", []):  # the forms that `parse_prompt` takes for no prompt
        prompt, *pair = split_dialogues(check_text(chosen, "chosen"), check_text(rejected, "rejected"))
        return prompt, tuple(pair), PAIR
    pair = (parse_response(chosen, prompt, "chosen"), parse_response(rejected, prompt, "rejected"))
    return parse_prompt(prompt), pair, PAIR


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, str) for item in value)


def _good_and_bad(prompt: object, chosen: object, rejected: object) -> Judged:
    """RewardBench 2: every chosen response is better than every rejected one."""
    responses, scores = [], []
    for field, texts, score in (("chosen", chosen, 1.0), ("rejected", rejected, 0.0)):
        texts = [texts] if isinstance(texts, str) else _list(texts, field)
        responses += [parse_response(text, prompt, f"{field}[{i}]") for i, text in enumerate(texts)]
        scores += [score] * len(texts)
    return parse_prompt(prompt), tuple(responses), tuple(scores)


def _positive_negative(fields: dict) -> Judged:
    """LMFlow: two texts, each the prompt and a response."""
    pair = (check_text(fields[key], key) for key in ("positive", "negative"))
    prompt, *pair = split_dialogues(*pair)
    return prompt, tuple(pair), PAIR


def _responses(fields: dict) -> Judged:
    return _scored(fields.get("prompt"), fields["responses"], "responses")


def _scored_textlist(fields: dict) -> Judged:
    """LMFlow's text_to_scored_textlist; its text2text has a single text as output, and no judgement."""
    if isinstance(fields["output"], str):
        return _unjudged(fields["input"], fields["output"], "output")
    return _scored(fields["input"], fields["output"], "output")


def _scored(prompt: object, items: object, field: str) -> Judged:
    """K responses, each with a score (higher is better), or each with a rank (1 is best)."""
    responses, scores, key, sign = [], [], "score", 1.0
    for i, item in enumerate(_list(items, field)):
        if not isinstance(item, dict):
            raise field_error(f"{field}[{i}]", item, 'must be an object {"text", "score" or "rank"}')
        if i == 0 and "score" not in item and "rank" in item:
            key, sign = "rank", -1.0
        responses.append(parse_response(item.get("text"), prompt, f"{field}[{i}].text"))
        scores.append(sign * _number(item, key, None, f"{field}[{i}].{key}"))
    return parse_prompt(prompt), tuple(responses), tuple(scores)


def _summaries(fields: dict) -> Judged:
    """OpenAI's summarize-from-feedback: the prompt is the post, laid out as its authors did, and "TL;DR:"."""
    info, summaries, choice = fields["info"], _list(fields["summaries"], "summaries"), fields["choice"]
    if not isinstance(info, dict) or not (info.get("post") or info.get("article")):
        raise field_error("info", info, 'must be an object with a "post" or an "article"')
    if len(summaries) != 2 or not all(isinstance(summary, dict) for summary in summaries):
        raise field_error("summaries", summaries, 'must be two objects {"text"}')
    if choice not in (0, 1) or isinstance(choice, bool):
        raise field_error("choice", choice, "must be 0 or 1, which summary is better")
    labels = (("subreddit", "SUBREDDIT: r/"), ("title", "TITLE: "), ("post", "POST: "), ("article", "ARTICLE: "))
    parts = [label + check_text(info[key], f"info.{key}") for key, label in labels if info.get(key) is not None]
    pair = tuple(check_text(summaries[i].get("text"), f"summaries[{i}].text") for i in map(int, (choice, 1 - choice)))
    return (Turn("user", "\n\n".join([*parts, "TL;DR:"])),), pair, PAIR


def _conversation(fields: dict) -> Judged:
    *prompt, response = _dialogue(_messages_within(fields), "messages")
    return tuple(prompt), (response.text,), UNJUDGED


def _completion(fields: dict) -> Judged:
    key = "response" if "response" in fields else "completion"
    return _unjudged(fields["prompt"], fields[key], key)


def _instruction(fields: dict) -> Judged:
    """Alpaca's: what to do, maybe with what, and the response."""
    prompt = check_text(fields["instruction"], "instruction")
    if fields.get("input"):
        prompt += "\n\n" + check_text(fields["input"], "input")
    return _unjudged(prompt, fields["output"], "output")


def _unjudged(prompt: object, response: object, field: str) -> Judged:
    return parse_prompt(prompt), (parse_response(response, prompt, field),), UNJUDGED


def _stepwise(fields: dict) -> Judged:
    """TRL's stepwise supervision: the steps of one response, each judged by itself."""
    steps, labels = _list(fields["completions"], "completions"), _list(fields["labels"], "labels")
    if len(steps) != len(labels):
        raise field_error("labels", labels, f"must be as many as there are completions, {len(steps)}")
    texts = [check_text(step, f"completions[{i}]") for i, step in enumerate(steps)]
    return _unjudged(fields["prompt"], join_steps(texts), "completions")


def _ranking(fields: dict) -> Judged:
    """Columns of responses from the most to the least preferable; empty cells at the end are responses not given."""
    columns = _ranked_columns(fields) or [name for name in fields if name != "prompt" and name not in OPTIONAL]
    if any("least" in name for name in columns[:-1]) or any("most" in name for name in columns[1:]):
        raise InputError(f"columns {list_names(columns)}: must run from the most to the least preferable response")
    while len(columns) > 2 and not fields[columns[-1]]:
        columns.pop()
    for name in columns:
        if not fields[name]:
            raise field_error(name, fields[name], "is empty, though a ranking needs two responses and no gap")
    responses = tuple(parse_response(fields[name], fields["prompt"], name) for name in columns)
    return parse_prompt(fields["prompt"]), responses, tuple(-1.0 - i for i in range(len(columns)))


def _ranked_columns(fields: dict) -> list[str]:
    return [name for name in fields if "prefer" in name]


def _messages_within(value: object) -> object:
    """Return the messages of LMFlow's {"system", "messages"}, the system text first; anything else as it is."""
    if not isinstance(value, dict) or "messages" not in value:
        return value
    system, messages = value.get("system"), _list(value["messages"], "messages")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _dialogue(messages: object, field: str) -> tuple[Turn, ...]:
    turns = tuple(parse_message(message, f"{field}[{i}]") for i, message in enumerate(_list(messages, field)))
    if turns[-1].role != "assistant":
        raise field_error(f"{field}[{len(turns) - 1}].role", turns[-1].role, "the last message must be the assistant's")
    return turns


def _list(value: object, field: str) -> list:
    if not isinstance(value, list) or not value:
        raise field_error(field, value, "must be a list with at least one item")
    return value


def _probability(value: object, field: str) -> float:
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise field_error(field, value, "must be true or false, or a number from 0 to 1")
    return float(value)


def _number(fields: dict, key: str, default: float | None, field: str = "") -> float:
    """Return a finite number; the default, where there is one, stands for a field that is absent or null."""
    value = fields.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise field_error(field or key, value, "must be a finite number")
    return float(value)


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[dict], Judged]]] = {
    "pairs": (("chosen", "rejected"), _pair),
    "positive-negative": (("positive", "negative"), _positive_negative),
    "responses": (("responses",), _responses),
    "instruction": (("instruction", "output"), _instruction),
    "scored-textlist": (("input", "output"), _scored_textlist),
    "summaries": (("info", "summaries", "choice"), _summaries),
    "stepwise": (("prompt", "completions", "labels"), _stepwise),
    "conversation": (("messages",), _conversation),
    "response": (("prompt", "response"), _completion),
    "completion": (("prompt", "completion"), _completion),
    "ranking": (("prompt",), _ranking),
    "rewardbench": (("prompt", "chosen", "rejected", "subset"), _pair),
}
"""Name of a format → the keys that it needs, and the function that reads a record. A record is recognised by the first
whose keys it has, and so never as rewardbench, which is for naming: its keys include those of pairs."""
