"""A function that others wrote, computed in a child of this process with limits of time and memory."""

import os
import signal
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from minirm.errors import InputError

try:
    import resource
except ImportError:  # Windows, which has no fork either
    resource = None

PATIENCE = 10
"""Where others take the processor: the child has this many times its seconds by the clock."""


class Guarded:
    """Calls a function in a forked child, which ends when it takes too much and is begun anew when it is gone.

    Args:
        work: picklable argument → picklable result; it must start no threads, for the child has but one.
        place: what an error names.
        megabytes: what the child may take beyond what this process holds when the child begins.
    """

    def __init__(self, work: Callable, place: str, megabytes: int = 512) -> None:
        self.work, self.place, self.megabytes = work, place, megabytes
        self._lock, self._owner = threading.Lock(), 0
        self._line: Connection | None = None
        self._end: Callable[[], object] = lambda: None

    def __call__(self, argument: object, seconds: float) -> object:
        """Return what the function returns for an argument.

        Args:
            seconds: how much of a processor's time it may take.
        Raises:
            InputError: it takes more, or more memory than there is for it, or fails in another way.
        """
        if not hasattr(os, "fork"):
            return self.work(argument)
        with self._lock:
            try:
                if self._line is None or self._owner != os.getpid():
                    self._begin()
                self._line.send((argument, seconds))
                if self._line.poll(PATIENCE * seconds):
                    return self._line.recv()
                raise EOFError
            except (EOFError, OSError):
                self.close()
                limits = f"more than {seconds:.0f} seconds or {self.megabytes} MB"
                raise InputError(f"{self.place}: takes {limits}, or ends in another way") from None
            except BaseException:  # Ctrl-C among them: what the child says next would answer nobody's question
                self.close()
                raise

    def close(self) -> None:
        """End the child."""
        self._end()
        self._line = None

    def _begin(self) -> None:
        ours, its = Pipe()
        child = os.fork()
        if child == 0:
            try:
                _limit(its, self.megabytes)
                while True:
                    self._answer(its)
            finally:
                os._exit(1)  # the end of this process is not the end of the one that it was copied from
        its.close()
        self._line, self._owner = ours, os.getpid()
        self._end = weakref.finalize(self, _kill, child, ours, self._owner)

    def _answer(self, line: Connection) -> None:
        argument, seconds = line.recv()
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process, whatever it is at
        answer = self.work(argument)
        signal.setitimer(signal.ITIMER_PROF, 0)
        line.send(answer)


def _limit(line: Connection, megabytes: int) -> None:
    """Bound this process's memory, and let go of all that it inherited but one connection.

    What was open becomes /dev/null and keeps its number: whoever opened it may close it late, in this process too, and
    must not close a file of ours that got the number meanwhile.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads stayed behind
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in {0, 1, 2, *map(int, os.listdir("/dev/fd"))} - {nowhere, line.fileno()}:
        os.dup2(nowhere, number)
    statm = Path("/proc/self/statm")
    if statm.exists():
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (megabytes << 20),) * 2)


def _kill(child: int, line: Connection, owner: int) -> None:
    line.close()
    if os.getpid() == owner:  # a copy of this process has no child
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
