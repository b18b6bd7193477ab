"""Which cells are run: tuning first, then every contestant on every subject, then the curves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from bench.architectures.cells import LONGEST, Cell, cell_for
from bench.architectures.contestants import Contestant
from bench.architectures.subjects import FOLDS, WORLD, Sources, is_known_truth, is_skill

TUNING_SEED = 1000
"""Of no reported run."""
COMPARISONS_PER_BATCH = {WORLD: 4, "alpaca-rankings": 1}
COMPARED = ("baseline", "own", "yours", "pretrained", "plain")
"""Kinds that are run on every subject; the others are questions about one thing, asked of some subjects."""
ENOUGH_FOR_A_CURVE = 1000
"""Comparisons of a file; half of fewer say little, and take as long as the table."""
PATIENCE = 6
"""Evaluations without a lower validation loss, after which a training to convergence ends."""

SUITE = ("words:11", "negation:5", "order:1", "match:1", "recall:4", "two-hop:2", "arithmetic:16", "counting:10",
         "nesting:3", "agreement:1", "style:2", "shortcut:0.8")  # fmt: skip
"""Every skill, at a dial that a first look at one network left neither at the ceiling nor, where possible, at 0."""
HARDER = ("order:2", "match:4", "recall:14", "two-hop:4", "arithmetic:60", "nesting:6", "agreement:3", "shortcut:0.95")

Shape = tuple[int, int]
"""Layers, and the reference's width."""
Rates = dict[Cell, float]
"""By `untuned` cell."""


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    name: str
    sources: dict = field(default_factory=dict)
    """Sizes that differ from the defaults of `Sources`."""
    seeds: int = 3
    """Of every table and curve …"""
    world_seeds: int = 3
    """… but that of the world …"""
    file_seeds: int = 3
    """… and those of files; with two, Student's t is so wide that nothing is resolved."""
    rates: tuple[float, ...] = (1e-3, 2e-3)
    """Learning rates that each contestant may try once in each condition, on validation …"""
    extensions: int = 1
    """… and how often one more is tried, where the best is the lowest or the highest so far."""
    subjects: tuple[str, ...] = (*SUITE, WORLD, "hh-harmless")
    questions: tuple[str, ...] = ("match:1",)
    """Subjects on which the single changes are run too."""
    comparisons: int = 2000
    """Most training comparisons of a subject that is no single skill; a file may have fewer …"""
    steps: int = 600
    """… and the steps that so many get; fewer get fewer, see `steps_for`."""
    epochs: float | None = None
    """Passes over the comparisons of whatever subject; None: as `steps_for` has it."""
    skill: int = 6000
    """Training comparisons of a single skill, each of which is seen once."""
    halvings: int = 0
    """How often the comparisons of known truth are halved in the learning curve; those of a file are once, if many. Two
    points are no curve, and each is tuned anew: how fast a skill is learned is seen while it is."""
    shapes: tuple[Shape, ...] = ((2, 64),)
    """Depth and width: that of the tables first, all in the curve over model size."""
    contestants: tuple[str, ...] = ()
    """Names; none: all."""
    rounds: int = 7
    """Of the timing."""
    loss: str = "all_pairs"
    """Of every reward stage."""
    converges: bool = True
    """Whether a main subject of known truth is also learned until validation no longer gains."""

    def steps_for(self, subject: str, comparisons: int) -> int:
        """Return the steps for so many training comparisons: one rule, for table, curves and files alike.

        A single skill is seen once; elsewhere the steps grow with the square root of the comparisons, so that few are
        seen more often than many.
        """
        if self.epochs or is_skill(subject):
            return max(1, round((self.epochs or 1) * comparisons / self.per_batch(subject)))
        return max(1, round(self.steps * (comparisons / self.comparisons) ** 0.5))

    def per_batch(self, subject: str) -> int:
        """Return the comparisons of a batch."""
        return COMPARISONS_PER_BATCH.get(subject, 8)


PLANS = {
    "quick": Plan(
        "quick",
        sources={"test": 200, "validation": 100},
        extensions=0,
        subjects=("words:5", "match:0", "recall:0", "counting:4", WORLD),
        questions=(),
        comparisons=800,
        steps=300,
        skill=1600,
        contestants=("GPT-2 (Hugging Face)", "GPT-2 style", "Llama style", "GRU", "longer wins",
                     "TF-IDF + logistic regression"),
        seeds=2,
        rounds=3,
        converges=False,
    ),
    "default": Plan("default"),
    "full": Plan(
        "full",
        sources={"test": 1000, "validation": 300, "most_training": 20000},
        seeds=5,
        world_seeds=5,
        file_seeds=5,
        rates=(5e-4, 1e-3, 2e-3, 4e-3),
        comparisons=8000,
        steps=4000,
        skill=16000,
        halvings=5,
        extensions=4,
        subjects=(*SUITE, *HARDER, WORLD, "hh-harmless", "alpaca-pairs", "alpaca-rankings"),
        questions=(*SUITE, WORLD),
        shapes=((2, 64), (1, 64), (4, 64), (8, 64), (2, 32), (2, 128), (2, 256)),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A plan, who takes part, at which width, and how many times the reference's steps."""

    plan: Plan
    sources: Sources
    contestants: Sequence[Contestant]
    subjects: Sequence[str]
    available: dict[str, int]
    """By subject, the training comparisons that its table is about."""
    match: str
    """What is equal between contestants: "parameters", "flops", "seconds" or the "shape"."""
    widths: dict[tuple[str, str, Shape], int] = field(default_factory=dict)
    """By contestant, subject and shape of the reference."""
    passes: dict[str, float] = field(default_factory=dict)
    """By contestant: 1, unless wall-clock time is matched."""
    everyone_everywhere: bool = False
    """Whether single changes are run on all subjects, having been asked for by name."""

    @property
    def networks(self) -> list[Contestant]:
        """Those that are trained by gradient descent."""
        return [contestant for contestant in self.contestants if contestant.is_network]

    def on(self, subject: str) -> list[Contestant]:
        """Return who is run on a subject."""
        asked = self.everyone_everywhere or subject in self.plan.questions
        known = [contestant for contestant in self.contestants if asked or contestant.kind in COMPARED]
        return [one for one in known if not (one.as_pairs and is_skill(subject))]  # whose pairs are ties but for one

    @property
    def main(self) -> str:
        """The subject of the prices, the curves and the ensembles."""
        return WORLD if WORLD in self.subjects else self.subjects[0]

    @property
    def skills(self) -> list[str]:
        """The subjects that are single skills."""
        return [subject for subject in self.subjects if is_skill(subject)]

    def seeds(self, contestant: Contestant, subject: str) -> range:
        """Return the seeds of a contestant in the table of a subject; what is not trained by steps has one."""
        plan = self.plan
        of_subject = plan.world_seeds if subject == WORLD else plan.seeds if is_skill(subject) else plan.file_seeds
        return range(of_subject if contestant.is_network else 1)

    def folds(self, subject: str) -> range:
        """Return the folds of a subject."""
        return range(FOLDS.get(subject, 1))

    def cell(
        self,
        contestant: Contestant,
        subject: str,
        *,
        shape: Shape | None = None,
        comparisons: int | None = None,
        patience: int = 0,
    ) -> Cell:
        """Return a contestant's cell on a subject, at no rate yet and with the seed of tuning."""
        plan, shape = self.plan, shape or self.plan.shapes[0]
        comparisons = comparisons or self.available[subject]
        steps = self.passes.get(contestant.name, 1.0) * plan.steps_for(subject, comparisons)
        steps *= LONGEST if patience else 1
        known = is_known_truth(subject)
        template = Cell(
            subject=subject,
            fold=0,
            contestant="",
            seed=TUNING_SEED,
            comparisons=comparisons,
            steps=max(1, round(steps)),
            patience=patience,
            learning_rate=0.0,
            layers=shape[0],
            width=self.widths.get((contestant.name, subject, shape), shape[1]),
            heads=4,
            vocab_size=None if known else 2048,
            comparisons_per_batch=plan.per_batch(subject),
            max_tokens=192 if known else 256,
            loss=plan.loss,
            file=self.sources.digest(subject),
        )
        return cell_for(contestant, template)


Table = dict[tuple, list[Cell]]
"""Cells by what they are about, the contestant's name first and the seed last: one for each fold."""


def table_cells(setup: Setup) -> Table:
    """Return the cells of the tables by contestant, subject and seed."""
    return {
        (contestant.name, subject, seed): [
            replace(setup.cell(contestant, subject), seed=seed, fold=fold) for fold in setup.folds(subject)
        ]
        for subject in setup.subjects
        for contestant in setup.on(subject)
        for seed in setup.seeds(contestant, subject)
    }


def curve_comparisons(setup: Setup) -> list[int]:
    """Return the training comparisons of the learning curve: what there is, and halves of it."""
    most, known = setup.available[setup.main], is_known_truth(setup.main)
    halvings = setup.plan.halvings if known else int(most >= ENOUGH_FOR_A_CURVE)
    return sorted({max(1, most >> halving) for halving in range(halvings + 1)})


def curve_cells(setup: Setup) -> Table:
    """Return the cells of the learning curve by contestant, comparisons and seed; its last point is the table's."""
    return _curve(setup, {n: {"comparisons": n} for n in curve_comparisons(setup)})


def size_cells(setup: Setup) -> Table:
    """Return the cells of the curve over model size by contestant, the reference's shape and seed."""
    shapes = setup.plan.shapes
    return _curve(setup, {shape: {"shape": shape} for shape in shapes} if len(shapes) > 1 else {})


def convergence_cells(setup: Setup) -> Table:
    """Return the cells of trainings that end by patience, by contestant, "converged" and seed."""
    converges = setup.plan.converges and is_known_truth(setup.main)
    return _curve(setup, {"converged": {"patience": PATIENCE}} if converges else {})


def _curve(setup: Setup, points: dict[object, dict]) -> Table:
    """Return cells of the main subject in other conditions, by contestant, point and seed; of the first fold alone."""
    return {
        (contestant.name, point, seed): [replace(setup.cell(contestant, setup.main, **fields), seed=seed)]
        for contestant in setup.on(setup.main)
        if contestant.kind in COMPARED
        for point, fields in points.items()
        for seed in setup.seeds(contestant, setup.main)
    }


def untuned(cell: Cell) -> Cell:
    """Return the cell by whose trainings the learning rate of another is chosen; patience is none of its business."""
    steps = cell.steps // LONGEST if cell.patience else cell.steps
    return replace(cell, seed=TUNING_SEED, fold=0, learning_rate=0.0, steps=steps, patience=0)


def at_rates(cells: Table, rates: Rates) -> Table:
    """Return the same cells, each at the learning rate that was chosen for it."""
    return {
        key: [replace(cell, learning_rate=rates.get(untuned(cell), 0.0)) for cell in folds]
        for key, folds in cells.items()
    }


def every_cell(tables: Iterable[Table]) -> list[Cell]:
    """Return all cells of some tables."""
    return [cell for table in tables for folds in table.values() for cell in folds]
