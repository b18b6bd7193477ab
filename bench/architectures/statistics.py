"""Intervals over prompts and seeds, families of differences, and what a measure of doubt is worth.

A contestant is trained from S seeds and tested on P prompts. Another draw of either would have given another figure, so
both belong into its interval. Prompts are put into G groups, and every figure is computed for each seed on all prompts
and on all but one group: the grouped jackknife serves for figures that are no means (calibration error, rank
correlation) as for those that are. What is given for a difference of two contestants is the difference of their
figures, seed by seed and group by group, so that what is hard for both cancels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from minirm.metrics import Interval

GROUPS = 20


@dataclass(frozen=True)
class Resampled:
    """One figure: of each seed on all prompts, and on all but one group of them."""

    whole: NDArray  # (S,)
    without: NDArray  # (G, S)

    def __sub__(self, other: "Resampled") -> "Resampled":
        """Return the difference, by seed and group; the seeds of both must be the same ones."""
        return Resampled(self.whole - other.whole, self.without - other.without)


def resample(figure: Callable[[NDArray], ArrayLike], group: ArrayLike) -> Resampled:
    """Return a figure with what it is without each group of prompts.

    Args:
        figure: takes (N,) bool, which entries are kept, and returns (S,) figures, one for each seed.
        group: (N,) the group of each entry, from 0 to G − 1.
    """
    group = np.asarray(group)
    everything = np.ones(len(group), bool)
    without = [figure(group != g) for g in np.unique(group)]
    return Resampled(np.asarray(figure(everything), float), np.asarray(without, float))


def mean_of(figures: Sequence[Resampled]) -> Resampled:
    """Return the mean of figures of as many seeds, each over prompts of its own, such as those of several skills.

    To leave out a group of one of them changes its share of the mean alone.
    """
    whole = np.mean([figure.whole for figure in figures], axis=0)
    without = [whole + (figure.without - figure.whole) / len(figures) for figure in figures]
    return Resampled(whole, np.concatenate(without))


class Error(NamedTuple):
    """How far a mean over seeds may be from the truth."""

    deviation: float
    """Standard error."""
    freedom: float
    """Degrees of freedom of its square."""

    def reach(self, level: float) -> float:
        """Return how far from the mean Student's t reaches, with this probability that the truth lies no higher."""
        return float(stdtrit(self.freedom, level) * self.deviation) if self.deviation else 0.0


def error_of(figure: Resampled) -> Error:
    """Return the standard error of the mean over seeds, and its degrees of freedom.

    The variance of the mean is the jackknife's over groups of prompts, (G − 1)/G · Σ (θ₍g₎ − θ̄)², plus that over seeds,
    s²/S. The degrees of freedom are those that Welch and Satterthwaite give to the sum: with three seeds that differ
    much they are few, and an interval wide, as it must be. A single seed gives what prompts alone say.

    Source: jackknife, Efron and Tibshirani 1993, chapter 11; degrees of freedom, Satterthwaite 1946.
    """
    groups, seeds = figure.without.shape
    means = figure.without.mean(1)
    from_prompts = (groups - 1) / groups * ((means - means.mean()) ** 2).sum()
    from_seeds = figure.whole.var(ddof=1) / seeds if seeds > 1 else 0.0
    variance = from_prompts + from_seeds
    if variance <= 1e-24:  # rounding of figures that are all the same
        return Error(0.0, 1.0)
    parts = from_prompts**2 / (groups - 1) + (from_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    return Error(float(variance**0.5), float(variance**2 / parts))


def two_way_interval(
    figure: Resampled, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Interval:
    """Return the mean over seeds with its interval over prompts and seeds, cut where the figure itself must end."""
    centre, reach = float(figure.whole.mean()), error_of(figure).reach((1 + level) / 2)
    return Interval(centre, max(centre - reach, min(bounds[0], centre)), min(centre + reach, max(bounds[1], centre)))


def p_value(difference: Resampled) -> float:
    """Return how probable a mean at least so far from 0 is where the truth is 0."""
    centre, error = abs(float(difference.whole.mean())), error_of(difference)
    if not error.deviation:
        return 1.0 if centre < 1e-12 else 0.0
    return float(2 * stdtr(error.freedom, -centre / error.deviation))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values for a family of differences: below 0.05 for any without a cause at most once in twenty families.

    Source: Holm 1979.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1.0)
    return adjusted.tolist()


def smallest_detectable(difference: Resampled, power: float = 0.8) -> float:
    """Return the true difference that a design with this error resolves with this probability, alone and at 95%."""
    error = error_of(difference)
    return error.reach(0.975) + error.reach(power)


def groups_not_told_apart(ranked: Sequence[str], apart: Callable[[str, str], bool]) -> list[list[str]]:
    """Return the longest runs of neighbours in a ranking of which no two are told apart."""
    groups: list[list[str]] = []
    for first in range(len(ranked)):
        last = first + 1
        while last < len(ranked) and not any(apart(one, ranked[last]) for one in ranked[first:last]):
            last += 1
        if not groups or ranked[last - 1] not in groups[-1]:
            groups.append(list(ranked[first:last]))
    return groups


def risk_coverage(doubt: ArrayLike, wrong: ArrayLike) -> NDArray:
    """Return (N,) the share of mistakes among the n judgements of least doubt, for n from 1 to N.

    Args:
        doubt: (N,) any measure; equal values are taken in random order (their mean).
        wrong: (N,) 1 for a mistake, ½ for a tie, 0 for a right judgement.
    """
    doubt, wrong = np.asarray(doubt, float), np.asarray(wrong, float)
    _, level = np.unique(doubt, return_inverse=True)
    expected = (np.bincount(level, wrong) / np.bincount(level))[level]
    ordered = expected[np.argsort(level, kind="stable")]
    return ordered.cumsum() / np.arange(1, len(wrong) + 1)


def area_under_risk_coverage(doubt: ArrayLike, wrong: ArrayLike) -> float:
    """Return the mean of the risk over all coverages: the lower, the better the doubt finds the mistakes.

    A doubt that knows nothing gives the share of mistakes.

    Source: Geifman, Uziel and El-Yaniv, arXiv:1805.08206.
    """
    return float(risk_coverage(doubt, wrong).mean())
