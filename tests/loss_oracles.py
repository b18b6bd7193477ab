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


def davidson(first: float, second: float, outcome: int, tie_weight: float) -> float:
    """The model as Davidson prints it, in worths π = e^r."""
    a, b = math.exp(first), math.exp(second)
    tie = tie_weight * math.sqrt(a * b)
    return -math.log({1: a, 0: tie, -1: b}[outcome] / (a + b + tie))


def normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


LINKS = {
    "probit": lambda x: -math.log(normal_cdf(x)),
    "hinge": lambda x: max(0.0, 1 - x),
    "squared": lambda x: (1 - x) ** 2,
}


def linked(name: str, chosen: float, rejected: float, margin: float, probability: float) -> float:
    x = chosen - rejected - margin
    return probability * LINKS[name](x) + (1 - probability) * LINKS[name](-x)


def noise_corrected(chosen: float, rejected: float, noise: float, margin: float = 0.0) -> float:
    right, wrong = (-math.log(sigmoid(sign * (chosen - rejected - margin))) for sign in (1, -1))
    return ((1 - noise) * right - noise * wrong) / (1 - 2 * noise)


def _softmax(values: Row) -> Row:
    exponentials = [math.exp(value) for value in values]
    return [e / sum(exponentials) for e in exponentials]


def listnet(rewards: Row, scores: Row, mask: list[bool]) -> float:
    real = [k for k in range(len(rewards)) if mask[k]]
    wanted, found = _softmax([scores[k] for k in real]), _softmax([rewards[k] for k in real])
    return -sum(p * math.log(q) for p, q in zip(wanted, found, strict=True))


def dcg(order: list[int], gains: Row, top: int) -> float:
    return sum(gains[k] / math.log2(2 + place) for place, k in enumerate(order[:top]))


def lambdarank(rewards: Row, gains: Row, mask: list[bool], top: int | None = None) -> float:
    """What really changes in NDCG when two responses are swapped."""
    real = [k for k in range(len(rewards)) if mask[k]]
    order, top = sorted(real, key=lambda k: -rewards[k]), len(rewards) if top is None else top
    best = dcg(sorted(real, key=lambda k: -gains[k]), gains, top)
    loss = 0.0
    for i, j in permutations(real, 2):
        if gains[i] > gains[j]:
            swapped = [{i: j, j: i}.get(k, k) for k in order]
            change = abs(dcg(swapped, gains, top) - dcg(order, gains, top)) / best
            loss += change * bradley_terry(rewards[i], rewards[j])
    return loss


def rating(rewards: Row, ratings: Row, mask: list[bool]) -> float:
    errors = [(r - y) ** 2 for r, y, is_real in zip(rewards, ratings, mask, strict=True) if is_real]
    return sum(errors) / len(errors) if errors else 0.0


def cumulative(x: float, grade: int, thresholds: Row) -> float:
    ends = [-math.inf, *thresholds, math.inf]
    until = [0.0 if end == -math.inf else 1.0 if end == math.inf else sigmoid(end - x) for end in ends]
    return -math.log(until[grade + 1] - until[grade])


def ordinal(rewards: Row, grades: Row, mask: list[bool], thresholds: Row) -> float:
    real = [k for k in range(len(rewards)) if mask[k]]
    return sum(cumulative(rewards[k], int(grades[k]), thresholds) for k in real) / max(len(real), 1)


def graded_preference(first: float, second: float, grade: int, thresholds: Row) -> float:
    both = [-t for t in reversed(thresholds)] + thresholds
    return cumulative(first - second, grade + len(thresholds), both)


def step(rewards: Row, labels: Row, mask: list[bool]) -> float:
    losses = [
        bradley_terry(r, 0.0, probability=y) for r, y, is_real in zip(rewards, labels, mask, strict=True) if is_real
    ]
    return sum(losses) / max(len(losses), 1)
