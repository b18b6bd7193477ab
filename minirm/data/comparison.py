"""A comparison: a prompt, and K responses that were judged against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a dialogue."""

    role: str  # "system", "user", "assistant" or "tool"
    text: str
    message: str = ""  # as JSON, what else its message holds, which a pretrained folder's chat template may write


class RawRecord(NamedTuple):
    """A record as it stands in a file."""

    place: str  # "file:line", of its first line, or "file (record 3)"
    fields: dict


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
    """Where it was read: "file:line", or "file (record 3)"."""
    id: object = None
    """The record's own "id", as it stands there; None where it has none."""
    steps: tuple[tuple[str, ...], ...] | None = None
    """The texts of each response's steps, which `join_steps` makes into the response; None: it has no steps."""
    step_labels: tuple[tuple[float, ...], ...] | None = None
    """A label for each step: 1 right, 0 wrong, or how probably right it is."""
    is_judged: bool = True
    """False: a text to learn from, whose score of 0 says nothing."""

    def __post_init__(self):
        if not self.responses or len(self.responses) != len(self.scores):
            raise ValueError(
                f"{len(self.responses)} responses, {len(self.scores)} scores: must be as many, at least one"
            )
        texts, labels = (list(map(len, steps or ())) for steps in (self.steps, self.step_labels))
        if texts != labels or (texts and (len(texts) != len(self.responses) or 0 in texts)):
            raise ValueError(f"steps {texts}, labels {labels}: must be as many, at least one to a response")


def join_steps(steps: Sequence[str]) -> str:
    """Return the response that its steps make up, each on a line of its own."""
    return "\n".join(steps)
