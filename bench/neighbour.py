"""What waiting threads cost under settings of OpenMP, alone and beside a neighbour with a busy core.

Training under four settings; whole commands, scoring and a file of tests, under two. PyTorch's threads spin while they
wait for one another, unless the environment says otherwise before torch is imported.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

from bench.contenders import MINIRM, InItsOwnProcess
from bench.little_run import Listener, little_config
from bench.speed_report import Row
from bench.speed_setup import HH, Settings
from bench.timing import interleaved, ratio, spread
from minirm.config import sized
from minirm.runs.encode import end_with_parent
from minirm.runs.job import train_run

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENTS = {
    "spinning, as PyTorch comes": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
DEFAULT = "OMP_WAIT_POLICY=PASSIVE"
"""What minirm's command line sets where the user has set nothing."""


def neighbour(settings: Settings) -> list[Row]:
    """Return the tokens per second of training, and the seconds of whole commands, alone and beside a busy process."""
    corpus = settings.corpus(HH)
    work = settings.work(corpus)
    tokens = sum(item.tokens for item in work.encoded)
    rows = []
    with ExitStack() as stack:
        calls = {name: stack.enter_context(_under(variables, work)) for name, variables in ENVIRONMENTS.items()}
        for setting in ("alone", "beside a busy process"):
            with _busy(setting != "alone"):
                seconds = interleaved(calls, settings.rounds, own_clock=True)
            for name, taken in seconds.items():
                times = None if name == DEFAULT else ratio(taken, seconds[DEFAULT])
                rate = spread([tokens / each for each in taken])
                rows.append(Row(setting, name, rate, "tokens/s", times, relation="× as fast is PASSIVE"))
    with tempfile.TemporaryDirectory() as folder:
        return rows + _whole_commands(settings, Path(folder))


def _whole_commands(settings: Settings, folder: Path) -> list[Row]:
    """Return the seconds of whole commands, beginning and end included, when their threads spin and when they don't."""
    rows = []
    for what, command in _commands(folder).items():
        for setting in ("alone", "beside a busy process"):
            calls = {
                name: partial(subprocess.run, command, env=_environment(variables), check=True, capture_output=True)
                for name, variables in (("spinning", {"OMP_WAIT_POLICY": ""}), (DEFAULT, ENVIRONMENTS[DEFAULT]))
            }  # the empty value is none to OpenMP, and is the user's own to minirm
            with _busy(setting != "alone"):
                seconds = interleaved(calls, settings.rounds, warm_ups=0)
            for name, taken in seconds.items():
                times = None if name == DEFAULT else ratio(taken, seconds[DEFAULT])
                row = Row(f"{what}, {setting}", name, spread(taken), "s", times, relation="× as fast is PASSIVE")
                rows.append(row)
    return rows


def _commands(folder: Path) -> dict[str, list[str]]:
    """Return whole commands by what they do, once a run has been trained that they need."""
    run = folder / "run"
    train_run(replace(little_config(folder), model=sized("tiny", max_positions=64)), run, Listener())
    lines, record = folder / "lines.jsonl", {"prompt": "Question 3?", "responses": [f"Gladly: {n}." for n in range(8)]}
    lines.write_text((json.dumps(record) + "\n") * 2000, encoding="utf-8")
    tests = REPOSITORY / "tests" / "test_one_pair.py"
    return {
        "minirm score": [sys.executable, "-m", "minirm", "score", str(run), "--file", str(lines)],
        "tests/test_one_pair.py": [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
    }


def _environment(variables: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    return kept | variables


def _under(variables: dict[str, str], work: object) -> InItsOwnProcess:
    """Return minirm's training in a process that has these variables of OpenMP, and no other."""
    with patch.dict(os.environ, _environment(variables), clear=True):
        return InItsOwnProcess(MINIRM, work, keeps_memory=True, threads=int(variables.get("OMP_NUM_THREADS", 0)))


@contextmanager
def _busy(is_there: bool) -> Iterator[None]:
    """Keep one core busy meanwhile, or not."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    if is_there:
        process.start()
    try:
        yield
    finally:
        if is_there:
            process.kill()


def _spin() -> None:
    end_with_parent()
    while True:
        pass
