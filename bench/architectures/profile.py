"""What each contestant has learned of each skill: how much of it, in how many trainings, from how many comparisons."""

from typing import NamedTuple

import numpy as np

from bench.architectures.contestants import Contestant
from bench.architectures.figures import WAY
from bench.architectures.study import Study

LEARNED = 0.5
"""Part of the way from chance to the ceiling, from which on a training has learned a skill at all …"""
MOST = 0.9
"""… and from which on it can do it."""


class Learned(NamedTuple):
    """A contestant on a skill."""

    way: float
    """Part of the way from chance to the ceiling, on test, mean over seeds."""
    trainings: int
    learned: int
    """How many of them got at least `LEARNED` of the way."""
    comparisons: list[int | None]
    """By training, after how many comparisons validation first said `MOST` of the way; None: never."""


def profile(study: Study) -> dict[tuple[str, str], Learned]:
    """Return what was learned, by contestant and subject of known truth."""
    found = {}
    for subject in study.setup.subjects:
        for contestant in study.setup.on(subject):
            ways = study.figure(subject, contestant.name, WAY)
            if ways is not None:
                learned = int((ways.whole >= LEARNED).sum())
                until = _comparisons(study, contestant, subject) if contestant.is_network else []
                found[contestant.name, subject] = Learned(float(ways.whole.mean()), len(ways.whole), learned, until)
    return found


def _comparisons(study: Study, contestant: Contestant, subject: str) -> list[int | None]:
    wanted = 0.5 + MOST * (study.best_possible(subject) - 0.5)
    found = []
    for seed in study.setup.seeds(contestant, subject):
        history = study.result(study.table[contestant.name, subject, seed][0])["history"]
        found.append(next((entry["comparisons"] for entry in history if entry["accuracy"] >= wanted), None))
    return found


def until_most(learned: Learned) -> str:
    """Return the comparisons until `MOST` of the way in words: the median over trainings, where most got so far."""
    if not learned.comparisons:
        return "–"
    reached = sorted(np.inf if n is None else n for n in learned.comparisons)
    middle = reached[(len(reached) - 1) // 2]
    return "never" if np.isinf(middle) else f"{middle:,.0f}"
