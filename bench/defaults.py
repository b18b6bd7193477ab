"""python -m bench defaults: what `minirm train` should do with few comparisons where nobody says.

A world whose truth is known, drawn in several sizes, or a set of people's judgements (--set), of which as many are
drawn and the first fold's groups are the test. Batches hold at most a share of the comparisons, or 8,192 tokens alone,
as once; epochs are 2 or more. All else is what `minirm train` does by itself: the small model, two stages, the weights
of the lowest validation loss. The world's test comparisons are 500 of other films.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.architectures.subjects import AS_TRAINED, WORLD, Sources
from bench.judgements import SETS, read_splits
from minirm.cli.train import Train
from minirm.data.comparison import Comparison
from minirm.evaluation.evaluate import Evaluation
from minirm.evaluation.scoring import RewardScorer
from minirm.files.records import to_json
from minirm.hub.load import load
from minirm.runs.job import train_run
from minirm.runs.journal import Observer, read_log
from minirm.runs.run_config import REWARD, DataConfig

BY_TOKENS_ALONE = 1
"""A batch may hold all comparisons."""


def main(arguments: Sequence[str]) -> int:
    """Print the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench defaults", description=__doc__)
    parser.add_argument("--comparisons", type=int, nargs="+", default=[400, 1600])
    parser.add_argument("--batches", type=int, nargs="+", default=[BY_TOKENS_ALONE, 100, 200], help="of an epoch")
    parser.add_argument("--epochs", type=float, nargs="+", default=[2.0, 6.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", choices=[WORLD, *SETS], default=WORLD)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of people's judgements")
    options = parser.parse_args(arguments)
    names = ("comparisons", "batches of an epoch, at least", "epochs", "seed", "accuracy", "steps", "s")
    print(f"| {' | '.join(names)} |\n{'|--:' * len(names)}|")
    for count in options.comparisons:
        for seed in range(options.seeds):
            training, test = drawn(options.set, options.data, count, seed)
            for batches in options.batches:
                for epochs in options.epochs:
                    found, steps, seconds = measure(training, test, batches, epochs, seed)
                    accuracy = f"{found.accuracy.value:.3f} [{found.accuracy.low:.3f}, {found.accuracy.high:.3f}]"
                    said = [f"{len(training):,}", batches, f"{epochs:g}", seed, accuracy, steps, f"{seconds:.0f}"]
                    print(f"| {' | '.join(map(str, said))} |", flush=True)
    return 0


def drawn(name: str, data: Path, count: int, seed: int) -> tuple[list[Comparison], list[Comparison]]:
    """Return at most so many training comparisons, drawn by the seed, and those to be tested on."""
    if name == WORLD:
        world = Sources(data).load(WORLD, seed=seed, comparisons=count)
        return world.training[:count], world.tests[AS_TRAINED].comparisons
    training, test = next(read_splits(data, name, folds=1))
    order = np.random.default_rng(seed).permutation(len(training.comparisons))
    return training.take(order[:count]).comparisons, test.comparisons


def measure(
    training: Sequence[Comparison], test: Sequence[Comparison], batches: int, epochs: float, seed: int
) -> tuple[Evaluation, int, float]:
    """Return how well a run orders the test comparisons, the steps of its reward stage, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "train.jsonl", Path(folder) / "run"
        file.write_text("".join(json.dumps(to_json(one)) + "\n" for one in training))
        asked = Train(DataConfig((file,)), run).configure()
        stages = {
            name: replace(getattr(asked, name), epochs=epochs, seed=seed) for name in ("language_model", "reward")
        }
        packing = replace(asked.packing, comparisons_per_batch=max(1, len(training) // batches))
        began = time.perf_counter()
        train_run(replace(asked, packing=packing, **stages), run, Observer())
        seconds = time.perf_counter() - began
        _, evaluation = RewardScorer(load(run).run).evaluate(test)
        steps = max(entry["step"] for entry in read_log(run, REWARD))
    return evaluation, steps, seconds
