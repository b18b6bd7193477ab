"""What a run tells while it goes on: to whoever watches, to log.jsonl and to TensorBoard."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from minirm.data.records import Comparison
from minirm.disk import naming, write_whole
from minirm.errors import InputError
from minirm.training.loop import Evaluated, Progress, Step

KINDS = ("step", "evaluation")
"""What a line of log.jsonl tells of."""


class Observer:
    """Watches a run and may stop it. This one is silent; the command line has one that draws."""

    def begin(self, stage: str, done: int, steps: int) -> None:
        """A stage begins, or goes on after `done` of its steps."""

    def event(self, stage: str, event: Step | Evaluated) -> None:
        """A step was taken or an evaluation made."""

    def end(self) -> None:
        """All stages are over and their weights saved; what is left can be stopped at once."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def should_stop(self) -> bool:
        """Whether the run is to save its state and stop after this step."""
        return False


class Journal:
    """log.jsonl and TensorBoard of one stage; without a folder it writes nothing.

    Args:
        progress: from where training goes on; what was written of later steps is dropped.
    Raises:
        InputError: log.jsonl holds a line that is no entry.
    """

    def __init__(self, folder: Path | None, stage: str, progress: Progress) -> None:
        self.stage = stage
        self.file: TextIO | None = None
        if folder is not None:
            _forget_after(folder / "log.jsonl", stage, progress)
            self.file = (folder / "log.jsonl").open("a", encoding="utf-8")
            # A folder for each stage, since what is purged on resuming is purged from the whole folder.
            board = folder / "tensorboard" / stage.replace(" ", "_")
            purge = progress.step + 1 if board.is_dir() else None  # what an earlier process wrote of later steps
            self.board = SummaryWriter(str(board), purge_step=purge, flush_secs=10)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
            with naming(self.board.log_dir):
                self.board.close()

    def write(self, event: Step | Evaluated) -> None:
        """Write one event."""
        if self.file is None:
            return
        kind = "step" if isinstance(event, Step) else "evaluation"
        values = dataclasses.asdict(event)
        with naming(self.file.name):
            self.file.write(json.dumps({"stage": self.stage, "kind": kind, **values}) + "\n")
            self.file.flush()
        where = f"{self.stage}/{'training' if kind == 'step' else 'validation'}"
        if isinstance(event, Step):
            values["cases_per_second"] = event.cases / event.seconds
            values["tokens_per_second"] = event.tokens / event.seconds
        with naming(self.board.log_dir):  # its own thread writes; here it tells that it could not
            for name in values.keys() - {"step", "steps", "best", "cases", "comparisons", "tokens", "seconds"}:
                self.board.add_scalar(f"{where}/{name}", values[name], event.step)

    def write_texts(self, step: int, comparisons: Sequence[Comparison], rewards: Sequence[Sequence[float]]) -> None:
        """Write texts with their scores, so that a reader can see whether the rewards make sense."""
        if self.file is None:
            return
        for number, (comparison, scored) in enumerate(zip(comparisons, rewards, strict=True)):
            prompt = "\n\n".join(f"**{turn.role}** {turn.text}" for turn in comparison.prompt)
            rows = sorted(zip(scored, comparison.scores, comparison.responses, strict=True), reverse=True)
            cells = (f"| {r:+.3f} | {s:g} | {' '.join(t.split()).replace('|', chr(92) + '|')} |" for r, s, t in rows)
            table = "\n".join(["| reward | label | response |", "|---:|---:|---|", *cells])
            with naming(self.board.log_dir):
                self.board.add_text(f"{self.stage}/texts/{number}", f"{prompt}\n\n{table}", step)


def _forget_after(path: Path, stage: str, progress: Progress) -> None:
    """Drop a stage's entries beyond where training goes on, and half a line; they will be written again."""
    last = {"step": progress.step, "evaluation": progress.evaluated_step}
    kept = [entry for entry in _entries(path) if entry["stage"] != stage or entry["step"] <= last[entry["kind"]]]
    if path.is_file():
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_whole(path, lambda p: p.write_text(text, encoding="utf-8"))


def _entries(path: Path) -> Iterator[dict]:
    """Yield the entries of a log, but for a last line that was not written to its end.

    Raises:
        InputError: a line is no entry.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            is_entry = isinstance(entry["stage"], str) and type(entry["step"]) is int and entry["kind"] in KINDS
        except (ValueError, TypeError, KeyError, RecursionError):
            is_entry = False
        if not is_entry:
            raise InputError(f"{path}, line {number}: must be a JSON object with stage, kind and step: remove it")
        yield entry


def read_log(folder: Path, stage: str) -> list[dict]:
    """Return a stage's entries in log.jsonl."""
    return [entry for entry in _entries(folder / "log.jsonl") if entry["stage"] == stage]
