"""How a configuration refuses a wrong value: in one line that names the field, the value and the rule."""

from typing import Literal, get_args, get_origin, get_type_hints

from minirm.errors import InputError, shorten

LARGEST = {
    "vocab_size": 1_000_000,
    "layers": 1_000,
    "width": 100_000,
    "heads": 100_000,
    "kv_heads": 100_000,
    "mlp_width": 1_000_000,
    "max_positions": 10_000_000,
    "trained_positions": 10_000_000,
    "max_tokens": 10_000_000,
    "rank": 1_000_000,
    "tokens_at_once": 1e15,
    "epochs": 1e6,
    "evaluate_every": 1e9,
    "tie_width": 1e6,
    "levels": 1000,
}
"""The largest value of a field: far above any use, and short of where a library would overflow, abort or build for
ever."""


def require(holds: bool, message: str) -> None:
    """Raise `InputError(message)` unless the rule holds."""
    if not holds:
        raise InputError(message)


def check_choices(config: object) -> None:
    """Refuse a value that is not among those that its field's annotation lists.

    Raises:
        InputError: names the field, its value and the choices.
    """
    for name, hint in get_type_hints(type(config)).items():
        value, parts = getattr(config, name), (hint, *get_args(hint))
        choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        free = not choices or isinstance(value, tuple) or (value is None and type(None) in parts)
        require(free or value in choices, f"{name}={shorten(value)} must be one of {', '.join(map(str, choices))}")


def check_largest(**fields: float | None) -> None:
    """Refuse a value above the `LARGEST` of its name.

    Raises:
        InputError: says which.
    """
    for name, value in fields.items():
        if value is not None and value > LARGEST[name]:
            raise InputError(f"{name}={shorten(value)} must be at most {LARGEST[name]:.0f}")
