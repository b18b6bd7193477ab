"""Curves as power laws: how fast the gap to the best possible accuracy closes with comparisons, or with size."""

from collections.abc import Sequence

import numpy as np

from bench.architectures.figures import Scored, accuracy_alone
from bench.architectures.plan import Shape, Table
from bench.architectures.statistics import Resampled, two_way_interval
from bench.architectures.study import Study
from bench.architectures.subjects import AS_TRAINED, is_known_truth
from minirm.metrics import Interval

FEWEST_POINTS = 3
"""Through two points every law goes."""


def amount(point: int | Shape) -> float:
    """Return what a point of a curve counts: comparisons, or of a shape about its weights, 12·L·D² (no embeddings)."""
    return float(point) if isinstance(point, int) else 12.0 * point[0] * point[1] ** 2


def exponent(amounts: Sequence[float], gaps: Sequence[float]) -> float:
    """Return α of the law gap = c·amount^−α that fits best, by least squares of the logarithms."""
    floor = 1e-3  # a gap that is closed, or by chance less than closed, has no logarithm
    return -float(np.polyfit(np.log(amounts), np.log(np.maximum(gaps, floor)), 1)[0])


def exponents(study: Study, cells: Table) -> dict[str, Interval]:
    """Return α of each contestant's curve, with its interval over seeds; empty without known truth, or enough points
    and seeds."""
    if not is_known_truth(study.main):
        return {}
    best, test = study.best_possible(study.main), study.subject(study.main).tests[AS_TRAINED]
    gaps: dict[str, dict[int, dict[float, float]]] = {}
    for (name, point, seed), (cell,) in cells.items():
        result = study.result(cell)
        if "failed" not in result:
            accuracy = accuracy_alone(Scored(test, [result["rewards"][AS_TRAINED]])).whole[0]
            gaps.setdefault(name, {}).setdefault(seed, {})[amount(point)] = best - accuracy
    found = {}
    for name, by_seed in gaps.items():
        if len(by_seed) > 1 and min(map(len, by_seed.values())) >= FEWEST_POINTS:
            slopes = np.array([exponent(list(gap), list(gap.values())) for gap in by_seed.values()])
            found[name] = two_way_interval(Resampled(slopes, np.stack([slopes, slopes])))
    return found
