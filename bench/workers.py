"""Pieces of work side by side, in processes of their own."""

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from typing import TypeVar

import torch

from minirm.runs.encode import end_with_parent

T = TypeVar("T")


def side_by_side(work: Callable[[T], object], todo: Sequence[T], workers: int, threads: int) -> Iterator[int]:
    """Do all that is to do, and yield how much is done, after each piece.

    Args:
        work: a function that another process finds by its name.
        threads: of each worker; a single one works in this process.
    """
    if workers == 1 or not todo:
        torch.set_num_threads(threads)
        for done, one in enumerate(todo, start=1):
            work(one)
            yield done
        return
    with (
        tempfile.TemporaryDirectory(prefix="minirm-bench-") as folder,
        ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (threads, folder)) as pool,
    ):
        futures = [pool.submit(work, one) for one in todo]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                yield done
        except BaseException:
            for worker in active_children():  # what runs is lost, what is finished was kept: to wait would take minutes
                worker.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _begin_worker(threads: int, folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this one …
    end_with_parent()
    tempfile.tempdir = folder  # … and clears away what it leaves
    torch.set_num_threads(threads)
