"""The shapes in which the field writes its judgements: which fields a record needs, and how they are read.

Responses keep the record's order; its judgement becomes their scores.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from minirm.data.comparison import Turn, join_steps
from minirm.errors import InputError, field_error, list_names
from minirm.files.dialogue import FOR_TEMPLATES, MESSAGE_FIELDS, check_text, parse_prompt, parse_reply, split_replies
from minirm.files.fields import LABEL, NOTHING, Record, holds_text, is_texts
from minirm.files.judgements import (
    PAIR,
    agreed,
    check_list,
    item_scores,
    listed_scores,
    named,
    number,
    pair_scores,
    rating,
    read_choice,
    scores_beside,
)
from minirm.files.prompts import read_prompt

OPTIONAL = ("margin", "weight", "probability", "subset", "id", "source")  # columns that hold no response


class Steps(NamedTuple):
    """The steps of a response, each labelled by itself."""

    texts: tuple[str, ...]
    labels: tuple[float, ...]


class Judged(NamedTuple):
    """Responses to one prompt, and what was said of them."""

    prompt: tuple[Turn, ...]
    responses: tuple[str, ...]
    scores: tuple[float, ...] | None  # None: nobody judged them
    weight: float = 1.0
    is_rating: bool = False  # of a single response, which belongs beside others to the same prompt
    steps: Steps | None = None


class Shape(NamedTuple):
    """One way to write a judgement."""

    text: str  # what it holds, for a message
    needs: tuple[str, ...]
    """Meanings of the fields without which there is none."""
    fits: Callable[[Record], bool]
    read: Callable[[Record], Iterator[Judged] | list[Judged]]


def _pair(record: Record) -> list[Judged]:
    """Two texts, two dialogues, or lists of good and of bad responses."""
    names = record.find("chosen"), record.find("rejected")
    if names[0] is None and (names[1] != "rejected_response" or record.find("response") is None):
        return _messages_and_rejected(record, names[1])
    names = names[0] or record.find("response"), names[1]  # the latter beside rejected_response, in older ms-swift
    chosen, rejected = (record.take(name, meaning) for name, meaning in zip(names, ("chosen", "rejected"), strict=True))
    if is_texts(chosen) or is_texts(rejected):
        groups = [[value] if isinstance(value, str) else value for value in (chosen, rejected)]
        replies = [text for name, group in zip(names, groups, strict=True) for text in _texts(group, name)]
        scores = (1.0,) * len(groups[0]) + (0.0,) * len(groups[1])
    else:
        replies = [parse_reply(value, name) for name, value in zip(names, (chosen, rejected), strict=True)]
        scores = pair_scores(record)
    return [_judged(record, replies, scores)]


def _messages_and_rejected(record: Record, rejected: str) -> list[Judged]:
    """ms-swift: the chosen response ends a dialogue, the rejected one stands in a field of its own."""
    name = next((name for name in record.all("prompt") if isinstance(record.fields[name], list)), None)
    if name is None:
        rule = f'beside "{rejected}" there must be one; found keys {list_names(record.fields)}'
        raise InputError(f'field "chosen": missing: {rule}')
    *prompt, chosen = parse_reply(record.take(name, "chosen"), name)
    other = parse_reply(record.take(rejected, "rejected"), rejected)
    whole = (*prompt, chosen) if isinstance(other, tuple) and len(other) > 1 else (chosen,)
    before, _ = read_prompt(record, [])
    prompt, texts = split_replies((*before, *prompt), [whole, other])
    return [Judged(prompt, texts, PAIR)]


def _texts(value: object, name: str) -> list[str]:
    return [check_text(text, f"{name}[{i}]") for i, text in enumerate(check_list(value, name))]


def _judged(
    record: Record, replies: list, scores: tuple[float, ...] | None, weight: float = 1.0, is_rating: bool = False
) -> Judged:
    prompt, raw = read_prompt(record, replies)
    try:
        judged = Judged(*split_replies(prompt, replies, raw), scores, weight, is_rating)
    except InputError as error:
        name = next((name for name, meaning in record.read.items() if meaning in ("prompt", "system")), "prompt")
        raise InputError(f'field "{name}": {error}') from None
    if len(set(judged.responses)) < len(judged.responses):
        _check_same(record)
    return judged


def _check_same(record: Record) -> None:
    """Refuse messages that read as the same text, where they differ in texts under a key that is not read."""
    texts: dict[str, list[object]] = {}
    for path, value in record.unread():
        field, _, key = path.partition("[].")
        if key and record.read.get(field) in ("chosen", "rejected", "responses") and holds_text(value):
            texts.setdefault(key, []).append(value)
    for key, values in texts.items():
        if not LABEL.search(key) and any(value != values[0] for value in values):
            raise field_error(key, values[0], "is not read, and nothing else tells the responses apart")


def _responses(record: Record) -> list[Judged]:
    """A list of texts, messages, or objects that hold a text and a score or a rank."""
    name = record.find("responses")
    values = check_list(record.take(name, "responses"), name)
    items = [record.item(v, f"{name}[].") if isinstance(v, dict) else None for v in values]
    replies = [_reply(value, item, f"{name}[{i}]") for i, (value, item) in enumerate(zip(values, items, strict=True))]
    if record.names.ignore_judgements:
        return [_judged(record, replies, None)]
    if record.find("chosen") and record.find("rejected"):
        return [_two_of(record, replies)]
    listed = {**item_scores(items, name), **listed_scores(record, len(replies))}
    scores = agreed(listed | read_choice(record, tuple(map(str, range(len(replies)))), listed))
    if scores is None and name.lower() == "output" and len(replies) > 1:  # LlamaFactory: the best one first
        scores = tuple(-1.0 - i for i in range(len(replies)))
    return [_judged(record, replies, scores)]


def _reply(value: object, item: Record | None, name: str) -> object:
    if item is None:
        return parse_reply(value, name)
    key = item.find("text")
    if "role" not in value and "from" not in value:
        if key is None:
            raise field_error(f"{name}.text", None, "must be text")
        text = item.take(key, "text")
        if not any(map(value.get, FOR_TEMPLATES)) and not _is_parts(text):
            return parse_reply(text, f"{name}.{key}")
        value = {**value, "role": "assistant", "content": text}
    for key in (key for key in MESSAGE_FIELDS if key in item.fields):
        item.take(key, "message")
    return parse_reply([value], name)


def _is_parts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "type" in value[0]


def _two_of(record: Record, replies: list) -> Judged:
    """Two of the responses, named by their numbers; nobody judged the others."""
    numbers = []
    for meaning in ("chosen", "rejected"):
        value = record.take(name := record.find(meaning), meaning)
        if not (said := named(value) or "").isdigit() or int(said) >= len(replies):
            raise field_error(name, value, f"must be the number of a response, 0 to {len(replies) - 1}")
        numbers.append(int(said))
    return _judged(record, [replies[i] for i in numbers], PAIR)


COLUMN = re.compile(r"(response|answer|completion|output|summary|human_ref|conversation|text|reply)[_ ]?([0-9]+|[a-z])")


def _columns_of(record: Record) -> list[tuple[str, str]]:
    """Return fields such as response_a and response_b with what they end in, from 0, 1 or a on."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for low, name in record.keys.items():
        if match := COLUMN.fullmatch(low):
            groups.setdefault(match[1], []).append((name, match[2]))
    for group in groups.values():
        ends = [end for _, end in group]
        starts = [*([str(i + first) for i in range(len(ends))] for first in (0, 1)), "abcdefghijklmnop"[: len(ends)]]
        if len(ends) > 1 and any(sorted(ends) == sorted(start) for start in starts):
            return sorted(group, key=lambda column: (len(column[1]), column[1]))
    return []


def _columns(record: Record) -> list[Judged]:
    """Responses in fields of their own, and who is the best of them or how good each is."""
    names, ends = zip(*_columns_of(record), strict=True)
    one_hot = [record.keys.get(f"winner_model_{end}") for end in ends]
    values = [record.take(name, "response") for name in names]
    if None not in one_hot:  # Kaggle's arena: the turns of each side as a list, in JSON
        values = [_interleaved(record, value, name) for name, value in zip(names, values, strict=True)]
    replies = [parse_reply(value, name) for name, value in zip(names, values, strict=True)]
    weight = 1.0
    if (name := record.find("strength")) and record.fields[name] not in NOTHING:
        strength = number(record.take(name, "strength"), name)
        if len(replies) != 2:
            raise field_error(name, strength, f"must judge two responses, and there are {len(replies)}")
        weight, scores = abs(strength) or 1.0, (max(-strength, 0.0), max(strength, 0.0))
    elif None not in one_hot:
        scores = tuple(number(record.take(name, "choice"), name) for name in one_hot)
        record.take(record.keys.get("winner_tie"), "choice")
    else:
        choice = read_choice(record, ends, {})
        is_shp = "labels" in map(str.lower, choice)  # whose scores are counts of votes
        scores = agreed(choice | ({} if is_shp else scores_beside(record, ends)))
    return [_judged(record, replies, scores, weight)]


def _interleaved(record: Record, answers: object, name: str) -> object:
    """Return the messages of a dialogue whose questions and answers stand in two lists."""
    prompt = record.find("prompt")
    if prompt is None:
        return answers
    lists = []
    for key, text in ((prompt, record.fields[prompt]), (name, answers)):
        try:
            texts = json.loads(text) if isinstance(text, str) else text
        except ValueError:
            return answers
        if not isinstance(texts, list):
            return answers
        lists.append(_texts(["" if text is None else text for text in texts], key))  # null: it gave no answer
    if len(lists[0]) != len(lists[1]):
        raise field_error(name, lists[1], f'must be as many as the turns of "{prompt}", which are {len(lists[0])}')
    record.take(prompt, "prompt")
    turns = [turn for pair in zip(*lists, strict=True) for turn in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": text} for role, text in turns]


def _response(record: Record) -> list[Judged]:
    """One response: unjudged, or rated for itself, as in HelpSteer (0 to 4) and KTO (true or false)."""
    name = record.find("response")
    value = record.take(name, "response")
    item = record.item(value, f"{name}.") if isinstance(value, dict) else None
    reply = _reply(value, item, name)
    axes = item and isinstance(item.fields.get("axes"), dict) and item.item(item.take("axes", "score"), f"{name}.axes.")
    return [_rated(record, [reply], rating(axes or record))]


def _rated(record: Record, replies: list, score: float | None) -> Judged:
    return _judged(record, replies, (score or 0.0,), is_rating=score is not None)


def _stepwise(record: Record) -> list[Judged]:
    """TRL's stepwise supervision: the steps of one response, each labelled by how probably right it is."""
    texts, labels = (record.take(record.keys[name], "steps") for name in ("completions", "labels"))
    if not texts or len(texts) != len(labels):
        raise field_error("labels", labels, f"must be as many as there are completions, {len(texts)}, and at least one")
    texts = tuple(check_text(text, f"completions[{i}]") for i, text in enumerate(texts))
    for i, label in enumerate(labels):
        if not isinstance(label, bool | int | float) or not 0 <= label <= 1:
            raise field_error(f"labels[{i}]", label, "must be true or false, or a number from 0 to 1")
    judged = _judged(record, [parse_reply(join_steps(texts), "completions")], (0.0,))
    return [judged._replace(steps=Steps(texts, tuple(map(float, labels))))]


def _has_steps(record: Record) -> bool:
    names = [record.keys.get(name) for name in ("completions", "labels")]
    return None not in names and all(isinstance(record.fields[name], list) for name in names)


def _conversation(record: Record) -> list[Judged]:
    """A dialogue whose last message is the response; nobody judged it, or a label says whether it is good."""
    name = next(name for name in record.all("prompt") if _holds_messages(record.fields[name]))
    return [_rated(record, [parse_reply(record.take(name, "conversation"), name)], rating(record))]


def _holds_messages(value: object) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and not first.keys().isdisjoint(("role", "from", "messages"))


def _tree(record: Record) -> Iterator[Judged]:
    """OASST: a comparison wherever the assistant's replies were ranked, 0 the best; one alone is not judged."""
    nodes = [(record.take(name := record.find("prompt"), "tree"), ())]
    while nodes:
        node, before = nodes.pop(0)
        turns = (*before, parse_prompt([{"role": node.get("role"), "content": node.get("text")}], name)[0])
        replies = node.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise field_error(f"{name}.replies", replies, "must be a list of messages")
        replies = [reply for reply in replies if not reply.get("deleted")]
        if turns[-1].role == "assistant":
            nodes += [(reply, turns) for reply in replies]
            continue
        texts = [check_text(reply.get("text"), f"{name}.replies.text") for reply in replies]
        ranks = [reply.get("rank") for reply in replies]
        ranked = [i for i, rank in enumerate(ranks) if rank is not None]
        if len(ranked) > 1:
            scores = tuple(-number(ranks[i], f"{name}.replies.rank") for i in ranked)
            yield Judged(turns, tuple(texts[i] for i in ranked), scores)
        alone = [text for i, text in enumerate(texts) if len(ranked) < 2 or i not in ranked]
        yield from (Judged(turns, (text,), (0.0,)) for text in alone)
        nodes += [(reply, turns) for reply in replies]


def _ranking(record: Record) -> list[Judged]:
    """Columns of responses from the most to the least preferable; empty cells at the end are responses not given."""
    fields, prompts = record.fields, record.all("prompt")
    columns = _ranked_columns(record) or [name for name in fields if name not in prompts and name not in OPTIONAL]
    if any("least" in name for name in columns[:-1]) or any("most" in name for name in columns[1:]):
        raise InputError(f"columns {list_names(columns)}: must run from the most to the least preferable response")
    while len(columns) > 2 and not fields[columns[-1]]:
        record.take(columns.pop(), "response")
    for name in columns:
        if not fields[name]:
            raise field_error(name, fields[name], "is empty, though a ranking needs two responses and no gap")
    replies = [parse_reply(record.take(name, "response"), name) for name in columns]
    return [_judged(record, replies, tuple(-1.0 - i for i in range(len(columns))))]


def _ranked_columns(record: Record) -> list[str]:
    return [name for low, name in record.keys.items() if "prefer" in low and "strength" not in low]


def _has_candidates(record: Record) -> bool:
    name, chosen = record.find("responses"), record.value("chosen")
    if name is None or not isinstance(values := record.fields[name], list):
        return False
    if isinstance(chosen, str | list | dict) and record.find("rejected") and not _is_choice(record, values):
        return False
    return name.lower() != "output" or not _holds_messages(values) or "score" in values[0]


def _is_choice(record: Record, texts: Sequence[object]) -> bool:
    """Return whether chosen and rejected are no texts, but name two of the texts."""
    values = [record.value("chosen"), record.value("rejected")]
    return not any(value in texts for value in values) and all(named(value) for value in values)


def _is_pair(record: Record) -> bool:
    columns = [record.fields[name] for name, _ in _columns_of(record)]
    return record.find("rejected") is not None and not (columns and _is_choice(record, columns))


def _is_tree(record: Record) -> bool:
    return isinstance(value := record.value("prompt"), dict) and "replies" in value


SHAPES: dict[str, Shape] = {
    "tree": Shape("prompt with replies", ("prompt",), _is_tree, _tree),
    "stepwise": Shape("completions with labels", ("prompt",), _has_steps, _stepwise),
    "responses": Shape("responses", ("responses",), _has_candidates, _responses),
    "pairs": Shape("chosen+rejected", ("rejected",), _is_pair, _pair),
    "columns": Shape("response_a+response_b", (), lambda record: bool(_columns_of(record)), _columns),
    "response": Shape("prompt+response", ("response",), lambda record: record.find("response") is not None, _response),
    "conversation": Shape("messages", ("prompt",), lambda r: _holds_messages(r.value("prompt")), _conversation),
    "ranking": Shape(
        "columns named like 'most preferable response'", (), lambda r: len(_ranked_columns(r)) > 1, _ranking
    ),
    "rewardbench": Shape("subset", ("prompt", "chosen", "rejected", "subset"), lambda record: False, _pair),
}
"""A record is recognised as the first shape that it fits, and so never as rewardbench, which is for naming."""


def recognise(record: Record) -> str:
    """Return the name of the first shape that the record fits.

    Raises:
        InputError: it fits none.
    """
    for name, shape in SHAPES.items():
        if shape.fits(record):
            return name
    accepted = ", ".join(shape.text for name, shape in SHAPES.items() if name != "rewardbench")
    found = list_names(record.fields) or "none"
    raise InputError(f"found keys {found}: no accepted format: a record holds {accepted}; --fields says what is what")


def read_shape(record: Record, format: str) -> Iterator[Judged] | list[Judged]:
    """Return what a record of a named shape says.

    Raises:
        InputError: a field is missing or wrong, or a prompt seems to stand in a field that is not read.
    """
    shape = SHAPES[format]
    for meaning in shape.needs:
        if record.find(meaning) is None:
            found = list_names(record.fields)
            raise InputError(f'field "{meaning}": missing: format {format} needs it; found keys {found}')
    return shape.read(record)
