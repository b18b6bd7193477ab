"""Time several functions against one another in one run, so that what disturbs one disturbs all.

Each round calls every function once, in an order that rotates from round to round. What is reported of a function is
the median over rounds; what is reported of two is the median of the ratios *within* a round, with its quartiles: a
machine that slows down for a while slows both.
"""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch


class Spread(NamedTuple):
    """A median between its quartiles."""

    median: float
    low: float
    high: float


def interleaved(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    *,
    warm_ups: int = 1,
    at_least_seconds: float = 0.0,
    own_clock: bool = False,
) -> dict[str, list[float]]:
    """Return the seconds per call of each function, one entry per round.

    Args:
        functions: what to call, by name; each ends with its work queued or done, a GPU is waited for here.
        rounds: how many times each is timed.
        warm_ups: calls of each before the first round.
        at_least_seconds: a function faster than this is called as often per round as it takes to last so long.
        own_clock: each function returns the seconds that count; False: a whole call counts.
    """
    calls = {name: _calls(function, warm_ups, at_least_seconds) for name, function in functions.items()}
    seconds = {name: [] for name in functions}
    names = list(functions)
    for round_number in range(rounds):
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            function = functions[name]
            seconds[name].append(function() if own_clock else _seconds(function, calls[name]) / calls[name])
    return seconds


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Return how many times as long the first took, by round: above 1, the second was faster."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def machine() -> dict[str, str | int | float]:
    """Return what the numbers were measured on, and how busy it was."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


@lru_cache
def installed(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are there."""
    there = {package.name for package in metadata.distributions()}
    return {name: metadata.version(name) for name in packages if name in there}


def versions() -> dict[str, str]:
    """Return the versions of what is there and takes part, beside PyTorch's, and the commit where git knows it."""
    found = dict(installed("transformers", "trl", "scikit-learn", "numpy"))
    if shutil.which("git"):
        place = Path(__file__).parent
        told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=place)
        found["commit"] = told.stdout.strip() or "unknown"
    return found


def _calls(function: Callable[[], object], warm_ups: int, at_least_seconds: float) -> int:
    for _ in range(warm_ups):
        function()
    if not at_least_seconds:
        return 1
    return max(1, round(at_least_seconds / _seconds(function, 1)))


def _seconds(function: Callable[[], object], calls: int) -> float:
    wait_for_gpu()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait_for_gpu()
    return time.perf_counter() - start


def wait_for_gpu() -> None:
    """Return when the GPU, if there is one, has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
