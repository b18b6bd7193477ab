"""Everything that was computed, read once for the page."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.architectures.statistics import Resampled, holm, p_value, two_way_interval
from bench.overoptimisation.curves import (
    FORMS,
    LOGARITHM,
    SQUARE,
    Curve,
    Fit,
    best_of_n_curve,
    fit,
    learned_curve,
    lost,
    raised,
)
from bench.overoptimisation.plan import BEST_OF_N, TRUTH, Followed
from bench.overoptimisation.ranking import END, HIGHEST, MEASURES, Ranking, measured
from bench.overoptimisation.work import Work
from minirm.metrics import Interval


@dataclass(frozen=True)
class Study:
    """The curves of all methods and rewards, and what is said of them."""

    work: Work

    @cached_property
    def curves(self) -> dict[tuple[str, Followed], Curve]:
        """By method and reward."""
        plan, work = self.work.plan, self.work
        found = {(BEST_OF_N, one): best_of_n_curve(work, one) for one in plan.followed}
        pairs = dict.fromkeys((way, one) for way, one, _ in plan.learned)
        return found | {(way.name, one): learned_curve(work, way, one) for way, one in pairs}

    @property
    def methods(self) -> list[str]:
        """By which every reward was followed."""
        return [BEST_OF_N, *(way.name for way in self.work.plan.ways)]

    @property
    def proxies(self) -> list[Followed]:
        """Rewards that were learned."""
        return [one for one in self.work.plan.followed if one != TRUTH]

    @property
    def sizes(self) -> list[Followed]:
        """Those of a single model, by the comparisons that it learned from."""
        return [one for one in self.proxies if one.members == 1]

    @property
    def best(self) -> Followed:
        """The single model of the most comparisons, which every method follows."""
        return self.sizes[-1]

    @cached_property
    def lost(self) -> dict[tuple[str, Followed], Resampled]:
        """How far gold has fallen at the end, by method and reward."""
        return {key: lost(curve) for key, curve in self.curves.items()}

    @cached_property
    def raised(self) -> dict[tuple[str, Followed], tuple[Resampled, NDArray]]:
        """How much gold is gained where it is highest, and where that is, by method and reward."""
        return {key: raised(curve) for key, curve in self.curves.items()}

    @cached_property
    def fits(self) -> dict[tuple[str, Followed, str], Fit]:
        """By method, reward and formula."""
        every = [(method, one) for method in self.methods for one in self.work.plan.followed]
        return {(*key, form): fit(self.curves[key], form) for key in every for form in FORMS}

    @cached_property
    def measured(self) -> dict[Followed, dict[str, Resampled]]:
        """What each proxy is on the test comparisons."""
        return {one: measured(self.work, one) for one in self.proxies}

    @cached_property
    def ranking(self) -> Ranking:
        """The proxies, by measure and by gold."""
        ends = {key: curve.gold[:, -1].mean(1) for key, curve in self.curves.items()}
        highest = {key: gained.whole for key, (gained, _) in self.raised.items()}
        return Ranking(
            {
                name: np.array([sign * of_proxy[name].whole for of_proxy in self.measured.values()])
                for name, sign in MEASURES.items()
            },
            {HIGHEST: self._reached(highest), END: self._reached(ends)},
        )

    def _reached(self, gold: dict[tuple[str, Followed], NDArray]) -> dict[str, NDArray]:
        return {method: np.array([gold[method, one] for one in self.proxies]) for method in self.methods}

    def by_gold(self, method: str) -> list[Followed]:
        """Return the proxies in the order of the gold that is reached with them where it is highest."""
        return sorted(self.proxies, key=lambda one: -self.raised[method, one][0].whole.mean())

    def gold(self, method: str, followed: Followed) -> Interval:
        """Return the gold gained at the end of a curve."""
        return two_way_interval(self.curves[method, followed].gained(-1))

    @cached_property
    def turned(self) -> list[tuple[str, Followed]]:
        """Where the data tell that gold has fallen from its highest, the number of these questions considered."""
        asked = {(method, one): self.lost[method, one] for method in self.methods for one in self.proxies}
        p_values = holm([p_value(found) for found in asked.values()])
        return [key for key, p in zip(asked, p_values, strict=True) if asked[key].whole.mean() > 0 and p < 0.05]


def form_of(method: str) -> str:
    """Return the formula that the paper has for a method."""
    return SQUARE if method == BEST_OF_N else LOGARITHM
