"""python -m bench files: memory and time of the commands against the size of the file they read.

Each command runs in a process of its own; what it holds at its peak, its children included one by one, is what the
system says of it when it ends (ru_maxrss). The slope is a least-squares line over the sizes. And what saving a state
takes, beside a step and the time between two saves.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from minirm.config import PackingConfig, TrainConfig, sized
from minirm.models.reward_model import RewardModel
from minirm.runs.job import SECONDS_BETWEEN_SAVES
from minirm.runs.state import save_state, trainer_state
from minirm.tokens.packing import Encoded
from minirm.tokens.stream import Stream, TokenStore
from minirm.training.loop import Trainer
from minirm.training.objectives import RewardObjective

WORDS = Path(__file__).parent.parent / "data"
"""Whose small samples give the texts their words."""
MODEL = ["--size", "tiny", "--stage", "reward"]


def main(arguments: list[str]) -> int:
    """Measure, print, and write a table."""
    parser = argparse.ArgumentParser(prog="python -m bench files", description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[60, 300, 1500])
    parser.add_argument("--commands", nargs="+", default=["data", "train", "again", "score"])
    parser.add_argument("--max-tokens", type=int, default=512, help="of a response and its prompt: few are soon scored")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args(arguments)
    found: dict[str, list[dict]] = {name: [] for name in options.commands}
    with tempfile.TemporaryDirectory(prefix="minirm-files-") as folder:
        for size in options.megabytes:
            for name, measured in measure(Path(folder), size, options.max_tokens, options.commands).items():
                found[name].append({"megabytes": size, **measured})
                print(name, found[name][-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    named = {"command": f"python -m bench files {' '.join(arguments)}", "processors": os.cpu_count(), **found}
    named["saving"] = saved = saving()
    (options.out / "files.json").write_text(json.dumps(named, indent=1) + "\n")
    print(table(found))
    print(f"saving a state of {saved['megabytes']:.0f} MB: {saved['seconds']:.2f} s; a step: {saved['step']:.2f} s")
    print(f"of the time between two saves: {saved['seconds'] / SECONDS_BETWEEN_SAVES:.2%}")
    return 0


def measure(folder: Path, megabytes: int, max_tokens: int, commands: list[str]) -> dict[str, dict]:
    """Return seconds, processor seconds and the peak of memory in MB of each command on a file of this size."""
    data, cache = folder / f"{megabytes}.jsonl", folder / f"cache{megabytes}"
    comparisons = write_pairs(data, megabytes)
    epochs = f"{64 / comparisons:.9f}"  # few steps: it is the data that is measured
    train = ["train", "--data", str(data), *MODEL, "--reward.epochs", epochs, "--cache", str(cache)]
    train += ["--max-tokens", str(max_tokens), "--reward.evaluate-every", "1e9", "--validation", str(write_few(data))]
    rows = {
        "data": ["data", str(data)],
        "train": [*train, "--out", str(folder / f"run{megabytes}")],
        "again": [*train, "--out", str(folder / f"again{megabytes}")],
        "score": ["score", str(folder / f"run{megabytes}"), "--file", str(data)],
        "eval": ["eval", str(folder / f"run{megabytes}"), "--data", str(data), "--out", str(folder / "eval")],
    }
    return {name: run(rows[name]) for name in commands}


def run(command: list[str]) -> dict:
    """Return what a command of minirm took."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "minirm", *command], stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"minirm {' '.join(command)}: status {process.returncode}")
    seconds = {"seconds": time.perf_counter() - began, "processor_seconds": used.ru_utime + used.ru_stime}
    return {name: round(value, 1) for name, value in seconds.items()} | {"peak_megabytes": used.ru_maxrss // 1024}


def saving(size: str = "small", times: int = 5) -> dict[str, float]:
    """Return the megabytes of a model's state, and the median seconds to save it, and of a step of 2,048 tokens."""
    tokens = np.arange(4, 1028, dtype=np.int32)
    items = [Encoded(tokens[:512], (tokens[:768], tokens[256:]), (1.0, 0.0))] * (times + 1)
    with tempfile.TemporaryDirectory(prefix="minirm-state-") as folder:
        store = TokenStore.write(items, Path(folder) / "tokens")
        stream = Stream(store, PackingConfig(max_tokens=4096, comparisons_per_batch=1))
        config = TrainConfig(evaluate_every=1e9)
        trainer = Trainer(RewardModel(sized(size, max_positions=4096)), RewardObjective(config), stream, stream, config)
        steps, saves = [], []
        for event, _ in zip(trainer.run(), range(times), strict=False):
            steps.append(event.seconds)
            began = time.perf_counter()
            save_state(Path(folder) / "states", *trainer_state(trainer, "reward"))
            saves.append(time.perf_counter() - began)
        last = max((Path(folder) / "states").iterdir())
        size = sum(path.stat().st_size for path in last.iterdir()) / 1e6
    return {"megabytes": size, "seconds": float(np.median(saves)), "step": float(np.median(steps))}


def write_pairs(path: Path, megabytes: int) -> int:
    """Write pairs of random pieces of the samples' texts, of about 1.2 KB, and return how many there are."""
    texts = " ".join(file.read_text(encoding="utf-8") for file in sorted(WORDS.glob("*.jsonl")))
    words, draw, written, count = texts.replace('"', "").replace("\\", "").split(), random.Random(megabytes), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            pieces = [" ".join(words[at : at + draw.randrange(20, 120)]) for at in draw.sample(range(len(words)), 3)]
            prompt, chosen, rejected = (f"{piece} {count}{end}" for piece, end in zip(pieces, "abc", strict=True))
            written += file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
            count += 1
    return count


def write_few(data: Path) -> Path:
    """Return a file of the first pairs, to validate on."""
    few = data.with_name(f"few-{data.name}")
    with data.open(encoding="utf-8") as lines, few.open("w", encoding="utf-8") as file:
        file.writelines(line for _, line in zip(range(64), lines, strict=False))
    return few


def table(found: dict[str, list[dict]]) -> str:
    """Return the figures, and the slope of memory in MB per 100 MB of file."""
    names = ("command", "file, MB", "seconds", "CPU seconds", "peak, MB", "per 100 MB of file")
    lines = [f"| {' | '.join(names)} |", "|---|---:|---:|---:|---:|---:|"]
    for name, rows in found.items():
        sizes, peaks = ([row[key] for row in rows] for key in ("megabytes", "peak_megabytes"))
        slope = f"{100 * np.polyfit(sizes, peaks, 1)[0]:+.1f}" if len(rows) > 1 else "–"
        for row in rows:
            figures = row["megabytes"], row["seconds"], row["processor_seconds"], row["peak_megabytes"]
            lines.append(f"| {name} | {' | '.join(map(str, figures))} | {slope} |")
    return "\n".join(lines)
