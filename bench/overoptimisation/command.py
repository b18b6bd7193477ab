"""The command line of the bench."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.overoptimisation.page import TITLE, record, sections, verdict
from bench.overoptimisation.plan import DEFAULT, QUICK, Proxy
from bench.overoptimisation.study import Study
from bench.overoptimisation.work import Work
from bench.places import out_folder
from bench.recipes.common import Setting
from bench.timing import machine
from bench.workers import side_by_side
from bench.written import write_pages
from minirm.cli.memory import keep_freed_memory
from minirm.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Compute what is not finished, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench overoptimisation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="minutes: smaller in everything")
    parser.add_argument("--workers", type=int, default=2, help="pieces of work side by side, one thread each")
    parser.add_argument(
        "--cache", type=Path, default=Path("bench-cache/overoptimisation"), help="finished work is kept here"
    )
    parser.add_argument("--out", type=Path, help="bench/results")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends as Ctrl-C does, and leaves no workers
    began, facts = time.perf_counter(), {"command": " ".join(["python -m bench overoptimisation", *argv]), **machine()}
    work = Work(Setting(Path(), options.cache), QUICK if options.quick else DEFAULT)
    try:
        for what, pieces in stages(work):
            _finish(what, pieces, options.workers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    facts["minutes of this call"] = round((time.perf_counter() - began) / 60, 1)
    study = Study(work)
    place = out_folder(options.out) / ("overoptimisation-quick" if options.quick else "overoptimisation")
    write_pages(place, TITLE, verdict(study), sections(study, facts), record(study, facts))
    print(verdict(study))
    print(f"{place}.html")
    return 0


def stages(work: Work) -> list[tuple[str, list[Callable[[], object]]]]:
    """Return the pieces of work, what needs others behind them."""
    plan = work.plan
    proxies: list[Proxy] = [proxy for one in plan.followed for seed in range(plan.seeds) for proxy in one.proxies(seed)]
    return [
        ("first policy", [partial(work.drawn)]),
        ("proxies", [partial(work.judged, proxy) for proxy in sorted(set(proxies), reverse=True)]),
        ("policies", [partial(work.learned, *what) for what in plan.learned]),
    ]


def _finish(what: str, pieces: list[Callable[[], object]], workers: int) -> None:
    began = time.perf_counter()
    for done in side_by_side(_call, pieces, workers if len(pieces) > 1 else 1, 1):
        minutes = (time.perf_counter() - began) / 60
        left = minutes / done * (len(pieces) - done)
        print(f"{what}: {done} of {len(pieces)}, {minutes:.1f} min, {left:.1f} to go", flush=True)


def _call(piece: Callable[[], object]) -> None:
    keep_freed_memory()  # as the command line does
    piece()
