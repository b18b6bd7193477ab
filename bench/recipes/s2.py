"""S2, Llama 2: a reward model that takes over a language model's weights, and a margin that grows with the rating.

Llama 2's judges said how much better a response is, in four grades, and its loss −log σ(r_c − r_r − m(rating)) asks for
a margin by grade. The same pairs are learned with no margin, with the small one (0, 1/3, 2/3, 1) and with the large one
(0, 1, 2, 3), from the same language model and the same seeds. On real data the rating is the difference of the judge's
two scores (alpaca-graded-pairs), on the known-truth world the difference of utilities; a quarter of the training pairs
is in each grade. With --from, adapters of a pretrained language model learn. Source: Llama 2, arXiv:2307.09288,
section 3.2.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.architectures.figures import ACCURACY, NLL
from bench.architectures.statistics import Resampled, two_way_interval
from bench.recipes.common import (
    Page,
    Setting,
    about_intervals,
    at_most,
    begun,
    difference_in_words,
    in_words,
    measured,
    pairs_file,
    precision,
    read_usable,
    table,
)
from minirm.config import LoraConfig, ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison
from minirm.files.splits import prompt_key
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.worlds.grammar import Judged, World

DATA = "alpaca-graded-pairs"
GRADES = ("negligibly better", "slightly better", "better", "significantly better")
NO_MARGIN = "no margin"
MARGINS = {NO_MARGIN: (0.0, 0.0, 0.0, 0.0), "small": (0.0, 1 / 3, 2 / 3, 1.0), "large": (0.0, 1.0, 2.0, 3.0)}
"""By grade, in logits."""
CONTEXT, VOCABULARY = 256, 4096
"""Tokens; of longer texts the prompt is cut from its left, then the response before its end."""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    layers: int = 2
    width: int = 64
    pairs: int = 1200
    test: int = 800
    seeds: int = 3
    rate: float = 3e-4
    start: Path | None = None
    """A pretrained folder, of which adapters learn, instead of a language model of the recipe's own."""

    def scaled(self, times: int) -> "Plan":
        """Return so many times as many pairs, and a model as many times as wide."""
        return replace(self, width=self.width * times, pairs=self.pairs * times, test=self.test * times)


PLAN = Plan()
PRETRAINED = Plan(pairs=240, test=240, seeds=1, rate=5e-4)
LORA = LoraConfig(rank=8, alpha=16.0, matrices=("query", "key", "value", "output", "up", "down"))
QUICK = Plan(layers=1, width=16, pairs=40, test=20, seeds=2)


@dataclass(frozen=True)
class Data:
    """Pairs whose margin is their rating, as it comes."""

    name: str
    training: list[Comparison]
    test: list[Comparison]

    @property
    def edges(self) -> np.ndarray:
        """(3,) the ratings between the four grades."""
        return np.quantile([row.margin for row in self.training], [0.25, 0.5, 0.75])

    def grades(self, rows: Sequence[Comparison]) -> np.ndarray:
        """Return the grade of each row, 0 to 3."""
        return np.searchsorted(self.edges, [row.margin for row in rows], side="right")


def run(setting: Setting, plan: Plan) -> Page:
    """Train with each margin and return the table."""
    data = read_data(setting, plan)
    start = plan.start or _language_model(setting, plan, data)
    rewards = {
        name: [setting.scored(_train(setting, plan, data, start, name, seed), data.test) for seed in range(plan.seeds)]
        for name in MARGINS
    }
    found = {name: _by_grade(data, scored) for name, scored in rewards.items()}
    figures = {
        f"{name}, {part}, {figure}": two_way_interval(value)
        for name, parts in found.items()
        for part, values in parts.items()
        for figure, value in values.items()
    }
    lines = [*_about(plan, data), *_accuracies(found), *_differences(found), *_gaps(data, rewards)]
    return Page("S2: Llama with a margin from the rating", lines, figures)


def read_data(setting: Setting, plan: Plan) -> Data:
    """Return real pairs where they are, the known-truth world's elsewhere."""
    if not (setting.shared / DATA).is_dir():
        world = World()
        drawn = (world.sample(plan.pairs, "train"), world.sample(plan.test, "test"))
        return Data("the known-truth world", *([_rated(one) for one in judged] for judged in drawn))
    parts = []
    for part, count in (("train", plan.pairs), ("test", plan.test)):
        rows = read_usable(setting.shared / DATA / f"{part}.jsonl.gz")
        per_prompt = -(-count // len({prompt_key(row) for row in rows}))
        parts.append(at_most(rows, per_prompt)[:count])
    return Data(DATA, *parts)


def _rated(one: Judged) -> Comparison:
    return replace(one.comparison, margin=one.utilities[0] - one.utilities[1])


def _language_model(setting: Setting, plan: Plan, data: Data) -> Path:
    file = setting.keep("texts.jsonl", pairs_file([replace(row, margin=0.0) for row in data.training]))
    config = RunConfig(
        DataConfig(
            (file,),
            vocab_size=VOCABULARY if data.name == DATA else None,
            language_model_responses="all",
            language_model_tokens="all",
        ),
        _model(plan),
        PackingConfig(tokens_per_batch=4096, max_tokens=CONTEXT),
        TrainConfig(epochs=0.5, learning_rate=2e-3),
        TrainConfig(),
        stage="lm",
    )
    return setting.trained(config, "s2 language model")


def _train(setting: Setting, plan: Plan, data: Data, start: Path, name: str, seed: int) -> Path:
    margins = [MARGINS[name][grade] for grade in data.grades(data.training)]
    rows = [replace(row, margin=margin) for row, margin in zip(data.training, margins, strict=True)]
    stage = TrainConfig(epochs=1, learning_rate=plan.rate, average_read=data.name == DATA, seed=seed)
    config = RunConfig(
        DataConfig((setting.keep("pairs.jsonl", pairs_file(rows)),), validation_share=5.0),
        *begun(plan.start, _model(plan), PackingConfig(tokens_per_batch=4096, max_tokens=CONTEXT)),
        TrainConfig(),
        replace(stage, average_read=False, precision=precision()) if plan.start else stage,
        lora=LORA if plan.start else None,
        stage="reward",
        start=start,
    )
    return setting.trained(config, f"s2 margin {name} seed {seed}")


def _model(plan: Plan) -> ModelConfig:
    return ModelConfig(style="llama", layers=plan.layers, width=plan.width, heads=4, max_positions=CONTEXT)


# ── The tables ────────────────────────────────────────────────────────────────────────────────────────────────────────

Found = dict[str, dict[str, dict[str, Resampled]]]
ALL = "all"


def _by_grade(data: Data, rewards: Sequence[Sequence[Sequence[float]]]) -> dict[str, dict[str, Resampled]]:
    """Return accuracy and NLL over all test pairs, and over those of each grade."""
    grades = data.grades(data.test)
    found = {ALL: measured(data.test, rewards)}
    for number, grade in enumerate(GRADES):
        inside = np.flatnonzero(grades == number)
        if len(inside):
            found[grade] = measured([data.test[i] for i in inside], [[rows[i] for i in inside] for rows in rewards])
    return found


def _about(plan: Plan, data: Data) -> list[str]:
    edges = ", ".join(f"{edge:.3g}" for edge in data.edges)
    model = f"Llama style, {plan.layers} layers, D={plan.width}" if plan.start is None else f"{plan.start.name} + LoRA"
    return [
        f"{data.name}: {len(data.training):,} training and {len(data.test):,} test pairs, no prompt in both; {model}, "
        f"one epoch, rate {plan.rate:g}, all from one "
        f"language model; grades divided at ratings of {edges}. {about_intervals(plan.seeds)}",
        "",
    ]


def _accuracies(found: Found) -> list[str]:
    parts = list(found[NO_MARGIN])
    rows = [[name, *(in_words(figures[part][ACCURACY]) for part in parts)] for name, figures in found.items()]
    return ["## Test accuracy", "", *table(["margin", *parts], rows)]


def _differences(found: Found) -> list[str]:
    plain, *others = found
    rows = []
    for part in found[plain]:
        apart = [
            difference_in_words(found[o][part][key], found[plain][part][key]) for key in (ACCURACY, NLL) for o in others
        ]
        rows.append([part, *apart])
    header = ["pairs", *(f"{key}, {other} minus {plain}" for key in (ACCURACY, NLL) for other in others)]
    return ["## What the margin changes", "", *table(header, rows)]


def _gaps(data: Data, rewards: dict[str, list]) -> list[str]:
    """Return the mean difference of rewards by grade: what the margin asks for."""
    grades = data.grades(data.test)
    rows = []
    for name, seeds in rewards.items():
        gaps = np.mean([[chosen - rejected for chosen, rejected in scored] for scored in seeds], axis=0)
        rows.append([name, *(f"{gaps[grades == g].mean():.2f}" if (grades == g).any() else "–" for g in range(4))])
    heading = "## Reward of the chosen minus that of the rejected response, mean in logits"
    return [heading, "", *table(["margin", *GRADES], rows)]
