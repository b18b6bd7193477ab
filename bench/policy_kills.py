"""SIGKILL at random moments while a policy learns: does it end as the uninterrupted one, to the last bit?

    python -m bench policy_kills [--trials 20] [--methods ppo rloo grpo dpo best-of-n] [--seed 0] [--out FOLDER]

Each trial runs a method's own command, `minirm ppo …`, in a process of its own, kills it at a random moment, every
third one once more while it goes on, and lets the same command end it. The policy, its samples and figures, its log
(but for its rates), its description and every name in its folder must then be those of the uninterrupted run. Best of n
keeps no state: the same command must write the same file, and leave nothing else.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.little_run import in_a_child, prepare_process
from bench.places import out_folder
from minirm.cli.main import main as minirm
from minirm.config import PackingConfig, TrainConfig, sized
from minirm.files.disk import write_text
from minirm.policies import follow
from minirm.runs.job import train_run
from minirm.runs.journal import Observer
from minirm.runs.run_config import DataConfig, RunConfig

DIALS = {
    "ppo": ["--iterations", "12", "--prompts-per-iteration", "8"],
    "rloo": ["--iterations", "12", "--prompts-per-iteration", "4", "--samples-per-prompt", "4"],
    "grpo": ["--iterations", "12", "--prompts-per-iteration", "4", "--samples-per-prompt", "4"],
    "dpo": ["--epochs", "6", "--batch", "4"],
    "best-of-n": ["--n", "8"],
}
RATES = ("samples_per_second", "updates_per_second")
SAME, OTHERWISE = "as the uninterrupted one", "otherwise"


def main(arguments: list[str]) -> int:
    """Kill, go on, compare; status 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(prog="python -m bench policy_kills")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=DIALS, default=list(DIALS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    whole = options.trials >= 20 and options.methods == list(DIALS)
    out, rows, began = out_folder(options.out, whole=whole), [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="minirm-") as home:
        prepare(Path(home))
        for method in options.methods:
            rows.append((method, *kill(Path(home), method, options.trials, random.Random(options.seed))))
            print(f"{method}: {rows[-1]}", flush=True)
    text = f"""# Policies that were killed while they learned

`python -m bench policy_kills {" ".join(arguments)}`: each method's own command, killed by SIGKILL at {options.trials}
random moments, every third time twice, and gone on with; "went on": from a state, and not from the beginning.

| method | seconds of a run | {SAME} | {OTHERWISE} | went on |
|---|---:|---:|---:|---:|
"""
    for method, seconds, same, other, went_on in rows:
        text += f"| {method} | {seconds:.1f} | {same} | {other} | {went_on} |\n"
    text += f"\n{time.monotonic() - began:,.0f} s in all.\n"
    print(text)
    (out / "policy-kills.md").write_text(text)
    return int(any(row[3] for row in rows))


def prepare(home: Path) -> None:
    """Write comparisons and train a little policy and a little reward model, and let this process draw no pages."""
    prepare_process(home)
    follow.write_report = lambda path, **_: write_text(path, "a page")
    follow.SECONDS_BETWEEN_SAVES = 0.0
    pairs = ({"prompt": f"Question {n}?", "chosen": f"Gladly: {n}.", "rejected": f"Go away {n}."} for n in range(40))
    file = home / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    model = sized("tiny", layers=1, width=16, heads=2, max_positions=64)
    stage = TrainConfig(epochs=2.0, learning_rate=1e-2)
    for name in ("lm", "reward"):
        data, packing = DataConfig((file,)), PackingConfig(comparisons_per_batch=8, max_tokens=64)
        train_run(RunConfig(data, model, packing, stage, stage, stage=name), home / name, Observer())


def command(home: Path, method: str, out: Path) -> list[str]:
    """Return the words behind `minirm`."""
    data = "--prompts" if method == "best-of-n" else "--data"
    names = [home / "lm", "--reward", home / "reward", data, home / "pairs.jsonl", "--out", out]
    return [method, *map(str, names), "--max-new-tokens", "24", *DIALS[method]]


def kill(home: Path, method: str, trials: int, rng: random.Random) -> tuple[float, int, int, int]:
    """Return a run's seconds, how many trials ended as it did and how many otherwise, and how many went on."""
    whole, trial = home / f"{method}-whole" / "run", home / f"{method}-trial" / "run"

    def run(out: Path) -> Callable[[], None]:
        def work() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                if minirm(command(home, method, out)) != 0:
                    raise RuntimeError("refused")

        return work

    for folder in (home / f"{method}-first" / "run", whole):  # the first brings what is imported late, for all forks
        folder.parent.mkdir()
        began = time.monotonic()
        run(folder)() if folder != whole else in_a_child(run(folder))
    seconds, wanted = time.monotonic() - began, what_it_came_to(whole)
    same = went_on = 0
    for number in range(trials):
        trial.parent.mkdir()
        moments = [rng.uniform(0, seconds) for _ in range(2 if number % 3 == 0 else 1)]
        for moment in moments:
            if not is_done(trial):
                in_a_child(run(trial), moment)
        went_on += (trial / "states").is_dir() and any((trial / "states").iterdir())
        ended = is_done(trial) or in_a_child(run(trial)) == 0
        found = what_it_came_to(trial) if ended else {}
        differ = [name for name in wanted if found.get(name) != wanted[name]]
        same += not differ
        if differ:
            print(f"{method}, trial {number}, killed after {moments}: ended otherwise: {differ}", flush=True)
        shutil.rmtree(trial.parent)
    return seconds, same, trials - same, went_on


def is_done(out: Path) -> bool:
    """Return whether nothing is left to do."""
    return out.is_file() or (out / "checksums.txt").is_file()


def what_it_came_to(out: Path) -> dict[str, object]:
    """Return what a finished run is: every file of the policy, its log without its rates, and the names there."""
    if not out.is_dir():
        return {"file": out.read_bytes(), "names": os.listdir(out.parent)}
    files = sorted(path for path in out.iterdir() if path.is_file() and path.name not in (".lock", "log.jsonl"))
    files = [path for path in files if path.name != "checksums.txt"]  # which name the log's bytes, rates and all
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in entry.items() if name not in RATES} for entry in log]
    leftovers = ("begun", "states", ".lock")  # what a killed process could no longer remove, the next command does
    names = sorted(name for name in os.listdir(out) if name not in leftovers)
    return {**{path.name: path.read_bytes() for path in files}, "log": log, "names": names}
