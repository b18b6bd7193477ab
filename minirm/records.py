"""Every accepted file format → `Comparison`."""

from dataclasses import dataclass
from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a dialogue."""

    role: str  # "system", "user", "assistant" or "tool"
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt and the K responses that were judged against each other.

    A pair is K=2 with scores (1.0, 0.0). A conversation without a judgement (for the language-model stage) is K=1.
    """

    prompt: tuple[Turn, ...]
    """The dialogue before the response; () when there is none. A plain prompt is one user turn."""
    responses: tuple[str, ...]
    """K texts."""
    scores: tuple[float, ...]
    """K numbers, higher is better; equal scores are a tie."""
    margin: float = 0.0
    """How far apart, in logits, the rewards of a better and a worse response should be."""
    weight: float = 1.0
    """How much this comparison counts in the loss."""
    probability: float = 1.0
    """How probable it is that a higher score means a better response; 1 is a hard label, 0.5 says nothing."""
    subset: str = ""
    """Name of the part of a benchmark that it belongs to."""
    source: str = ""
    """Where it was read: "file:line"."""
