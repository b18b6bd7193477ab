"""What a run tells while it goes on: to whoever watches, to log.jsonl and to TensorBoard."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.files.disk import naming
from minirm.runs.checksums import digest_of
from minirm.training.loop import Evaluated, Step

LOG, BOARDS = "log.jsonl", "tensorboard"
UNSHOWN = {"step", "steps", "best", "cases", "comparisons", "tokens", "seconds"}
"""Fields of an event that are no curve."""


class Observer:
    """Watches a run and may stop it. This one is silent; the command line has one that draws."""

    def prepare(self, what: str, done: int, total: int | None) -> None:
        """The data is being prepared: of `what`, so much of a total is done."""

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
    """log.jsonl and TensorBoard of a run; without a folder it writes nothing.

    Args:
        written: what `written` returned when the state was saved from which the run goes on; what was logged later is
            dropped. Empty: the run begins, and so do its files.
        note: hears of a file that is gone.
    Raises:
        InputError: a file does not hold what was written into it.
    """

    def __init__(self, folder: Path | None, written: dict[str, list], note: Callable[[str], object]) -> None:
        self.folder = folder
        self.file: TextIO | None = None
        self.board: SummaryWriter | None = None
        if folder is None:
            return
        for name, (length, digest) in written.items():
            path = folder / name
            if not path.is_file():
                note(f"{path}: file is missing; the run goes on without what it told")
            elif digest_of(path, length) != digest:
                raise InputError(f"{path}: is damaged: it is not as it was written; without it, the run goes on")
        if not written:
            shutil.rmtree(folder / BOARDS, ignore_errors=True)
        self.file = (folder / LOG).open("a", encoding="utf-8")
        os.truncate(folder / LOG, min(written.get(LOG, [0])[0], (folder / LOG).stat().st_size))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        self._close_board()

    def _close_board(self) -> None:
        if self.board is not None:
            with naming(self.board.log_dir):
                self.board.close()

    def begin(self, stage: str, step: int) -> None:
        """Let what follows be of a stage that goes on after `step` of its steps."""
        self.stage = stage
        self._close_board()
        if self.folder is not None:
            # A folder for each stage, since what is purged on resuming is purged from the whole folder.
            board = self.folder / BOARDS / stage.replace(" ", "_")
            purge = step + 1 if board.is_dir() else None  # what an earlier process wrote of later steps
            self.board = SummaryWriter(str(board), purge_step=purge, flush_secs=10)

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
            for name in values.keys() - UNSHOWN:
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

    def written(self) -> dict[str, list]:
        """Return the length and the digest of each file, all of it on the disk."""
        if self.file is None:
            return {}
        os.fsync(self.file.fileno())
        with naming(self.board.log_dir):
            self.board.flush()
        sizes = {path: path.stat().st_size for path in (self.folder / LOG, *(self.folder / BOARDS).rglob("*.*"))}
        return {path.relative_to(self.folder).as_posix(): [size, digest_of(path, size)] for path, size in sizes.items()}


def read_log(folder: Path, stage: str) -> list[dict]:
    """Return a stage's entries in log.jsonl."""
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["stage"] == stage]
