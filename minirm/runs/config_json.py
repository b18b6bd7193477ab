"""Configurations to JSON and back, held against the same rules."""

import dataclasses
import json
from typing import TypeVar, get_args

import msgspec

from minirm.config_rules import convert, hints_of
from minirm.errors import InputError, shorten

C = TypeVar("C")


def to_json(config: object) -> dict:
    """Return a dataclass as plain JSON types."""
    return json.loads(json.dumps(msgspec.to_builtins(config, enc_hook=str)))


def config_from_json(kind: type[C], values: object, place: str) -> C:
    """Return a configuration dataclass from plain JSON types.

    Raises:
        InputError: a field is unknown, missing or of the wrong type, or breaks the configuration's own rules.
    """
    if not isinstance(values, dict):
        raise InputError(f"{place}: {shorten(values)}: must be a JSON object")
    hints, given = hints_of(kind), {}
    for name in sorted(values.keys() - hints.keys()):
        raise InputError(f"{place}: unknown field {name!r}")
    for field in dataclasses.fields(kind):
        if field.name in values:
            given[field.name] = _read(values[field.name], hints[field.name], place, field.name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{place}: field {field.name!r} is missing")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _read(value: object, hint: object, place: str, name: str) -> object:
    kind = next((part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)), None)
    if kind is not None and value is not None:
        return config_from_json(kind, value, f"{place}: {name}")
    return convert(value, hint, f"{place}: field {name!r}: {shorten(value)}:")
