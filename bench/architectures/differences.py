"""Differences between contestants as families: corrected for their number, and what each could have shown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from bench.architectures.statistics import (
    Resampled,
    groups_not_told_apart,
    holm,
    p_value,
    smallest_detectable,
    two_way_interval,
)
from bench.architectures.study import Study, figure_of
from minirm.metrics import Interval

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A figure of the first contestant minus that of the second, paired by seed and prompt."""

    first: str
    second: str
    interval: Interval
    """At 95%, as if it were the only one."""
    p: float
    """Corrected for the family, once it stands in one."""
    detectable: float
    """The true difference that this design shows four times in five, were it the only one."""
    by_seed: tuple[float, ...]

    @property
    def is_resolved(self) -> bool:
        """Whether it is told from 0, all others of its family being considered."""
        return self.p < LEVEL


def difference(study: Study, subject: str, first: str, second: str, figure: str | None = None) -> Difference | None:
    """Return a difference that stands alone, by the subject's own figure if none is named; None: not measured."""
    one, other = (study.figure(subject, name, figure or figure_of(subject)) for name in (first, second))
    return None if one is None or other is None else _between(first, second, one, other)


def _between(first: str, second: str, one: Resampled, other: Resampled) -> Difference:
    found = _broadcast(one, other) - _broadcast(other, one)
    return Difference(
        first, second, two_way_interval(found), p_value(found), smallest_detectable(found), tuple(found.whole.tolist())
    )


def family(members: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p-values that their number is considered in."""
    corrected = holm([member.p for member in members])
    return [replace(member, p=p) for member, p in zip(members, corrected, strict=True)]


def against_baseline(study: Study, subject: str, figure: str | None = None) -> list[Difference]:
    """Return everybody's difference to the baseline on a subject, the best first, as one family."""
    others = [name for name in study.ranking(subject) if name != study.baseline]
    found = [difference(study, subject, name, study.baseline, figure) for name in others]
    return family([one for one in found if one is not None])


def at_convergence(study: Study) -> dict[str, Difference]:
    """Return everybody's difference in accuracy to the baseline, all trained to convergence, as one family."""
    found = {name: line["converged"] for name, line in study.accuracies(study.converged).items()}
    baseline = found.pop(study.baseline, None)
    if baseline is None:
        return {}
    members = [_between(name, study.baseline, one, baseline) for name, one in found.items()]
    return {one.first: one for one in family(members)}


def told_apart(study: Study, subject: str, names: Sequence[str]) -> dict[tuple[str, str], bool]:
    """Return of every two names that were measured on a subject, the better one first, whether the data tell them
    apart; all of these pairs are one family."""
    pairs = list(combinations([name for name in study.ranking(subject) if name in names], 2))
    members = family([difference(study, subject, *pair) for pair in pairs])
    return {pair: member.is_resolved for pair, member in zip(pairs, members, strict=True)}


def groups(study: Study, subject: str, names: Sequence[str]) -> list[list[str]]:
    """Return those of the names that were measured on a subject, the best first, in groups that are not told apart."""
    apart = told_apart(study, subject, names)
    ranked = [name for name in study.ranking(subject) if name in names]
    return groups_not_told_apart(ranked, lambda one, other: apart[one, other])


def usual_detectable(differences: Sequence[Difference]) -> float:
    """Return the median of the smallest differences that each could have shown; NaN of none."""
    return float(np.median([one.detectable for one in differences])) if differences else float("nan")


def _broadcast(one: Resampled, other: Resampled) -> Resampled:
    """Return a figure with as many seeds as the other: what needs no training has one, and it serves for all."""
    seeds = max(len(one.whole), len(other.whole))
    return Resampled(np.broadcast_to(one.whole, seeds), np.broadcast_to(one.without, (len(one.without), seeds)))
