"""Truth and proxy against √KL: the curves, where the truth turns, and what two formulas say of them.

Letters: S seeds, X points of a curve, R responses (or prompts) of a point, in groups over which intervals are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.architectures.statistics import GROUPS, Resampled, resample, two_way_interval
from bench.overoptimisation.plan import Followed, Way
from bench.overoptimisation.work import Work
from minirm.metrics import Interval
from minirm.policies.best_of_n import expected_best, kl_bound


@dataclass(frozen=True)
class Curve:
    """What following a reward came to."""

    steps: list[int]
    """(X,) n of best of n, or the iterations done."""
    kl_nats: NDArray
    """(S, X) of best of n, the bound; else k1, right on average, and cut at 0."""
    gold: NDArray
    """(S, X, R) true utility above the first policy's."""
    proxy: NDArray
    """(S, X, R) the reward that is followed, above the first policy's, in standard deviations of that policy's."""
    unended: NDArray
    """(S, X) share of responses that were stopped without an end."""
    together: int = 1
    """Responses side by side that share a prompt."""

    @property
    def distance(self) -> NDArray:
        """√KL, (S, X)."""
        return np.sqrt(self.kl_nats)

    @property
    def group(self) -> NDArray:
        """(R,) the group of each response; those to one prompt share it."""
        return np.arange(self.gold.shape[2]) // self.together % GROUPS

    @property
    def turn(self) -> int:
        """Where gold is highest, over seeds."""
        return int(self.gold.mean((0, 2)).argmax())

    def mean(self, values: NDArray, point: int) -> Resampled:
        """Return the mean of gold or proxy at a point."""
        return resample(lambda keep: values[:, point][:, keep].mean(1), self.group)

    def line(self, values: NDArray) -> list[Interval]:
        """Return the mean at each point with its interval over seeds and responses."""
        return [two_way_interval(self.mean(values, point)) for point in range(len(self.steps))]


def best_of_n_curve(work: Work, followed: Followed) -> Curve:
    """Return what the best of n earns, without bias, for n = 1, 2, 4, …"""
    truth = np.array(work.drawn()["gold"])
    steps = [2**i for i in range(work.plan.draws.bit_length()) if 2**i <= work.plan.draws]
    chosen = np.array(steps) - 1
    gold, proxy = [], []
    for seed in range(work.plan.seeds):
        mean, deviation = work.spread(followed, seed)
        rewards = work.rewards(followed, seed, "drawn") if followed.comparisons else truth
        rewards = (rewards - mean) / deviation
        for values, kept in ((truth, gold), (rewards, proxy)):
            earned = expected_best(rewards, values)[:, chosen].T  # (X, P)
            kept.append(earned - earned[:1])
    kl = np.tile([kl_bound(n) for n in steps], (work.plan.seeds, 1))
    return Curve(steps, kl, np.array(gold), np.array(proxy), np.zeros_like(kl))


def learned_curve(work: Work, way: Way, followed: Followed) -> Curve:
    """Return what a policy's own draws earned, window by window."""
    window, first = work.plan.window, np.mean(work.drawn()["first"])
    found = [work.learned(way, followed, seed) for seed in range(work.plan.seeds)]
    points = len(found[0]["gold"]) // window

    def windows(name: str) -> NDArray:
        values = np.array([seed[name][: points * window] for seed in found])
        return values.reshape(len(found), points, -1)

    kl = windows("kl_nats").mean(2).clip(min=0)
    steps = [window * point for point in range(points)]
    unended, together = windows("unended").mean(2), way.samples_per_prompt
    return Curve(steps, kl, windows("gold") - first, windows("proxy"), unended, together)


# ── The turn ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def lost(curve: Curve) -> Resampled:
    """Return how much gold lies below its highest at the end of a curve.

    The highest of many points is high by luck too. So half of the responses say where it is, the other half what was
    lost since, and the other way round.
    """
    halves = (curve.group % 2 == 0, curve.group % 2 == 1)

    def at(keep: NDArray) -> NDArray:
        found = []
        for says, tells in (halves, halves[::-1]):
            highest = curve.gold[:, :, keep & says].mean((0, 2)).argmax()
            gold = curve.gold[:, :, keep & tells].mean(2)
            found.append(gold[:, highest] - gold[:, -1])
        return np.mean(found, axis=0)

    return resample(at, curve.group)


def raised(curve: Curve) -> tuple[Resampled, NDArray]:
    """Return how much gold is gained where it is highest, and which point of the curve that is for each seed, (2, S).

    Where it is, the other seeds say by one half of the responses; the seed itself tells by the other half what is
    gained there, and the other way round: so no luck of a point is counted for it.
    """
    halves = (curve.group % 2 == 0, curve.group % 2 == 1)
    seeds = np.arange(len(curve.gold))

    def highest(says: NDArray) -> NDArray:
        gold = curve.gold[:, :, says].mean(2)  # (S, X)
        return ((gold.sum(0) - gold) if len(gold) > 1 else gold).argmax(1)

    def at(keep: NDArray) -> NDArray:
        pairs = ((highest(keep & says), keep & tells) for says, tells in (halves, halves[::-1]))
        return np.mean([curve.gold[seeds, points][:, tells].mean(1) for points, tells in pairs], axis=0)

    return resample(at, curve.group), np.array([highest(says) for says in halves])


def at_distance(curve: Curve, distance: float) -> float:
    """Return gold at a distance, mean over seeds, between the points by a straight line; NaN beyond the last."""
    d, gold = curve.distance.mean(0), curve.gold.mean((0, 2))
    order = np.argsort(d)
    return float(np.interp(distance, d[order], gold[order], right=np.nan))


# ── The formulas ──────────────────────────────────────────────────────────────────────────────────────────────────────

Form = Callable[[NDArray], NDArray]
SQUARE, LOGARITHM = "d(α − βd)", "d(α − β log d)"
FORMS: dict[str, Form] = {
    SQUARE: lambda d: -(d**2),
    LOGARITHM: lambda d: -d * np.log(np.maximum(d, 1e-9)),
}
"""What β is multiplied by; α is multiplied by d. The paper has the first for best of n, the second for learning."""


@dataclass(frozen=True)
class Fit:
    """A formula's best α and β for the gold of a curve, and how well it fits."""

    alpha: Resampled
    beta: Resampled
    explained: float
    """R² of the mean over seeds: 1 less the squared error over that of a constant."""
    error: float
    """Root mean square of what is left, in utility."""


def fit(curve: Curve, name: str) -> Fit:
    """Return the least-squares fit of gold by a formula.

    Source: Gao, Schulman and Hilton, arXiv:2210.10760, section 3.
    """
    form = FORMS[name]

    def solve(keep: NDArray) -> NDArray:
        gold = curve.gold[:, :, keep].mean(2)
        rows = zip(curve.distance, gold, strict=True)
        return np.array([_solved(d, form, values) for d, values in rows]).T  # (2, S)

    alpha, beta = (resample(lambda keep, i=i: solve(keep)[i], curve.group) for i in range(2))
    d, gold = curve.distance.mean(0), curve.gold.mean((0, 2))
    a, b = _solved(d, form, gold)
    left = gold - (a * d + b * form(d))
    explained = 1 - (left**2).sum() / ((gold - gold.mean()) ** 2).sum()
    return Fit(alpha, beta, float(explained), float(np.sqrt((left**2).mean())))


def fitted(curve: Curve, name: str) -> NDArray:
    """Return the formula's gold at the curve's mean distances."""
    d, gold = curve.distance.mean(0), curve.gold.mean((0, 2))
    a, b = _solved(d, FORMS[name], gold)
    return a * d + b * FORMS[name](d)


def _solved(d: NDArray, form: Form, gold: NDArray) -> NDArray:
    return np.linalg.lstsq(np.stack([d, form(d)], axis=1), gold, rcond=None)[0]
