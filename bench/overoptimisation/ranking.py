"""Which reward model should one follow: what is measured of a proxy, against the truth that is reached with it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.architectures.figures import ACCURACY, ECE, NLL, REGRET, Scored, figures
from bench.architectures.statistics import Resampled, resample, two_way_interval
from bench.architectures.subjects import TestSet
from bench.overoptimisation.plan import Followed
from bench.overoptimisation.work import Work
from minirm.metrics import Interval, spearman
from minirm.worlds.films import read_prompt

MEASURES = {ACCURACY: 1, NLL: -1, ECE: -1, REGRET: -1}
"""What is measured of a proxy, and 1 where more is better."""
HIGHEST, END = "highest", "end"
"""Where on a curve gold is looked at."""


def measured(work: Work, followed: Followed) -> dict[str, Resampled]:
    """Return accuracy, calibration and best-of-8 regret of a reward on the test comparisons, by seed."""
    judged = work.test()
    keys = [read_prompt(one.comparison.prompt[0].text).film.title for one in judged]
    test = TestSet([one.comparison for one in judged], keys, judged, work.world.config.noise)
    rewards = [work.rewards(followed, seed, "test").tolist() for seed in range(work.plan.seeds)]
    ones = [[1.0] * len(judged)] * len(rewards)
    found = figures(Scored(test, rewards, ones))
    return {name: found[name] for name in MEASURES}


@dataclass(frozen=True)
class Ranking:
    """Every proxy, seed by seed: what was measured of it, and what gold was reached with it."""

    measures: dict[str, NDArray]
    """(proxies, S) by name, the better the higher."""
    reached: dict[str, dict[str, NDArray]]
    """(proxies, S) gold where it is `HIGHEST` and at the `END`, by what reached it."""

    def correlation(self, measure: str, where: str, method: str) -> Interval:
        """Return Spearman's rank correlation over the proxies of a seed, mean over seeds, with an interval over both.

        The proxies of a seed learn from the same comparisons and share members: seeds alone are independent draws.
        NaN: of some proxies all are alike.
        """
        pairs = np.stack([self.measures[measure], self.reached[where][method]])  # (2, proxies, S)

        def by_seed(keep: NDArray) -> list[float]:
            return [spearman(*pairs[:, keep, seed]) for seed in range(pairs.shape[2])]

        return two_way_interval(resample(by_seed, np.arange(pairs.shape[1])), bounds=(-1, 1))
