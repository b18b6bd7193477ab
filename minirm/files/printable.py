"""Texts of anybody's on a terminal."""

import re

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor or turns its text round, but for line breaks and tabs; and half a surrogate pair."""


def printable(text: str) -> str:
    """Return the text with control characters as JSON spells them, to be shown on a terminal."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
