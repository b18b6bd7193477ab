"""Real preferences: a reward model from nothing, against what needs no neural network, on the same pairs.

    python -m bench preferences hh-harmless       5 folds by first human turn
    python -m bench preferences alpaca-pairs      train / test, as they come
    python -m bench preferences alpaca-rankings   K up to 56, K-way

The data is read from --data (../shared/data). Results go to bench/results/NAME.json and NAME.md. The recipe for
alpaca-pairs was chosen on its validation part; alpaca-rankings has one of its own, which was not tuned; that for
hh-harmless was chosen on inner folds of the first fold's training part, so on pairs that are test pairs of the other
four folds. The word baselines learn from at most `bench.baselines.PAIRS_PER_COMPARISON` pairs of a ranking.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.baselines import TfidfReward, WriterReward, first_user_turn, group_folds, length_rewards
from bench.places import out_folder
from bench.timing import machine
from minirm.config import ModelConfig, PackingConfig, TrainConfig, sized
from minirm.data.comparison import Comparison
from minirm.data.splits import prompt_key
from minirm.evaluation.pairs import pair_table
from minirm.files.reading import read_rows
from minirm.files.records import read_comparisons, to_json
from minirm.files.survey import usable
from minirm.hub.load import load
from minirm.metrics import bootstrap_interval, paired_interval
from minirm.runs.job import train_run
from minirm.runs.journal import Observer
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.training.loop import Evaluated, Step

ORACLE = "oracle: who wrote it, and log length"
Scored = tuple[list[Comparison], dict[str, list[list[float]]]]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained on one data set."""

    model: ModelConfig
    packing: PackingConfig
    language_model: TrainConfig
    reward: TrainConfig
    vocab_size: int = 4096
    around_shared: bool = False
    """Train on all pairs of a prompt that share a response as one comparison; see `around_shared_response`."""
    seeds: int = 1
    """Models, from nothing each, that differ in their seed; what they say is their mean reward."""


RECIPES = {
    "hh-harmless": Recipe(
        sized("tiny", style="llama", layers=1, width=256, max_positions=256),
        PackingConfig(tokens_per_batch=4096, max_tokens=256),
        TrainConfig(epochs=0.5, learning_rate=2e-3),
        TrainConfig(epochs=1.0, learning_rate=1e-4, schedule="constant", average_read=True),
        vocab_size=2048,
        seeds=8,
    ),
    "alpaca-pairs": Recipe(
        sized("tiny", layers=1, width=256, max_positions=512, dropout=0.4),
        PackingConfig(tokens_per_batch=16384, max_tokens=512),
        TrainConfig(epochs=0.0),
        TrainConfig(epochs=1.0, learning_rate=1e-3, average_read=True),
        around_shared=True,
        seeds=6,
    ),
    "alpaca-rankings": Recipe(
        sized("tiny", max_positions=512, dropout=0.2),
        PackingConfig(tokens_per_batch=16384, max_tokens=512),
        TrainConfig(epochs=0.1, learning_rate=2e-3),
        TrainConfig(epochs=1.0, learning_rate=3e-4, average_read=True),
    ),
}


def around_shared_response(pairs: Sequence[Comparison]) -> list[Comparison]:
    """Return the pairs of each prompt that share a response as one comparison, and the others as they are.

    The shared response scores ½, what was preferred to it 1, and what it was preferred to 0: the judgements stay, and
    each of them implies that the former are better than the latter. A response is then read once, not in every pair.
    """
    by_prompt: dict[bytes, list[Comparison]] = {}
    for pair in pairs:
        by_prompt.setdefault(prompt_key(pair), []).append(pair)
    merged = []
    for rows in by_prompt.values():
        [(shared, count)] = Counter(text for pair in rows for text in set(pair.responses)).most_common(1)
        scores = {shared: 0.5}
        for pair in rows:
            scored = dict(zip(pair.responses, pair.scores, strict=True))
            against = scored.pop(shared, None)
            if against is None or count == 1 or len(scored) != 1:
                merged.append(pair)
                continue
            [(other, score)] = scored.items()
            scores.setdefault(other, float(score > against))
        if len(scores) > 1:
            merged.append(replace(rows[0], responses=tuple(scores), scores=tuple(scores.values())))
    return merged


class Teller(Observer):
    """Prints a line at times."""

    def event(self, stage: str, event: Step | Evaluated) -> None:
        if isinstance(event, Evaluated) or event.step % 100 == 0:
            print(f"  {stage} {event.step}: loss {event.loss:.4f}, accuracy {event.accuracy:.3f}", flush=True)


def train_and_score(
    training: Sequence[Comparison], test: Sequence[Comparison], recipe: Recipe, seed: int
) -> list[list[float]]:
    """Train both stages from nothing on `training`, and return the rewards of `test`."""
    with tempfile.TemporaryDirectory(prefix="minirm-bench-") as folder:
        file = Path(folder) / "training.jsonl"
        rows = around_shared_response(training) if recipe.around_shared else training
        file.write_text("".join(json.dumps(to_json(row)) + "\n" for row in rows), encoding="utf-8")
        vocab_size = recipe.vocab_size
        config = RunConfig(
            DataConfig((file,), validation_share=2.0, vocab_size=vocab_size, language_model_responses="all"),
            recipe.model,
            recipe.packing,
            replace(recipe.language_model, seed=seed),
            replace(recipe.reward, seed=seed),
        )
        train_run(config, Path(folder) / "run", Teller())
        return load(Path(folder) / "run").score_comparisons(test)


def measure(training: Sequence[Comparison], test: Sequence[Comparison], recipe: Recipe) -> dict[str, list[list[float]]]:
    """Return the rewards of `test` by every method that learned from `training`."""
    rewards = {"longer wins": length_rewards(test)}
    rewards["TF-IDF + logistic regression"] = TfidfReward().fit(training).rewards(test)
    rewards["the same + log length"] = TfidfReward(use_log_length=True).fit(training).rewards(test)
    models = [train_and_score(training, test, recipe, seed) for seed in range(recipe.seeds)]
    rewards["minirm"] = [np.mean(rows, axis=0).tolist() for rows in zip(*models, strict=True)]
    if recipe.seeds > 1:
        rewards["minirm, one seed"] = models[0]
    return rewards


def hh_harmless(data: Path, recipe: Recipe, folds: int) -> tuple[Scored, list[Hashable]]:
    """Return all pairs, each scored by models that never saw its first human turn."""
    rows = list(usable(read_comparisons([data / "hh-harmless" / "pairs.jsonl.gz"]), Counter()))
    pooled: dict[str, list[list[float]]] = {}
    for number, (train_rows, test_rows) in enumerate(group_folds(rows, 5, first_user_turn)[:folds]):
        print(f"fold {number + 1}: {len(train_rows)} training rows", flush=True)
        rewards = measure([rows[i] for i in train_rows], [rows[i] for i in test_rows], recipe)
        for name, values in rewards.items():
            into = pooled.setdefault(name, [[] for _ in rows])
            for i, scored in zip(test_rows, values, strict=True):
                into[i] = scored
    done = [i for i in range(len(rows)) if pooled["minirm"][i]]
    rows, pooled = [rows[i] for i in done], {name: [r[i] for i in done] for name, r in pooled.items()}
    return (rows, pooled), [first_user_turn(row) for row in rows]


def train_test(data: Path, name: str, recipe: Recipe) -> tuple[Scored, list[Hashable]]:
    """Return the test set, scored by models that learned from the training set."""
    parts = {
        part: list(usable(read_comparisons([data / name / f"{part}.jsonl.gz"]), Counter()))
        for part in ("train", "test")
    }
    rewards = measure(parts["train"], parts["test"], recipe)
    if name == "alpaca-pairs":
        writers = {part: who_wrote(data / name / f"{part}.jsonl.gz", rows) for part, rows in parts.items()}
        oracle = WriterReward().fit(parts["train"], writers["train"])
        rewards[ORACLE] = oracle.rewards(parts["test"], writers["test"])
    return (parts["test"], rewards), [prompt_key(row) for row in parts["test"]]


def who_wrote(file: Path, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return who wrote each response of the comparisons of a file, in their order."""
    fields = [row.fields for row in read_rows(file)]
    names = {(f["prompt"], f[side]): f[f"{side}_model"] for f in fields for side in ("chosen", "rejected")}
    return [[names[row.prompt[-1].text, text] for text in row.responses] for row in comparisons]


def summarise(scored: Scored, keys: Sequence[Hashable]) -> dict[str, dict]:
    """Return each method's accuracy, and its paired difference to the best that needs no neural network."""
    comparisons, rewards = scored
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    right, shorter, prompt = {}, {}, None
    for name, values in rewards.items():
        pairs = pair_table(comparisons, values)
        right[name] = (np.sign(pairs.reward_difference) + 1) / 2
        prompt = np.array([number_of[keys[c]] for c in pairs.comparison])
        shorter = pairs.length_difference < 0
    plain = max((n for n in right if not n.startswith("minirm") and n != ORACLE), key=lambda n: right[n].mean())
    table = {}
    for name, values in right.items():
        table[name] = {"pairs": len(values), "accuracy": list(bootstrap_interval(values, prompt))}
        if shorter.any():
            inside = values[shorter]
            table[name]["shorter pairs"] = int(shorter.sum())
            table[name]["where the better is shorter"] = list(bootstrap_interval(inside, prompt[shorter]))
        if name.startswith("minirm"):
            for other in ("TF-IDF + logistic regression", plain):
                table[name][f"minus {other}"] = list(paired_interval(values, right[other], prompt))
    return table


def as_markdown(name: str, table: dict[str, dict], seconds: float) -> str:
    """Return the table as Markdown."""
    lines = [f"# {name}", "", "| method | pairs | accuracy | where the better is shorter | minus TF-IDF + LR |"]
    lines.append("|---|---:|---|---|---|")
    for method, row in table.items():
        cells = [_with_interval(row.get(key)) for key in ("accuracy", "where the better is shorter")]
        difference = row.get("minus TF-IDF + logistic regression")
        resolved = "" if difference is None or difference[1] > 0 or difference[2] < 0 else " not resolved"
        cells.append(_with_interval(difference, "+") + resolved)
        lines.append(f"| {method} | {row['pairs']:,} | {' | '.join(cells)} |")
    lines += ["", f"95% intervals by bootstrap over prompts. {seconds / 60:.0f} minutes."]
    lines += ["", ", ".join(f"{key} {value}" for key, value in machine().items())]
    return "\n".join(lines) + "\n"


def _with_interval(values: Sequence[float] | None, sign: str = "") -> str:
    return "" if values is None else f"{values[0]:{sign}.3f} [{values[1]:{sign}.3f}, {values[2]:{sign}.3f}]"


def main(argv: Sequence[str]) -> int:
    """Measure one data set and write its table."""
    parser = argparse.ArgumentParser(prog="python -m bench preferences", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folds", type=int, default=5, help="of hh-harmless: how many of the five")
    parser.add_argument("--out", type=Path, help="bench/results; with fewer folds a new folder for temporary files")
    options = parser.parse_args(argv)
    if not (options.data / options.name).is_dir():
        print(f"{options.data / options.name}: not there; skipped")
        return 0
    began, recipe = time.perf_counter(), RECIPES[options.name]
    if options.name == "hh-harmless":
        scored, keys = hh_harmless(options.data, recipe, options.folds)
    else:
        scored, keys = train_test(options.data, options.name, recipe)
    table, seconds = summarise(scored, keys), time.perf_counter() - began
    text = as_markdown(options.name, table, seconds)
    print(text)
    out = out_folder(options.out, whole=options.folds >= 5)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{options.name}.md").write_text(text, encoding="utf-8")
    (out / f"{options.name}.json").write_text(json.dumps({"table": table, "seconds": seconds}, indent=1) + "\n")
    return 0
