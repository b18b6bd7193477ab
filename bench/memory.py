"""How much memory a call holds at its peak."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from minirm.runs.encode import end_with_parent


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Return the most that a call has allocated at once, beyond its inputs, as PyTorch's own allocator sees it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]  # freed ones are negative
    return max(accumulate(sizes), default=0)


def peak_resident_bytes(call: Callable[[], object]) -> int:
    """Return by how much a call has raised the process's resident memory at its peak, as Linux sees it."""
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    call()
    return _resident_bytes("VmHWM") - before


def most_resident_bytes() -> int:
    """Return the most memory that this process has held so far, as Linux sees it."""
    return _resident_bytes("VmHWM")


def _resident_bytes(field: str) -> int:
    """Return VmRSS (now) or VmHWM (the most since `clear_refs`) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def in_fresh_process(function: Callable[..., object], *arguments: object) -> object:
    """Return what a function returns in a process of its own, which nothing that ran before has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(function, *arguments).result()
