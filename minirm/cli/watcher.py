"""What the command line shows while a run goes on, a bar or plain lines, and how Ctrl-C and SIGTERM end it."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from minirm.files.printable import printable
from minirm.runs.job import is_writer
from minirm.runs.journal import Observer
from minirm.training.loop import Evaluated, Step

LINES = 10
"""Lines about steps that a stage writes where there is no bar."""


COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)
"""Of a bar."""


class _Bars(Progress):
    """Bars, and below them the figures of the last step: beside them, a narrow terminal would lose both."""

    figures = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.figures, no_wrap=True, overflow="ellipsis")


def tell(message: str) -> None:
    """Say something on standard error, once for all processes; where nobody can read it, nothing happens."""
    if not is_writer():
        return
    try:
        print(printable(message), file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 open as long as the process


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that what it has begun is cleared away."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it twice, and clearing away takes a moment
    raise KeyboardInterrupt


@contextlib.contextmanager
def counting(what: str, total: int | None = None, *, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """Draw a bar, where standard error is a terminal, that grows by what is told to the function that this yields."""
    console = Console(stderr=True, quiet=not is_writer())
    with Progress(*COLUMNS, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.advance(task, more)


class Stopper(Observer):
    """Ctrl-C and SIGTERM let a run save and stop; before there is anything to save, it stops at once."""

    def __init__(self) -> None:
        self.stopped = self.training = False

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self.training:
            _interrupt(number, frame)
        if self.stopped:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # `timeout` sends SIGTERM twice
        self.stopped = True
        tell("stopping after this step; Ctrl-C again stops at once, without saving")

    def begin(self, stage: str, done: int, steps: int) -> None:
        self.training = True

    def end(self) -> None:
        self.training = False

    def should_stop(self) -> bool:
        return self.stopped


class Watcher(Stopper):
    """Draws a run's progress."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.progress = _Bars(*COLUMNS, console=console, disable=not console.is_terminal)

    def __enter__(self) -> Self:
        super().__enter__()
        self.progress.start()
        self.task = self.progress.add_task("reading the data", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        super().__exit__()

    def prepare(self, what: str, done: int, total: int | None) -> None:
        self.progress.update(self.task, description=what, completed=done, total=total)

    def begin(self, stage: str, done: int, steps: int) -> None:
        if not self.training:
            self.progress.remove_task(self.task)  # the data is read
        super().begin(stage, done, steps)
        self.task = self.progress.add_task(stage, completed=done, total=steps)
        self.unit = "pairs" if stage == "reward" else "targets"

    def event(self, stage: str, event: Step | Evaluated) -> None:
        if isinstance(event, Evaluated):
            best = ", the lowest so far" if event.best else ""
            self.note(f"{stage}, step {event.step}: validation loss {event.loss:.4f}, {self._accuracy(event)}{best}")
            return
        speed = f"{event.cases / event.seconds:,.0f} {self.unit}/s, {event.tokens / event.seconds:,.0f} tokens/s"
        shown = f"loss {event.loss:.3f}, {self._accuracy(event)}, {speed}"
        self.progress.update(self.task, completed=event.step)
        self.progress.figures = shown
        if self.progress.disable and event.step % max(1, event.steps // LINES) == 0:
            left = (event.steps - event.step) * event.seconds
            self.note(f"{stage}, step {event.step}/{event.steps}: {shown}, about {left:,.0f} s left")

    def note(self, text: str) -> None:
        self.progress.console.print(text, soft_wrap=True)

    def _accuracy(self, event: Step | Evaluated) -> str:
        return f"{'accuracy' if self.unit == 'pairs' else 'p(next token)'} {event.accuracy:.3f}"
