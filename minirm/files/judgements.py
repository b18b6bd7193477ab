"""What a record says of its responses → scores: a higher one is better, equal ones are a tie."""

import contextlib
import re
import sys
from itertools import combinations, pairwise

from minirm.errors import InputError, field_error
from minirm.files.fields import NOTHING, Record
from minirm.files.tables import Cell

PAIR = (1.0, 0.0)
SIGNS = {"score": 1.0, "rank": -1.0}
TIE, BOTH_BAD = 0.5, 0.0  # scores of two that are equally good, or equally bad


def check_list(value: object, name: str) -> list:
    if not isinstance(value, list) or not value:
        raise field_error(name, value, "must be a list with at least one item")
    return value


def number(value: object, field: str) -> float:
    """Return a finite number."""
    if isinstance(value, Cell):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise field_error(field, value, "must be a finite number")
    return float(value)


NAMED = re.compile(
    r"(?:(?:model|response|answer|assistant|completion|output|candidate|option|side)[ _]?)?([0-9]+|[a-z])"
)
"""How one of several responses is named."""
Scores = dict[str, tuple[float, ...]]
"""A field that judges → what it says of each response."""


def named(value: object) -> str | None:
    """Return the number or letter by which a value names a response, or None."""
    said = str(value).removesuffix(".0").lower() if isinstance(value, int | float | str) else ""
    match = None if isinstance(value, bool) else NAMED.fullmatch(said)
    return match and match[1]


def agreed(scores: Scores) -> tuple[float, ...] | None:
    """Return the first of several judgements, or None.

    Raises:
        InputError: two contradict each other.
    """
    for (one, ours), (other, theirs) in combinations(scores.items(), 2):
        if any(before[1] > after[1] for before, after in pairwise(sorted(zip(ours, theirs, strict=True)))):
            rule = "1 is the best rank, and a higher score is better; --fields unread=… passes over one"
            raise InputError(f'field "{other}": contradicts "{one}": {rule}')
    return next(iter(scores.values()), None)


def read_choice(record: Record, names: tuple[str, ...], others: Scores) -> Scores:
    """Return the scores that the name of the best response gives: names[i], a number, "model_a", "tie" …

    Args:
        others: judgements beside which what names no response may be a label of something else.
    """
    found: Scores = {}
    for name in record.all("choice") + record.all("worst"):
        value = record.fields[name]
        if isinstance(value, bool) or value == "" or not isinstance(value, int | float | str):
            continue
        scores = _scores_of(record, str(value).lower(), names, is_shp=name.lower() == "labels" and names == ("a", "b"))
        if scores is None and (found or others):
            continue
        if scores is None:
            raise field_error(name, value, f"must be one of {', '.join(names)}, or tie")
        found[name] = tuple(-score for score in scores) if name in record.all("worst") else scores
        record.take(name, "choice")
    first = agreed(found)
    if len(found) > 1 and not found.keys().isdisjoint(record.all("worst")):
        sums = [sum(scores) for scores in zip(*found.values(), strict=True)]  # neither best nor worst: in the middle
        first = tuple(float(sorted(set(sums)).index(one)) for one in sums)
    return {next(iter(found)): first} if first else found


def _scores_of(record: Record, said: str, names: tuple[str, ...], *, is_shp: bool) -> tuple[float, ...] | None:
    word, one = re.sub(r"[^a-z]", "", said), named(said)
    if word in ("tie", "draw", "equal", "same"):
        return (TIE,) * len(names)
    if word in ("tiebothbad", "bothbad", "neither"):
        return (BOTH_BAD,) * len(names)
    if is_shp and one in ("0", "1"):  # 1 says that A is better
        return float(one), 1 - float(one)
    models = [str(record.fields.get(record.keys.get(f"model_{name}"), "")).lower() for name in names]
    best = models.index(said) if models.count(said) == 1 else names.index(one) if one in names else None
    return None if best is None else tuple(float(i == best) for i in range(len(names)))


def pair_scores(record: Record) -> tuple[float, float]:
    """Return the scores of a pair: those it has, of which the chosen one's must not be lower, or 1 and 0."""
    names = record.find("chosen score"), record.find("rejected score")
    if None in names or any(record.fields[name] in NOTHING for name in names):
        return PAIR
    high, low = (number(record.take(name, "score"), name) for name in names)
    if high < low:
        out = f"--fields unread={names[0]} unread={names[1]} passes over it"
        rule = f"the chosen response has {high:g}: must not be higher; {out}"
        raise field_error(names[1], low, rule)
    return high, low


def item_scores(items: list[Record | None], name: str) -> Scores:
    """Return the scores that the items hold, and from ranks, 1 the best; nothing where the first has neither."""
    found: Scores = {}
    if items[0] is None or not all(items):
        return found
    for meaning, sign in SIGNS.items():
        if (key := items[0].find(meaning)) is not None:
            values = [item.take(key, meaning) if key in item.fields else None for item in items]
            numbers = (number(value, f"{name}[{i}].{key}") for i, value in enumerate(values))
            found[f"{name}[].{key}"] = tuple(sign * value for value in numbers)
    return found


def listed_scores(record: Record, count: int) -> Scores:
    """Return one score for each response from a list of scores, and of ranks with their signs turned.

    Raises:
        InputError: they are not as many as the responses, or may be an order of them as well as their ranks.
    """
    found: Scores = {}
    for meaning, sign in SIGNS.items():
        name = record.find(f"{meaning}s")
        if name is None or record.fields[name] in NOTHING:
            continue
        values = check_list(record.take(name, f"{meaning}s"), name)
        if len(values) != count:
            raise field_error(name, values, f"must be as many as the responses, which are {count}")
        found[name] = tuple(sign * number(value, f"{name}[{i}]") for i, value in enumerate(values))
        order = [int(-score - min(map(abs, found[name]))) for score in found[name]]
        if (
            name.lower() == "ranking"
            and sorted(order) == [*range(count)]
            and any(order[k] != i for i, k in enumerate(order))
        ):
            raise field_error(name, values, "may be ranks or an order: --fields ranks=… says that it is ranks")
    return found


def scores_beside(record: Record, ends: tuple[str, ...]) -> Scores:
    """Return one score for each response from fields of its own (`score_a`, `score_b`; ranks likewise)."""
    found: Scores = {}
    for meaning, sign in SIGNS.items():
        for base in record.names.names[meaning]:
            names = [record.keys.get(f"{base}_{end}", record.keys.get(f"{base}{end}")) for end in ends]
            if None not in names:
                found[names[0]] = tuple(sign * number(record.take(name, meaning), name) for name in names)
                break
    return found


def rating(record: Record) -> float | None:
    """Return how good a response is said to be, or None."""
    for meaning in ("score", "label"):
        name = record.find(meaning)
        if name is None or record.fields[name] in NOTHING:
            continue
        value = record.take(name, meaning)
        if meaning == "label":
            truth = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
            if str(value).lower() not in truth:
                raise field_error(name, value, "must be true or false, whether the response is good")
            return truth[str(value).lower()]
        return number(value, name)
    return None
