"""S4, the reward model of ChatGPT: GPT-2 from rankings of 4 to 9 responses.

The rankings are a CSV file, best response first, written from the known-truth world. InstructGPT reports that the
comparisons of a prompt, shuffled among all others, overfit within one epoch, since every response then takes part in
K − 1 updates, and that they do not as a single element of a batch. Three ways to learn from the same rankings are set
side by side, at the same number of epochs and the same weight for every pair:

    grouped                       PROMPTS prompts a step, each with all its K·(K − 1)/2 pairs
    shuffled, as many pairs       every pair by itself, as many pairs a step as grouped has on average, so as many steps
    shuffled, as many elements    every pair by itself, PROMPTS pairs a step, so about 19 times as many steps

All begin with the same language model, which read other texts of the world, its last layer as an average. Then four
optimizers on grouped rankings. With --from, adapters of a pretrained language model learn instead. The document's own
run, with the loss of every batch and texts with their scores in TensorBoard, is

    minirm train --data ranking.csv --out RUN --reward.optimizer adam
"""

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

import numpy as np
import torch

from bench.architectures.figures import ACCURACY, NLL
from bench.architectures.statistics import Resampled, two_way_interval
from bench.recipes.common import (
    Page,
    Setting,
    about_intervals,
    difference_in_words,
    in_words,
    measured,
    precision,
    read_usable,
    table,
)
from bench.recipes.pictures import series
from bench.recipes.s2 import LORA
from bench.recipes.s3 import WORLD
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison
from minirm.evaluation.scoring import score_comparisons
from minirm.files.records import PAIR
from minirm.hub.reading import read_start
from minirm.models.lora import add_adapters
from minirm.models.reward_model import RewardModel
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.runs.run_folder import Start
from minirm.tokens.packing import fit, tokenize
from minirm.tokens.stream import Stream, TokenStore
from minirm.training.loop import Evaluated, Trainer
from minirm.training.objectives import RewardObjective
from minirm.worlds.grammar import Judged, World, WorldConfig

FEWEST, MOST = 4, 9
"""K of the rankings: InstructGPT's labellers ordered so many responses."""
COLUMNS = ("Most", "2nd", "3rd", *(f"{place}th" for place in range(4, MOST)), "Least")
TOKENS_AT_ONCE = 4096
UNLIMITED = 10**9
EVALUATIONS_PER_EPOCH = 2
GROUPED, SAME_PAIRS, SAME_ELEMENTS = "grouped", "shuffled, as many pairs", "shuffled, as many elements"
ARMS = (GROUPED, SAME_PAIRS, SAME_ELEMENTS)
RATES = {
    "adam": (1.25e-4, 5e-4, 2e-3),
    "adamw": (1.25e-4, 5e-4, 2e-3),
    "sgd": (0.0125, 0.05, 0.2),
    "lion": (5e-5, 2e-4, 8e-4),
}
"""What is tried on the validation part, for each optimizer alike: three rates."""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    layers: int = 2
    width: int = 64
    texts: int = 1500
    """Comparisons of four responses that the language model reads."""
    prompts: int = 240
    validation: int = 60
    test: int = 200
    epochs: int = 2
    per_batch: int = 2
    """Prompts a step, grouped."""
    seeds: int = 3
    rates: int = 3
    """How many of `RATES` are tried; the one in the middle first."""
    start: Path | None = None
    """A pretrained folder, of which adapters learn, instead of a language model of the recipe's own."""

    def scaled(self, times: int) -> "Plan":
        """Return so many times as many rankings, and a model as many times as wide."""
        more = {name: getattr(self, name) * times for name in ("width", "texts", "prompts", "validation", "test")}
        return replace(self, **more)


PLAN = Plan()
PRETRAINED = Plan(prompts=30, validation=8, test=40, epochs=1, seeds=1, rates=1)
QUICK = Plan(layers=1, width=16, texts=20, prompts=12, validation=8, test=8, epochs=1, seeds=2, rates=1)


@dataclass(frozen=True)
class Way:
    """One way to learn from the rankings."""

    arm: str
    optimizer: str
    rate: float


def run(setting: Setting, plan: Plan) -> Page:
    """Train every way and return the tables."""
    study = _Study(setting, plan)
    arms = {arm: study.tuned(arm, "adam") for arm in ARMS}
    shared = arms[GROUPED].rate
    at_shared = {arm: Way(arm, "adam", shared) for arm in ARMS}
    optimizers = {optimizer: study.tuned(GROUPED, optimizer) for optimizer in RATES}
    best = World(_world(MOST)).best_possible_accuracy(study.judged_test)
    lines = [
        *_about(plan, best),
        *study.overfitting(at_shared, f"## Grouped or shuffled, Adam at the rate tuned for grouped ({shared:g})"),
        *study.overfitting(arms, "## Grouped or shuffled, each at its own rate"),
        *study.optimizers(optimizers),
    ]
    return Page(
        "S4: rankings, grouped by prompt or shuffled (InstructGPT)", lines, study.found, study.picture(at_shared)
    )


def tried(optimizer: str, count: int) -> list[float]:
    """Return so many rates of an optimizer, in order; one alone is the one in the middle."""
    low, middle, high = RATES[optimizer]
    return sorted([middle, low, high][:count])


class _Study:
    """The rankings, and what each way learned from them."""

    def __init__(self, setting: Setting, plan: Plan) -> None:
        self.setting, self.plan = setting, plan
        self.start = plan.start or self._language_model()
        self.judged_test = rankings(plan.test, "test")
        counts = {"train": plan.prompts, "validation": plan.validation}
        judged = {"test": self.judged_test} | {part: rankings(count, part) for part, count in counts.items()}
        self.files = {part: setting.keep(f"{part}.csv", ranking_csv(rows)) for part, rows in judged.items()}
        self.parts = {part: read_usable(file) for part, file in self.files.items()}
        self.found = {}

    def _language_model(self) -> Path:
        plan = self.plan
        judged = World(replace(_world(4), seed=1)).sample(plan.texts, "train")
        file = self.setting.keep("texts.csv", ranking_csv(judged))
        config = RunConfig(
            DataConfig((file,), language_model_responses="all", language_model_tokens="all", validation_share=5.0),
            ModelConfig(layers=plan.layers, width=plan.width, heads=4, max_positions=256),
            PackingConfig(tokens_per_batch=2048, max_tokens=256),
            TrainConfig(epochs=1, learning_rate=3e-3),
            TrainConfig(),
            stage="lm",
        )
        return self.setting.trained(config, "s4 language model")

    def histories(self, way: Way, seeds: int) -> list[list[dict]]:
        """Return the evaluations of each seed."""
        identity = [self.start.name, *(file.name for file in self.files.values())]
        identity += [way.arm, way.optimizer, way.rate, self.plan.epochs, self.plan.per_batch]
        found = []
        for seed in range(seeds):
            print(f"{way.arm}, {way.optimizer} at {way.rate:g}, seed {seed}", flush=True)
            name = f"s4 seed {seed}"
            found.append(
                self.setting.result(name, identity, lambda s=seed: train(self.plan, self.start, way, self.parts, s))
            )
        return found

    def figures(self, way: Way, part: str, evaluation: int) -> dict[str, Resampled]:
        """Return accuracy and NLL on a part after one of the evaluations."""
        histories = self.histories(way, self.plan.seeds)
        return measured(self.parts[part], [history[evaluation]["rewards"][part] for history in histories])

    def tuned(self, arm: str, optimizer: str) -> Way:
        """Return the way with the rate whose best evaluation has the lowest NLL on validation, seed 0."""
        ways = [Way(arm, optimizer, rate) for rate in tried(optimizer, self.plan.rates)]
        return min(ways, key=lambda way: min(self._validation_losses(self.histories(way, 1)[0])))

    def _validation_losses(self, history: list[dict]) -> list[float]:
        rows = self.parts["validation"]
        return [measured(rows, [entry["rewards"]["validation"]])[NLL].whole[0] for entry in history]

    def overfitting(self, ways: dict[str, Way], heading: str) -> list[str]:
        """Return what each arm reached after each epoch, and its distance from grouped."""
        rows, last = [], EVALUATIONS_PER_EPOCH * self.plan.epochs - 1
        for arm, way in ways.items():
            for evaluation in range(EVALUATIONS_PER_EPOCH - 1, last + 1, EVALUATIONS_PER_EPOCH):
                training, test = (self.figures(way, part, evaluation) for part in ("train", "test"))
                grouped = self.figures(ways[GROUPED], "test", evaluation)
                epoch = (evaluation + 1) // EVALUATIONS_PER_EPOCH
                self.found |= {
                    f"{arm}, rate {way.rate:g}, epoch {epoch}, {part} {name}": two_way_interval(figure)
                    for part, figures in (("training", training), ("test", test))
                    for name, figure in figures.items()
                }
                apart = [difference_in_words(test[name], grouped[name]) for name in (ACCURACY, NLL)]
                values = [in_words(figure) for figure in (training[ACCURACY], test[ACCURACY], test[NLL])]
                rows.append(
                    [f"{arm}, rate {way.rate:g}", f"{epoch}", *values, *(apart if arm != GROUPED else ["", ""])]
                )
        header = ["", "epoch", "training accuracy", "test accuracy", "test NLL"]
        header += ["test accuracy minus grouped", "test NLL minus grouped"]
        return [heading, "", *table(header, rows), *self._within(ways)]

    def _within(self, ways: dict[str, Way]) -> list[str]:
        """Return how the NLL moved: overfitting raises it on test while it falls on training pairs."""
        half, one = EVALUATIONS_PER_EPOCH // 2 - 1, EVALUATIONS_PER_EPOCH - 1
        last = EVALUATIONS_PER_EPOCH * self.plan.epochs - 1
        rows = []
        for arm, way in ways.items():
            cells = [
                difference_in_words(self.figures(way, part, late)[NLL], self.figures(way, part, early)[NLL])
                for early, late in ((half, one), (one, last))
                for part in ("train", "test")
            ]
            rows.append([f"{arm}, rate {way.rate:g}", *cells])
        moves = ("the second half of epoch 1", f"epochs 2 to {self.plan.epochs}")
        header = ["NLL changes by", *(f"{part}, {move}" for move in moves for part in ("training", "test"))]
        return table(header, rows)

    def optimizers(self, ways: dict[str, Way]) -> list[str]:
        """Return what each optimizer reached, at its own rate, after its best evaluation on validation."""
        reached = {name: self._at_best(way) for name, way in ways.items()}
        self.found |= {
            f"{name}, test {figure}": two_way_interval(value)
            for name, figures in reached.items()
            for figure, value in figures.items()
        }
        rows = []
        for name, way in ways.items():
            rates = ", ".join(f"{rate:g}" for rate in tried(name, self.plan.rates))
            values = [in_words(reached[name][figure]) for figure in (ACCURACY, NLL)]
            apart = [difference_in_words(reached[name][figure], reached["adam"][figure]) for figure in (ACCURACY, NLL)]
            rows.append([name, f"{way.rate:g} of {rates}", *values, *(apart if name != "adam" else ["", ""])])
        header = ["", "rate", "test accuracy", "test NLL", "accuracy minus adam", "NLL minus adam"]
        text = "Grouped, weights of the evaluation with the lowest NLL on validation, for each seed."
        return ["## Optimizers", "", text, "", *table(header, rows)]

    def _at_best(self, way: Way) -> dict[str, Resampled]:
        rewards = []
        for history in self.histories(way, self.plan.seeds):
            rewards.append(history[int(np.argmin(self._validation_losses(history)))]["rewards"]["test"])
        return measured(self.parts["test"], rewards)

    def picture(self, ways: dict[str, Way]):
        """Return the NLL on training and test pairs over epochs."""
        points = {}
        for arm, way in ways.items():
            for part, name in (("train", "training"), ("test", "test")):
                points[f"{arm}: {name}"] = {
                    (n + 1) / EVALUATIONS_PER_EPOCH: two_way_interval(self.figures(way, part, n)[NLL])
                    for n in range(EVALUATIONS_PER_EPOCH * self.plan.epochs)
                }
        return series(points, "epochs", "negative log-likelihood, nats a pair", columns=1)


def _about(plan: Plan, best: float) -> list[str]:
    model = f"{plan.layers} layers, D={plan.width}, GPT-2 style, all from one language model"
    model = model if plan.start is None else f"{plan.start.name} + LoRA"
    return [
        f"Known-truth world without facts: {plan.prompts} training prompts, {plan.validation} for validation, "
        f"{plan.test} for test, each with {FEWEST} to {MOST} ranked responses, read from CSV; {model}; "
        f"{plan.epochs} epochs, constant rate, betas (0.9, 0.95), {plan.per_batch} prompts a step; rates "
        f"chosen on validation with the first seed. The best possible test accuracy is {best:.3f}. "
        f"{about_intervals(plan.seeds)}",
        "",
    ]


# ── Rankings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _world(responses: int) -> WorldConfig:
    return replace(WORLD, responses=responses)


def rankings(count: int, split: str) -> list[Judged]:
    """Return rankings of `FEWEST` to `MOST` responses, as many of each K."""
    worlds = [World(_world(k)) for k in range(FEWEST, MOST + 1)]
    return [worlds[n % len(worlds)].comparison(split, n) for n in range(count)]


def ranking_csv(judged: Sequence[Judged]) -> str:
    """Return the rankings as CSV with "|" between the cells, those of responses that were not given left empty."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="|", lineterminator="\n")
    writer.writerow(["Prompt", *(f"{column} preferable response" for column in COLUMNS)])
    for one in judged:
        responses = one.comparison.responses
        writer.writerow([one.comparison.prompt[-1].text, *responses, *[""] * (MOST - len(responses))])
    return file.getvalue()


def as_pairs(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return every pair of every ranking as a comparison of its own, the better response first."""
    return [
        replace(comparison, responses=(better, worse), scores=PAIR)
        for comparison in comparisons
        for n, better in enumerate(comparison.responses)
        for worse in comparison.responses[n + 1 :]
    ]


# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def train(plan: Plan, start: Path, way: Way, parts: dict[str, list[Comparison]], seed: int) -> list[dict]:
    """Train one way from the language model, and return the rewards of every part at each evaluation."""
    begun = read_start(start)
    torch.manual_seed(seed)
    model = RewardModel(begun.model)
    begun.take_over(model)
    if plan.start is None:
        model.backbone.begin_as_average()
    else:
        add_adapters(model.backbone, LORA)
    config = TrainConfig(
        epochs=plan.epochs,
        optimizer=way.optimizer,
        learning_rate=way.rate,
        schedule="constant",
        weighting="pair",
        evaluate_every=1 / EVALUATIONS_PER_EPOCH,
        seed=seed,
        precision="float32" if plan.start is None else precision(),
    )
    packing = PackingConfig(TOKENS_AT_ONCE, max_tokens=256)
    with tempfile.TemporaryDirectory(prefix="minirm-bench-") as folder:
        rows = parts["train"] if way.arm == GROUPED else as_pairs(parts["train"])
        batching = replace(packing, tokens_per_batch=UNLIMITED, comparisons_per_batch=_per_batch(plan, way.arm))
        streams = [
            Stream(_store(begun, rows, batching, Path(folder) / "training"), batching, seed),
            Stream(_store(begun, parts["validation"][:1], packing, Path(folder) / "validation"), packing),
        ]
        trainer = Trainer(model, RewardObjective(config), *streams, config)
        return [
            {
                "epoch": event.step / trainer.steps_per_epoch,
                "rewards": {
                    part: score_comparisons(model, begun.tokenizer, packing, rows) for part, rows in parts.items()
                },
            }
            for event in trainer.run()
            if isinstance(event, Evaluated)
        ]


def _per_batch(plan: Plan, arm: str) -> int:
    """Return how many comparisons make a step."""
    pairs_of_a_prompt = np.mean([comb(k, 2) for k in range(FEWEST, MOST + 1)])
    return round(plan.per_batch * pairs_of_a_prompt) if arm == SAME_PAIRS else plan.per_batch


def _store(begun: Start, rows: Sequence[Comparison], packing: PackingConfig, folder: Path) -> TokenStore:
    return TokenStore.write(fit(tokenize(rows, begun.tokenizer), packing, Counter()), folder)
