"""Processes that train together, by PyTorch's own engine. With one process, nothing here does anything.

`torchrun --nproc-per-node N -m minirm.cli.main train …` starts them; each computes its share of every step.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Ranks:
    """The processes of one training; `rank` is this one's number, of `count`."""

    def __init__(self) -> None:
        together = dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def replicate(self, model: nn.Module) -> nn.Module:
        """Return the model such that its backward pass averages gradients over all ranks."""
        return DistributedDataParallel(model, broadcast_buffers=False) if self.count > 1 else model

    def synchronising(self, model: nn.Module, *, now: bool) -> AbstractContextManager:
        """Return a context for a forward and a backward pass, after which gradients are averaged now, or not yet."""
        return nullcontext() if now or self.count == 1 else model.no_sync()

    def sum(self, value: Tensor | float) -> list[float] | float:
        """Return the sum of a number, or of each number of a tensor (n,), over all ranks."""
        total = torch.as_tensor(value, dtype=torch.float64)
        if self.count > 1:
            dist.all_reduce(total)
        return total.tolist()

    def any(self, *wishes: bool) -> list[bool]:
        """Return of each wish whether one of the ranks has it, so that all of them act after the same step."""
        return [total > 0 for total in self.sum(torch.tensor(wishes, dtype=torch.float64))]
