"""SIGKILL, at random moments and before single file operations: does the run end as the uninterrupted one?

    python -m bench kills [--trials 200] [--seed 0] [--out FOLDER]

Each trial begins a little run of two stages in a process of its own, kills it, kills every third one once more while
it goes on, and lets the same command end it. Its weights, figures, page and description must then be those of the
uninterrupted run byte for byte, its log must hold the same steps and losses, and neither its folder nor the temporary
one may hold anything else. One half of the trials is killed at random moments, the other before one file operation
each, spread over all those that Python announces (`sys.addaudithook`) within the run's folder.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.little_run import in_a_child, little_config, prepare_process, what_it_came_to
from bench.places import out_folder
from minirm.runs.job import train_run
from minirm.runs.journal import Observer

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"}


class Operations:
    """Counts file operations below a folder, and kills this process before one of them."""

    def __init__(self, folder: Path, kill_at: int = 0) -> None:
        self.folder, self.kill_at, self.count = os.fspath(folder), kill_at, 0
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
        """Count an operation; it has not happened yet."""
        if event in OPERATIONS and str(arguments[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Kill, go on, compare; status 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(prog="python -m bench kills")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="minirm-") as home:
        ends, operations, seconds = kill(Path(home), options.trials, options.seed)
    text = f"""# Runs that were killed

`python -m bench kills --trials {options.trials} --seed {options.seed}`: little runs of {seconds:.1f} s, one half
of them killed by SIGKILL at a random moment, the other before one of the {operations} file operations in the
run's folder; every third one twice; and then gone on with.

| how the run ended | random moments | file operations |
|---|---:|---:|
"""
    for how in ("as the uninterrupted one", "otherwise"):
        text += f"| {how} | {ends['moment', how]} | {ends['operation', how]} |\n"
    text += f"\n{time.monotonic() - began:,.0f} s in all.\n"
    print(text)
    (out_folder(options.out, whole=options.trials >= 200) / "kills.md").write_text(text)
    return int(ends["moment", "otherwise"] + ends["operation", "otherwise"] > 0)


def kill(home: Path, trials: int, seed: int) -> tuple[Counter, int, float]:
    """Return how the trials ended, by what killed them; how many operations a run takes; and how many seconds."""
    rng, config, temporary = random.Random(seed), little_config(home), prepare_process(home)
    whole, counted = home / "whole" / "run", home / "operations"

    def count() -> None:
        operations = Operations(whole)
        train_run(config, whole, Observer())
        counted.write_text(str(operations.count))

    train_run(config, home / "first", Observer())  # brings what is imported late into this process, for all its forks
    began = time.monotonic()
    if in_a_child(count):
        raise RuntimeError("the uninterrupted run failed")
    seconds, operations, wanted = time.monotonic() - began, int(counted.read_text()), what_it_came_to(whole)
    ends: Counter = Counter()
    for trial in range(trials):
        by, folder = ("moment", "operation")[trial % 2], home / "trial" / "run"
        kill_at = 1 + (trial // 2) * operations // max(1, trials // 2) if by == "operation" else 0
        limit = rng.uniform(0, seconds) if by == "moment" else None

        def work(folder: Path = folder, kill_at: int = kill_at) -> None:
            Operations(folder, kill_at)
            train_run(config, folder, Observer())

        in_a_child(work, limit)
        if trial % 3 == 0 and not (folder / "checksums.txt").is_file():
            in_a_child(lambda folder=folder: train_run(config, folder, Observer()), rng.uniform(0, seconds))
        finished = (folder / "checksums.txt").is_file()  # it was killed when all was done
        went_on = finished or in_a_child(lambda folder=folder: train_run(config, folder, Observer())) == 0
        differ = _differences(what_it_came_to(folder), wanted, finished) if went_on else ["it did not end"]
        same = not (differ := [*differ, *_left_in(temporary)])
        how = "as the uninterrupted one" if same else "otherwise"
        ends[by, how] += 1
        if not same:
            print(f"trial {trial}: killed by {by} {kill_at or limit}: ended otherwise: {differ}", flush=True)
        shutil.rmtree(folder.parent, ignore_errors=True)
    return ends, operations, seconds


def _left_in(temporary: Path) -> list[str]:
    return [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor")]  # which torch makes


def _differences(found: dict, wanted: dict, finished: bool) -> list[str]:
    if finished:  # what a killed process could no longer remove, the next command does
        found = {**found, "names": [name for name in found["names"] if name not in ("begun", "states", ".lock")]}
    return [f"{name}: {found[name]}" if name == "names" else name for name in wanted if found.get(name) != wanted[name]]
