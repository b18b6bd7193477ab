"""What a record says of its responses → scores: a higher one is better, equal ones are a tie."""

import contextlib
import re
import sys
from itertools import pairwise

from minirm.errors import InputError, field_error
from minirm.files.fields import NOTHING, Record
from minirm.files.tables import Cell

PAIR = (1.0, 0.0)
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


def is_integer(value: object) -> bool:
    return (
        isinstance(value, int | float | Cell)
        and not isinstance(value, bool)
        and str(value).removesuffix(".0").isdigit()
    )


def read_choice(record: Record, names: tuple[str, ...]) -> tuple[float, ...] | None:
    """Return the scores that the name of the best response gives: names[i], a number, "model_a", "tie" …"""
    for name in record.all("choice"):
        value, count = record.fields[name], len(names)
        said = str(value).removesuffix(".0").lower() if isinstance(value, int | float | str) else None
        if said is None or isinstance(value, bool) or value == "":
            continue
        word = re.sub(r"[^a-z]", "", said)
        if name.lower() == "labels" and names == ("a", "b") and said in ("0", "1"):  # SHP: 1 says that A is better
            found = (float(said), 1 - float(said))
        elif word in ("tie", "draw", "equal", "same"):
            found = (TIE,) * count
        elif word in ("tiebothbad", "bothbad", "neither"):
            found = (BOTH_BAD,) * count
        elif (last := re.split(r"[ _]", said)[-1]) in names:
            found = tuple(float(name == last) for name in names)
        else:
            raise field_error(name, value, f"must be one of {', '.join(names)}, or tie")
        record.take(name, "choice")
        return found
    return None


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


def item_scores(items: list[Record | None], name: str) -> tuple[float, ...] | None:
    """Return the scores that the items hold, or from ranks, 1 the best; None where the first has neither."""
    if items[0] is None or not all(items):
        return None
    first = {meaning: items[0].find(meaning) for meaning in ("score", "rank")}
    found = {}
    for meaning in (meaning for meaning, key in first.items() if key is not None):
        key = first[meaning]
        numbers = (
            number(item.take(key, meaning) if key in item.fields else None, f"{name}[{i}].{key}")
            for i, item in enumerate(items)
        )
        found[meaning] = tuple(numbers)
    if len(found) == 2:
        ordered = sorted(zip((-score for score in found["score"]), found["rank"], strict=True))
        if any(before[1] > after[1] for before, after in pairwise(ordered)):
            rule = "contradict each other: 1 is the best rank, and a higher score is better"
            raise InputError(f'field "{name}": {first["rank"]} and {first["score"]} {rule}')
    return found.get("score") or (tuple(-rank for rank in found["rank"]) if found else None)


def listed_scores(record: Record, count: int) -> tuple[float, ...] | None:
    """Return one score for each response from a list of scores, or of ranks with their signs turned, or None.

    Raises:
        InputError: they are not as many as the responses.
    """
    for meaning, sign in (("scores", 1.0), ("ranks", -1.0)):
        name = record.find(meaning)
        if name is not None and record.fields[name] not in NOTHING:
            values = check_list(record.take(name, meaning), name)
            if len(values) != count:
                raise field_error(name, values, f"must be as many as the responses, which are {count}")
            return tuple(sign * number(value, f"{name}[{i}]") for i, value in enumerate(values))
    return None


def scores_beside(record: Record, ends: tuple[str, ...]) -> tuple[float, ...] | None:
    """Return one score for each response from fields of its own (`score_a`, `score_b`; ranks likewise), or None."""
    for meaning, sign in (("score", 1.0), ("rank", -1.0)):
        for base in record.names.names[meaning]:
            names = [record.keys.get(f"{base}_{end}", record.keys.get(f"{base}{end}")) for end in ends]
            if None not in names:
                return tuple(sign * number(record.take(name, meaning), name) for name in names)
    return None


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
