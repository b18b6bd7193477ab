"""S3, LMFlow: does supervised fine-tuning first make a better reward model, and does size?

A base language model reads texts of the known-truth world, good and bad ones. It is fine-tuned for 0, 1 and 2 epochs on
the chosen answers of the training pairs, with the roles in front, and becomes a reward model on those pairs by
adapters of rank 16 or with all its weights. The world is the subject because what a model can know there is known, and
because a language model's reading decides there (whether names agree with the prompt); on the real sets at hand words
and length alone reach what small models do. With --from, a pretrained language model is the base, and adapters alone
learn, in both stages. Files are LMFlow's, texts longer than 512 tokens are left out, and the test
pairs are the last ones of the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from bench.architectures.figures import ACCURACY
from bench.architectures.statistics import Resampled, two_way_interval
from bench.recipes.common import (
    Page,
    Setting,
    about_intervals,
    begun,
    conversations_file,
    difference_in_words,
    in_words,
    mean_of,
    measured,
    precision,
    read_usable,
    table,
)
from bench.recipes.pictures import series
from minirm.config import LoraConfig, ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison, Turn
from minirm.files.dialogue import render_dialogue
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.worlds.grammar import World, WorldConfig

LORA, FULL = "LoRA r=16", "all weights"
ADAPTERS = LoraConfig(rank=16, alpha=32.0)
WORLD = WorldConfig(facts=0, noise=0.35, shortcut_strength=0.2)
"""Films without facts: what must agree with the prompt are the title and the praise or blame asked for. Little noise
and a weak shortcut, so that few pairs say much, and length says little."""
BASE_WORLD = replace(WORLD, responses=4, seed=1)
"""Another draw, which the base reads."""
CONTEXT = 512


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    sizes: tuple[tuple[int, int], ...] = ((1, 32), (2, 64), (3, 96))
    """Layers and width of each model, the smallest first."""
    texts: int = 2000
    """Comparisons of four responses that the base reads."""
    pairs: int = 4000
    test: int = 1000
    seeds: int = 3
    epochs: tuple[int, ...] = (0, 1, 2)
    """Of supervised fine-tuning."""
    rates: tuple[float, float] = (3e-3, 1e-3)
    """Learning rates of the adapters, and of all weights."""
    start: Path | None = None
    """A pretrained folder instead of a base that reads the world first."""

    @property
    def ways(self) -> tuple[str, ...]:
        """What learns."""
        return (LORA, FULL) if self.start is None else (LORA,)

    def scaled(self, times: int) -> "Plan":
        """Return so many times as many comparisons, and models as many times as wide."""
        sizes = tuple((layers, width * times) for layers, width in self.sizes)
        return replace(self, sizes=sizes, texts=self.texts * times, pairs=self.pairs * times, test=self.test * times)


PLAN = Plan()
PRETRAINED = Plan(sizes=((30, 576),), pairs=400, test=200, seeds=1, rates=(5e-4, 1e-3))
QUICK = Plan(sizes=((1, 16), (1, 32)), texts=40, pairs=60, test=30, seeds=1, epochs=(0, 1))


def run(setting: Setting, plan: Plan) -> Page:
    """Train every cell of the table and return it."""
    study = _Study(setting, plan)
    cells = [(size, way, epochs) for size in plan.sizes for way in plan.ways for epochs in plan.epochs]
    found = {}
    for done, cell in enumerate(cells, start=1):
        found[cell] = study.accuracy(*cell)
        print(f"cell {done} of {len(cells)}: {cell}: {in_words(found[cell])}", flush=True)
    best = World(WORLD).best_possible_accuracy(World(WORLD).sample(plan.test, "test"))
    figures = {f"{_name(size)}, {way}, SFT epochs: {epochs}": figure for (size, way, epochs), figure in found.items()}
    return Page(
        "S3: supervised fine-tuning before the reward model (LMFlow)",
        [*_about(plan, best), *_accuracies(plan, found), *_epochs(plan, found), *_sizes(plan, found)],
        {name: two_way_interval(figure) for name, figure in figures.items()},
        _picture(plan, found),
    )


class _Study:
    """The data and the runs of the table."""

    def __init__(self, setting: Setting, plan: Plan) -> None:
        self.setting, self.plan = setting, plan
        base = [j.comparison for j in World(BASE_WORLD).sample(plan.texts, "train")]
        self.base_file = setting.keep("texts.json", conversations(base, every_response=True))
        drawn = [*World(WORLD).sample(plan.pairs, "train"), *World(WORLD).sample(plan.test, "test")]
        pairs = [one.comparison for one in drawn]
        rows = read_usable(setting.keep("pairs.json", positive_negative(pairs)))
        training, self.test = split_from_end(rows, 100 * plan.test / len(pairs))
        self.training_file = setting.keep("training.json", positive_negative(training))
        self.chosen_file = setting.keep("chosen.json", conversations(training, every_response=False))

    def accuracy(self, size: tuple[int, int], way: str, epochs: int) -> Resampled:
        """Return the test accuracy of one cell of the table, by seed."""
        rewards = [
            self.setting.scored(self._reward_model(size, way, epochs, seed), self.test)
            for seed in range(self.plan.seeds)
        ]
        return measured(self.test, rewards)[ACCURACY]

    def _reward_model(self, size: tuple[int, int], way: str, epochs: int, seed: int) -> Path:
        lora = ADAPTERS if way == LORA else None
        rate = self.plan.rates[0 if way == LORA else 1]
        stage = TrainConfig(epochs=1, learning_rate=rate, seed=seed)
        config = RunConfig(
            DataConfig((self.training_file,), validation_share=5.0),
            *begun(self.plan.start, _model(size), _packing()),
            TrainConfig(),
            replace(stage, precision=precision()) if self.plan.start else stage,
            lora,
            "reward",
            self._language_model(size, epochs, seed),
        )
        return self.setting.trained(config, f"s3 {_name(size)} {way} after {epochs} epochs seed {seed}")

    def _language_model(self, size: tuple[int, int], epochs: int, seed: int) -> Path:
        """Return the base, or what it became after so many epochs of fine-tuning."""
        if not epochs and self.plan.start:
            return self.plan.start
        if not epochs:
            return self._read(size, self.base_file, TrainConfig(epochs=1, learning_rate=3e-3), None, "base")
        before = self._language_model(size, epochs - 1, seed)
        training = TrainConfig(epochs=1, learning_rate=1e-3, seed=100 * epochs + seed)  # another order each epoch
        if self.plan.start:
            training = replace(training, learning_rate=self.plan.rates[0], precision=precision())
        return self._read(size, self.chosen_file, training, before, f"sft epoch {epochs} seed {seed}")

    def _read(self, size: tuple[int, int], file: Path, training: TrainConfig, start: Path | None, what: str) -> Path:
        """Train a language model for one epoch: the base on every token, fine-tuning on what assistants said."""
        tokens = "all" if start is None else "assistant"
        data = DataConfig((file,), validation_share=5.0, language_model_responses="all", language_model_tokens=tokens)
        shapes = begun(self.plan.start, _model(size), _packing())
        lora = None if self.plan.start is None else ADAPTERS
        config = RunConfig(data, *shapes, training, TrainConfig(seed=training.seed), lora, "lm", start)
        return self.setting.trained(config, f"s3 {_name(size)} {what}")


def _model(size: tuple[int, int]) -> ModelConfig:
    layers, width = size
    return ModelConfig(layers=layers, width=width, heads=4, max_positions=CONTEXT)


def _packing() -> PackingConfig:
    return PackingConfig(tokens_per_batch=1024, max_tokens=CONTEXT, when_longer="drop")


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]} layers, D={size[1]}"


# ── LMFlow's files ────────────────────────────────────────────────────────────────────────────────────────────────────


def conversations(comparisons: Sequence[Comparison], *, every_response: bool) -> str:
    """Return a file for fine-tuning: the best response of each comparison, or every one."""
    return conversations_file(
        [*comparison.prompt, Turn("assistant", response)]
        for comparison in comparisons
        for response in (comparison.responses if every_response else comparison.responses[:1])
    )


def positive_negative(comparisons: Sequence[Comparison]) -> str:
    """Return a file of pairs, each side the whole dialogue in text with its roles in front."""
    instances = []
    for comparison in comparisons:
        texts = [render_dialogue((*comparison.prompt, Turn("assistant", text))) for text in comparison.responses]
        instances.append(dict(zip(("positive", "negative"), texts, strict=True)))
    return json.dumps({"instances": instances})


def split_from_end(
    comparisons: Sequence[Comparison], validation_split_percentage: float
) -> tuple[list[Comparison], list[Comparison]]:
    """Return the first and the last part, as LMFlow cuts its data, but to the nearest row where it rounds down."""
    cut = round((1 - validation_split_percentage / 100) * len(comparisons))
    return list(comparisons[:cut]), list(comparisons[cut:])


# ── The table ─────────────────────────────────────────────────────────────────────────────────────────────────────────

Found = dict[tuple[tuple[int, int], str, int], Resampled]


def _about(plan: Plan, best: float) -> list[str]:
    base = f"a base that read {4 * plan.texts:,} texts" if plan.start is None else f"{plan.start.name} as the base"
    return [
        f"Known-truth world without facts: {base}, {plan.pairs:,} training pairs, "
        f"{plan.test:,} test pairs, one epoch of reward modelling, one base per size. The best possible accuracy is "
        f"{best:.3f}. {about_intervals(plan.seeds)}",
        "",
    ]


def _accuracies(plan: Plan, found: Found) -> list[str]:
    header = ["model", "learns", *(f"SFT epochs: {epochs}" for epochs in plan.epochs)]
    rows = [
        [_name(size), way, *(in_words(found[size, way, epochs]) for epochs in plan.epochs)]
        for size in plan.sizes
        for way in plan.ways
    ]
    return ["## Test accuracy", "", *table(header, rows)]


def _epochs(plan: Plan, found: Found) -> list[str]:
    """Return what fine-tuning changed, row by row and over all rows."""
    first, *others = plan.epochs
    rows = [
        [f"{_name(size)}, {way}", *(difference_in_words(found[size, way, e], found[size, way, first]) for e in others)]
        for size in plan.sizes
        for way in plan.ways
    ]
    for way in plan.ways:
        mean = {e: mean_of([found[size, way, e] for size in plan.sizes]) for e in plan.epochs}
        rows.append([f"**mean of the sizes, {way}**", *(difference_in_words(mean[e], mean[first]) for e in others)])
    return ["## What epochs of SFT change", "", *table(["", *(f"{e} minus {first}" for e in others)], rows)]


def _sizes(plan: Plan, found: Found) -> list[str]:
    """Return what size changed: each model minus the smallest."""
    first, *others = plan.sizes
    if not others:
        return []
    rows = [
        [
            f"{way}, SFT epochs: {e}",
            *(difference_in_words(found[size, way, e], found[first, way, e]) for size in others),
        ]
        for way in plan.ways
        for e in plan.epochs
    ]
    header = ["", *(f"{_name(size)} minus {_name(first)}" for size in others)]
    return ["## What size changes", "", *table(header, rows)]


def _picture(plan: Plan, found: Found) -> Figure:
    points = {
        f"{_name(size)}, {way}": {e: two_way_interval(found[size, way, e]) for e in plan.epochs}
        for way in plan.ways
        for size in plan.sizes
    }
    return series(points, "epochs of supervised fine-tuning", "test accuracy")
