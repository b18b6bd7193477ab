"""Rewards of several seeds on one test set → every figure of the table, ready for its interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.architectures.statistics import GROUPS, Resampled, area_under_risk_coverage, resample
from bench.architectures.subjects import REVERSED, SWAPPED, TestSet, best_possible
from minirm import metrics
from minirm.evaluation.pairs import PairTable, Rewards, pair_table

ACCURACY, NLL, ECE, ECE_TEMPERED = "accuracy", "NLL", "ECE", "ECE, tempered"
REGRET, WAY = "best-of-K regret", "part of the way"
RANK, RANK_OVERALL = "rank correlation", "rank correlation over all prompts"
BOUNDS = {
    ACCURACY: (0, 1), REVERSED: (0, 1), SWAPPED: (0, 1), NLL: (0, np.inf), ECE: (0, 1),
    REGRET: (0, np.inf), RANK: (-1, 1), RANK_OVERALL: (-1, 1),
}  # fmt: skip
"""Where a figure must end, and so its interval."""


@dataclass(frozen=True)
class Scored:
    """A test set with the rewards that each seed of a contestant gives it."""

    test: TestSet
    rewards: Sequence[Rewards]
    """S of them."""
    temperatures: Sequence[Sequence[float]] = ()
    """For each seed and comparison, what divides its rewards, fitted on validation; only `figures` asks for them."""

    @cached_property
    def tables(self) -> list[PairTable]:
        """The strictly ordered pairs by seed."""
        return [pair_table(self.test.comparisons, rewards) for rewards in self.rewards]

    @cached_property
    def difference(self) -> NDArray:
        """(S, pairs) reward of better minus reward of worse."""
        return np.stack([table.reward_difference for table in self.tables])

    @cached_property
    def right(self) -> NDArray:
        """(S, pairs) 1 in the right order, ½ equal, 0 wrong."""
        return (np.sign(self.difference) + 1) / 2

    @cached_property
    def tempered(self) -> NDArray:
        """(S, pairs) the difference after temperature scaling."""
        return self.difference / np.array(self.temperatures)[:, self.tables[0].comparison]

    @cached_property
    def group(self) -> NDArray:
        """(B,) the group of each comparison for the jackknife; related comparisons share it."""
        _, number = np.unique([repr(key) for key in self.test.keys], return_inverse=True)
        order = np.random.default_rng(0).permutation(number.max() + 1)
        return order[number] % GROUPS

    @property
    def pair_group(self) -> NDArray:
        """(pairs,) the group of each pair."""
        return self.group[self.tables[0].comparison]


def figures(scored: Scored) -> dict[str, Resampled]:
    """Return the figures of a test set by name; those about the truth only where it is known."""
    right, tempered, pair_group = scored.right, scored.tempered, scored.pair_group
    nll = np.logaddexp(0, -scored.difference)
    found = {
        ACCURACY: resample(lambda keep: right[:, keep].mean(1), pair_group),
        NLL: resample(lambda keep: nll[:, keep].mean(1), pair_group),
        ECE: resample(lambda keep: calibration_error(scored.difference[:, keep]), pair_group),
        ECE_TEMPERED: resample(lambda keep: calibration_error(tempered[:, keep]), pair_group),
    }
    regret = best_of_k_regret(scored)
    found[REGRET] = resample(lambda keep: regret[:, keep].mean(1), scored.group)
    if scored.test.judged:
        best = best_possible(scored.test)
        found[WAY] = resample(lambda keep: (right[:, keep].mean(1) - 0.5) / (best[keep].mean() - 0.5), pair_group)
        within = rank_correlation_within(scored)
        found[RANK] = resample(lambda keep: np.nanmean(within[:, keep], 1), scored.group)
        found[RANK_OVERALL] = rank_correlation_overall(scored)
    return found


def accuracy_alone(scored: Scored) -> Resampled:
    """Return the accuracy, for test sets of which nothing else is shown."""
    return resample(lambda keep: scored.right[:, keep].mean(1), scored.pair_group)


def calibration_error(difference: NDArray) -> NDArray:
    """Return (S,) expected calibration errors of pairs (S, pairs)."""
    zero = np.zeros(difference.shape[1])
    return np.array([metrics.expected_calibration_error(*metrics.winner_confidence(row, zero)) for row in difference])


def best_of_k_regret(scored: Scored) -> NDArray:
    """Return (S, B) what is lost by taking the response of highest reward: utility where it is known, else score."""
    comparisons = scored.test.comparisons
    if scored.test.judged:
        worth = [one.utilities for one in scored.test.judged]
    else:
        worth = [comparison.scores for comparison in comparisons]
    worth, mask = _rectangle(worth)
    return np.stack([metrics.best_of_k_regret(_rectangle(rewards)[0], worth, mask) for rewards in scored.rewards])


def rank_correlation_within(scored: Scored) -> NDArray:
    """Return (S, B) Spearman's correlation of reward and true utility over each prompt's responses; NaN: all alike."""
    utilities = [one.utilities for one in scored.test.judged]
    return np.array(
        [[metrics.spearman(*pair) for pair in zip(rows, utilities, strict=True)] for rows in scored.rewards]
    )


def rank_correlation_overall(scored: Scored) -> Resampled:
    """Return Spearman's correlation over the responses of all prompts, between which no training compares."""
    utilities = np.concatenate([one.utilities for one in scored.test.judged])
    rewards = [np.concatenate(seed) for seed in scored.rewards]
    counts = [len(one.utilities) for one in scored.test.judged]
    group = np.repeat(scored.group, counts)
    return resample(lambda keep: [metrics.spearman(row[keep], utilities[keep]) for row in rewards], group)


def _rectangle(rows: Sequence[Sequence[float]]) -> tuple[NDArray, NDArray]:
    """Return ((B, K) values, (B, K) which are real)."""
    longest = max(map(len, rows))
    values, mask = np.zeros((len(rows), longest)), np.zeros((len(rows), longest), bool)
    for b, row in enumerate(rows):
        values[b, : len(row)], mask[b, : len(row)] = row, True
    return values, mask


# ── Mistakes and doubt ────────────────────────────────────────────────────────────────────────────────────────────────


def by_attribute(scored: Scored) -> dict[str, float]:
    """Return by attribute the accuracy against the truth, mean over seeds, on pairs that differ in it alone."""
    gap = _true_difference(scored)
    truly = np.where(gap > 0, scored.right, 1 - scored.right)
    return {name: float(truly[:, pairs].mean()) for name, pairs in sorted(decided_by(scored).items())}


def decided_by(scored: Scored) -> dict[str, list[int]]:
    """Return by attribute the pairs that differ in it alone, by their numbers."""
    table, judged = scored.tables[0], scored.test.judged
    decided: dict[str, list[int]] = {}
    for n, (c, better, worse) in enumerate(zip(table.comparison, table.better, table.worse, strict=True)):
        first, second = judged[c].attributes[better], judged[c].attributes[worse]
        differing = [name for name in first if first[name] != second[name]]
        if len(differing) == 1:
            decided.setdefault(differing[0], []).append(n)
    return decided


def _true_difference(scored: Scored) -> NDArray:
    """Return (pairs,) the utility of the labelled better minus that of the worse."""
    return pair_table(scored.test.comparisons, [list(one.utilities) for one in scored.test.judged]).reward_difference


SMALL, DISAGREEMENT = "small difference of mean reward", "disagreement"
DOUBTS: dict[str, Callable[[NDArray], NDArray]] = {
    SMALL: lambda difference: -np.abs(difference.mean(0)),
    DISAGREEMENT: lambda difference: (0.5 * (1 + np.tanh(difference / 2))).std(0),
    "chance": lambda difference: np.zeros(difference.shape[1]),
}
"""Measures of doubt, from the rewards' differences of S members, (S, pairs) → (pairs,).

The second is the spread of σ(difference)."""


def ensemble(scored: Scored) -> dict[str, Resampled]:
    """Return the accuracy of the members' mean reward, and the area under risk–coverage by each doubt; (1,) each.

    Args:
        scored: the rewards of the ensemble's members, in the place of seeds.
    """
    difference, group = scored.difference, scored.pair_group
    right = (np.sign(difference.mean(0)) + 1) / 2

    def area(doubt: NDArray) -> Resampled:
        return resample(lambda keep: [area_under_risk_coverage(doubt[keep], 1 - right[keep])], group)

    one = resample(lambda keep: [scored.right[:, keep].mean()], group)
    together = resample(lambda keep: [right[keep].mean()], group)
    areas = {name: area(measure(difference)) for name, measure in DOUBTS.items()}
    return {
        "one member": one,
        "together": together,
        "together − one": together - one,
        **{f"area: {name}": found for name, found in areas.items()},
        "area: knowing": area(1 - right),
        "disagreement − small difference": areas[DISAGREEMENT] - areas[SMALL],
    }


def joined(each: Sequence[dict[str, Resampled]]) -> dict[str, Resampled]:
    """Return the figures of several ensembles as those of as many seeds."""
    return {
        name: Resampled(
            np.concatenate([one[name].whole for one in each]), np.concatenate([one[name].without for one in each], 1)
        )
        for name in each[0]
    }
