"""A line of a file → a `Comparison`: `fields.py` says what its fields may be called, `shapes.py` what they mean."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from minirm.data.comparison import Comparison, RawRecord, Turn
from minirm.errors import InputError, field_error, list_names
from minirm.files.dialogue import check_text
from minirm.files.fields import LABEL, TEXT, Names, Record, Usage, holds_text, parse_fields, unfold
from minirm.files.judgements import PAIR, number
from minirm.files.reading import find_files, name_of, read_file
from minirm.files.shapes import SHAPES, read_shape, recognise

LARGEST = 1e18  # of margins and weights: training multiplies them in float32, which ends at 3.4e38
MAYBE_UNJUDGED = ("response", "conversation", "tree", "stepwise")  # a single response, and maybe no judgement
HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # a surrogate, of which no UTF-8 can be made
MOST_RESPONSES = 1024  # to one prompt: their pairs are K²


def read_comparisons(
    paths: Sequence[str | Path],
    *,
    format: str | None = None,
    fields: Sequence[str] = (),
    usage: dict[str, Usage] | None = None,
) -> Iterator[Comparison]:
    """Return an iterator over the comparisons in the files as they are read; ratings wait for others of their prompt.

    Args:
        paths: files and folders; data/README.md lists what they may hold.
        format: a key of `SHAPES`; None recognises the format of each file by its first record.
        fields: what fields are called: "prompt=question".
        usage: to which is added, by file, which fields were read as what.
    Raises:
        InputError: at once if a path, the format or the fields are wrong; while iterating if a record is.
    """
    if format is not None and format not in SHAPES:
        raise InputError(f'format "{format}": unknown: must be one of {", ".join(SHAPES)}')
    names, files = parse_fields(fields) if fields else None, find_files(paths)
    return (comparison for file in files for comparison in _read_file(file, format, names, usage))


def _read_file(
    path: Path, format: str | None, names: Names | None, usage: dict[str, Usage] | None
) -> Iterator[Comparison]:
    """Yield the comparisons of one file; responses rated one by one together, once all of a prompt are read."""
    found = None if usage is None else usage.setdefault(name_of(path), Usage())
    records = parse_records(read_file(path), format=format, names=names, usage=found)
    for parsed in records:
        if parsed.is_rating:
            again = parse_records(read_file(path), format=format, names=names)
            yield from _gathered(chain([parsed], records), again)
        else:
            yield from parsed.comparisons


def _gathered(records: Iterable["Parsed"], again: Iterable["Parsed"]) -> Iterator[Comparison]:
    """Yield comparisons, responses rated one by one together; `again` tells how many there will be of each prompt."""
    expected = Counter(_kinship(c) for other in again if other.is_rating for c in other.comparisons)
    waiting: dict[int, list[Comparison]] = {}
    for parsed in records:
        for comparison in parsed.comparisons:
            if not parsed.is_rating or not comparison.prompt:
                yield comparison
                continue
            key = _kinship(comparison)
            waiting.setdefault(key, []).append(comparison)
            expected[key] -= 1
            if not expected[key] or len(waiting[key]) == MOST_RESPONSES:
                yield _together(waiting.pop(key))


def _kinship(comparison: Comparison) -> int:
    return hash(replace(comparison, responses=("",), scores=(0.0,), source="", id=None))


def _together(ratings: list[Comparison]) -> Comparison:
    """Return one comparison of responses to the same prompt that were rated one by one."""
    responses = tuple(text for rating in ratings for text in rating.responses)
    return replace(
        ratings[0], responses=responses, scores=tuple(score for rating in ratings for score in rating.scores)
    )


class Parsed(NamedTuple):
    """What one record says."""

    comparisons: list[Comparison]
    is_rating: bool = False  # of a single response, which belongs beside others to the same prompt


def parse_records(
    records: Iterator[RawRecord], *, format: str | None = None, names: Names | None = None, usage: Usage | None = None
) -> Iterator[Parsed]:
    """Yield what each record of one file says, all in the format of the first."""
    had_prompt = False
    for raw in records:
        plain = plain_pair(raw) if names is None and format in (None, "pairs") else None
        if plain:
            format, had_prompt = "pairs", True
            if usage is not None:
                usage.add_plain(raw.fields)
            yield Parsed([plain])
            continue
        for place, fields in unfold(raw):
            try:
                record = Record(fields, names or Names())
                format = format or recognise(record)
                parsed = parse_record(record, format, place)
                check_asked(record, parsed.comparisons, had_prompt)
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
            had_prompt = had_prompt or "prompt" in record.read.values()
            if usage is not None:
                usage.add(record)
            yield parsed


def plain_pair(raw: RawRecord) -> Comparison | None:
    """Return what {"prompt", "chosen", "rejected"} in plain text says, as most records are; None for any other.

    `parse_record` says the same of it; here nothing has to be found out.
    """
    texts = [raw.fields.get(name) for name in ("prompt", "chosen", "rejected")]
    if len(raw.fields) != 3 or not all(isinstance(text, str) and text for text in texts):
        return None
    prompt, *responses = texts
    # A dialogue in text, messages in JSON, and a response that repeats its prompt (below) have to be looked into.
    if any("\n\n" in text or text.startswith(("Human: ", "[{")) for text in texts):
        return None
    if any("\0" in text or (not text.isascii() and HALF_A_PAIR.search(text)) for text in texts):
        return None
    if prompt.isspace() or any(response.startswith(prompt.rstrip()) for response in responses):
        return None
    return Comparison((Turn("user", prompt),), tuple(responses), PAIR, source=raw.place)


def parse_record(record: Record, format: str, place: str = "") -> Parsed:
    """Return the comparisons that a record of the named format holds, mostly one.

    Args:
        record: see `fields.py` and `shapes.py` for what it may look like.
        format: a key of `SHAPES`.
        place: where it stands, for messages.
    """
    dials = _dials(record)
    comparisons = []
    judged = list(read_shape(record, format))
    for prompt, responses, scores, weight, is_rating, steps in judged:
        if len(responses) > MOST_RESPONSES:
            raise InputError(f"{len(responses)} responses to one prompt: must be at most {MOST_RESPONSES}")
        if scores is None and not record.names.ignore_judgements:
            rule = "nothing says which response is better: a score, a rank or a choice must stand beside them"
            raise InputError(f"found keys {list_names(record.fields)}: {rule}")
        if dials["probability"] < 1 and len(responses) != 2:
            raise field_error("probability", dials["probability"], "must be 1 unless the record is a pair")
        rest = {
            **dials,
            "weight": dials["weight"] * weight,
            "is_judged": is_rating or len(responses) > 1 or format not in MAYBE_UNJUDGED,
        }
        if steps is not None:
            rest |= {"steps": (steps.texts,), "step_labels": (steps.labels,)}
        comparisons.append(Comparison(prompt, responses, scores or (0.0,) * len(responses), **rest, source=place))
    record.check_given()
    if not comparisons:
        raise InputError("holds no response of an assistant")
    if not all(comparison.prompt for comparison in comparisons):
        _check_no_prompt_unread(record)
    return Parsed(comparisons, is_rating=judged[0].is_rating)


def check_asked(record: Record, comparisons: Sequence[Comparison], had_prompt: bool) -> None:
    """Refuse a record without a field for the prompt where those before have one."""
    if had_prompt and "prompt" not in record.read.values() and not all(comparison.prompt for comparison in comparisons):
        found = list_names(record.fields)
        raise InputError(f'field "prompt": missing, though records before have one; found keys {found}')


def _check_no_prompt_unread(record: Record) -> None:
    """Refuse responses without a prompt where it may stand in a field that was not read; the longest is named."""
    fields = {name: value for name, value in record.unread() if name.lower() in record.keys and holds_text(value)}
    maybe = [name for name in fields if TEXT.search(name.lower()) or not LABEL.search(name.lower())]
    if maybe:
        name = max(maybe, key=lambda name: len(str(fields[name])))
        rule = f"no prompt is read, and this may be it: --fields prompt={name} or unread={name} says it"
        raise field_error(name, fields[name], rule)


def _dials(record: Record) -> dict:
    """Return the optional fields of a comparison by name."""
    dials = {}
    for name, default in (("margin", 0.0), ("weight", 1.0), ("probability", 1.0)):
        found = record.find(name)
        value = record.take(found, name)
        dials[name] = default if value is None or value == "" else number(value, found)
    margin, weight, probability = dials.values()
    if not 0 <= probability <= 1:
        raise field_error("probability", probability, "must lie between 0 and 1, and 1 unless the record is a pair")
    if not abs(margin) <= LARGEST:
        raise field_error("margin", margin, f"must lie between -{LARGEST:g} and {LARGEST:g}")
    if not 1 / LARGEST <= weight <= LARGEST:
        raise field_error("weight", weight, f"must be above 0, and lie between {1 / LARGEST:g} and {LARGEST:g}")
    subset = record.take(name := record.find("subset"), "subset")
    identity = record.take(record.find("id"), "id")
    return {**dials, "subset": "" if subset is None else check_text(subset, name), "id": identity}


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
