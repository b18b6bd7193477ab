"""What a policy told while it learned: log.jsonl, TensorBoard, and the curves of its report."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from minirm.errors import InputError
from minirm.evaluation.pictures import curves
from minirm.evaluation.report import Picture
from minirm.files.disk import naming, write_text
from minirm.policies.sampling import Sample

LOG, BOARD = "log.jsonl", "tensorboard"
TEXTS = 4
"""Responses of an iteration that TensorBoard shows."""
CURVES = {
    "What it earns": ("reward", "loss", "accuracy"),
    "How far it is from the first model, π₀": ("kl_nats", "kl_k3_nats", "chosen", "rejected", "kl_weight"),
    "What it writes": ("entropy_nats", "tokens", "unended"),
    "How it learns": ("gradient_norm", "clipped", "explained_variance"),
    "How fast": ("samples_per_second", "updates_per_second"),
}
"""Panels of a picture each, by its caption."""
ABOUT = {
    "kl_nats": "kl_nats (k1) and kl_k3_nats (k3) are both right on average: k1 may fall below 0, which k3 never does; "
    "far from π₀ rare responses make up most of k3, which then reads low in most samples.",
}
"""What else is to be said where a figure is shown."""


class PolicyLog:
    """The entries of a policy's iterations; they are written when its state is, so that both tell of one moment.

    Args:
        done: iterations after which the policy goes on; what was written of later ones is dropped.
    Raises:
        InputError: log.jsonl does not hold an entry of each.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.folder, self.done = folder, done
        self.board: SummaryWriter | None = None
        self.unwritten: list[tuple[dict, str]] = []
        self.entries: list[dict] = []
        if done:
            self.entries = _read(folder / LOG, done)

    def add(self, found: object, latest: Sequence[tuple[Sample, float]]) -> None:
        """Take up what an iteration found, and of what it drew the first texts."""
        entry = dataclasses.asdict(found)
        self.entries.append(entry)
        self.unwritten.append((entry, _texts(latest) if latest else ""))

    def write(self) -> None:
        """Bring everything to the disk."""
        lines = "".join(json.dumps(entry) + "\n" for entry in self.entries)
        write_text(self.folder / LOG, lines)
        with naming(self.folder / BOARD):
            if self.board is None:
                self.board = SummaryWriter(str(self.folder / BOARD), purge_step=self.done + 1)
            for entry, texts in self.unwritten:
                for name in entry.keys() - {"iteration"}:
                    if entry[name] is not None:
                        self.board.add_scalar(name, entry[name], entry["iteration"])
                if texts:
                    self.board.add_text("responses", texts, entry["iteration"])
            self.board.flush()
        self.unwritten.clear()

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        if self.board is not None:
            self.board.close()

    def pictures(self) -> list[Picture]:
        """Return the curves of what was told."""
        told = {name for entry in self.entries for name, value in entry.items() if value is not None}
        shown = {caption: [name for name in names if name in told] for caption, names in CURVES.items()}
        steps = [entry["iteration"] for entry in self.entries]
        return [
            Picture(
                curves(steps, {name: [entry[name] for entry in self.entries] for name in names}),
                " ".join([f"{caption}.", *(ABOUT[name] for name in names if name in ABOUT)]),
            )
            for caption, names in shown.items()
            if names
        ]


def _read(path: Path, done: int) -> list[dict]:
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        numbers = [entry["iteration"] for entry in entries[:done]]
    except (OSError, ValueError, TypeError, KeyError):
        numbers = []
    if numbers != list(range(1, done + 1)):
        raise InputError(f"{path}: is missing or no log of {done} iterations: begin anew in another folder")
    return entries[:done]


def _texts(drawn: Sequence[tuple[Sample, float]]) -> str:
    """Return the first responses as a table of Markdown."""
    rows = []
    for one, reward in drawn[:TEXTS]:
        prompt = one.prompt[-1].text if one.prompt else ""
        cells = (" ".join(text.split()).replace("|", "\\|") for text in (prompt, one.response))
        rows.append(f"| {' | '.join(cells)} | {reward:+.3f} | {'' if one.has_end else 'stopped without an end'} |")
    return "\n".join(["| prompt | response | reward | |", "|---|---|---:|---|", *rows])
