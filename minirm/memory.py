"""Memory that is freed and needed again a moment later."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
_MOST, _AT_ONCE = 2**31 - 1, 256 * 2**20  # bytes


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next tensor of that size.

    On a CPU every step frees and needs the same hundreds of megabytes. glibc hands them back to the system each time,
    which then gives page after page anew, filled with zeros: up to a tenth of a step. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MOST)  # large tensors lie in the heap too …
        mallopt(_M_TRIM_THRESHOLD, _MOST)  # … of which nothing is handed back …
        mallopt(_M_TOP_PAD, _AT_ONCE)  # … and which grows in large strides
