"""From prepared data to a run folder: language-model stage, reward stage, evaluation, or one of the stages alone."""

import contextlib
import copy
import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from minirm.config import TrainConfig
from minirm.config_rules import require
from minirm.evaluation import scoring
from minirm.evaluation.evaluate import Evaluation, Fit, Surprise
from minirm.evaluation.report import write_evaluation
from minirm.evaluation.scoring import RewardScorer, score_comparisons
from minirm.files import disk
from minirm.models.language_model import LanguageModel
from minirm.models.lora import add_adapters, merge
from minirm.models.reward_model import RewardModel
from minirm.runs import run_folder
from minirm.runs.alike import check_alike, check_same_folder
from minirm.runs.claim import ASKED, BEGUN, Job, claim, is_finished
from minirm.runs.config_json import to_json
from minirm.runs.journal import Journal, Observer, read_log
from minirm.runs.prepare import Prepared, check_unchanged, config_in, prepare, read_prepared
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD, RunConfig
from minirm.runs.state import State, restore_trainer, trainer_state
from minirm.runs.together import any_wants, by_the_first, say_where, whole_weights
from minirm.tokens.stream import Stream
from minirm.training.loop import Evaluated, Trainer
from minirm.training.objectives import LanguageModelObjective, RewardObjective

SHOWN_TEXTS = 8
"""Validation comparisons whose texts and rewards are logged at each evaluation."""
SECONDS_BETWEEN_SAVES = 300.0
FEW_STEPS = 20
"""Of a stage; fewer are said to be few."""
BATCHES = 100
"""Of an epoch at least, where nobody says how many comparisons a batch holds …"""
EPOCHS, ENOUGH_STEPS = (2.0, 6.0), 600
"""… and the least and the most epochs, where nobody says: see `python -m bench defaults`."""
M = TypeVar("M", RewardModel, LanguageModel)
OpenStart = Callable[[Path], run_folder.Start]


def train_run(
    config: RunConfig, folder: Path, observer: Observer, *, open_start: OpenStart = run_folder.read_start
) -> Evaluation | Surprise | Fit | None:
    """Train the stages of a run into its folder and return the evaluation on the validation split.

    Args:
        folder: absent, empty, or where a run of the same configuration and data was left: it goes on from the state
            that was saved last, or from its beginning where none was.
        open_start: reads the folder that `config.start` names; `hub.read_start` knows pretrained folders too.
    Returns:
        What a reward model's evaluation says, or its loss alone where no two responses differ in score; what a language
        model's says; None if the observer stopped the run, whose state is saved.
    Raises:
        InputError: the data, the folder or a loss is not as it must be.
    """
    check_alike(config)
    start = None if config.start is None else open_start(config.start)
    for note in () if start is None else start.notes:
        observer.note(note)
    _check_before_any_work(config, folder)
    job = Job(folder, to_json(config))
    with contextlib.ExitStack() as held:

        def begin() -> None:
            nonlocal job
            job = held.enter_context(claim(folder, job.asked))
            if job.is_begun:
                check_unchanged(job.begun, config, start, observer.prepare, observer.note)
            job.begin(lambda path: prepare(config, path, start, observer.prepare, observer.note))

        by_the_first(begin)
        check_same_folder(job.begun)
        prepared = read_prepared(job.begun)
        _note_what_was_left_out(prepared, observer)
        state = job.restore(observer.note)
        written = {} if state is None else state.progress["written"]
        with Journal(folder if is_writer() else None, written, observer.note) as journal:
            trained = _Stages(prepared, start, job, observer, journal, state).train()
        return None if trained is None else _finish(prepared, *trained, job, observer)


def _check_before_any_work(config: RunConfig, folder: Path) -> None:
    """Refuse adapters of matrices that are not there, and a folder that lies among the data."""
    if config.lora is not None:
        with torch.device("meta"):  # shapes alone
            add_adapters(RewardModel(config.model).backbone, config.lora)
    for path in config.data.data + config.data.validation:
        inside = path.is_dir() and folder.absolute().is_relative_to(path.absolute())
        require(not inside, f"{folder}: lies in {path}, whose files are read as data; name a folder outside")


def _note_what_was_left_out(prepared: Prepared, observer: Observer) -> None:
    """Say what was cut, merged or dropped, and how many prompts of the files for validation stand in training too."""
    if prepared.data["unread"]:
        observer.note(prepared.data["unread"])
    for name, count in prepared.data["counts"].items():
        observer.note(f"{name}: {count:,}")
    if shared := prepared.data["summary"]["shared_prompts"]:
        observer.note(f"validation: {shared:,} of its prompts stand in training too")


@dataclass
class _Stages:
    """The stages of one run."""

    prepared: Prepared
    start: run_folder.Start | None
    job: Job
    observer: Observer
    journal: Journal
    state: State | None
    """Where an earlier process left the run."""

    def __post_init__(self) -> None:
        self.config = self.prepared.config
        self.resume_at = None if self.state is None else self.state.progress.get("stage")
        known = self.resume_at in (None, *self.config.stages)
        require(known, f"{self.job.folder}: its state is of stage={self.resume_at}, which the run does not have")

    def train(self) -> tuple[RewardModel | LanguageModel, float] | None:
        """Return the trained model and its lowest validation loss; None if training was stopped."""
        torch.manual_seed(self.config.seed)
        model = self._begin(RewardModel(self.config.model))
        if LANGUAGE_MODEL in self.config.stages and self.resume_at != REWARD:
            language_model = self._begin(LanguageModel(self.config.model))
            trained = self._train(language_model, LANGUAGE_MODEL, self.config.language_model)
            if trained is None or REWARD not in self.config.stages:
                return trained
            language_model, _ = trained
            model.backbone.load_state_dict(language_model.backbone.state_dict())
            torch.manual_seed(self.config.reward.seed)  # dropout has left each process's generator elsewhere
        if self.config.reads_the_average:
            model.backbone.begin_as_average()
        if self.config.lora is not None and self.start is None:
            add_adapters(model.backbone, self.config.lora)
        return self._train(model, REWARD, self.config.reward)

    def _begin(self, model: M) -> M:
        """Put the weights that there are into a new model, and adapters beside them."""
        if self.start is not None:
            self.start.take_over(model)
            if self.config.lora is not None:
                add_adapters(model.backbone if isinstance(model, RewardModel) else model, self.config.lora)
        return model

    def _train(self, model: M, stage: str, config: TrainConfig) -> tuple[M, float] | None:
        """Run one stage and return the model with the best weights, and its loss; None if training was stopped."""
        unsharded = copy.deepcopy(model) if config.shard else None  # takes the whole weights in the end
        model.to(pick_device())
        if config.precision == "bfloat16" and not computes_bfloat16(pick_device()):
            self.observer.note(f"{stage}: bfloat16 is slower than float32 here: this processor has no products in it")
        streams = [self._stream(stage, part, config.seed) for part in ("training", "validation")]
        if config.epochs is None:
            config = dataclasses.replace(config, epochs=usual_epochs(streams[0], config, self.start is None))
        objective = RewardObjective(config) if stage == REWARD else LanguageModelObjective()
        trainer = Trainer(model, objective, *streams, config)
        if trainer.steps < FEW_STEPS:
            more = f"smaller batches (--comparisons-per-batch) or more passes (--{stage.replace(' ', '-')}.epochs)"
            self.observer.note(f"{stage}: {trainer.steps} steps in all are few to learn from: {more} give more")
        if self.resume_at == stage:
            restore_trainer(trainer, self.state)
        self.observer.begin(stage, trainer.progress.step, trainer.steps)
        self.journal.begin(stage, trainer.progress.step)
        finished = self._follow(trainer, stage)
        trainer.use_best()
        if unsharded is not None:
            unsharded.load_state_dict(whole_weights(model))
        return (unsharded or model, trainer.progress.best_loss) if finished else None

    def _stream(self, stage: str, part: str, seed: int) -> Stream:
        store, packing = self.prepared.stores[f"{part} {stage}"], self.config.packing
        if part == "training" and packing.comparisons_per_batch is None:
            packing = dataclasses.replace(packing, comparisons_per_batch=max(1, len(store) // BATCHES))
        return Stream(store, packing, seed, self.config.model.bidirectional)

    def _follow(self, trainer: Trainer, stage: str) -> bool:
        saved, stop = time.monotonic(), False
        for event in trainer.run():
            say_where(f"{stage}, step {event.step}")
            self.journal.write(event)
            self.observer.event(stage, event)
            if isinstance(event, Evaluated) and stage == REWARD:
                self._show_texts(trainer)
            late = time.monotonic() - saved > SECONDS_BETWEEN_SAVES  # by this process's clock
            stop, late = any_wants(stop or self.observer.should_stop(), late)
            if stop or late or isinstance(event, Evaluated):
                tensors, progress = trainer_state(trainer, stage)
                self.job.save(tensors, {**progress, "written": self.journal.written()})
                saved = time.monotonic()
            if stop:
                return False
        return True

    def _show_texts(self, trainer: Trainer) -> None:
        shown = self.prepared.validation[:SHOWN_TEXTS]
        rewards = score_comparisons(trainer.model, self.prepared.tokenizer, self.config.packing, shown)
        self.journal.write_texts(trainer.progress.step, shown, rewards)


def read_config(folder: Path) -> RunConfig:
    """Return the configuration that a run was begun with, or that it was finished with.

    Raises:
        InputError: no run was begun there, or its file is broken.
    """
    begun = folder / BEGUN / ASKED
    return config_in(begun if begun.is_file() else folder / run_folder.CONFIG)


def check_resumable(folder: Path) -> None:
    """Refuse to go on with what is no run or is finished.

    Raises:
        InputError: says which.
    """
    run_folder.check_is_folder(folder)
    require(not is_finished(folder), f"{folder}: this run is finished: there is nothing to go on with")
    require((folder / BEGUN).is_dir(), f"{folder}: no run has begun here; begin one with: minirm train")


def _finish(
    prepared: Prepared, model: RewardModel | LanguageModel, loss: float, job: Job, observer: Observer
) -> Evaluation | Surprise | Fit:
    """Evaluate on the validation split, which all processes do together; the first writes model, page and figures."""
    if prepared.config.lora is not None:
        merge(model)
    by_the_first(lambda: _write_model(prepared, model, job))
    observer.end()
    if isinstance(model, LanguageModel):
        found = Surprise(loss, math.exp(loss))
        figures = {"validation": dataclasses.asdict(found)}
    else:
        found, figures = _evaluate(prepared, model, loss, job.folder)

    def end() -> None:
        disk.write_json(job.folder / run_folder.METRICS, figures)
        job.finish()

    by_the_first(end)
    return found


def _write_model(prepared: Prepared, model: RewardModel | LanguageModel, job: Job) -> None:
    """Write weights and description."""
    disk.write_tensors(job.folder / run_folder.WEIGHTS, model.state_dict())
    for name in run_folder.DESCRIPTION:
        disk.write_whole(job.folder / name, lambda path, name=name: shutil.copyfile(job.begun / name, path))
    run_folder.write_tokenizer(job.folder, prepared.tokenizer)


def _evaluate(prepared: Prepared, model: RewardModel, loss: float, folder: Path) -> tuple[Evaluation | Fit, dict]:
    """Evaluate a reward model on the validation split, write its page, and return its figures too."""
    found: Evaluation | Fit
    run = scoring.LoadedRun(model, prepared.tokenizer, prepared.config.packing, None, None, prepared.training_prompts)
    if any(len(set(comparison.scores)) > 1 for comparison in prepared.validation):
        rewards, found = RewardScorer(run).evaluate(prepared.validation, seed=prepared.config.reward.seed)
        figures, title, history = found.to_json(), f"{folder.name}: validation", read_log(folder, REWARD)
        page = {"title": title, "history": history}
        by_the_first(lambda: write_evaluation(folder, prepared.validation, rewards, found, **page))
    else:
        rewards, found = RewardScorer(run).score_comparisons(prepared.validation), Fit(loss)
        figures = dataclasses.asdict(found)
    everything = np.fromiter(chain.from_iterable(rewards), float)
    spread = {"split": "validation", "mean": float(everything.mean()), "std": float(max(everything.std(), 1e-12))}
    return found, {"validation": figures, "normalisation": spread}


def usual_epochs(training: Stream, config: TrainConfig, from_nothing: bool) -> float:
    """Return the epochs that suit so much data: 2, and up to 6 while they are fewer steps than a network needs."""
    least, most = EPOCHS
    steps = math.ceil(len(training.plan(0)) / config.accumulate)
    return min(max(least, ENOUGH_STEPS / steps), most) if from_nothing else least


def is_writer() -> bool:
    """Whether this process, of those training together, is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def pick_device() -> torch.device:
    """Return the GPU of this process, PyTorch's current one, where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has matrix products in bfloat16; a CPU without (AVX2 alone) takes some 100 times as long."""
    has_onednn = torch.backends.mkldnn.is_available()
    return device.type != "cpu" or (has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
