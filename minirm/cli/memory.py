"""Memory that is freed and needed again a moment later."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next tensor of that size.

    On a CPU every step frees and needs the same hundreds of megabytes. glibc hands them back to the system each time,
    which then gives page after page anew, filled with zeros. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)  # large tensors lie in the heap too …
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # … and up to 2 GB of what is free at its end stays


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that no memory was left, by its type or, as PyTorch's on a CPU does, in words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
