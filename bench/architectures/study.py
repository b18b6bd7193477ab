"""Finished cells → every number of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.architectures.cells import Cell, read_result
from bench.architectures.contestants import GPT2, LONGER, Contestant
from bench.architectures.costs import Cost
from bench.architectures.figures import (
    ACCURACY,
    ECE,
    NLL,
    Scored,
    accuracy_alone,
    by_attribute,
    ensemble,
    figures,
    joined,
    only_this_one,
)
from bench.architectures.plan import COMPARED, Setup, tuned_on, tuning_cells
from bench.architectures.statistics import Resampled, two_way_interval
from bench.architectures.subjects import (
    AS_TRAINED,
    VALIDATION,
    Sources,
    Subject,
    TestSet,
    best_possible,
    disjoint_pairs,
)
from minirm.errors import InputError
from minirm.evaluation.pairs import pair_table
from minirm.metrics import Interval, fit_temperature

OF_FINAL = 0.9
"""Part of its final accuracy that a training is timed to."""
CALIBRATED = (0.05, 20.0)
"""Temperatures outside come from validation pairs that are all right, or no better than chance; they are cut here."""


class Seconds(NamedTuple):
    """Of training, mean over seeds, accuracies being those on validation."""

    to_most: float
    """To `OF_FINAL` of the final accuracy."""
    to_most_of_the_way: float
    """To `OF_FINAL` of the way from ½ to the final accuracy."""
    whole: float


@dataclass(frozen=True)
class Study:
    """All results of a bench."""

    setup: Setup
    cache: Path
    rates: dict[tuple[str, str], float]
    table: dict[tuple[str, str, int], list[Cell]]
    curve: dict[tuple[str, int, int], Cell]
    sizes: dict[tuple[str, int, int], Cell]
    costs: dict[str, Cost]

    def result(self, cell: Cell) -> dict:
        """Return what a cell found."""
        return _read(cell, self.cache, self.setup.sources)

    @property
    def main(self) -> str:
        """The subject of the main table."""
        return self.setup.main

    @cached_property
    def pairs_per_comparison(self) -> float:
        """How many strictly ordered pairs a comparison of the main subject has, mean over validation."""
        rows = _load(self.setup.sources, self.main, 0).validation
        return len(pair_table(rows, [[0.0] * len(row.responses) for row in rows]).better) / len(rows)

    @property
    def baseline(self) -> str:
        """The contestant that others are measured against: Hugging Face's GPT-2, or the first one without it."""
        names = [contestant.name for contestant in self.setup.networks]
        return GPT2 if GPT2 in names else names[0]

    @cached_property
    def scored(self) -> dict[tuple[str, str], dict[str, Scored]]:
        """By subject and contestant, every test set with the rewards of all seeds; failed contestants are left out."""
        found = {}
        for subject in self.setup.subjects:
            for contestant in self.setup.on(subject):
                try:
                    found[subject, contestant.name] = self._scored(subject, contestant)
                except InputError:
                    continue
        return found

    def seconds_of_computing(self) -> float:
        """Return the processor's seconds for all trainings, tuning and scoring included, whatever else it did."""
        tuning = [c for subject in map(tuned_on, self.setup.subjects) for c in _flat(tuning_cells(self.setup, subject))]
        cells = {*tuning, *_flat(self.table), *self.curve.values(), *self.sizes.values()}
        return sum(self.result(cell)["cpu_seconds"] for cell in cells)

    def failures(self) -> list[str]:
        """Return a line for each reported training that failed."""
        cells = [*_flat(self.table), *self.curve.values(), *self.sizes.values()]
        failed = {cell: self.result(cell).get("failed") for cell in cells}
        return [f"{c.subject}, {c.contestant}, seed {c.seed}: {why}" for c, why in failed.items() if why]

    def _scored(self, subject: str, contestant: Contestant) -> dict[str, Scored]:
        seeds = self.setup.seeds(contestant, subject)
        folds = [[self.result(cell) for cell in self.table[subject, contestant.name, seed]] for seed in seeds]
        for results in folds:
            for result in results:
                if "failed" in result:
                    raise InputError(result["failed"])
        subjects = [_load(self.setup.sources, subject, fold) for fold in range(len(folds[0]))]
        views = {}
        for view in subjects[0].tests:
            tests = [one.tests[view] for one in subjects]
            rewards = [[row for result in results for row in result["rewards"][view]] for results in folds]
            temperatures = [
                [
                    value
                    for result, one, test in zip(results, subjects, tests, strict=True)
                    for value in [_temperature(one.validation, result)] * len(test.comparisons)
                ]
                for results in folds
            ]
            views[view] = Scored(_joined(tests), rewards, temperatures)
        return views

    @cached_property
    def resampled(self) -> dict[tuple[str, str], dict[str, Resampled]]:
        """By subject and contestant, every figure of every view, by the names of `figure_in`."""
        return {
            (subject, name): {
                figure_in(view, figure): value
                for view, scored in views.items()
                for figure, value in _meaningful(name, figures(scored)).items()
            }
            for (subject, name), views in self.scored.items()
        }

    def views(self, subject: str) -> list[str]:
        """Return the test sets of a subject, as trained first."""
        return list(_load(self.setup.sources, subject, 0).tests)

    def interval(self, subject: str, contestant: str, figure: str) -> Interval | None:
        """Return a figure with its interval; None where it was not measured."""
        found = self.resampled.get((subject, contestant), {}).get(figure)
        return None if found is None else two_way_interval(found)

    def difference(self, subject: str, first: str, second: str, figure: str = ACCURACY) -> Interval | None:
        """Return a figure of the first minus that of the second, paired; None where one was not measured."""
        pair = [self.resampled.get((subject, name), {}).get(figure) for name in (first, second)]
        if any(one is None for one in pair):
            return None
        return two_way_interval(_broadcast(pair[0], pair[1]) - _broadcast(pair[1], pair[0]))

    def accuracy_of(self, cells: Sequence[Cell]) -> Interval | None:
        """Return the accuracy as trained of one cell for each seed; None if one failed."""
        results = [self.result(cell) for cell in cells]
        if any("failed" in result for result in results):
            return None
        test = _load(self.setup.sources, cells[0].subject, cells[0].fold).tests[AS_TRAINED]
        return two_way_interval(accuracy_alone(Scored(test, [r["rewards"][AS_TRAINED] for r in results])))

    def points(self, cells: Mapping[tuple[str, int, int], Cell]) -> dict[str, dict[int, Interval]]:
        """Return a curve's accuracies by contestant and place."""
        found: dict[str, dict[int, Interval]] = {}
        for name, place in sorted({key[:2] for key in cells}, key=str):
            interval = self.accuracy_of([cell for key, cell in cells.items() if key[:2] == (name, place)])
            if interval is not None:
                found.setdefault(name, {})[place] = interval
        return {name: dict(sorted(points.items())) for name, points in found.items()}

    def histories(self, contestant: str) -> list[list[dict]]:
        """Return the evaluations of each seed on the main subject, with the seconds that a quiet machine would take.

        Cells run side by side, and beside whatever else the machine does. So their seconds are scaled to the time per
        comparison that was measured for all contestants in one interleaved run.
        """
        per_comparison = self.costs[contestant].training.median
        scaled = []
        for seed in range(self.setup.plan.main_seeds):
            result = self.result(self.table[self.main, contestant, seed][0])
            if "failed" not in result:
                quiet = result["comparisons"] * result["history"][-1]["epoch"] * per_comparison
                scale = quiet / (result["seconds"] - result["language_model_seconds"])
                scaled.append([{**entry, "seconds": scale * entry["seconds"]} for entry in result["history"]])
        return scaled

    def seconds_to_most(self, contestant: str) -> Seconds:
        """Return how long a training takes, mean over seeds."""
        found = []
        for history in self.histories(contestant):
            final = history[-1]["accuracy"]
            wanted = OF_FINAL * final, min(final, 0.5 + OF_FINAL * (final - 0.5))  # below ½ there is no way
            reached = [next(entry["seconds"] for entry in history if entry["accuracy"] >= one) for one in wanted]
            found.append((*reached, history[-1]["seconds"]))
        return Seconds(*np.mean(found, axis=0).tolist())

    def pairs_trained_on(self, contestant: str) -> float:
        """Return how many of a comparison's pairs a contestant learns from."""
        if not next(c for c in self.setup.networks if c.name == contestant).as_pairs:
            return self.pairs_per_comparison
        rows = _load(self.setup.sources, self.main, 0).validation
        return len(disjoint_pairs(rows)) / len(rows)

    def shortest_training(self) -> float:
        """Return the seconds of the fastest training."""
        return min((self.seconds_to_most(name).whole for name in self.costs if self.histories(name)), default=0.0)

    def accuracy_after(self, contestant: str, seconds: float) -> Interval:
        """Return the accuracy on validation at the last evaluation by then (½ before the first), with its interval over
        seeds alone."""
        by_then = [[e["accuracy"] for e in h if e["seconds"] <= 1.001 * seconds] for h in self.histories(contestant)]
        last = np.array([(accuracies or [0.5])[-1] for accuracies in by_then])
        return two_way_interval(Resampled(last, np.stack([last, last])))

    def best_possible(self, subject: str) -> float:
        """Return the accuracy as trained of one who knows every utility of a world."""
        return float(best_possible(_load(self.setup.sources, subject, 0).tests[AS_TRAINED]).mean())

    def best_at_the_end(self) -> tuple[int, int]:
        """Return how many trainings of the tables were best at their last evaluation, and how many there were."""
        results = [self.result(cell) for cell in _flat(self.table)]
        trained = [result for result in results if "best_step" in result]
        return sum(result["best_step"] == result["steps"] for result in trained), len(trained)

    def mistakes(self) -> dict[str, tuple[float, float]]:
        """Return the share of the main subject's pairs that each architecture alone gets wrong, and right."""
        names = [c.name for c in self.setup.networks if c.kind in COMPARED and (self.main, c.name) in self.scored]
        return only_this_one({name: self.scored[self.main, name][AS_TRAINED].right.mean(0) for name in names})

    def attributes(self) -> dict[str, dict[str, float]]:
        """Return by contestant the accuracy on pairs that one attribute decides; empty where there is no truth."""
        found = {name: views[AS_TRAINED] for (subject, name), views in self.scored.items() if subject == self.main}
        return {name: by_attribute(scored) for name, scored in found.items() if scored.test.judged}

    def ensembles(self) -> dict[str, dict[str, Interval]]:
        """Return by network what an ensemble of its seeds, or its heads, is worth, and what finds its mistakes."""
        networks = [contestant for contestant in self.setup.networks if (self.main, contestant.name) in self.scored]
        found = {contestant.name: self._ensemble(contestant) for contestant in networks}
        return {name: {figure: two_way_interval(one) for figure, one in each.items()} for name, each in found.items()}

    def _ensemble(self, contestant: Contestant) -> dict[str, Resampled]:
        scored = self.scored[self.main, contestant.name][AS_TRAINED]
        if contestant.heads == 1:
            return ensemble(scored)
        of_each_seed = []
        for seed in self.setup.seeds(contestant, self.main):
            folds = [self.result(cell)["heads"] for cell in self.table[self.main, contestant.name, seed]]
            heads = [[row for fold in folds for row in fold[head]] for head in range(contestant.heads)]
            of_each_seed.append(ensemble(Scored(scored.test, heads)))
        return joined(of_each_seed)

    def ranking(self) -> list[str]:
        """Return the networks of the main subject that stand for an architecture, the most accurate first."""
        names = [c.name for c in self.setup.networks if c.kind in ("baseline", "own", "yours")]
        measured = [name for name in names if (self.main, name) in self.resampled]
        return sorted(measured, key=lambda name: -self.resampled[self.main, name][ACCURACY].whole.mean())


@lru_cache(maxsize=32)
def _load(sources: Sources, name: str, fold: int) -> Subject:
    """Return a subject; all are kept, as every table asks for them again."""
    return sources.load(name, fold)


_read = lru_cache(maxsize=1024)(read_result)


def _flat(cells: Mapping[object, list[Cell]]) -> list[Cell]:
    return [cell for several in cells.values() for cell in several]


def figure_in(view: str, figure: str) -> str:
    """Return how a figure of a view is called: as trained by its own name, other accuracies by that of the view."""
    if view == AS_TRAINED:
        return figure
    return view if figure == ACCURACY else f"{figure}, {view}"


def _meaningful(name: str, found: dict[str, Resampled]) -> dict[str, Resampled]:
    """Leave out what a reward in characters says of probabilities, before a temperature makes it logits."""
    return {figure: value for figure, value in found.items() if name != LONGER or figure not in (NLL, ECE)}


def _temperature(validation: list, result: dict) -> float:
    difference = pair_table(validation, result["rewards"][VALIDATION]).reward_difference
    fitted = fit_temperature(difference, np.ones(len(difference)))
    return 1.0 if np.isnan(fitted) else float(np.clip(fitted, *CALIBRATED))  # NaN: no reward differs, whatever the T


def _joined(tests: Sequence[TestSet]) -> TestSet:
    """Return the test sets of all folds as one."""
    return TestSet(
        [row for test in tests for row in test.comparisons],
        [key for test in tests for key in test.keys],
        [one for test in tests for one in test.judged],
        tests[0].noise,
    )


def _broadcast(one: Resampled, other: Resampled) -> Resampled:
    """Return a figure with as many seeds as the other: what needs no training has one, and it serves for all."""
    seeds = max(len(one.whole), len(other.whole))
    return Resampled(np.broadcast_to(one.whole, seeds), np.broadcast_to(one.without, (len(one.without), seeds)))


def mean_history(histories: Sequence[Sequence[dict]], field: str) -> NDArray:
    """Return a field of the evaluations, mean over seeds, (evaluations,)."""
    shortest = min(map(len, histories))
    return np.mean([[entry[field] for entry in history[:shortest]] for history in histories], axis=0)
