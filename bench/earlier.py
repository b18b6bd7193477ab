"""python -m bench earlier COMMIT: whether this commit trains and scores as fast as an earlier one.

The earlier commit is checked out beside, and either has a process of its own, in which its own bench makes what is
timed: whole training steps on pairs and on nine responses to a prompt, and scoring from texts. They take turns. The
commits need `bench.contenders` and `bench.speed_setup` as they stand since f444dcf.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.timing import interleaved, machine, ratio, spread
from minirm.errors import InputError

REPOSITORY = Path(__file__).parents[1]
READY = "ready"
ITS_OWN = """
import sys, time
from dataclasses import replace
from itertools import chain
from pathlib import Path
import torch
from bench.contenders import MINIRM, contender, keep_freed_memory
from bench.scoring_speed import PackingConfig, RewardModel, score_comparisons
from bench.speed_setup import FULL, HH, RANKINGS

keep_freed_memory()
settings = replace(FULL, data=Path(sys.argv[1]))
pairs, rankings = settings.corpus(HH), settings.corpus(RANKINGS, responses=9)
scored = pairs.spread(2 * settings.steps, settings.per_step)
model, packing = RewardModel(settings.model).eval(), PackingConfig(max_tokens=settings.model.max_positions)


def scoring():
    began = time.perf_counter()
    list(chain(*score_comparisons(model, scored.tokenizer, packing, scored.comparisons)))
    return time.perf_counter() - began


calls = {
    "training, pairs": contender(MINIRM, settings.work(pairs)),
    "training, nine responses": contender(MINIRM, settings.work(rankings, per_step=4)),
    "scoring": scoring,
}
print("ready", flush=True)
for line in sys.stdin:
    print(calls[line.strip()](), flush=True)
"""
"""What a commit's process runs: for each name that it is told it prints the seconds of one pass."""
PASSES = ("training, pairs", "training, nine responses", "scoring")


class ItsOwnProcess:
    """A commit's own code, in a process of its own."""

    def __init__(self, sources: Path, data: Path) -> None:
        self.sources = sources
        environment = os.environ | {"PYTHONPATH": str(sources)}
        command = [sys.executable, "-c", ITS_OWN, str(data.resolve())]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=sources, env=environment, **pipes)
        while (line := self.process.stdout.readline()) != f"{READY}\n":
            if not line:
                raise InputError(f"{sources}: its bench ended before it was ready")

    def __call__(self, name: str) -> float:
        """Return the seconds of one pass."""
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        if not (said := self.process.stdout.readline()):
            raise InputError(f"{self.sources}: its bench ended while it was timed")
        return float(said)


def main(arguments: Sequence[str]) -> int:
    """Print the time of the earlier commit over that of this one, for each kind of pass.

    Raises:
        InputError: there is no such commit, or its bench can't do what is asked of it.
    """
    parser = argparse.ArgumentParser(prog="python -m bench earlier", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: must be at least 1")
    git = partial(subprocess.run, cwd=REPOSITORY, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "sources"
        made = git(["git", "worktree", "add", "--detach", str(there), options.commit])
        if made.returncode:
            raise InputError(f"commit {options.commit!r}: {made.stderr.strip().splitlines()[-1]}")
        try:
            both = {"earlier": ItsOwnProcess(there, options.data), "now": ItsOwnProcess(REPOSITORY, options.data)}
            print(*(f"{name}: {value}" for name, value in machine().items()), sep=", ")
            print("| | earlier, s | now, s | earlier / now |\n|---|--:|--:|--:|")
            for name in PASSES:
                calls = {which: partial(one, name) for which, one in both.items()}
                seconds = interleaved(calls, options.rounds, own_clock=True)
                times = ratio(seconds["earlier"], seconds["now"])
                medians = [f"{spread(seconds[which]).median:.3f}" for which in ("earlier", "now")]
                quartiles = f"{times.median:.3f} [{times.low:.3f}, {times.high:.3f}]"
                print(f"| {name} | {' | '.join(medians)} | {quartiles} |", flush=True)
            for one in both.values():
                one.process.kill()
        finally:
            git(["git", "worktree", "remove", "--force", str(there)])
    return 0
