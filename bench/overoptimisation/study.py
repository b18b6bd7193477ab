"""Everything that was computed, read once for the page."""

from dataclasses import dataclass
from functools import cached_property

from bench.architectures.statistics import Resampled, p_value, two_way_interval
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
)
from bench.overoptimisation.plan import BEST_OF_N, TRUTH, Followed
from bench.overoptimisation.ranking import Ranking, measured, ranking
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

    @cached_property
    def lost(self) -> dict[tuple[str, Followed], Resampled]:
        """How far gold has fallen at the end, by method and reward."""
        return {key: lost(curve) for key, curve in self.curves.items()}

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
        return ranking(self.work, self.curves, self.measured)

    def gold(self, method: str, followed: Followed, point: int = -1) -> Interval:
        """Return the gold gained at a point of a curve."""
        curve = self.curves[method, followed]
        return two_way_interval(curve.mean(curve.gold, point % len(curve.steps)))

    def has_turned(self, method: str, followed: Followed) -> bool:
        """Return whether the data tell that gold has fallen from its highest."""
        found = self.lost[method, followed]
        return bool(found.whole.mean() > 0 and p_value(found) < 0.05)


def form_of(method: str) -> str:
    """Return the formula that the paper has for a method."""
    return SQUARE if method == BEST_OF_N else LOGARITHM
