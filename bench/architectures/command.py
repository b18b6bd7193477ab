"""The command line of the bench."""

import argparse
import hashlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.architectures import conformance, costs, written
from bench.architectures.cells import STARTS
from bench.architectures.contestants import GPT2, Contestant, find_contestants
from bench.architectures.gpt2 import require_transformers
from bench.architectures.plan import (
    PLANS,
    Plan,
    Setup,
    Shape,
)
from bench.architectures.provenance import code_digest
from bench.architectures.running import a_sample, measure_costs, run
from bench.architectures.subjects import WORLD, Sources, is_known_truth, is_skill
from bench.places import out_folder
from bench.timing import machine
from minirm.errors import InputError
from minirm.files.disk import write_whole
from minirm.training.objectives import LOSSES


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
    parser.add_argument("--skills", nargs="+", default=[], metavar="NAME[:DIAL]", help="single skills, as subjects")
    parser.add_argument("--data", action="append", default=[], metavar="FILE", help="your comparisons, as a subject")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder of the real data sets")
    parser.add_argument("--seeds", type=int, help="default: those of the plan")
    parser.add_argument("--comparisons", type=int, help="most training comparisons of a subject")
    parser.add_argument("--epochs", type=float, help="passes over them; default: by the rule of the plan")
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates to try")
    parser.add_argument("--loss", choices=list(LOSSES), help="of the reward stage; default: all_pairs")
    parser.add_argument("--layers", type=int, help="depth of all")
    parser.add_argument("--width", type=int, help="width of the GPT-2 that others are matched to")
    parser.add_argument("--workers", type=int, default=2, help="trainings that run side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each of them")
    parser.add_argument("--cache", type=Path, default=Path("bench-cache"), help="finished trainings are kept here")
    parser.add_argument("--out", type=Path, help="bench/results; a temporary folder for other choices than a plan's")
    parser.add_argument("--so-far", action="store_true", help="train nothing: report the subjects that are finished")
    parser.add_argument("--check", action="store_true", help="only check that the backbones keep the protocol")
    parser.set_defaults(plan="default")
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that was asked for, with what was asked for otherwise.

    Raises:
        InputError: a number is too small.
    """
    plan = PLANS[options.plan]
    for name in ("seeds", "comparisons", "epochs", "layers", "width"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise InputError(f"--{name} {value}: must be above 0")
    if options.rates and min(options.rates) <= 0:
        raise InputError(f"--rates {min(options.rates):g}: must be above 0")
    if options.seeds is not None:
        plan = replace(plan, seeds=options.seeds, world_seeds=options.seeds, file_seeds=options.seeds)
    if options.comparisons is not None:
        at_most = min(options.comparisons, plan.skill)
        plan = replace(plan, steps=plan.steps_for(WORLD, options.comparisons), comparisons=options.comparisons)
        plan = replace(plan, skill=at_most)
    if options.layers or options.width:
        layers, width = plan.shapes[0]
        plan = replace(plan, shapes=((options.layers or layers, options.width or width),))
    rates = tuple(sorted(options.rates or plan.rates))
    return replace(plan, rates=rates, epochs=options.epochs, loss=options.loss or plan.loss)


def _run(options: argparse.Namespace, command: list[str]) -> int:
    require_transformers()
    plan = plan_of(options)
    contestants = find_contestants(options.contestants or plan.contestants, options.backbone, options.pretrained)
    if not conforms(contestants):
        return 2
    if options.check:
        return 0
    began, before = time.perf_counter(), machine()
    setup = set_up(plan, contestants, options)
    study = run(setup, options)
    facts = {"command": " ".join(command), **before, "workers": options.workers, "threads of each": options.threads}
    facts["minutes of this call"] = round((time.perf_counter() - began) / 60, 1)
    out = out_folder(options.out, whole=_is_as_planned(options))
    out.mkdir(parents=True, exist_ok=True)
    name = _report_name(options)
    print(written.write(study, out, name, facts))
    print(out / f"{name}.html")
    return 0


def _is_as_planned(options: argparse.Namespace) -> bool:
    """Return whether nothing was asked for but a plan, a match and subjects, which the report's name tells."""
    others = ["contestants", "backbone", "pretrained", "seeds", "comparisons", "epochs", "rates", "loss"]
    others += ["layers", "width"]
    return not any(getattr(options, name) for name in others)


def _report_name(options: argparse.Namespace) -> str:
    """Return the name of the report's files, in which are plan, match, subjects and data."""
    files = [Path(file).stem for file in options.data]
    parts = [options.plan, options.match, *options.subjects, *options.skills, *files]
    named = [part for part in parts if part not in ("default", "parameters")]
    words = "".join(letter if letter.isalnum() else " " for letter in " ".join(named)).split()
    return "-".join(["architectures", *words])


def conforms(contestants: Sequence[Contestant]) -> bool:
    """Print what users' backbones promise and keep; return whether all that is needed is there."""
    good = True
    for contestant in contestants:
        if contestant.kind != "yours":
            continue
        print(f"{contestant.place}:")
        for finding in conformance.check(contestant.build):
            mark = "yes" if finding.kept else "NO" if finding.needed else "no, and the bench does without"
            print(f"  {finding.promise}: {mark}" + (f". {finding.words}" if finding.words else ""))
            good = good and (finding.kept or not finding.needed)
    return good


def set_up(plan: Plan, contestants: Sequence[Contestant], options: argparse.Namespace) -> Setup:
    """Return who takes part where, at widths that match."""
    sources = Sources(options.shared, **plan.sources)
    named = [*options.subjects, *options.skills, *options.data]
    for subject in () if named else plan.subjects:
        if not sources.has(subject):
            print(f"{subject}: not there; left out")
    subjects = list(dict.fromkeys(named or [subject for subject in plan.subjects if sources.has(subject)]))
    available = {
        subject: _available(plan, sources, subject, options.comparisons) for subject in subjects
    }  # raises what is wrong with one
    asked = bool(options.contestants)
    setup = Setup(plan, sources, contestants, subjects, available, options.match, everyone_everywhere=asked)
    if options.match in ("parameters", "flops"):
        return replace(setup, widths=_matched_widths(setup))
    if options.match == "seconds":
        return replace(setup, passes=_matched_passes(setup, options.cache))
    return setup


def _available(plan: Plan, sources: Sources, subject: str, most: int | None) -> int:
    """Return the training comparisons of a subject's table."""
    if is_known_truth(subject):
        sources.load(subject)
        return plan.skill if is_skill(subject) else plan.comparisons
    there = len(sources.load(subject).training)
    return there if most is None else min(most, there)


def _matched_widths(setup: Setup) -> dict[tuple[str, str, Shape], int]:
    """Return by contestant, subject and shape of the baseline the width that matches."""
    widths, known = {}, {}
    reference = find_contestants([GPT2])[0]
    for subject in setup.subjects:
        shapes = setup.plan.shapes if subject == setup.main else setup.plan.shapes[:1]
        where = setup.main if setup.match == "parameters" else subject  # which are the same wherever they are
        for contestant in [c for c in setup.on(subject) if c.is_network and c.pretrained is None]:
            for shape in shapes:
                if (contestant.name, where, shape) not in known:
                    config, sample = a_sample(setup, contestant, where, shape)
                    found = costs.matched_width(contestant, config, reference, setup.match, sample)
                    known[contestant.name, where, shape] = found
                widths[contestant.name, subject, shape] = known[contestant.name, where, shape]
    return widths


def _matched_passes(setup: Setup, cache: Path) -> dict[str, float]:
    """Return by contestant how many times the baseline's steps take it as long; measured once for a cache and code."""
    what = f"{setup.main} {setup.plan.shapes[0]} {code_digest(*STARTS)}"
    path = cache / f"passes-{hashlib.blake2b(what.encode(), digest_size=6).hexdigest()}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not {contestant.name for contestant in setup.networks} <= known.keys():
        measured = measure_costs(setup)
        reference = measured.get(GPT2) or next(iter(measured.values()))
        fresh = {name: round(reference.training.median / cost.training.median, 3) for name, cost in measured.items()}
        known = fresh | known  # a time that trainings were matched to stays
        text = json.dumps(known, indent=1)
        write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
    return known
