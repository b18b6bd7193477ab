"""The losses once more, as slowly and plainly as can be: Python floats, loops, the formula as it is printed.

They agree with `minirm.losses` on moderate rewards and have none of its care for large ones. Rows come as nested lists;
what is behind a False in the mask is never looked at.
"""

import math
from itertools import permutations

Row = list[float]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bradley_terry(chosen: float, rejected: float, margin: float = 0.0, probability: float = 1.0) -> float:
    x = chosen - rejected - margin
    return -probability * math.log(sigmoid(x)) - (1 - probability) * math.log(sigmoid(-x))


def all_pairs(rewards: Row, scores: Row, mask: list[bool], margin: list[Row] | float = 0.0) -> float:
    losses = []
    for i, j in permutations(range(len(rewards)), 2):
        if mask[i] and mask[j] and scores[i] > scores[j]:
            m = margin[i][j] if isinstance(margin, list) else margin
            losses.append(bradley_terry(rewards[i], rewards[j], m))
    return sum(losses) / len(losses) if losses else 0.0


def plackett_luce(rewards: Row, scores: Row, mask: list[bool], top: int | None = None) -> float:
    real = [k for k in range(len(rewards)) if mask[k]]
    loss = 0.0
    for i in real:
        better = sum(scores[j] > scores[i] for j in real)
        if top is not None and better >= top:
            continue
        rest = sum(math.exp(rewards[j]) for j in real if scores[j] <= scores[i])
        loss -= math.log(math.exp(rewards[i]) / rest)
    return loss


def rao_kupper(first: float, second: float, outcome: int, tie_width: float) -> float:
    """The model as Rao and Kupper print it, in worths π = e^r and θ = e^η."""
    a, b, theta = math.exp(first), math.exp(second), math.exp(tie_width)
    if outcome == 1:
        return -math.log(a / (a + theta * b))
    if outcome == -1:
        return -math.log(b / (b + theta * a))
    return -math.log((theta**2 - 1) * a * b / ((a + theta * b) * (b + theta * a)))


def centering(rewards: Row, mask: list[bool]) -> float:
    real = [r for r, is_real in zip(rewards, mask, strict=True) if is_real]
    return (sum(real) / len(real)) ** 2 if real else 0.0
