"""Reward models from scratch: train on comparisons of responses, evaluate, and score."""

import contextlib
import io
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TextIO

import torch
import torch.distributed as dist
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from minirm import checkpoint
from minirm.config import (
    SIZES,
    Backbone,
    DataConfig,
    LoraConfig,
    Matrix,
    ModelConfig,
    PackingConfig,
    RunConfig,
    Stage,
    Style,
    TrainConfig,
    sized,
)
from minirm.demo import run_demo, verdict
from minirm.disk import write_whole
from minirm.errors import InputError, name_paths
from minirm.evaluate import Evaluation, as_table, evaluate
from minirm.evaluation import Surprise
from minirm.evaluation_page import write_evaluation
from minirm.files import Row, read_json_lines, read_rows
from minirm.films import praise
from minirm.hugging_face import export_run, read_start
from minirm.memory import keep_freed_memory
from minirm.records import read_comparisons
from minirm.rewardbench import write_results
from minirm.rlhf.follow import Follow, mean_rewards, reward_of
from minirm.rlhf.ppo import PPOConfig
from minirm.rlhf.sampling import Dialogue
from minirm.run import is_writer, read_config, train_run
from minirm.scoring import RewardScorer, load, swap_prompts
from minirm.survey import as_rows, describe, usable
from minirm.synthetic import World
from minirm.tokenizer import Tokenizer
from minirm.watcher import Watcher

ONCE = ("--data", "--validation", "--other")
"""Options that take several values and would silently forget those given before."""
STOPPED, BROKEN_PIPE = 130, 141
"""Exit statuses of what SIGINT and SIGPIPE end: 128 and the signal's number."""
WIDTH_IN_A_PIPE = 120
SHOWN_SAMPLES = 4
FIRST_STAGE = TrainConfig(epochs=2.0, learning_rate=1e-3)
UNPAIRED = "backslashreplace"
"""How half a surrogate pair is written: as JSON spells it."""


def _console() -> Console:
    """Return a console that prints text as it is; file names are no markup."""
    width = None if sys.stdout.isatty() else WIDTH_IN_A_PIPE
    return Console(width=width, markup=False, emoji=False, highlight=False, quiet=not is_writer())


@dataclass(frozen=True)
class ModelOptions:
    """The size by name, and any field of it by hand."""

    size: Literal[tuple(SIZES)] | None = None  # type: ignore[valid-type]
    """tiny 2×128, small 4×256, medium 8×512, gpt2 12×768, gpt2-medium 24×1024 (layers × width); by default small."""
    backbone: Backbone | None = None
    """A transformer, PyTorch's nn.TransformerDecoder, or a recurrent network; by default transformer."""
    style: Style | None = None
    """gpt2: LayerNorm, learned positions, GELU. llama: RMSNorm, rotary positions, SwiGLU. bert: an encoder, one row per
    response, without a first stage: --no-share-prompt --stage reward. By default gpt2."""
    layers: int | None = None
    """Instead of the size's."""
    width: int | None = None
    """Instead of the size's."""
    heads: int | None = None
    """Instead of the size's."""
    kv_heads: int | None = None
    """Fewer than heads: grouped-query attention."""
    mlp_width: int | None = None
    """Inner width of the MLP."""
    dropout: float | None = None
    """Probability that a hidden unit is dropped in training."""

    def configure(self, max_tokens: int) -> ModelConfig:
        """Return the model's configuration, with room for `max_tokens` positions."""
        fields = {name: value for name, value in vars(self).items() if name != "size"}
        return sized(self.size or "small", max_positions=max_tokens, **fields)

    def take_over(self, model: ModelConfig, vocab_size: int | None, folder: Path) -> ModelConfig:
        """Return the configuration of another run's model, which may be given another dropout and nothing else.

        Raises:
            InputError: an option, or `vocab_size`, asks for another model.
        """
        asked = {**SIZES.get(self.size, {}), **{k: v for k, v in vars(self).items() if v is not None}}
        asked |= {"vocab_size": vocab_size or model.vocab_size}
        for name in sorted(asked.keys() - {"size", "dropout"}):
            has = getattr(model, name)
            if asked[name] != has:
                raise InputError(f"{name}={asked[name]} does not go with --from {folder}: its model has {name}={has}")
        return model if self.dropout is None else replace(model, dropout=self.dropout)


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters, learned instead of all weights in the reward stage; --lora.rank asks for them."""

    rank: int | None = None
    """Rank of the adapters; without it, all weights learn."""
    alpha: float | None = None
    """By default 16: what the adapters say counts alpha/rank times."""
    dropout: float | None = None
    """Probability that an input of the adapters is dropped in training; by default 0."""
    matrices: tuple[Matrix, ...] | None = None
    """Which matrices are adapted; by default query and value."""

    def configure(self) -> LoraConfig | None:
        """Return the adapters' configuration, or None for none.

        Raises:
            InputError: adapters are described, and no rank is given.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.rank is None and given:
            raise InputError(f"--lora.{min(given)} goes with --lora.rank: without a rank there are no adapters")
        return LoraConfig(**given) if given else None


@dataclass(frozen=True)
class Train:
    """Train a reward model on files of comparisons: first as a language model, then on the preferences.

    With --stage lm, a language model alone, on conversations or responses that nobody compared.
    """

    data: OmitArgPrefixes[DataConfig]
    out: Path
    """Folder of the run; must be empty or absent."""
    model: OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    packing: OmitArgPrefixes[PackingConfig] = field(default_factory=PackingConfig)
    stage: Stage | None = None
    """lm: the first stage alone. reward: the second alone. both: the default, unless there is a --from, then reward."""
    start: Annotated[Path | None, arg(name="from")] = None
    """Run to go on from, a language model or a reward model, or a checkpoint in Hugging Face's layout: its weights,
    tokenizer and model are taken over."""
    language_model: TrainConfig = field(default_factory=lambda: FIRST_STAGE)
    """First stage; epochs 0 leaves it out."""
    reward: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=2.0))
    """Second stage."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank adapters."""

    def run(self) -> int:
        """Train, and print the evaluation on the validation part."""
        stage = self.stage or ("both" if self.start is None else "reward")
        if stage == "reward" and self.language_model.epochs and self.language_model != FIRST_STAGE:
            raise InputError("--language-model.… goes with --stage both or lm: this run has no such stage")
        packing, model = self._shapes()
        stages = self.language_model, self.reward
        config = RunConfig(self.data, model, packing, *stages, self.lora.configure(), stage, self.start)
        checkpoint.check_folder(self.out)
        return _train(config, self.out, resume=False)

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
        """Train on from the saved state."""
        checkpoint.check_resumable(self.folder)
        return _train(read_config(self.folder), self.folder, resume=True)


def _train(config: RunConfig, folder: Path, *, resume: bool) -> int:
    with _processes():
        console = _console()
        with Watcher(console) as watcher:
            evaluation = train_run(config, folder, watcher, resume=resume)
    if evaluation is not None:
        if isinstance(evaluation, Surprise):
            nats, perplexity = evaluation.nats_per_token, evaluation.perplexity
            console.print(f"validation: {nats:.3f} nats per token, perplexity {perplexity:.2f}")
        else:
            _print_evaluation(console, evaluation, "validation")
        console.print(f"run: {folder}", soft_wrap=True)
    elif watcher.stopped:
        console.print(f"stopped and saved; go on with: minirm resume {shlex.quote(str(folder))}", soft_wrap=True)
        return STOPPED
    return 0


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """Join the other processes when torchrun has started several."""
    if "RANK" not in os.environ:
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Demo:
    """Make a world of preferences whose truth is known, train on it, and report how much of the truth was learned."""

    out: Path
    """Folder for the report, the data and the run; must be empty or absent."""
    seed: int = 0
    """Another seed, another world and other weights."""

    def run(self) -> int:
        """Make the world, train, report; the last line is the verdict."""
        checkpoint.check_folder(self.out)
        console = _console()
        with Watcher(console) as watcher:
            tested = run_demo(self.out, watcher, seed=self.seed)
        if tested is None:
            console.print("stopped")
            return STOPPED
        table = Table("test set", "accuracy", "95% interval", "")
        for one in tested:
            table.add_row(*one.row)
        console.print(table)
        console.print(f"report: {self.out / 'report.html'}", soft_wrap=True)
        console.print(verdict(tested), soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Eval:
    """Evaluate a run on files of comparisons."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder, or a reward model in Hugging Face's layout."""
    data: tuple[Path, ...]
    """Files or folders of comparisons."""
    format: str | None = None
    """Format of the files; by default it is recognised by content."""
    out: Path | None = None
    """Folder for metrics.json and a page with pictures, report.html; with --format rewardbench also for its files."""

    def run(self) -> int:
        """Score the files, and print the evaluation."""
        if self.out is not None:
            checkpoint.check_folder(self.out)
            if (self.out / checkpoint.CONFIG).exists():
                raise InputError(f"{self.out}: is a run folder, whose own report would be lost; name another folder")
        scorer = load(self.run_folder)
        counts: Counter[str] = Counter()
        comparisons = list(usable(read_comparisons(self.data, format=self.format), counts))
        if not comparisons:
            raise InputError(f"{name_paths(self.data)}: no two responses differ in score: nothing to evaluate")
        rewards, known = scorer.score_comparisons(comparisons), scorer.run.training_prompts
        evaluation = evaluate(
            comparisons,
            rewards,
            swapped_rewards=scorer.score_comparisons(swap_prompts(comparisons)),
            training_prompts=None if known is None else checkpoint.prompt_set(known),
        )
        console = _console()
        _print_evaluation(console, evaluation, name_paths(self.data))
        for name, count in sorted(counts.items()):
            console.print(f"{name}: {count:,}")
        if self.out is not None:
            title = f"{self.run_folder} on {name_paths(self.data)}"
            write_evaluation(self.out, comparisons, rewards, evaluation, title=title)
            if self.format == "rewardbench":
                write_results(self.out, comparisons, rewards, model=str(self.run_folder))
            console.print(f"report: {self.out / 'report.html'}", soft_wrap=True)
        return 0


def _print_evaluation(console: Console, evaluation: Evaluation, name: str) -> None:
    table = Table("", "value", "95% interval", "", title=name)
    for row in as_table(evaluation):
        table.add_row(*map(str, row))
    console.print(table)


@dataclass(frozen=True)
class Score:
    """Score responses: to one prompt given here, or in a file or pipe of JSON Lines.

    A line holds "response", or "responses" as a list, and mostly "prompt", as text or as a list of messages; or it is
    any record that training accepts. It comes back with "reward" or "rewards" added, in the order in which it came.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder, or a reward model in Hugging Face's layout."""
    prompt: str | None = None
    """The prompt of every --response."""
    response: UseAppendAction[tuple[str, ...]] = ()
    """A response, for one line of output; may be given several times. One that begins with a dash: --response=-1."""
    file: str | None = None
    """What to score: JSON Lines, JSON or CSV, .gz too; - is JSON Lines from standard input."""
    out: Path | None = None
    """File to write, complete or not at all. By default standard output."""
    normalise: bool = False
    """Subtract the mean and divide by the spread that rewards had on the run's validation part."""

    def run(self) -> int:
        """Score, and write a line for each response or record."""
        if (self.file is None) == (not self.response):
            raise InputError("score needs either --response, with or without --prompt, or --file")
        if self.file is not None and self.prompt is not None:
            raise InputError("--prompt goes with --response; with --file, each line holds its own prompt")
        if self.out is not None:
            checkpoint.check_file(self.out)
        scorer = load(self.run_folder)
        if self.file is None:
            rewards = scorer.score([self.prompt] * len(self.response), self.response, normalise=self.normalise)
            lines: Iterable[str] = (f"{reward:.6f}" for reward in rewards)
        else:
            lines = self._scored_lines(scorer)
        if self.out is None:
            _write_lines(lines, sys.stdout)
        else:
            write_whole(self.out, lambda path: _write_file(lines, path))
        return 0

    def _scored_lines(self, scorer: RewardScorer) -> Iterator[str]:
        for record in scorer.score_rows(_rows(self.file), normalise=self.normalise):
            yield json.dumps(record, ensure_ascii=False)


def _rows(file: str) -> Iterator[Row]:
    return read_json_lines(sys.stdin.buffer, "stdin") if file == "-" else read_rows(Path(file))


def _write_lines(lines: Iterable[str], stream: TextIO) -> None:
    for line in lines:
        stream.write(line + "\n")
    stream.flush()


def _write_file(lines: Iterable[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", errors=UNPAIRED) as stream:
        _write_lines(lines, stream)


@dataclass(frozen=True)
class Export:
    """Write a run as a sequence classifier for transformers: weights, tokenizer, chat template, model card."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder."""
    out: Path
    """Folder to write, complete or not at all; must be empty or absent."""

    def run(self) -> int:
        """Export the run."""
        checkpoint.check_folder(self.out)
        export_run(self.run_folder, self.out)
        _console().print(f"model: {self.out}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Data:
    """Show what files of comparisons hold, and what of it a reward model can learn from."""

    files: Positional[tuple[Path, ...]]
    """Files or folders."""
    other: tuple[Path, ...] = ()
    """Other files, of a test set for instance, whose prompts should not occur in these."""
    format: str | None = None
    """Format of the files; by default it is recognised by content."""

    def run(self) -> int:
        """Print what the files hold."""
        if not self.files:
            raise InputError("data needs at least one file or folder")
        other = read_comparisons(self.other, format=self.format) if self.other else None
        summary = describe(read_comparisons(self.files, format=self.format), other)
        table = Table("", "", title=name_paths(self.files))
        for name, value in as_rows(summary):
            table.add_row(name, value)
        _console().print(table)
        return 0


@dataclass(frozen=True)
class TrainTokenizer:
    """Train a tokenizer on the texts of files of comparisons."""

    data: tuple[Path, ...]
    """Files or folders."""
    out: Path
    """File to write, in the format of the tokenizers library."""
    vocab_size: int | None = None
    """Tokens, special ones included; by default 8192, or as many as the texts give."""
    format: str | None = None
    """Format of the files; by default it is recognised by content."""

    def run(self) -> int:
        """Train the tokenizer, and write it."""
        checkpoint.check_file(self.out)
        rows = read_comparisons(self.data, format=self.format)
        texts = (text for row in rows for text in (*(turn.text for turn in row.prompt), *row.responses))
        tokenizer = Tokenizer.train(texts, self.vocab_size)
        write_whole(self.out, tokenizer.save)
        _console().print(f"{self.out}: {tokenizer.vocab_size} tokens", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Ppo:
    """Let a language model learn from a reward by PPO, near the model that it was, and show what it wrote and writes.

    Stopped by Ctrl-C or a crash, the same command goes on.
    """

    policy: Positional[Path]
    """Run of minirm train --stage lm."""
    out: Path
    """Folder for the policy, a run folder as well; must be empty or absent."""
    reward: Path | None = None
    """Run of a reward model. By default, what share of a film review's opinions is praise."""
    data: tuple[Path, ...] = ()
    """Files or folders with prompts; the last tenth is for before and after. By default, the known-truth world's."""
    dials: OmitArgPrefixes[PPOConfig] = field(default_factory=PPOConfig)

    def run(self) -> int:
        """Train, and print a table of prompts and outputs before and after."""
        reward = reward_of(load(self.reward)) if self.reward else lambda prompts, texts: list(map(praise, texts))
        follow = Follow(self.policy, self.out, *self._prompts(), reward, self.dials)
        console, began, first = _console(), time.monotonic(), 0
        for one in follow.run():
            first, iterations = first or one.iteration, self.dials.iterations
            left = (time.monotonic() - began) / (one.iteration - first + 1) * (iterations - one.iteration)
            figures = f"reward {one.reward:.3f}, {one.kl_nats:.2f} nats away, {one.tokens:.0f} tokens a response"
            console.print(f"{one.iteration} of {iterations}: {figures}, about {left:,.0f} s left")
        table = Table("prompt", "before", "reward", "after", "reward")
        for one in follow.judged[:SHOWN_SAMPLES]:
            rewards = (f"{reward:.3f}" for reward in (one.reward_before, one.reward_after))
            table.add_row(one.prompt, one.before, next(rewards), one.after, next(rewards))
        console.print(table)
        before, after = mean_rewards(follow.judged)
        console.print(
            f"mean reward over {len(follow.judged)} prompts not trained on: {before:.3f} before, {after:.3f} after"
        )
        console.print(f"run: {self.out}", soft_wrap=True)
        return 0

    def _prompts(self) -> tuple[list[Dialogue], list[Dialogue]]:
        """Return the prompts to learn from, and those for before and after."""
        if not self.data:
            return tuple([one.comparison.prompt for one in World().sample(512, split)] for split in ("train", "test"))
        prompts = list(dict.fromkeys(row.prompt for row in read_comparisons(self.data)))
        if len(prompts) < 2:
            raise InputError(f"{name_paths(self.data)}: one distinct prompt only: two are needed to show one")
        shown = -(-len(prompts) // 10)
        return prompts[:-shown], prompts[-shown:]


COMMANDS = {
    "demo": Demo,
    "train": Train,
    "resume": Resume,
    "eval": Eval,
    "score": Score,
    "export": Export,
    "data": Data,
    "tokenizer": TrainTokenizer,
    "ppo": Ppo,
}

Command = Ppo | Train | Resume | Eval | Score | Export | Data | TrainTokenizer | Demo


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for what the user has to mend, 130 when stopped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=UNPAIRED)
    keep_freed_memory()
    try:
        return _parse(sys.argv[1:] if arguments is None else arguments).run()
    except InputError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        name = error.filename2 or error.filename
        return _refuse(f"{name}: {error.strerror}" if name else str(error))
    except KeyboardInterrupt:
        print("minirm: stopped", file=sys.stderr)
        return STOPPED


def _refuse(message: str) -> int:
    print(f"minirm: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parse(arguments: list[str]) -> Command:
    """Return the command that the arguments ask for, complete and checked.

    Raises:
        InputError: a configuration refuses a value.
        SystemExit: help was asked for, or the arguments are no command; tyro has said so.
    """
    for option in ONCE:
        if arguments.count(option) > 1:
            raise InputError(f"{option} is given twice: name all its files behind one {option}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                dict(COMMANDS), args=arguments, prog="minirm", description=__doc__
            )
    except SystemExit as exit:
        error: BaseException | None = exit
        while error := error.__context__:
            if isinstance(error, InputError):  # one line instead of tyro's box
                raise error from None
        sys.stderr.write(said.getvalue())
        raise
