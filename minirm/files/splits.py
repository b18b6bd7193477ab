"""Which side of a split a prompt is on: a stable matter of its text and the seed, the same in every process."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from minirm.data.comparison import Comparison


def has_prompt(comparison: Comparison) -> bool:
    """Return whether anything stands before the response."""
    return any(turn.text.strip() for turn in comparison.prompt)


def prompt_key(comparison: Comparison) -> bytes:
    """Return 16 bytes that are equal for equal prompts, and only for them.

    Where there is no prompt, the responses stand in for it, in any order: otherwise these would all be one prompt.
    """
    identity = comparison.prompt if has_prompt(comparison) else sorted(comparison.responses)
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).digest()


def validation_mask(keys: Sequence, share: float, seed: int) -> np.ndarray:
    """Return (prompts,) True for those to keep for validation: the share of them, rounded, but neither none nor all.

    Args:
        keys: `prompt_key` of at least two prompts, each once; 16 bytes, or as many numbers.
        share: of the prompts, in (0, 1).
        seed: another seed draws another split.
    """
    salt = seed.to_bytes(8, "little", signed=True)
    digests = (hashlib.blake2b(bytes(key), digest_size=8, salt=salt).digest() for key in keys)
    lots = np.fromiter(map(int.from_bytes, digests), np.uint64, len(keys))
    drawn = np.zeros(len(keys), bool)
    drawn[np.argsort(lots, kind="stable")[: min(max(round(share * len(keys)), 1), len(keys) - 1)]] = True
    return drawn
