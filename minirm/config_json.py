"""A configuration as plain JSON types, and back: every value is held against its field's annotation."""

import dataclasses
import math
import types
import typing
from pathlib import Path

from minirm.errors import InputError, shorten

C = typing.TypeVar("C")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "text"}
"""What a type is called in a message."""


def to_json(config: object) -> dict:
    """Return a dataclass as plain JSON types."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
    }


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def config_from_json(kind: type[C], values: object, place: str) -> C:
    """Return a configuration dataclass from plain JSON types.

    Raises:
        InputError: a field is unknown, missing or of the wrong type, or breaks the configuration's own rules.
    """
    if not isinstance(values, dict):
        raise InputError(f"{place}: {shorten(values)}: must be a JSON object")
    hints = typing.get_type_hints(kind)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise InputError(f"{place}: unknown field {unknown[0]!r}")
    for field in dataclasses.fields(kind):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise InputError(f"{place}: field {field.name!r} is missing")
    given = {name: _typed(value, hints[name], f"{place}: field {name!r}") for name, value in values.items()}
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def as_float(number: float) -> float:
    """Return a number as a float; a whole number that is too large as infinity, as JSON's 1e400 is read."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _typed(value: object, hint: object, place: str) -> object:
    """Return a JSON value as the type that a field's annotation asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and value in arguments:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(value, arguments[0], place)
    if origin is tuple and isinstance(value, list) and (arguments[-1] is ... or len(value) == len(arguments)):
        return tuple(_typed(item, arguments[0], place) for item in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) in (int, float):
        return as_float(value)
    if dataclasses.is_dataclass(hint):
        return config_from_json(hint, value, place)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = f"one of {', '.join(map(repr, arguments))}" if origin is typing.Literal else KINDS.get(hint, "a list")
    raise InputError(f"{place}: {shorten(value)}: must be {wanted}")
