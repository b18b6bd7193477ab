"""minirm train, and minirm resume, which goes on with it."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from minirm.cli import STOPPED
from minirm.cli.console import new_console, print_evaluation
from minirm.cli.options import LoraOptions, ModelOptions
from minirm.cli.processes import joined_processes
from minirm.cli.watcher import Watcher
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.errors import InputError
from minirm.evaluation.evaluate import Fit, Surprise
from minirm.files import disk
from minirm.hub.reading import read_start
from minirm.runs.job import check_resumable, read_config, train_run
from minirm.runs.run_config import DataConfig, RunConfig, Stage

FIRST_STAGE = TrainConfig(epochs=None, learning_rate=1e-3)
SECOND_STAGE = TrainConfig(epochs=None)


@dataclass(frozen=True)
class Train:
    """Train a reward model on files of comparisons: first as a language model, then on the preferences.

    With --stage lm, a language model alone, on conversations or responses that nobody compared.
    """

    data: OmitArgPrefixes[DataConfig]
    out: Path
    """Folder of the run; empty, absent, or where this command was stopped."""
    model: OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    packing: OmitArgPrefixes[PackingConfig] = field(default_factory=PackingConfig)
    stage: Stage | None = None
    """lm: the first stage alone. reward: the second alone. both: the default, unless there is a --from, then reward."""
    start: Annotated[Path | None, arg(name="from")] = None
    """Run to go on from, a language model or a reward model, or a pretrained folder, in Hugging Face's layout: its
    weights, tokenizer and model are taken over."""
    language_model: TrainConfig = field(default_factory=lambda: FIRST_STAGE)
    """First stage; epochs 0 leaves it out."""
    reward: TrainConfig = field(default_factory=lambda: SECOND_STAGE)
    """Second stage."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank adapters."""

    def run(self) -> int:
        """Train, and print the evaluation on the validation part."""
        config = self.configure()
        disk.check_folder(self.out)
        return _train(config, self.out)

    def configure(self) -> RunConfig:
        """Return the configuration of the run.

        Raises:
            InputError: what is asked for does not go together.
        """
        stage = self.stage or ("both" if self.start is None else "reward")
        if stage == "reward" and self.language_model.epochs != 0 and self.language_model != FIRST_STAGE:
            raise InputError("--language-model.… goes with --stage both or lm: this run has no such stage")
        if stage == "lm" and self.reward != SECOND_STAGE:
            raise InputError("--reward.… goes with --stage both or reward: this run has no such stage")
        packing, model = self._shapes()
        stages = self.language_model, self.reward
        return RunConfig(self.data, model, packing, *stages, self.lora.configure(), stage, self.start)

    def _shapes(self) -> tuple[PackingConfig, ModelConfig]:
        if self.start is None:
            return self.packing, self.model.configure(self.packing.max_tokens)
        start = read_start(self.start).model
        model, packing = self.model.take_over(start, self.data.vocab_size, self.start), self.packing
        if packing.max_tokens == PackingConfig.max_tokens:  # which nobody asked for
            packing = replace(packing, max_tokens=min(packing.max_tokens, model.max_positions))
        return packing, model


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was stopped."""

    folder: Positional[Path]
    """The run's folder."""

    def run(self) -> int:
        """Train on from the saved state, or from the beginning where none was saved."""
        check_resumable(self.folder)
        return _train(read_config(self.folder), self.folder)


def _train(config: RunConfig, folder: Path) -> int:
    with joined_processes():
        console = new_console()
        with Watcher(console) as watcher:
            evaluation = train_run(config, folder, watcher, open_start=read_start)
    if evaluation is not None:
        if isinstance(evaluation, Surprise):
            nats, perplexity = evaluation.nats_per_token, evaluation.perplexity
            console.print(f"validation: {nats:.3f} nats per token, perplexity {perplexity:.2f}")
        elif isinstance(evaluation, Fit):
            console.print(f"validation: loss {evaluation.loss:.3f}; no two responses to compare, so no accuracy")
        else:
            print_evaluation(console, evaluation, "validation")
        console.print(f"run: {folder}", soft_wrap=True)
    elif watcher.stopped:
        console.print(f"stopped and saved; go on with: minirm resume {shlex.quote(str(folder))}", soft_wrap=True)
        return STOPPED
    return 0
