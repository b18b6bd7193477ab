"""Processes that train together, by PyTorch's own engine. One process alone needs nothing of it.

`torchrun --nproc-per-node N -m minirm train …` starts them. Each computes its share of every step, and the
gradients are averaged: by `DistributedDataParallel`, or, where each is to keep only a part of weights, gradients and
moments, by FSDP2's `fully_shard`.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minirm.config_rules import require


class Ranks:
    """The processes of one training; `rank` is this one's number, of `count`."""

    def __init__(self) -> None:
        together = dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def join(self, model: nn.Module, *, shard: bool) -> nn.Module:
        """Return the model such that its backward pass averages gradients over all ranks.

        Args:
            shard: whether each rank keeps a part of every tensor only; the model itself is changed then.
        Raises:
            InputError: what is to be sharded is no transformer.
        """
        if self.count == 1:
            return model
        return _sharded(model, self.count) if shard else DistributedDataParallel(model)

    def synchronising(self, learner: nn.Module, *, now: bool) -> AbstractContextManager:
        """Return a context for a forward and a backward pass, after which gradients are averaged now, or not yet."""
        if isinstance(learner, FSDPModule):
            learner.set_requires_gradient_sync(now)
        return learner.no_sync() if isinstance(learner, DistributedDataParallel) and not now else nullcontext()

    def sum(self, value: Tensor | float) -> list[float] | float:
        """Return the sum of a number, or of each number of a tensor (n,), over all ranks."""
        total = torch.as_tensor(value, dtype=torch.float64)
        if self.count > 1:
            dist.all_reduce(total)
        return total.tolist()


def _sharded(model: nn.Module, ranks: int) -> nn.Module:
    is_transformer = model.config.backbone == "transformer"
    require(is_transformer, f"shard=True must go with backbone=transformer, not {model.config.backbone}")
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks,))
    for block in model.backbone.blocks:
        fully_shard(block, mesh=mesh)
        register_fsdp_forward_method(block, "read")
    return fully_shard(model, mesh=mesh, reshard_after_forward=True)  # weights are read between two steps too


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which each rank may hold a part; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
