"""Flipped bits and cut files in a run's folder: is every one of them noticed?

    python -m bench damage [--trials 2000] [--seed 0] [--out FOLDER]

Half of the trials damage a finished run, which is then loaded; half an unfinished one, which is then gone on with.
Each changes one random bit of a file, or cuts it at a random byte. *Refused* is an error of one line; *said*, a note,
after which the run goes on from the state before; what is neither must end as the undamaged run, byte for byte.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.little_run import Listener, little_config, prepare_process, what_it_came_to
from bench.places import out_folder
from minirm.errors import InputError
from minirm.hub.load import load
from minirm.runs.job import train_run

STOPPED_AFTER = 12
"""Events of the unfinished run: it stands in its second stage, and has two states."""
OUTCOMES = ("refused", "said", "unsaid, and ended as the undamaged run", "a traceback", "silent")


def main(arguments: list[str]) -> int:
    """Damage, load, compare; status 1 where damage was silent or led to a traceback."""
    parser = argparse.ArgumentParser(prog="python -m bench damage")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="minirm-") as home:
        found = damage(Path(home), options.trials, options.seed)
    text = f"""# Damaged runs

`python -m bench damage --trials {options.trials} --seed {options.seed}`: one flipped bit or one cut a trial, in a file
of a run's folder.

| | finished run | unfinished run |
|---|---:|---:|
"""
    for outcome in OUTCOMES:
        text += f"| {outcome} | {found['finished', outcome]} | {found['unfinished', outcome]} |\n"
    text += f"\n{time.monotonic() - began:,.0f} s in all.\n"
    print(text)
    (out_folder(options.out, whole=options.trials >= 2000) / "damage.md").write_text(text)
    return int(any(found[run, outcome] for run in ("finished", "unfinished") for outcome in OUTCOMES[3:]))


def damage(home: Path, trials: int, seed: int) -> Counter:
    """Return how the trials came out, by run and outcome."""
    rng, config = random.Random(seed), little_config(home)
    prepare_process(home)
    finished, unfinished, copy = home / "finished" / "run", home / "unfinished" / "run", home / "trial" / "run"
    train_run(config, finished, Listener())
    train_run(config, unfinished, Listener(STOPPED_AFTER))
    wanted = what_it_came_to(finished)

    def go_on(stop_after: int) -> list[str]:
        listener = Listener(stop_after)
        train_run(config, copy, listener)
        return listener.notes

    found: Counter = Counter()
    for trial in range(trials):
        run, source = (("finished", finished), ("unfinished", unfinished))[trial % 2]
        shutil.copytree(source, copy)
        file = _spoil(copy, rng)
        outcome = _outcome((lambda: load(copy) and []) if run == "finished" else (lambda: go_on(1)))
        if outcome == "silent" and run == "unfinished":
            go_on(10**9)
            same = what_it_came_to(copy) == wanted
            outcome = OUTCOMES[2] if same else outcome
        found[run, outcome] += 1
        if outcome in OUTCOMES[3:]:
            print(f"trial {trial}: {run}: {outcome}: {file.relative_to(copy)}", flush=True)
        shutil.rmtree(copy)
    return found


def _spoil(folder: Path, rng: random.Random) -> Path:
    """Flip a bit or cut off an end of one file below a folder, and return which."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    if rng.random() < 0.5:
        content[at] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    else:
        file.write_bytes(content[:at])
    return file


def _outcome(work: Callable[[], list[str]]) -> str:
    try:
        return "said" if work() else "silent"
    except InputError as error:
        return "refused" if "\n" not in str(error) else "a traceback"
    except Exception:
        return "a traceback"
