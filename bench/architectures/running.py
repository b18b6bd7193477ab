"""What is not finished is tuned and trained, subject by subject; then costs are measured."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from bench.architectures import costs
from bench.architectures.cells import Cell, model_config, prepared, read_result, run_all
from bench.architectures.contestants import Contestant
from bench.architectures.plan import (
    Plan,
    Rates,
    Setup,
    Shape,
    Table,
    at_rates,
    convergence_cells,
    curve_cells,
    every_cell,
    size_cells,
    table_cells,
    untuned,
)
from bench.architectures.study import Study
from bench.architectures.subjects import Sources, disjoint_pairs
from minirm.config import ModelConfig
from minirm.errors import InputError
from minirm.tokens.packing import Encoded, tokenize, truncate

SAMPLE, SAMPLE_BATCH = 32, 4
"""Comparisons on which costs are measured, and how many of them make a batch."""


def a_sample(
    setup: Setup, contestant: Contestant, subject: str, shape: Shape, *, as_pairs: bool = False
) -> tuple[ModelConfig, list[list[Encoded]]]:
    """Return a contestant's shape at the reference's width, and a few batches of the subject."""
    cell = replace(setup.cell(contestant, subject, shape=shape), width=shape[1])
    loaded, tokenizer = prepared(setup.sources, subject, 0, 0, SAMPLE, cell.vocab_size)
    rows = loaded.validation[:SAMPLE]
    rows = disjoint_pairs(rows) if as_pairs else rows
    texts = tokenize(rows, contestant.tokenizer(tokenizer))
    encoded = sorted((truncate(row, cell.max_tokens) for row in texts), key=lambda row: row.tokens)
    size = max(1, SAMPLE_BATCH * len(rows) // min(SAMPLE, len(loaded.validation)))
    return model_config(cell, tokenizer), [encoded[i : i + size] for i in range(0, len(encoded), size)]


def measure_costs(setup: Setup) -> dict[str, costs.Cost]:
    """Return what each network costs on the main subject."""
    shapes, shape = {}, setup.plan.shapes[0]
    for contestant in setup.networks:
        if contestant in setup.on(setup.main):
            config, scored = a_sample(setup, contestant, setup.main, shape)
            _, trained = a_sample(setup, contestant, setup.main, shape, as_pairs=contestant.as_pairs)
            width = setup.cell(contestant, setup.main).width
            shapes[contestant.name] = (contestant, replace(config, width=width), trained, scored)
    validation = setup.sources.load(setup.main).validation
    return costs.measure(shapes, min(SAMPLE, len(validation)), setup.plan.rounds)


class Unfinished(Exception):
    """Trainings are missing, and none is to be done now."""


@dataclass
class Work:
    """What is done, and at what speed."""

    options: argparse.Namespace
    sources: Sources
    steps: int = 0
    """That the plan still asks for; rates beyond those of the plan are not in it …"""
    done: int = 0
    """… and those done in `minutes` of this call."""
    minutes: float = 0.0

    def finish(self, name: str, cells: Sequence[Cell], what: str, *, planned: bool = True) -> None:
        """Train what is not finished.

        Args:
            planned: whether the plan has these cells, and not a rate beyond.
        Raises:
            Unfinished: something is not, and only what there is was asked for.
        """
        cache, began = self.options.cache, time.perf_counter()
        wanted = list(dict.fromkeys(cells))
        missing = [cell for cell in wanted if not cell.path(cache, self.sources).is_file()]
        if missing and self.options.so_far:
            raise Unfinished(f"{len(missing)} of {len(wanted)} trainings")
        finished = sum(cell.steps for cell in wanted) - sum(cell.steps for cell in missing)
        self.steps -= finished if planned else 0
        print(f"{name}, {what}: {len(missing)} of {len(wanted)} trainings to do{self._left()}", flush=True)
        stale = sum(bool(cell.stale(cache, self.sources)) for cell in missing)
        if stale:
            print(f"  {stale} of them were done by other code, which is not mixed with this one's", flush=True)
        for done in run_all(missing, cache, self.sources, self.options.workers, self.options.threads):
            minutes = (time.perf_counter() - began) / 60
            left = minutes / done * (len(missing) - done)
            print(f"  {done} of {len(missing)}, {minutes:.1f} min, {left:.1f} to go", flush=True)
        self.minutes += (time.perf_counter() - began) / 60
        self.done += sum(cell.steps for cell in missing)
        self.steps -= sum(cell.steps for cell in missing) if planned else 0

    def _left(self) -> str:
        if not self.done:
            return ""
        return f"; all that is left, about {max(0, self.steps) * self.minutes / self.done:.0f} min"

    def read(self, cell: Cell) -> dict:
        """Return what a finished cell found."""
        return read_result(cell, self.options.cache, self.sources)


def run(setup: Setup, options: argparse.Namespace) -> Study:
    """Tune and train what is not finished, subject by subject, then the curves, and measure costs.

    Raises:
        InputError: only what there is was asked for, and no subject is finished.
    """
    networks = {contestant.identity for contestant in setup.networks}
    table, curves = table_cells(setup), (curve_cells(setup), size_cells(setup), convergence_cells(setup))
    parts = {subject: {key: cells for key, cells in table.items() if key[1] == subject} for subject in setup.subjects}
    parts |= dict(zip(("curve", "sizes", "convergence"), curves, strict=True))
    tuned = {
        name: list({untuned(c): 0 for c in every_cell([part]) if c.contestant in networks})
        for name, part in parts.items()
    }
    conditions = {condition for several in tuned.values() for condition in several}
    work = Work(options, setup.sources)
    work.steps = sum(c.steps for c in {*every_cell([*parts.values()])}) + len(setup.plan.rates) * sum(
        c.steps for c in conditions
    )
    rates, tuning, done, missing = {}, [], {}, {}
    for name, part in parts.items():
        try:
            found, tried = tune(tuned[name], setup.plan, partial(work.finish, name), work.read)
            done[name] = at_rates(part, rates := rates | found)
            work.finish(name, every_cell([done[name]]), "all seeds")
            tuning += tried
        except Unfinished as error:
            missing[name] = str(error)
            done.pop(name, None)
    setup = _only(setup, done, missing)
    torch.set_num_threads(options.workers * options.threads)
    table = {key: cells for subject in setup.subjects for key, cells in done[subject].items()}
    curves = [done.get(name, {}) for name in ("curve", "sizes", "convergence")]
    return Study(setup, options.cache, rates, tuning, table, *curves, measure_costs(setup), missing)


def _only(setup: Setup, done: dict[str, Table], missing: dict[str, str]) -> Setup:
    """Return the setup with the subjects that are done; the curves are left out with the main one."""
    subjects = [subject for subject in setup.subjects if subject in done]
    if not subjects:
        raise InputError(f"--so-far: no subject is finished: {'; '.join(map(': '.join, missing.items()))}")
    if setup.main not in subjects:
        for name in ("curve", "sizes", "convergence"):
            done.pop(name, None)
    return replace(setup, subjects=subjects)


def tune(
    conditions: Sequence[Cell], plan: Plan, finish: Callable[..., None], read: Callable[[Cell], dict]
) -> tuple[Rates, list[Cell]]:
    """Return the learning rate of the lowest validation loss in each condition, and every cell that was tried.

    Where the best is the lowest or the highest so far, one beyond it is tried next, a few times.
    """
    tried = {condition: list(plan.rates) for condition in conditions}
    for extension in range(plan.extensions + 1):
        cells = {c: [replace(c, learning_rate=rate) for rate in rates] for c, rates in tried.items()}
        finish([cell for several in cells.values() for cell in several], "learning rates", planned=not extension)
        best = {condition: best_rate([read(cell) for cell in several]) for condition, several in cells.items()}
        for condition, rates in tried.items() if extension < plan.extensions else ():
            if len(rates) > 1 and best[condition] == min(rates):
                rates.append(min(rates) / 2)
            elif len(rates) > 1 and best[condition] == max(rates):
                rates.append(max(rates) * 2)
    return best, [cell for several in cells.values() for cell in several]


def best_rate(results: Sequence[dict]) -> float:
    """Return the learning rate of the lowest validation loss.

    Raises:
        InputError: every rate failed.
    """
    good = [result for result in results if "failed" not in result]
    if not good:
        raise InputError(f"{results[0]['cell']['contestant']}: every learning rate failed: {results[0]['failed']}")
    return min(good, key=lambda result: result["validation_loss"])["cell"]["learning_rate"]
