"""The command line, which can be stopped while its libraries are still being loaded."""

import contextlib
import os
import signal
import sys

from minirm.cli import STOPPED


def main() -> int:
    """Run one command and return its status. Until all is loaded, a signal ends the process: nothing has begun."""
    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _leave) for number in signals}
    # PyTorch's threads spin while they wait, which beside a busy neighbour makes work 1.7 times as slow and more.
    # Without it, work alone was about 6% slower, within the noise (`bench speed neighbour`). It is read when torch
    # is first imported; what the user set stands.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from minirm.cli.main import main as run

    for number, handler in before.items():
        signal.signal(number, handler)
    try:
        status = run()
    except KeyboardInterrupt:  # before a command could take care of it
        _leave()
    if status == STOPPED:  # at once: a thread of a library may still be at work
        with contextlib.suppress(AttributeError, OSError):  # nobody reads it any more
            sys.stdout.flush()
        os._exit(status)
    return status


def _leave(*_: object) -> None:
    os.write(2, b"minirm: stopped\n")
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main())
