"""Configurations are dataclasses whose annotations say what a value may be: held against them."""

import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from minirm.errors import InputError, shorten

# Upper bounds lie far above any use, and short of where a library would overflow, abort or build for ever.
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Width = Annotated[int, Meta(ge=1, le=100_000)]
Positions = Annotated[int, Meta(ge=1, le=10_000_000)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0, le=1e30)]
NotNegative = Annotated[float, Meta(ge=0, le=1e30)]

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "text"}
"""What a type is called in a message."""
WORDS = {kind.__name__: name for kind, name in KINDS.items()} | {"array": "a list", "object": "a JSON object"}
BOUNDS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}


def require(holds: bool, message: str) -> None:
    """Raise `InputError(message)` unless the rule holds."""
    if not holds:
        raise InputError(message)


def check(config: object) -> None:
    """Refuse a value that its field's annotation does not allow.

    Raises:
        InputError: names the field, its value and the rule.
    """
    hints = hints_of(type(config))
    for name in (field.name for field in dataclasses.fields(config)):
        value = getattr(config, name)
        convert(value, hints[name], f"{name}={value if isinstance(value, tuple) else shorten(value)}")


@cache
def hints_of(kind: type) -> dict[str, object]:
    """Return what each field of a configuration may be."""
    return get_type_hints(kind, include_extras=True)


def convert(value: object, hint: object, named: str) -> object:
    """Return a value as its annotation has it.

    Raises:
        InputError: begins with `named`, and says what the value must be.
    """
    try:
        return msgspec.convert(value, hint, dec_hook=lambda wanted, text: wanted(text))
    except msgspec.ValidationError as error:
        raise InputError(f"{named} must be {_rule(str(error), hint)}") from None


def _rule(said: str, hint: object) -> str:
    """Return what msgspec's error asks for, in this project's words."""
    choices = [choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return f"one of {', '.join(map(str, choices))}"
    if bound := re.match(r"Expected `\w+` ([<>]=?) (\S+)", said):
        return f"{BOUNDS[bound[1]]} {bound[2].removesuffix('.0')}"
    kind, length = re.match(r"(?:Expected `(\w+)`?(?: of length (\d+))?)?", said).groups()
    return WORDS.get(kind, "text" if "str" in said else "a finite number") + (f" of {length}" if length else "")
