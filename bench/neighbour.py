"""What waiting threads cost: training under four settings of OpenMP, alone and beside a neighbour with a busy core.

PyTorch's threads spin while they wait for one another, unless the environment says otherwise before torch is imported.
"""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from bench.contenders import MINIRM, InItsOwnProcess
from bench.speed_report import Row
from bench.speed_setup import HH, Settings
from bench.timing import interleaved, ratio, spread

ENVIRONMENTS = {
    "spinning, as PyTorch comes": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
DEFAULT = "OMP_WAIT_POLICY=PASSIVE"
"""What minirm's command line sets where the user has set nothing."""


def neighbour(settings: Settings) -> list[Row]:
    """Return the tokens per second of training under each setting, alone and beside a busy process."""
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
    return rows


def _under(variables: dict[str, str], work: object) -> InItsOwnProcess:
    """Return minirm's training in a process that has these variables of OpenMP, and no other."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with patch.dict(os.environ, kept | variables, clear=True):
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
    while True:
        pass
