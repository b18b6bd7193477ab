"""The command line of the bench."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.architectures import conformance, costs, page
from bench.architectures.cells import Cell, model_config, prepared, read_result, run_all
from bench.architectures.contestants import GPT2, Contestant, find_contestants
from bench.architectures.gpt2 import require_transformers
from bench.architectures.plan import (
    PLANS,
    Plan,
    Setup,
    curve_cells,
    size_cells,
    table_cells,
    tuned_on,
    tuning_cells,
)
from bench.architectures.study import Study
from bench.architectures.subjects import Sources, disjoint_pairs
from bench.places import out_folder
from bench.timing import machine
from minirm.config import ModelConfig
from minirm.errors import InputError
from minirm.files.disk import write_whole
from minirm.tokens.packing import Encoded, tokenize, truncate

SAMPLE, SAMPLE_BATCH = 32, 4
"""Comparisons on which costs are measured, and how many of them make a batch."""


def main(argv: Sequence[str]) -> int:
    """Run what is not finished, and write the report."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends as Ctrl-C does, and leaves no workers
    try:
        return _run(options, ["python -m bench architectures", *argv])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench architectures", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="plan", const="quick", help="minutes, to see that it runs")
    size.add_argument("--full", action="store_const", dest="plan", const="full", help="overnight")
    parser.add_argument("--match", choices=["parameters", "flops", "seconds", "shape"], default="parameters")
    parser.add_argument("--contestants", nargs="+", default=[], metavar="NAME", help="default: all of the plan")
    parser.add_argument("--backbone", action="append", default=[], metavar="FILE.py:CLASS", help="your own contestant")
    parser.add_argument("--pretrained", action="append", default=[], metavar="FOLDER", help="a checkpoint, fine-tuned")
    parser.add_argument("--subjects", nargs="+", default=[], metavar="NAME", help="default: those of the plan")
    parser.add_argument("--data", action="append", default=[], metavar="FILE", help="your comparisons, as a subject")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder of the real data sets")
    parser.add_argument("--seeds", type=int, help="default: those of the plan")
    parser.add_argument("--workers", type=int, default=2, help="trainings that run side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each of them")
    parser.add_argument("--cache", type=Path, default=Path("bench-cache"), help="finished trainings are kept here")
    parser.add_argument("--out", type=Path, help="bench/results; a temporary folder for other contestants or seeds")
    parser.add_argument("--check", action="store_true", help="only check that the backbones keep the protocol")
    parser.set_defaults(plan="default")
    return parser


def _run(options: argparse.Namespace, command: list[str]) -> int:
    require_transformers()
    plan = PLANS[options.plan]
    if options.seeds is not None:
        plan = replace(plan, seeds=options.seeds, main_seeds=options.seeds)
    contestants = find_contestants(options.contestants or plan.contestants, options.backbone, options.pretrained)
    if not conforms(contestants, options.backbone):
        return 2
    if options.check:
        return 0
    began, before = time.perf_counter(), machine()
    setup = set_up(plan, contestants, options)
    study = run(setup, options)
    at_work = {"workers": options.workers, "threads of each": options.threads}
    facts = {"command": " ".join(command), **before, **at_work}
    facts["processor minutes of all trainings"] = round(study.seconds_of_computing() / 60, 1)
    facts["minutes of this call"] = round((time.perf_counter() - began) / 60, 1)
    name, as_planned = _report_name(options), options.seeds is None and not options.contestants
    out = out_folder(options.out, whole=as_planned and not options.backbone and not options.pretrained)
    out.mkdir(parents=True, exist_ok=True)
    print(page.write(study, out, name, facts))
    page.write_tensorboard(study, options.cache / "tensorboard")
    print(f"{out / name}.html; tensorboard --logdir {options.cache / 'tensorboard'}")
    return 0


def _report_name(options: argparse.Namespace) -> str:
    """Return the name of the report's files, in which are plan, match, subjects and data."""
    parts = [options.plan, options.match, *options.subjects, *(Path(file).stem for file in options.data)]
    named = [part for part in parts if part not in ("default", "parameters")]
    words = "".join(letter if letter.isalnum() else " " for letter in " ".join(named)).split()
    return "-".join(["architectures", *words])


def conforms(contestants: Sequence[Contestant], backbones: Sequence[str]) -> bool:
    """Print what users' backbones promise and keep; return whether all that is needed is there."""
    good = True
    for contestant in contestants:
        if contestant.name not in backbones:
            continue
        print(f"{contestant.name}:")
        for finding in conformance.check(contestant.build):
            mark = "yes" if finding.kept else "NO" if finding.needed else "no, and the bench does without"
            print(f"  {finding.promise}: {mark}" + (f". {finding.words}" if finding.words else ""))
            good = good and (finding.kept or not finding.needed)
    return good


def set_up(plan: Plan, contestants: Sequence[Contestant], options: argparse.Namespace) -> Setup:
    """Return who takes part where, at widths that match."""
    sources = Sources(options.shared, **plan.sources)
    named = [*options.subjects, *options.data]
    for subject in named:
        sources.load(subject)  # raises what is wrong with it
    for subject in () if named else plan.subjects:
        if not sources.has(subject):
            print(f"{subject}: not there; left out")
    subjects = named or [subject for subject in plan.subjects if sources.has(subject)]
    setup = Setup(plan, sources, contestants, subjects, {}, {}, options.match)
    if options.match in ("parameters", "flops"):
        return replace(setup, widths=_matched_widths(setup))
    if options.match == "seconds":
        return replace(setup, passes=_matched_passes(setup, options.cache))
    return setup


def _matched_widths(setup: Setup) -> dict[tuple[str, str, int], int]:
    """Return by contestant, subject and width of the baseline the width that matches."""
    widths = {}
    reference = find_contestants([GPT2])[0]
    for subject in setup.subjects:
        sizes = {setup.plan.width, *(setup.plan.widths if subject == setup.main else ())}
        for contestant in [c for c in setup.on(subject) if c.is_network and c.pretrained is None]:
            for width in sizes:
                config, sample = _sample(setup, contestant, subject, width)
                found = costs.matched_width(contestant, config, reference, setup.match, sample)
                widths[contestant.name, subject, width] = found
    return widths


def _matched_passes(setup: Setup, cache: Path) -> dict[str, float]:
    """Return by contestant how many times the baseline's passes take it as long; measured once for a cache."""
    path = cache / f"passes-{setup.plan.name}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not {contestant.name for contestant in setup.networks} <= known.keys():
        measured = measure_costs(setup)
        reference = measured.get(GPT2) or next(iter(measured.values()))
        fresh = {name: round(reference.training.median / cost.training.median, 3) for name, cost in measured.items()}
        known = fresh | known  # a time that trainings were matched to stays
        text = json.dumps(known, indent=1)
        write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
    return known


def _sample(
    setup: Setup, contestant: Contestant, subject: str, width: int, *, as_pairs: bool = False
) -> tuple[ModelConfig, list[list[Encoded]]]:
    """Return a contestant's shape at a width, and a few batches of the subject."""
    cell = replace(setup.plan.template(subject), width=width)
    loaded, tokenizer = prepared(setup.sources, subject, 0, cell.vocab_size)
    rows = loaded.validation[:SAMPLE]
    rows = disjoint_pairs(rows) if as_pairs else rows
    texts = tokenize(rows, contestant.tokenizer(tokenizer))
    encoded = sorted((truncate(row, cell.max_tokens) for row in texts), key=lambda row: row.tokens)
    size = SAMPLE_BATCH * len(rows) // min(SAMPLE, len(loaded.validation))
    return model_config(cell, tokenizer), [encoded[i : i + size] for i in range(0, len(encoded), size)]


def measure_costs(setup: Setup) -> dict[str, costs.Cost]:
    """Return what each network costs on the main subject."""
    shapes = {}
    for contestant in setup.networks:
        if contestant in setup.on(setup.main):
            config, scored = _sample(setup, contestant, setup.main, setup.plan.width)
            _, trained = _sample(setup, contestant, setup.main, setup.plan.width, as_pairs=contestant.as_pairs)
            width = setup.cell(contestant, setup.main).width
            shapes[contestant.name] = (contestant, replace(config, width=width), trained, scored)
    validation = prepared(setup.sources, setup.main, 0, setup.plan.template(setup.main).vocab_size)[0].validation
    return costs.measure(shapes, min(SAMPLE, len(validation)), setup.plan.rounds)


def run(setup: Setup, options: argparse.Namespace) -> Study:
    """Tune, train what is not finished, and measure costs."""

    def finish(cells: Sequence[Cell], what: str) -> None:
        began, missing = (
            time.perf_counter(),
            sum(not c.path(options.cache, setup.sources).is_file() for c in set(cells)),
        )
        print(f"{what}: {missing} of {len(set(cells))} trainings to do", flush=True)
        for done in run_all(cells, options.cache, setup.sources, options.workers, options.threads):
            minutes = (time.perf_counter() - began) / 60
            print(
                f"  {done} of {missing}, {minutes:.1f} min, {minutes / done * (missing - done):.1f} to go", flush=True
            )

    rates = {}
    tuned = {subject: tuning_cells(setup, subject) for subject in dict.fromkeys(map(tuned_on, setup.subjects))}
    finish([c for by_name in tuned.values() for cells in by_name.values() for c in cells], "learning rates")
    for subject, by_name in tuned.items():
        for name, cells in by_name.items():
            rates[name, subject] = best_rate([read_result(cell, options.cache, setup.sources) for cell in cells])
    table, curve, sizes = table_cells(setup, rates), curve_cells(setup, rates), size_cells(setup, rates)
    finish([cell for folds in table.values() for cell in folds], "table")
    finish([*curve.values(), *sizes.values()], "curves")
    torch.set_num_threads(options.workers * options.threads)
    return Study(setup, options.cache, rates, table, curve, sizes, measure_costs(setup))


def best_rate(results: Sequence[dict]) -> float:
    """Return the learning rate of the lowest validation loss.

    Raises:
        InputError: every rate failed.
    """
    good = [result for result in results if "failed" not in result]
    if not good:
        raise InputError(f"{results[0]['cell']['contestant']}: every learning rate failed: {results[0]['failed']}")
    return min(good, key=lambda result: result["validation_loss"])["cell"]["learning_rate"]
