"""The command line: the only place that parses arguments or prints."""

import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, TextIO

import torch
import torch.distributed as dist
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from minirm import checkpoint
from minirm.config import (
    SIZES,
    Backbone,
    DataConfig,
    ModelConfig,
    PackingConfig,
    Style,
    TrainConfig,
    sized,
)
from minirm.demo import run_demo, verdict
from minirm.errors import InputError
from minirm.evaluate import Evaluation, as_table, evaluate
from minirm.evaluation_page import write_evaluation
from minirm.files import read_json_lines, read_rows
from minirm.journal import Observer
from minirm.records import read_comparisons
from minirm.run import RunConfig, prompt_set, read_config, train_run
from minirm.scoring import RewardScorer, load, swap_prompts
from minirm.survey import as_rows, describe, usable
from minirm.tokenizer import Tokenizer
from minirm.train import Evaluated, Step

LINES_AT_ONCE = 256
"""Lines that `minirm score` reads before it writes their rewards."""

console = Console()


@dataclass(frozen=True)
class ModelOptions:
    """The size by name, and any field of it by hand."""

    size: Literal[tuple(SIZES)] = "small"  # type: ignore[valid-type]
    """tiny 2×128, small 4×256, medium 8×512, gpt2 12×768, gpt2-medium 24×1024 (layers × width)."""
    backbone: Backbone = "transformer"
    """A causal transformer, or a recurrent network."""
    style: Style = "gpt2"
    """gpt2: LayerNorm, learned positions, GELU. llama: RMSNorm, rotary positions, SwiGLU."""
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
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "size"}
        return sized(self.size, max_positions=max_tokens, **fields)


@dataclass(frozen=True)
class Train:
    """Train a reward model on files of comparisons: first as a language model, then on the preferences."""

    data: OmitArgPrefixes[DataConfig]
    out: Path
    """Folder of the run; must be empty or absent."""
    model: OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    packing: OmitArgPrefixes[PackingConfig] = field(default_factory=PackingConfig)
    language_model: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=2.0, learning_rate=1e-3))
    """First stage; epochs 0 leaves it out."""
    reward: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=2.0))
    """Second stage."""

    def run(self) -> int:
        model = self.model.configure(self.packing.max_tokens)
        config = RunConfig(self.data, model, self.packing, self.language_model, self.reward)
        return _train(config, self.out, resume=False)


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was stopped."""

    folder: Positional[Path]
    """The run's folder."""

    def run(self) -> int:
        return _train(read_config(self.folder), self.folder, resume=True)


def _train(config: RunConfig, folder: Path, *, resume: bool) -> int:
    with _processes(), Watcher() as watcher:
        evaluation = train_run(config, folder, watcher, resume=resume)
    if evaluation is None:
        if watcher.stopped:
            console.print(f"stopped and saved; go on with: minirm resume {folder}")
        return 130 if watcher.stopped else 0
    _print_evaluation(evaluation, "validation")
    console.print(f"run: {folder}")
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


class Watcher(Observer):
    """Draws a run's progress; Ctrl-C lets it save and stop."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[shown]}"))
        self.progress = Progress(*columns, *times, console=console, disable=not console.is_terminal)
        self.stopped = False

    def __enter__(self) -> "Watcher":
        self.before = signal.signal(signal.SIGINT, self._stop)
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        signal.signal(signal.SIGINT, self.before)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopped:  # asked twice: at once
            raise KeyboardInterrupt
        self.stopped = True
        self.note("stopping after this step; Ctrl-C again stops at once, without saving")

    def begin(self, stage: str, done: int, steps: int) -> None:
        self.task = self.progress.add_task(stage, completed=done, total=steps, shown="")
        self.unit = "pairs" if stage == "reward" else "targets"

    def event(self, stage: str, event: Step | Evaluated) -> None:
        if isinstance(event, Evaluated):
            best = ", the lowest so far" if event.best else ""
            self.note(f"{stage}, step {event.step}: loss {event.loss:.4f}, accuracy {event.accuracy:.3f}{best}")
            return
        speed = f"{event.cases / event.seconds:.0f} {self.unit}/s, {event.tokens / event.seconds:.0f} tokens/s"
        shown = f"loss {event.loss:.3f}, accuracy {event.accuracy:.3f}, {speed}"
        self.progress.update(self.task, completed=event.step, shown=shown)
        if self.progress.disable and event.step % max(1, event.steps // 10) == 0:
            self.note(f"{stage}, step {event.step}/{event.steps}: {shown}")

    def note(self, text: str) -> None:
        self.progress.console.print(text, highlight=False)

    def should_stop(self) -> bool:
        return self.stopped


@dataclass(frozen=True)
class Demo:
    """Make a world of preferences whose truth is known, train on it, and report how much of the truth was learned."""

    out: Path
    """Folder for the report, the data and the run; must be empty or absent."""
    seed: int = 0
    """Another seed, another world and other weights."""

    def run(self) -> int:
        with Watcher() as watcher:
            tested = run_demo(self.out, watcher, seed=self.seed)
        if tested is None:
            console.print("stopped")
            return 130
        table = Table("test set", "accuracy", "95% interval", "")
        for one in tested:
            table.add_row(*one.row)
        console.print(table)
        console.print(f"report: {self.out / 'report.html'}", highlight=False, soft_wrap=True)
        console.print(verdict(tested), highlight=False, soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Eval:
    """Evaluate a run on files of comparisons."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder."""
    data: tuple[Path, ...]
    """Files or folders of comparisons."""
    format: str | None = None
    """Format of the files; by default it is recognised by content."""
    out: Path | None = None
    """Folder for metrics.json and a page with pictures."""

    def run(self) -> int:
        scorer = load(self.run_folder)
        counts: Counter[str] = Counter()
        comparisons = list(usable(read_comparisons(self.data, format=self.format), counts))
        if not comparisons:
            raise InputError(f"{', '.join(map(str, self.data))}: no two responses differ in score: nothing to evaluate")
        rewards = scorer.score_comparisons(comparisons)
        evaluation = evaluate(
            comparisons,
            rewards,
            swapped_rewards=scorer.score_comparisons(swap_prompts(comparisons)),
            training_prompts=prompt_set(scorer.run.training_prompts),
        )
        _print_evaluation(evaluation, ", ".join(map(str, self.data)))
        _print_counts(counts)
        if self.out is not None:
            write_evaluation(
                self.out, comparisons, rewards, evaluation, title=f"{self.run_folder} on {self.data[0].name}"
            )
            console.print(f"report: {self.out / 'report.html'}")
        return 0


def _print_evaluation(evaluation: Evaluation, name: str) -> None:
    table = Table("", "value", "95% interval", "", title=name)
    for row in as_table(evaluation):
        table.add_row(*map(str, row))
    console.print(table)


def _print_counts(counts: Counter[str]) -> None:
    for name, count in sorted(counts.items()):
        if count:
            console.print(f"{name}: {count}", highlight=False)


@dataclass(frozen=True)
class Score:
    """Score responses: one prompt from the command line, or JSON Lines with "prompt" and "response" or "responses"."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder."""
    prompt: str | None = None
    """The prompt of all --response."""
    response: UseAppendAction[tuple[str, ...]] = ()
    """A response; may be given several times."""
    file: str | None = None
    """JSON Lines to score, .gz too; - is standard input."""
    out: Path | None = None
    """Where the lines go, each with "reward" or "rewards" added. By default standard output."""
    normalise: bool = False
    """Subtract the mean and divide by the spread that rewards had on the run's validation part."""

    def run(self) -> int:
        if (self.file is None) == (not self.response):
            raise InputError("score needs either --response (and --prompt), or --file")
        scorer = load(self.run_folder)
        if self.file is None:
            rewards = scorer.score([self.prompt] * len(self.response), self.response, normalise=self.normalise)
            for reward in rewards:
                print(f"{reward:.6f}")
        elif self.out is None:
            self._score_lines(scorer, sys.stdout)
        else:
            checkpoint.write_whole(self.out, lambda path: self._score_into(scorer, path))
        return 0

    def _score_into(self, scorer: RewardScorer, path: Path) -> None:
        with path.open("w", encoding="utf-8") as stream:
            self._score_lines(scorer, stream)

    def _score_lines(self, scorer: RewardScorer, stream: TextIO) -> None:
        rows = iter(_json_rows(self.file))
        while batch := list(islice(rows, LINES_AT_ONCE)):
            prompts, responses = [], []
            for place, fields in batch:
                own = _responses(place, fields)
                prompts += [fields.get("prompt")] * len(own)
                responses += own
            rewards = iter(scorer.score(prompts, responses, normalise=self.normalise))
            for _, fields in batch:
                if "response" in fields:
                    line = {**fields, "reward": next(rewards)}
                else:
                    line = {**fields, "rewards": list(islice(rewards, len(fields["responses"])))}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            stream.flush()


def _json_rows(file: str) -> Iterable[tuple[str, dict]]:
    """Yield the place and the fields of each line."""
    if file != "-":
        return read_rows(Path(file))
    return read_json_lines(sys.stdin.buffer, "stdin")


def _responses(place: str, fields: dict) -> list[str]:
    """Return the responses of a line to score."""
    texts = [fields["response"]] if "response" in fields else fields.get("responses")
    if not isinstance(texts, list) or not texts:
        raise InputError(f'{place}: field "response": missing: a line needs "response", or "responses" as a list')
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f'{place}: field "response": value {text!r} must be text')
    return texts


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
        if not self.files:
            raise InputError("data needs at least one file or folder")
        other = read_comparisons(self.other, format=self.format) if self.other else None
        summary = describe(read_comparisons(self.files, format=self.format), other)
        table = Table("", "", title=", ".join(map(str, self.files)))
        for name, value in as_rows(summary):
            table.add_row(name, value)
        console.print(table)
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
        rows = read_comparisons(self.data, format=self.format)
        texts = (text for row in rows for text in (*(turn.text for turn in row.prompt), *row.responses))
        tokenizer = Tokenizer.train(texts, self.vocab_size)
        checkpoint.write_whole(self.out, tokenizer.save)
        console.print(f"{self.out}: {tokenizer.vocab_size} tokens")
        return 0


COMMANDS = {
    "demo": Demo,
    "train": Train,
    "resume": Resume,
    "eval": Eval,
    "score": Score,
    "data": Data,
    "tokenizer": TrainTokenizer,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for what the user has to mend, 130 when stopped."""
    command = tyro.extras.subcommand_cli_from_dict(dict(COMMANDS), args=arguments, prog="minirm", description=__doc__)
    try:
        return command.run()
    except InputError as error:
        print(f"minirm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"minirm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
