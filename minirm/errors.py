"""The one kind of error that is the user's to mend."""

from collections.abc import Iterable


class InputError(ValueError):
    """What the user handed in breaks a rule. The message is one line that names the place, the value and the rule."""


def field_error(field: str, value: object, rule: str) -> InputError:
    """Return the error for one field, to be raised: `field "chosen": null: must be text`."""
    return InputError(f'field "{field}": {shorten(value)}: {rule}')


def shorten(value: object, limit: int = 60) -> str:
    """Return a value as JSON names it, on one line and at most about `limit` characters long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")  # repr escapes line breaks, surrogates
    if isinstance(value, dict):
        return f"an object with keys {list_names(value)}" if value else "an empty object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def list_names(names: Iterable[str]) -> str:
    """Return the first names quoted, for a message: `'prompt', 'chosen', …`."""
    names = [repr(str(name)[:30]) for name in names]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
