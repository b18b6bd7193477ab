"""From prepared data to a run folder: language-model stage, reward stage, evaluation, or one of the stages alone."""

import contextlib
import dataclasses
import importlib.metadata
import math
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from minirm import disk
from minirm.config import TrainConfig
from minirm.config_json import config_from_json, to_json
from minirm.disk import alone_in, write_whole
from minirm.errors import InputError
from minirm.evaluation import scoring
from minirm.evaluation.evaluate import Evaluation, Surprise
from minirm.evaluation.report import write_evaluation
from minirm.evaluation.scoring import RewardScorer, score_comparisons
from minirm.models.language_model import LanguageModel
from minirm.models.lora import add_adapters, merge
from minirm.models.reward_model import RewardModel
from minirm.runs import run_folder
from minirm.runs.journal import Journal, Observer, read_log
from minirm.runs.prepare import Prepared, prepare
from minirm.runs.resume import restore_progress, save_progress, saved_stage
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD, RunConfig
from minirm.tokens.stream import Stream
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.loop import Evaluated, Trainer
from minirm.training.objectives import LanguageModelObjective, RewardObjective

SHOWN_TEXTS = 8
"""Validation comparisons whose texts and rewards are logged at each evaluation."""
SECONDS_BETWEEN_SAVES = 300.0
M = TypeVar("M", RewardModel, LanguageModel)
OpenStart = Callable[[Path], run_folder.Start]


def train_run(
    config: RunConfig,
    folder: Path,
    observer: Observer,
    *,
    resume: bool = False,
    open_start: OpenStart = run_folder.read_start,
) -> Evaluation | Surprise | None:
    """Train the stages of a run into its folder and return the evaluation on the validation part.

    Args:
        folder: must be absent or empty, unless training is resumed.
        resume: go on from the state that an interrupted run of the same configuration and data saved, or from its
            beginning where it had saved none.
        open_start: reads the folder that `config.start` names; `hub.read_start` knows pretrained folders too.
    Returns:
        What a reward model's evaluation says, or a language model's; None if the observer stopped the run, whose state
        is saved.
    Raises:
        InputError: the data, the folder or a loss is not as it must be.
    """
    with alone_in(folder) if is_writer() else contextlib.nullcontext():
        if not resume and is_writer() and any(folder.iterdir()):
            raise InputError(f"{folder}: is not empty; name another folder, or go on with: minirm resume {folder}")
        start = None if config.start is None else open_start(config.start)
        return _train_run(config, folder, observer, start, resume=resume)


def _train_run(
    config: RunConfig, folder: Path, observer: Observer, start: run_folder.Start | None, *, resume: bool
) -> Evaluation | Surprise | None:
    if config.lora is not None:
        with torch.device("meta"):  # shapes alone: a matrix that is not there is refused before any work
            add_adapters(RewardModel(config.model).backbone, config.lora)
    with tempfile.TemporaryDirectory(prefix="minirm-") as work:
        prepared = prepare(config, Path(work), start)
        _note_what_was_left_out(prepared, observer)
        vocab_size = prepared.tokenizer.vocab_size if start is None else start.model.vocab_size
        config = replace(config, model=replace(config.model, vocab_size=vocab_size))
        if resume:
            _check_unchanged(prepared, folder)
        elif is_writer():
            _write_description(config, prepared, folder)
        resume_at = saved_stage(folder) if resume else None
        trained = _Stages(config, prepared, start, folder, observer, resume_at).train()
    if trained is None or not is_writer():
        return None
    model, loss = trained
    _write_weights(config, model, folder)
    observer.end()
    if isinstance(model, LanguageModel):
        surprise = Surprise(loss, math.exp(loss))
        disk.write_json(folder / run_folder.METRICS, {"validation": dataclasses.asdict(surprise)})
        return surprise
    return finish(config, prepared, model, folder)


def _note_what_was_left_out(prepared: Prepared, observer: Observer) -> None:
    """Say what was cut, merged or dropped, and how many prompts of the files for validation stand in training too."""
    for name, count in sorted(prepared.counts.items()):
        observer.note(f"{name}: {count:,}")
    if prepared.summary.shared_prompts:
        observer.note(f"validation: {prepared.summary.shared_prompts:,} of its prompts stand in training too")


@dataclass
class _Stages:
    """The stages of one run."""

    config: RunConfig
    prepared: Prepared
    start: run_folder.Start | None
    folder: Path
    observer: Observer
    resume_at: str | None

    def train(self) -> tuple[RewardModel | LanguageModel, float] | None:
        """Return the trained model and its lowest validation loss; None if training was stopped."""
        torch.manual_seed(self.config.seed)
        model = self._begin(RewardModel(self.config.model))
        if LANGUAGE_MODEL in self.config.stages and self.resume_at != REWARD:
            language_model = self._begin(LanguageModel(self.config.model))
            loss = self._train(language_model, LANGUAGE_MODEL, self.config.language_model)
            if loss is None:
                return None
            if REWARD not in self.config.stages:
                return language_model, loss
            model.backbone.load_state_dict(language_model.backbone.state_dict())
            torch.manual_seed(self.config.reward.seed)  # dropout has left each process's generator elsewhere
        if self.config.reads_the_average:
            model.backbone.begin_as_average()
        if self.config.lora is not None and self.start is None:
            add_adapters(model.backbone, self.config.lora)
        loss = self._train(model, REWARD, self.config.reward)
        return None if loss is None else (model, loss)

    def _begin(self, model: M) -> M:
        """Put the weights that there are into a new model, and adapters beside them."""
        if self.start is not None:
            self.start.take_over(model)
            if self.config.lora is not None:
                add_adapters(model.backbone if isinstance(model, RewardModel) else model, self.config.lora)
        return model

    def _train(self, model: nn.Module, stage: str, config: TrainConfig) -> float | None:
        """Run one stage, put the best weights into the model and return its loss; None if training was stopped."""
        model.to(pick_device())
        if config.precision == "bfloat16" and not computes_bfloat16(pick_device()):
            self.observer.note(f"{stage}: bfloat16 is slower than float32 here: this processor has no products in it")
        objective = RewardObjective(config) if stage == REWARD else LanguageModelObjective()
        streams = [
            Stream(
                self.prepared.stores[f"{part} {stage}"],
                self.config.packing,
                config.seed,
                self.config.model.bidirectional,
            )
            for part in ("training", "validation")
        ]
        trainer = Trainer(model, objective, *streams, config)
        if self.resume_at == stage:
            restore_progress(self.folder, trainer)
        self.observer.begin(stage, trainer.progress.step, trainer.steps)
        with Journal(self.folder if is_writer() else None, stage, trainer.progress) as journal:
            finished = self._follow(trainer, stage, journal)
        trainer.use_best()
        return trainer.progress.best_loss if finished else None

    def _follow(self, trainer: Trainer, stage: str, journal: Journal) -> bool:
        saved, stop = time.monotonic(), False
        for event in trainer.run():
            journal.write(event)
            self.observer.event(stage, event)
            if isinstance(event, Evaluated) and stage == REWARD:
                self._show_texts(trainer, journal)
            late = time.monotonic() - saved > SECONDS_BETWEEN_SAVES  # by this process's clock
            stop, late = trainer.any_process(stop or self.observer.should_stop(), late)
            if stop or late or isinstance(event, Evaluated):
                trainer.settle()
                if not trainer.is_settled:
                    continue
                if is_writer():
                    save_progress(self.folder, trainer, stage)
                saved = time.monotonic()
            if stop:
                return False
        return True

    def _show_texts(self, trainer: Trainer, journal: Journal) -> None:
        shown = self.prepared.validation[:SHOWN_TEXTS]
        rewards = score_comparisons(trainer.model, self.prepared.tokenizer, self.config.packing, shown)
        journal.write_texts(trainer.progress.step, shown, rewards)


def read_config(folder: Path) -> RunConfig:
    """Return the configuration that a run folder was trained with.

    Raises:
        InputError: config.json is missing or broken.
    """
    path = folder / run_folder.CONFIG
    values = disk.read_json(path)
    parts = {f.name: values[f.name] for f in dataclasses.fields(RunConfig) if f.name in values}
    return config_from_json(RunConfig, parts, str(path))


def finish(config: RunConfig, prepared: Prepared, model: RewardModel, folder: Path) -> Evaluation:
    """Evaluate a reward model on the validation part, and write figures and pictures."""
    run = scoring.LoadedRun(model, prepared.tokenizer, config.packing, None, None, prepared.training_prompts)
    rewards, evaluation = RewardScorer(run).evaluate(prepared.validation, seed=config.reward.seed)
    everything = np.concatenate([np.array(row) for row in rewards])
    spread = {"split": "validation", "mean": float(everything.mean()), "std": float(max(everything.std(), 1e-12))}
    disk.write_json(folder / run_folder.METRICS, {"validation": evaluation.to_json(), "normalisation": spread})
    history = read_log(folder, REWARD)
    write_evaluation(
        folder, prepared.validation, rewards, evaluation, title=f"{folder.name}: validation", history=history
    )
    return evaluation


def _write_weights(config: RunConfig, model: RewardModel | LanguageModel, folder: Path) -> None:
    if config.lora is not None:
        merge(model)
    disk.write_tensors(folder / run_folder.WEIGHTS, model.state_dict())


def _write_description(config: RunConfig, prepared: Prepared, folder: Path) -> None:
    versions = {"minirm": minirm_version(), "torch": torch.__version__, "python": platform.python_version()}
    disk.write_json(
        folder / run_folder.CONFIG,
        {
            "format": run_folder.FORMAT,
            "versions": versions,
            **config.to_json(),
            "template": to_json(prepared.tokenizer.template),
        },
    )
    write_whole(folder / run_folder.TOKENIZER, prepared.tokenizer.save)
    disk.write_json(folder / run_folder.DATA, prepared.description())
    run_folder.write_prompts(folder / run_folder.PROMPTS, prepared.training_prompts)


def _check_unchanged(prepared: Prepared, folder: Path) -> None:
    """Refuse to go on with other data than the run began with; nothing is touched."""
    template, prompts = prepared.tokenizer.template, folder / run_folder.PROMPTS
    tokenizer = Tokenizer.load(folder / run_folder.TOKENIZER, template)
    same = {
        run_folder.CONFIG: disk.read_json(folder / run_folder.CONFIG).get("template") == to_json(template),
        run_folder.TOKENIZER: tokenizer.bpe.to_str() == prepared.tokenizer.bpe.to_str(),
        run_folder.PROMPTS: np.array_equal(run_folder.read_prompts(prompts), prepared.training_prompts),
        run_folder.DATA: disk.read_json(folder / run_folder.DATA) == prepared.description(),
    }
    changed = [name for name, is_same in same.items() if not is_same]
    if changed:
        named = ", ".join(changed)
        raise InputError(f"{folder}: the data changed since this run began ({named} would differ): train anew")


def minirm_version() -> str:
    """Return the installed version."""
    return importlib.metadata.version("minirm")


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
