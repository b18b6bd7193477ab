"""Finished cells → every figure of the report, by seed and group of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from bench.architectures.cells import Cell, read_result
from bench.architectures.contestants import GPT2, LONGER, Contestant
from bench.architectures.costs import Cost
from bench.architectures.figures import (
    ACCURACY,
    BOUNDS,
    ECE,
    NLL,
    WAY,
    Scored,
    accuracy_alone,
    by_attribute,
    decided_by,
    ensemble,
    figures,
    joined,
)
from bench.architectures.plan import Rates, Setup, Table, every_cell
from bench.architectures.statistics import Resampled, mean_of, two_way_interval
from bench.architectures.subjects import (
    AS_TRAINED,
    VALIDATION,
    Sources,
    Subject,
    TestSet,
    best_possible,
    is_known_truth,
)
from minirm.evaluation.pairs import pair_table
from minirm.metrics import Interval, fit_temperature

CALIBRATED = (0.05, 20.0)
"""Temperatures outside come from validation pairs that are all right, or no better than chance; they are cut here."""
ALL_SKILLS = "all skills"
"""Stands for a subject whose one figure is the mean over the skills."""


@dataclass(frozen=True)
class Study:
    """All results of a bench."""

    setup: Setup
    cache: Path
    rates: Rates
    tuning: list[Cell]
    table: Table
    curve: Table
    sizes: Table
    converged: Table
    costs: dict[str, Cost]
    missing: dict[str, str] = field(default_factory=dict)
    """By subject, or curve, how many trainings are missing, where the bench is not finished."""

    def result(self, cell: Cell) -> dict:
        """Return what a cell found."""
        return _read(cell, self.cache, self.setup.sources)

    @property
    def main(self) -> str:
        """The subject of prices, curves and ensembles."""
        return self.setup.main

    @property
    def subjects(self) -> list[str]:
        """Every subject, the mean over the skills first where there are several."""
        return [*([ALL_SKILLS] if len(self.setup.skills) > 1 else []), *self.setup.subjects]

    @property
    def baseline(self) -> str:
        """The contestant that others are measured against: Hugging Face's GPT-2, or the first one without it."""
        names = [contestant.name for contestant in self.setup.networks]
        return GPT2 if GPT2 in names else names[0]

    def subject(self, name: str, fold: int = 0) -> Subject:
        """Return a subject's tests and validation; its training comparisons are of no use here."""
        return _load(self.setup.sources, name, fold)

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell that the report stands on."""
        reported = every_cell([self.table, self.curve, self.sizes, self.converged])
        return list(dict.fromkeys([*self.tuning, *reported]))

    def failures(self) -> list[str]:
        """Return a line for each reported training that failed."""
        tables = [self.table, self.curve, self.sizes, self.converged]
        failed = {cell: self.result(cell).get("failed") for cell in every_cell(tables)}
        return [f"{c.subject}, {c.contestant}, seed {c.seed}: {why}" for c, why in failed.items() if why]

    # ── Figures ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def scored(self) -> dict[tuple[str, str], dict[str, Scored]]:
        """By subject and contestant, every test set with the rewards of all seeds; failed contestants are left out."""
        found = {}
        for subject in self.setup.subjects:
            for contestant in self.setup.on(subject):
                views = self._scored(subject, contestant)
                if views:
                    found[subject, contestant.name] = views
        return found

    def _scored(self, subject: str, contestant: Contestant) -> dict[str, Scored]:
        seeds = self.setup.seeds(contestant, subject)
        folds = [[self.result(cell) for cell in self.table[contestant.name, subject, seed]] for seed in seeds]
        if any("failed" in result for results in folds for result in results):
            return {}
        subjects = [self.subject(subject, fold) for fold in range(len(folds[0]))]
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
        found = {
            (subject, name): {
                figure_in(view, figure): value
                for view, scored in views.items()
                for figure, value in _meaningful(name, figures(scored)).items()
            }
            for (subject, name), views in self.scored.items()
        }
        for contestant in self.setup.contestants if ALL_SKILLS in self.subjects else ():
            ways = [found.get((skill, contestant.name), {}).get(WAY) for skill in self.setup.skills]
            if all(way is not None for way in ways):
                found[ALL_SKILLS, contestant.name] = {WAY: mean_of(ways)}
        return found

    def figure(self, subject: str, name: str, figure: str) -> Resampled | None:
        """Return a figure by seed and group; None where it was not measured."""
        return self.resampled.get((subject, name), {}).get(figure)

    def interval(self, subject: str, name: str, figure: str) -> Interval | None:
        """Return a figure with its interval; None where it was not measured."""
        found = self.figure(subject, name, figure)
        bounds = self._ends_of_the_way(subject) if figure == WAY else bounds_of(figure)
        return None if found is None else two_way_interval(found, bounds=bounds)

    def _ends_of_the_way(self, subject: str) -> tuple[float, float]:
        """Return the parts of the way at which accuracy is 0 and 1: beyond the best possible lies the labels' luck."""
        subjects = self.setup.skills if subject == ALL_SKILLS else [subject]
        end = float(np.mean([0.5 / (self.best_possible(one) - 0.5) for one in subjects]))
        return -end, end

    def ranking(self, subject: str) -> list[str]:
        """Return all that were measured on a subject, the best first."""
        figure = figure_of(subject)
        names = [c.name for c in self.setup.contestants if self.figure(subject, c.name, figure) is not None]
        return sorted(names, key=lambda name: -self.figure(subject, name, figure).whole.mean())

    def networks(self, subject: str) -> list[str]:
        """Return the networks that were measured on a subject, the best first."""
        known = {contestant.name for contestant in self.setup.networks}
        return [name for name in self.ranking(subject) if name in known]

    def points(self, cells: Table) -> dict[str, dict[object, Interval]]:
        """Return a curve's accuracies by contestant and point, in the order of the cells."""
        return {
            name: {point: two_way_interval(one, bounds=(0, 1)) for point, one in line.items()}
            for name, line in self.accuracies(cells).items()
        }

    def accuracies(self, cells: Table) -> dict[str, dict[object, Resampled]]:
        """Return a curve's accuracies by seed and group."""
        together: dict[tuple[str, object], list[Cell]] = {}
        for (name, point, _), (cell,) in cells.items():
            together.setdefault((name, point), []).append(cell)
        found: dict[str, dict[object, Resampled]] = {}
        for (name, point), several in together.items():
            results = [self.result(cell) for cell in several]
            if not any("failed" in result for result in results):
                test = self.subject(self.main).tests[AS_TRAINED]
                accuracy = accuracy_alone(Scored(test, [result["rewards"][AS_TRAINED] for result in results]))
                found.setdefault(name, {})[point] = accuracy
        return found

    def best_possible(self, subject: str) -> float:
        """Return the accuracy as trained of one who knows every utility."""
        return float(best_possible(self.subject(subject).tests[AS_TRAINED]).mean())

    def best_at_the_end(self) -> tuple[int, int]:
        """Return how many trainings of the tables were best at their last evaluation, and how many there were."""
        trained = [result for result in map(self.result, every_cell([self.table])) if "best_step" in result]
        return sum(result["best_step"] == result["steps"] for result in trained), len(trained)

    # ── The main subject alone ────────────────────────────────────────────────────────────────────────────────────────

    def attributes(self) -> dict[str, dict[str, float]]:
        """Return by contestant the accuracy on pairs that one attribute decides; empty where there is no truth."""
        found = {name: views[AS_TRAINED] for (subject, name), views in self.scored.items() if subject == self.main}
        return {name: by_attribute(scored) for name, scored in found.items() if scored.test.judged}

    def decided(self) -> dict[str, list[int]]:
        """Return by attribute which of the main subject's pairs it decides alone; their order is that of the table."""
        scored = next(views[AS_TRAINED] for (subject, _), views in self.scored.items() if subject == self.main)
        return decided_by(scored) if scored.test.judged else {}

    def ensembles(self) -> dict[str, dict[str, Interval]]:
        """Return by network what an ensemble of its seeds, or its heads, is worth, and what finds its mistakes."""
        several = [c for c in self.setup.networks if max(c.heads, len(self.setup.seeds(c, self.main))) > 1]
        networks = [contestant for contestant in several if (self.main, contestant.name) in self.scored]
        found = {contestant.name: self._ensemble(contestant) for contestant in networks}
        ends = lambda figure: (-1, 1) if "−" in figure else (0, 1)  # noqa: E731
        return {
            name: {f: two_way_interval(one, bounds=ends(f)) for f, one in each.items()} for name, each in found.items()
        }

    def _ensemble(self, contestant: Contestant) -> dict[str, Resampled]:
        scored = self.scored[self.main, contestant.name][AS_TRAINED]
        if contestant.heads == 1:
            return ensemble(scored)
        of_each_seed = []
        for seed in self.setup.seeds(contestant, self.main):
            folds = [self.result(cell)["heads"] for cell in self.table[contestant.name, self.main, seed]]
            heads = [[row for fold in folds for row in fold[head]] for head in range(contestant.heads)]
            of_each_seed.append(ensemble(Scored(scored.test, heads)))
        return joined(of_each_seed)


@lru_cache(maxsize=64)
def _load(sources: Sources, name: str, fold: int) -> Subject:
    """Return a subject; all are kept, as every table asks for them again."""
    return sources.load(name, fold)


_read = lru_cache(maxsize=4096)(read_result)


def figure_of(subject: str) -> str:
    """Return the figure that says how good one is: the part of the way to the ceiling, where there is one."""
    return WAY if subject == ALL_SKILLS or is_known_truth(subject) else ACCURACY


def figure_in(view: str, figure: str) -> str:
    """Return how a figure of a view is called: as trained by its own name, other accuracies by that of the view."""
    if view == AS_TRAINED:
        return figure
    return view if figure == ACCURACY else f"{figure}, {view}"


def bounds_of(figure: str) -> tuple[float, float]:
    """Return where a figure of any view must end: an error of calibration is not below 0."""
    return BOUNDS.get(figure.partition(", ")[0], (-np.inf, np.inf))


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
