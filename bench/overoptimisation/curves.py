"""Truth and proxy against √KL: the curves, where the truth turns, and what two formulas say of them.

Letters: S seeds, X points of a curve, R responses (or prompts) of a point, in groups over which intervals are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field

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
    start: NDArray = dataclass_field(default_factory=lambda: np.zeros(0))
    """By how much the first policy's mean gold would be higher without each group of its texts; none: it is that of the
    same responses."""

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

    def resampled(self, figure: Callable[[NDArray, NDArray], NDArray]) -> Resampled:
        """Return a figure with what it is without each group of responses, and of the texts that say where gold began.

        Args:
            figure: takes gold (S, X, R) and which responses are kept, (R,) bool, and returns (S,).
        """
        found = resample(lambda keep: figure(self.gold, keep), self.group)
        everything = np.ones(len(self.group), bool)
        begun = [figure(self.gold - shift, everything) for shift in self.start]
        return Resampled(found.whole, np.array([*found.without, *begun]))

    def gained(self, point: int) -> Resampled:
        """Return the mean gold at a point."""
        return self.resampled(lambda gold, keep: gold[:, point][:, keep].mean(1))

    def earned(self, point: int) -> Resampled:
        """Return the mean of the reward that is followed at a point."""
        return resample(lambda keep: self.proxy[:, point][:, keep].mean(1), self.group)

    def line(self, of: Callable[[int], Resampled]) -> list[Interval]:
        """Return `gained` or `earned` at each point with its interval over seeds, responses and the start's texts."""
        return [two_way_interval(of(point)) for point in range(len(self.steps))]


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
    window, first = work.plan.window, np.array(work.drawn()["first"])
    start = resample(lambda keep: first[None, keep].mean(1), np.arange(len(first)) % GROUPS)
    found = [work.learned(way, followed, seed) for seed in range(work.plan.seeds)]
    points = len(found[0]["gold"]) // window

    def windows(name: str) -> NDArray:
        values = np.array([seed[name][: points * window] for seed in found])
        return values.reshape(len(found), points, -1)

    kl = windows("kl_nats").mean(2).clip(min=0)
    steps = [window * point for point in range(points)]
    unended, together = windows("unended").mean(2), way.samples_per_prompt
    gold, moved = windows("gold") - start.whole, (start.without - start.whole)[:, 0]
    return Curve(steps, kl, gold, windows("proxy"), unended, together, moved)


# ── The turn ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def raised(curve: Curve) -> tuple[Resampled, NDArray]:
    """Return how much gold is gained where it is highest, and which point of the curve that is for each seed, (2, S).

    Where it is, the other seeds say by one half of the responses; the seed itself tells by the other half what is
    gained there, and the other way round: so no luck of a point is counted for it. A single seed says it for itself,
    and its luck counts.
    """
    halves = (curve.group % 2 == 0, curve.group % 2 == 1)
    seeds = np.arange(len(curve.gold))

    def highest(gold: NDArray, says: NDArray) -> NDArray:
        mean = gold[:, :, says].mean(2)  # (S, X)
        return ((mean.sum(0) - mean) if len(mean) > 1 else mean).argmax(1)

    def at(gold: NDArray, keep: NDArray) -> NDArray:
        pairs = ((highest(gold, keep & says), keep & tells) for says, tells in (halves, halves[::-1]))
        return np.mean([gold[seeds, points][:, tells].mean(1) for points, tells in pairs], axis=0)

    return curve.resampled(at), np.array([highest(curve.gold, says) for says in halves])


def lost(curve: Curve) -> Resampled:
    """Return how far gold has fallen at the end from where it is highest; below 0: it is higher there."""
    return raised(curve)[0] - curve.gained(-1)


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

    def solve(gold: NDArray, keep: NDArray) -> NDArray:
        rows = zip(curve.distance, gold[:, :, keep].mean(2), strict=True)
        return np.array([_solved(d, form, values) for d, values in rows]).T  # (2, S)

    alpha, beta = (curve.resampled(lambda gold, keep, i=i: solve(gold, keep)[i]) for i in range(2))
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
