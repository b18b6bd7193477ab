"""One training of one contestant on one subject, as a file: what is finished is kept, and a killed bench goes on."""

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from bench.architectures.contestants import LONGER, Contestant, code_of, find_contestant, fingerprint
from bench.architectures.heads import ManyHeads
from bench.architectures.provenance import code_digest
from bench.architectures.subjects import AS_TRAINED, Sources, Subject, disjoint_pairs
from bench.baselines import TfidfReward, length_rewards
from bench.timing import installed, versions
from bench.workers import side_by_side
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.scoring import score_comparisons
from minirm.files.disk import write_whole
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import fit, labels_of, tokenize
from minirm.tokens.stream import Stream, TokenStore
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.loop import Step, Trainer
from minirm.training.objectives import LanguageModelObjective, broken_rule

EVALUATIONS = 12
"""On validation, over the reward stage of the fixed budget."""
LONGEST = 4
"""How many times the fixed budget a training may take that ends by patience."""
LANGUAGE_MODEL_RATE = 3e-3
SCORED_AT_ONCE = 4096
"""Tokens of a batch when nothing is learned."""
UNLIMITED = 10**9
LIBRARIES = ("numpy", "scikit-learn", "tokenizers", "transformers")
"""Whose versions, beside PyTorch's, may change what a training finds."""
WORDS_AND_MARKS = r"\w+|[^\w\s]"
"""A skill's responses may be brackets alone."""


@dataclass(frozen=True)
class Cell:
    """Everything that decides one training."""

    subject: str
    fold: int
    contestant: str
    seed: int
    comparisons: int
    """Training comparisons, each a prompt with its responses."""
    steps: int
    """Of the optimizer, in the reward stage …"""
    patience: int
    """… which ends sooner after so many evaluations without a lower validation loss; 0: never."""
    learning_rate: float
    layers: int
    width: int
    heads: int
    vocab_size: int | None
    comparisons_per_batch: int
    """The same for all, so that all take as many steps; one who cuts comparisons into pairs takes more of those."""
    max_tokens: int
    loss: str = "all_pairs"
    """Of the reward stage, by its name in `minirm.training.objectives.LOSSES`."""
    file: str = ""
    """What files held that do not belong to the bench: the subject's, a user's backbone, a checkpoint."""

    def path(self, cache: Path, sources: Sources) -> Path:
        """Return where its result lies."""
        return cache / f"{self._name(sources)}-{self._code()}.json"

    def stale(self, cache: Path, sources: Sources) -> list[Path]:
        """Return what other code, or another version of a library, found for the same cell."""
        return sorted(set(cache.glob(f"{self._name(sources)}-*.json")) - {self.path(cache, sources)})

    def _name(self, sources: Sources) -> str:
        sizes = {name: value for name, value in asdict(sources).items() if name != "data"}
        identity = json.dumps([{**asdict(self), "file": ""}, sizes])
        digest = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
        name = f"{Path(self.subject).name} {self.contestant.rpartition('/')[2]} seed {self.seed}"
        return f"{''.join(c if c.isalnum() else '-' for c in name)}-{digest}"

    def _code(self) -> str:
        code = f"{code_digest(*STARTS)} {code_of(self.contestant)} {installed(*LIBRARIES)}"
        identity = f"{code} {torch.__version__} {self.file}"
        return hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()


HERE = Path(__file__)
STARTS = (
    (HERE, "run_cell"),
    (HERE.with_name("contestants.py"), "Contestant"),
    (HERE.with_name("subjects.py"), "Sources"),
)
"""Where the code begins that computes any cell: training, subjects, scoring; not the page, nor a plan."""


def run_all(cells: Sequence[Cell], cache: Path, sources: Sources, workers: int, threads: int) -> Iterator[int]:
    """Run the cells that are not finished, and yield how many of them are, after each."""
    missing = {c for c in cells if not c.path(cache, sources).is_file()}
    todo = sorted(missing, key=lambda c: (c.subject, c.fold, c.seed, c.comparisons))
    yield from side_by_side(partial(run_cell, cache=cache, sources=sources), todo, workers, threads)


def read_result(cell: Cell, cache: Path, sources: Sources) -> dict:
    """Return what a finished cell found."""
    return json.loads(cell.path(cache, sources).read_text(encoding="utf-8"))


def run_cell(cell: Cell, cache: Path, sources: Sources) -> None:
    """Train, score every set, and write the result.

    Raises:
        InputError: the loss can't use the subject's labels.
    """
    contestant = find_contestant(cell.contestant)
    subject, tokenizer = prepared(sources, cell.subject, cell.fold, cell.seed, cell.comparisons, cell.vocab_size)
    if rule := broken_rule(labels_of(subject.training), TrainConfig(loss=cell.loss)):
        raise InputError(f"{cell.subject}: {rule}")
    began = time.process_time()
    try:
        if not contestant.is_network:
            result = _without_network(contestant, cell, subject)
        else:
            result = _train(contestant, cell, subject, tokenizer)
    except InputError as error:  # a rate at which the loss is no number any more; anything else is a fault of the bench
        result = {"failed": str(error)}
    computed = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    result = {"cell": asdict(cell), **computed, "cpu_seconds": time.process_time() - began, **result}
    write_whole(cell.path(cache, sources), lambda path: path.write_text(json.dumps(result) + "\n", encoding="utf-8"))


@lru_cache
def commit() -> str:
    """Return at which commit this is, as far as git knows."""
    return versions().get("commit", "unknown")


def _without_network(contestant: Contestant, cell: Cell, subject: Subject) -> dict:
    if contestant.name == LONGER:
        return {"rewards": {name: length_rewards(rows) for name, rows in subject.sets.items()}}
    model = TfidfReward(use_log_length=True, words=WORDS_AND_MARKS).fit(subject.training)
    return {"rewards": {name: model.rewards(rows) for name, rows in subject.sets.items()}}


def _train(contestant: Contestant, cell: Cell, subject: Subject, tokenizer: Tokenizer) -> dict:
    """Return how training went, and the rewards of the best evaluation's weights."""
    tokenizer = contestant.tokenizer(tokenizer)
    training = subject.training
    rows = disjoint_pairs(training) if contestant.as_pairs else training
    per_batch = round(cell.comparisons_per_batch * len(rows) / len(training))
    scoring = PackingConfig(SCORED_AT_ONCE, max_tokens=cell.max_tokens, share_prompt=contestant.shares)
    batching = replace(scoring, tokens_per_batch=UNLIMITED, comparisons_per_batch=per_batch)
    torch.manual_seed(cell.seed)
    model = contestant.reward_model(model_config(cell, tokenizer))
    with tempfile.TemporaryDirectory(prefix="minirm-bench-") as folder:
        parts = {"training": (rows, batching), "validation": (subject.validation, scoring)}
        streams = {}
        for name, (comparisons, packing) in parts.items():
            store = _store(contestant, comparisons, tokenizer, packing, Path(folder) / name)
            streams[name] = Stream(store, packing, cell.seed, contestant.bidirectional)
        before = _language_model_stage(contestant, cell, model, streams)
        history = _reward_stage(contestant, cell, model, streams, before)
    rewards = {
        name: _rounded(score_comparisons(model, tokenizer, scoring, rows)) for name, rows in subject.sets.items()
    }
    if isinstance(model, ManyHeads):
        history["heads"] = _heads_rewards(model, tokenizer, scoring, subject.sets[AS_TRAINED])
    counts = {"comparisons": len(training)}
    return {**counts, **history, "rewards": rewards}


def _heads_rewards(
    model: ManyHeads, tokenizer: Tokenizer, packing: PackingConfig, rows: Sequence[Comparison]
) -> list[list[list[float]]]:
    """Return the rewards by each head alone."""
    found = []
    for head in range(model.head.out_features):
        model.only = head
        found.append(_rounded(score_comparisons(model, tokenizer, packing, rows)))
    model.only = None
    return found


@lru_cache(maxsize=2)
def prepared(
    sources: Sources, name: str, fold: int, seed: int, comparisons: int, vocab_size: int | None
) -> tuple[Subject, Tokenizer]:
    """Return a subject and the tokenizer that all contestants share on it, the last two of a process kept."""
    return sources.load(name, fold, seed, comparisons), shared_tokenizer(sources, name, fold, vocab_size)


@lru_cache(maxsize=2)
def shared_tokenizer(sources: Sources, name: str, fold: int, vocab_size: int | None) -> Tokenizer:
    """Return what learned its vocabulary from training comparisons of seed 0, whatever a cell learns from: up to 2,000.

    Where their texts are too few for the vocabulary, it is as large as they allow.
    """
    rows = sources.load(name, fold, 0, 2000).training
    texts = [text for row in rows for text in (*(turn.text for turn in row.prompt), *row.responses)]
    try:
        return Tokenizer.train(texts, vocab_size)
    except InputError:
        return Tokenizer.train(texts, None)


def model_config(cell: Cell, tokenizer: Tokenizer) -> ModelConfig:
    """Return the shape of a cell's model; what kind it is, the contestant says."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        layers=cell.layers,
        width=cell.width,
        heads=cell.heads,
        max_positions=cell.max_tokens,
    )


def _store(
    contestant: Contestant, rows: Sequence[Comparison], tokenizer: Tokenizer, packing: PackingConfig, folder: Path
) -> TokenStore:
    encoded = fit(tokenize(rows, tokenizer), packing, Counter(), keep_first=contestant.bidirectional)
    return TokenStore.write(encoded, folder)


def _language_model_stage(contestant: Contestant, cell: Cell, model: RewardModel, streams: dict[str, Stream]) -> float:
    """Train the backbone on next tokens if the contestant does, and return the seconds."""
    if not contestant.language_model_epochs:
        return 0.0
    epochs = contestant.language_model_epochs
    config = TrainConfig(epochs=epochs, learning_rate=LANGUAGE_MODEL_RATE, evaluate_every=epochs, seed=cell.seed)
    language_model = LanguageModel(model.config, model.backbone)
    trainer = Trainer(language_model, LanguageModelObjective(), streams["training"], streams["validation"], config)
    return sum(event.seconds for event in trainer.run() if isinstance(event, Step))


def _reward_stage(
    contestant: Contestant, cell: Cell, model: RewardModel, streams: dict[str, Stream], seconds_before: float
) -> dict:
    """Train on preferences, put the weights of the best evaluation into the model, and return what happened."""
    batches = len(streams["training"].plan(0))
    every = max(1, cell.steps // (EVALUATIONS * LONGEST if cell.patience else EVALUATIONS))
    config = TrainConfig(
        loss=cell.loss,
        epochs=cell.steps / batches,
        learning_rate=cell.learning_rate,
        schedule="constant" if cell.patience else "cosine",
        evaluate_every=every / batches,
        patience=cell.patience,
        seed=cell.seed,
    )
    trainer = Trainer(model, contestant.objective(config), streams["training"], streams["validation"], config)
    seconds, history = seconds_before, []
    for event in trainer.run():
        if isinstance(event, Step):
            seconds += event.seconds
        else:
            entry = {"comparisons": event.step * cell.comparisons_per_batch, "seconds": seconds}
            history.append({**entry, "loss": event.loss, "accuracy": event.accuracy})
    trainer.use_best()
    return {
        "steps": trainer.progress.step,
        "best_step": trainer.progress.best_step,
        "validation_loss": trainer.progress.best_loss,
        "language_model_seconds": seconds_before,
        "seconds": seconds,
        "history": history,
    }


def _rounded(rewards: list[list[float]]) -> list[list[float]]:
    """Return rewards with as many digits as float32 holds."""
    return [[float(f"{reward:.7g}") for reward in row] for row in rewards]


def cell_for(contestant: Contestant, template: Cell, **fields: object) -> Cell:
    """Return a cell like another one, for this contestant."""
    return replace(template, contestant=contestant.identity, file=template.file + fingerprint(contestant), **fields)
