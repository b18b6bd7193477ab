"""The processes that torchrun starts, each of which runs the same command: they join, and one of them speaks."""

import contextlib
import os
import re
from collections.abc import Iterator

import torch
import torch.distributed as dist

from minirm.errors import InputError
from minirm.runs.together import PATIENCE, who_is_late

LOST = re.compile("[Tt]imed? ?out|[Cc]onnection (closed|reset)")
"""What PyTorch's engine says of a process that it waited for."""


@contextlib.contextmanager
def joined_processes() -> Iterator[None]:
    """Join the other processes when torchrun has started several.

    Raises:
        InputError: one of them was not heard of for `PATIENCE`, or is gone; it is named.
    """
    if "RANK" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # gloo adds up what lies on the host, and so waits for no GPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not LOST.search(str(error)):
            raise
        raise InputError(f"{who_is_late()}: {str(error).splitlines()[0]}") from None
    finally:
        dist.destroy_process_group()
