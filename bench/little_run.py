"""A run of a second or two, and what of its folder must be the same however it came about."""

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from minirm.config import PackingConfig, TrainConfig, sized
from minirm.files.disk import write_text
from minirm.runs import job
from minirm.runs.journal import Observer
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.runs.run_folder import DESCRIPTION, METRICS, WEIGHTS

REPORT = "report.html"


class Listener(Observer):
    """Keeps what a run notes, and stops it after so many events."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.notes: list[str] = []
        self.events, self.stop_after = 0, stop_after

    def event(self, stage: str, event: object) -> None:
        self.events += 1

    def note(self, text: str) -> None:
        self.notes.append(text)

    def should_stop(self) -> bool:
        return self.events >= self.stop_after


def little_config(folder: Path) -> RunConfig:
    """Write a few pairs into a folder, and return a run of two stages on them."""
    file = folder / "pairs.jsonl"
    pairs = ({"prompt": f"Question {n}?", "chosen": f"Gladly: {n}.", "rejected": f"Go away {n}."} for n in range(24))
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    stage = TrainConfig(epochs=2.0, learning_rate=1e-2, evaluate_every=0.5)
    return RunConfig(
        DataConfig((file,), validation_share=25.0),
        sized("tiny", layers=1, width=16, heads=2, max_positions=64, dropout=0.1),
        PackingConfig(comparisons_per_batch=8, max_tokens=64),
        stage,
        stage,
    )


def what_it_came_to(folder: Path) -> dict[str, object]:
    """Return what a finished run is: its files, the steps of its log, and every name in its folder."""
    names = [name for name in (*DESCRIPTION, WEIGHTS, METRICS, REPORT) if (folder / name).is_file()]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [(line["stage"], line["kind"], line["step"], line["loss"]) for line in lines]
    return {**{name: (folder / name).read_bytes() for name in names}, "log": log, "names": sorted(os.listdir(folder))}


def in_a_child(work: Callable[[], object], seconds: float | None = None) -> int:
    """Let a fork of this process work on one thread, and return how it ended: 0, or −9 where it was killed.

    Args:
        seconds: kill it after these, if it still lives.
    """
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"a trial failed: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    if seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: _kill(child))
        signal.setitimer(signal.ITIMER_REAL, seconds)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.setitimer(signal.ITIMER_REAL, 0)
    return status


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(child, signal.SIGKILL)


def prepare_process(parent: Path) -> Path:
    """Let this process and its forks work on one thread and draw no page, which takes most of a little run's time.

    Returns:
        A new folder for temporary files: what is left behind is seen in it.
    """
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not live on in a fork, which would wait for them
    job.write_evaluation = lambda folder, *_, **__: write_text(folder / REPORT, "a page")
    tempfile.tempdir = str(parent / "temporary")
    (parent / "temporary").mkdir()
    return parent / "temporary"
