"""S1, BERT: an encoder reads prompt and response together, and low-rank adapters turn it to preferences.

The document adapts bert-base-uncased. Without a checkpoint, a small encoder learns other preferences first, with all
its weights, and is then adapted to those of the recipe: r = 8, α = 32, dropout 0.2, 8 epochs, rate falling to 0.
On real data it begins with alpaca-graded-pairs and turns to alpaca-pairs (another judge, other pairs), whose prompts
are split 80/10/10; it begins with prompts of the training part alone. Only short texts are taken: none has to be cut.
Without real data the known-truth world takes their place, another of its shortcuts first. With --from, a checkpoint of
BERT's kind is adapted instead, and nothing is learned before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.architectures.figures import ACCURACY, NLL
from bench.architectures.statistics import two_way_interval
from bench.baselines import TfidfReward, draw_prompts, length_rewards
from bench.recipes.common import (
    Page,
    Setting,
    about_intervals,
    at_most,
    begun,
    difference_in_words,
    excerpt,
    in_words,
    measured,
    pairs_file,
    precision,
    read_usable,
    short,
    table,
)
from minirm.config import LoraConfig, ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison
from minirm.evaluation.pictures import learning_curve
from minirm.files.splits import prompt_key
from minirm.runs.journal import read_log
from minirm.runs.run_config import REWARD, DataConfig, RunConfig
from minirm.worlds.grammar import World, WorldConfig

PRETRAINING, DATA = "alpaca-graded-pairs", "alpaca-pairs"
WORLD = "the known-truth world"
PARTS = ("train", "validation", "test")
LORA = LoraConfig(rank=8, alpha=32.0, dropout=0.2)
CONTEXT, CHARACTERS = 256, 600
"""Tokens of a prompt and its response, and the longest in characters that are taken; the document's have 172 tokens."""
BEST, BEGINNING = "BERT with adapters, best epoch", "BERT as it began"


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    layers: int = 2
    width: int = 64
    first_pairs: int = 2000
    """That all weights learn from before."""
    pairs: int = 2000
    """Training, validation and test together."""
    epochs: int = 8
    rate: float = 1e-3
    """The document has 5e-5, for a model of 110 million parameters that read books before."""
    shown: int = 8
    seeds: int = 3
    """Of the adaptation; what it begins from is one."""
    start: Path | None = None
    """A pretrained folder instead of what learned other preferences first."""

    def scaled(self, times: int) -> "Plan":
        """Return so many times as many pairs, and a model as many times as wide."""
        return replace(self, width=self.width * times, first_pairs=self.first_pairs * times, pairs=self.pairs * times)


PLAN = Plan()
PRETRAINED = Plan(rate=5e-4, seeds=1)
QUICK = Plan(layers=1, width=16, first_pairs=24, pairs=60, epochs=2, shown=2, seeds=1)


@dataclass(frozen=True)
class Data:
    """What is learned before, and the three parts of the recipe's own pairs."""

    name: str
    first: list[Comparison]
    training: list[Comparison]
    validation: list[Comparison]
    test: list[Comparison]


def run(setting: Setting, plan: Plan) -> Page:
    """Train the encoder twice, and return what each epoch brought and what it scores."""
    data = read_data(setting, plan)
    start = plan.start or _train_first(setting, plan, data)
    adapted = [_adapt(setting, plan, data, start, seed) for seed in range(plan.seeds)]
    history = read_log(adapted[0], REWARD)
    best = [setting.scored(run, data.test) for run in adapted]
    others = {} if plan.start else {BEGINNING: setting.scored(start, data.test)}  # whose head is new, or is not
    others |= {
        "longer wins": length_rewards(data.test),
        "TF-IDF + logistic regression": TfidfReward().fit(data.training).rewards(data.test),
    }
    rewards = {BEST: best} | {name: [values] * plan.seeds for name, values in others.items()}
    found = {name: measured(data.test, values) for name, values in rewards.items()}
    figures = {f"{name}, test {key}": two_way_interval(f[key]) for name, f in found.items() for key in (ACCURACY, NLL)}
    del figures[f"longer wins, test {NLL}"]  # characters are no logits
    lines = [*_about(plan, data), *_epochs(history), *_test(found), *_scored(data, plan.shown, best[0])]
    return Page("S1: BERT with low-rank adapters", lines, figures, learning_curve(history))


def read_data(setting: Setting, plan: Plan) -> Data:
    """Return real pairs where they are, the known-truth world's elsewhere; split 80/10/10 by prompt."""
    if not (setting.shared / DATA).is_dir():
        pairs = [one.comparison for one in World().sample(plan.pairs, "train")]
        first = [
            j.comparison for j in World(WorldConfig(shortcut="exclamation", seed=1)).sample(plan.first_pairs, "train")
        ]
        return Data(WORLD, first, *_split(pairs))
    rows = _read(setting.shared / DATA)
    prompts = len({prompt_key(row) for row in rows})
    training, validation, test = _split(at_most(rows, per_prompt=math.ceil(plan.pairs / prompts))[: plan.pairs])
    known = {prompt_key(row) for row in training}
    allowed = [row for row in _read(setting.shared / PRETRAINING) if prompt_key(row) in known]
    first = at_most(allowed, per_prompt=math.ceil(plan.first_pairs / len(known)))[: plan.first_pairs]
    return Data(f"{PRETRAINING}, then {DATA}", first, training, validation, test)


def _read(folder: Path) -> list[Comparison]:
    return short(read_usable(*(folder / f"{part}.jsonl.gz" for part in PARTS)), CHARACTERS)


def _split(rows: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison], list[Comparison]]:
    """Return 80, 10 and 10 percent of the prompts with their rows."""
    keys = {prompt_key(row) for row in rows}
    test = draw_prompts(keys, 0.1, seed=0)
    validation = draw_prompts(keys - test, 1 / 9, seed=0)
    of_part = {"validation": validation, "test": test, "training": keys - test - validation}
    training, held_out, last = (
        [row for row in rows if prompt_key(row) in of_part[part]] for part in ("training", "validation", "test")
    )
    return training, held_out, last


def _train_first(setting: Setting, plan: Plan, data: Data) -> Path:
    config = RunConfig(
        DataConfig((setting.keep("first.jsonl", pairs_file(data.first)),), validation_share=5.0),
        *_shapes(plan),
        TrainConfig(epochs=0),
        TrainConfig(epochs=1, learning_rate=1e-3, evaluate_every=0.5),
        stage="reward",
    )
    return setting.trained(config, "s1 before")


def _shapes(plan: Plan) -> tuple[ModelConfig, PackingConfig]:
    model = ModelConfig(style="bert", layers=plan.layers, width=plan.width, heads=4, max_positions=CONTEXT)
    return model, PackingConfig(tokens_per_batch=4096, max_tokens=CONTEXT, share_prompt=False)


def _adapt(setting: Setting, plan: Plan, data: Data, start: Path, seed: int) -> Path:
    files = [setting.keep(name, pairs_file(rows)) for name, rows in _files(data).items()]
    stage = TrainConfig(
        epochs=plan.epochs, learning_rate=plan.rate, schedule="linear", final_rate=0.0, warmup=0.0, seed=seed
    )
    config = RunConfig(
        DataConfig((files[0],), (files[1],)),
        *begun(plan.start, *_shapes(plan)),
        TrainConfig(epochs=0),
        replace(stage, precision=precision()) if plan.start else stage,
        LORA,
        "reward",
        start,
    )
    return setting.trained(config, f"s1 adapted seed {seed}")


def _files(data: Data) -> dict[str, list[Comparison]]:
    return {"training.jsonl": data.training, "validation.jsonl": data.validation}


# ── The tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _about(plan: Plan, data: Data) -> list[str]:
    sizes = f"{len(data.training):,} / {len(data.validation):,} / {len(data.test):,}"
    if plan.start is None:
        pairs = f"{data.name}: {len(data.first):,} pairs before, then {sizes}"
        model = f"{plan.layers} layers, D={plan.width}"
    else:
        pairs, model = f"{WORLD if data.name == WORLD else DATA}: {sizes}", plan.start.name
    return [
        f"{pairs} pairs for training, validation and test, split by prompt; {model}; r=8, α=32, dropout 0.2 on query "
        f"and value, rate {plan.rate:g} falling linearly to 0; {about_intervals(plan.seeds)}",
        "",
    ]


def _epochs(history: Sequence[dict]) -> list[str]:
    """Return what each epoch brought, as the document's trainer prints it."""
    steps = [entry for entry in history if entry["kind"] == "step"]
    rows, before = [], 0
    for epoch, entry in enumerate((e for e in history if e["kind"] == "evaluation"), start=1):
        losses = [step["loss"] for step in steps if before < step["step"] <= entry["step"]]
        before = entry["step"]
        mean = sum(losses) / len(losses)
        rows.append([f"{epoch}", f"{mean:.4f}", f"{entry['loss']:.4f}", f"{entry['accuracy']:.4f}"])
    return [
        "## Each epoch, first seed",
        "",
        *table(["epoch", "training loss", "validation loss", "validation accuracy"], rows),
    ]


def _test(found: dict[str, dict]) -> list[str]:
    rows = []
    for name, figures in found.items():
        apart = "" if name == BEST else difference_in_words(found[BEST][ACCURACY], figures[ACCURACY])
        rows.append([name, in_words(figures[ACCURACY]), apart])
    return ["## The test part", "", *table(["", "accuracy", "adapters minus this"], rows)]


def _scored(data: Data, shown: int, rewards: Sequence[Sequence[float]]) -> list[str]:
    """Return the document's table of test pairs with their rewards; other people's texts stay out of the page."""
    show = excerpt if data.name == WORLD else (lambda text: f"{len(text):,} characters")
    rows = []
    for comparison, (chosen, rejected) in zip(data.test[:shown], rewards, strict=False):
        texts = [show(text) for text in (comparison.prompt[-1].text, *comparison.responses)]
        probability = 1 / (1 + math.exp(rejected - chosen))
        rows.append([*texts, f"{chosen:+.3f}", f"{rejected:+.3f}", f"{probability:.2f}"])
    header = ["prompt", "chosen", "rejected", "reward of chosen", "of rejected", "P(chosen is better)"]
    return ["## Pairs of the test part, scored by the first seed", "", *table(header, rows)]
