"""Which cells are run: tuning first, then every contestant on every subject, then the curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench.architectures.cells import Cell, cell_for
from bench.architectures.contestants import Contestant
from bench.architectures.subjects import FOLDS, WORLD, WORLDS, Sources

TUNING_SEED = 1000
"""Of no reported run."""
COMPARISONS_PER_BATCH = {"alpaca-rankings": 1}
COMPARED = ("baseline", "own", "yours", "pretrained", "plain")
"""Kinds that are run on every subject; the others are questions about one thing, asked of the main world."""


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    name: str
    sources: dict = field(default_factory=dict)
    """Sizes that differ from the defaults of `Sources`."""
    seeds: int = 3
    """Of curves and of all subjects but the main one …"""
    main_seeds: int = 5
    """… whose table answers the questions."""
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    """Learning rates that each contestant may try once, on validation."""
    subjects: tuple[str, ...] = (*WORLDS, "hh-harmless")
    comparisons: int = 3000
    """Training comparisons of the main world …"""
    epochs: float = 2.0
    """… and passes over them; fewer comparisons get more passes, see `epochs_for`."""
    others: int = 1000
    """Training comparisons of the other worlds."""
    curve: tuple[int, ...] = (250, 500, 750, 1000, 2000, 3000)
    """Training comparisons of the learning curve."""
    width: int = 64
    widths: tuple[int, ...] = (32, 64, 96)
    """Of the reference, in the curve over model size."""
    contestants: tuple[str, ...] = ()
    """Names; none: all."""
    rounds: int = 7
    """Of the timing."""
    real_epochs: float = 1.0
    """Passes over subjects that are no world."""

    def epochs_for(self, comparisons: int) -> float:
        """Return the passes over so many comparisons: steps grow with the square root of the comparisons."""
        return self.epochs * (self.comparisons / comparisons) ** 0.5

    def template(self, subject: str) -> Cell:
        """Return the cell of a subject from which all others differ by contestant, width, rate and seed."""
        is_world = subject in WORLDS
        comparisons = self.comparisons if subject == WORLD else min(self.others, self.comparisons)
        return Cell(
            subject=subject,
            fold=0,
            contestant="",
            seed=TUNING_SEED,
            comparisons=comparisons if is_world else 0,
            epochs=self.epochs_for(comparisons) if is_world else self.real_epochs,
            learning_rate=0.0,
            layers=2,
            width=self.width,
            heads=4,
            vocab_size=None if is_world else 2048,
            comparisons_per_batch=COMPARISONS_PER_BATCH.get(subject, 4 if is_world else 8),
            max_tokens=128 if is_world else 256,
        )


PLANS = {
    "quick": Plan(
        "quick",
        sources={"world_training": 2000, "world_test": 300},
        rates=(1e-3, 3e-3),
        subjects=(WORLD,),
        comparisons=1000,
        epochs=4.0,
        curve=(250, 1000),
        widths=(64,),
        contestants=("GPT-2 (Hugging Face)", "GPT-2 style", "Llama style", "GRU", "longer wins",
                     "TF-IDF + logistic regression"),
        main_seeds=3,
        rounds=3,
    ),
    "default": Plan("default"),
    "full": Plan(
        "full",
        sources={"world_training": 16000, "world_test": 1000, "most_training": 20000},
        seeds=5,
        comparisons=8000,
        others=4000,
        rates=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
        subjects=(*WORLDS, "hh-harmless", "alpaca-pairs", "alpaca-rankings"),
        curve=(250, 500, 1000, 2000, 4000, 8000, 16000),
        widths=(32, 64, 128, 256),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A plan, who takes part, at which width, and how many times the reference's passes."""

    plan: Plan
    sources: Sources
    contestants: Sequence[Contestant]
    subjects: Sequence[str]
    widths: dict[tuple[str, str, int], int]
    """By contestant, subject and width of the reference."""
    passes: dict[str, float]
    """By contestant: 1, unless wall-clock time is matched."""
    match: str
    """What is equal between them: "parameters", "flops", "seconds" or the "shape"."""

    @property
    def networks(self) -> list[Contestant]:
        """Those that are trained by gradient descent."""
        return [contestant for contestant in self.contestants if contestant.is_network]

    def on(self, subject: str) -> list[Contestant]:
        """Return who is run on a subject."""
        main = subject == self.main
        return [contestant for contestant in self.contestants if main or contestant.kind in COMPARED]

    @property
    def main(self) -> str:
        """The subject of the main table and of the curves."""
        return WORLD if WORLD in self.subjects else self.subjects[0]

    def seeds(self, contestant: Contestant, subject: str) -> range:
        """Return the seeds of a contestant in the table of a subject; what is not trained by steps has one."""
        trained = self.plan.main_seeds if subject == self.main else self.plan.seeds
        return range(trained if contestant.is_network else 1)

    def cell(self, contestant: Contestant, subject: str, *, width: int | None = None, **fields: object) -> Cell:
        """Return a contestant's cell on a subject."""
        template = replace(self.plan.template(subject), file=self.sources.digest(subject))
        reference = width or self.plan.width
        fields["width"] = self.widths.get((contestant.name, subject, reference), reference)
        fields["epochs"] = fields.get("epochs", template.epochs) * self.passes.get(contestant.name, 1.0)
        return cell_for(contestant, template, **fields)


def tuned_on(subject: str) -> str:
    """Return the subject on which the learning rate of another is tuned: all worlds share one."""
    return WORLD if subject in WORLDS else subject


def tuning_cells(setup: Setup, subject: str) -> dict[str, list[Cell]]:
    """Return by contestant the cells among which validation chooses the learning rate, of one seed and one fold."""
    return {
        contestant.name: [setup.cell(contestant, subject, learning_rate=rate) for rate in setup.plan.rates]
        for contestant in setup.on(subject)
        if contestant.is_network
    }


def table_cells(setup: Setup, rates: dict[tuple[str, str], float]) -> dict[tuple[str, str, int], list[Cell]]:
    """Return the cells of the tables by subject, contestant and seed: one for each fold.

    Args:
        rates: learning rate by contestant and `tuned_on(subject)`.
    """
    cells = {}
    for subject in setup.subjects:
        for contestant in setup.on(subject):
            rate = rates.get((contestant.name, tuned_on(subject)), 0.0)
            for seed in setup.seeds(contestant, subject):
                cells[subject, contestant.name, seed] = [
                    setup.cell(contestant, subject, learning_rate=rate, seed=seed, fold=fold)
                    for fold in range(FOLDS.get(subject, 1))
                ]
    return cells


def curve_cells(setup: Setup, rates: dict[tuple[str, str], float]) -> dict[tuple[str, int, int], Cell]:
    """Return the cells of the learning curve by contestant, comparisons and seed."""
    plan, subject = setup.plan, setup.main
    return {
        (contestant.name, n, seed): setup.cell(
            contestant,
            subject,
            learning_rate=rates.get((contestant.name, tuned_on(subject)), 0.0),
            seed=seed,
            comparisons=n,
            epochs=plan.epochs_for(n),
        )
        for contestant in setup.on(subject)
        if contestant.kind in COMPARED
        for n in plan.curve
        for seed in range(plan.seeds if contestant.is_network else 1)
    }


def size_cells(setup: Setup, rates: dict[tuple[str, str], float]) -> dict[tuple[str, int, int], Cell]:
    """Return the cells of the curve over model size by contestant, the reference's width and seed."""
    plan, subject = setup.plan, setup.main
    return {
        (contestant.name, width, seed): setup.cell(
            contestant, subject, width=width, learning_rate=rates[contestant.name, tuned_on(subject)], seed=seed
        )
        for contestant in setup.networks
        if contestant.kind in COMPARED
        for width in plan.widths
        for seed in range(plan.seeds)
    }
