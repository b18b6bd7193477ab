"""Processes that train together, by PyTorch's own engine. One process alone needs nothing of it.

`torchrun --nproc-per-node N -m minirm train …` starts them. Each computes its share of every step, and the
gradients are averaged: by `DistributedDataParallel`, or, where each is to keep only a part of weights, gradients and
moments, by FSDP2's `fully_shard`.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minirm.config_rules import require
from minirm.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)
"""How long a step, or an evaluation, may wait for another rank before that is named, and training ends."""
PLACE, WAITED = "minirm/place/", "minirm/waited/"
"""Where ranks say how far they have come, and that they have waited in vain."""
GRACE = 5.0
"""Seconds after which a rank that waited in vain asks which others did."""


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

    def any(self, *wishes: bool) -> list[bool]:
        """Return of each wish whether one of the ranks has it, so that all of them act after the same step."""
        return [total > 0 for total in self.sum(torch.tensor(wishes, dtype=torch.float64))]


def by_the_first(work: Callable[[], T]) -> T:
    """Return in every rank what the first one does, while the others wait; what it refuses, all of them refuse."""
    return together(work if Ranks().rank == 0 else lambda: None)[0]


def together(work: Callable[[], T]) -> list[T]:
    """Return what each rank's work returns; what one of them refuses, all of them refuse."""
    try:
        done = [(work(), None)]
    except (InputError, OSError) as error:
        done = [(None, error)]
    if Ranks().count > 1:
        mine, done = done[0], [None] * Ranks().count
        dist.all_gather_object(done, mine, group=_patient_group())
    for error in (error for _, error in done if error is not None):
        raise error
    return [found for found, _ in done]


@cache
def _patient_group() -> dist.ProcessGroup:
    """Return all ranks, as they wait for one that reads files: for a day, where a step may take `PATIENCE` alone."""
    return dist.new_group(backend="gloo", timeout=timedelta(days=1))


def say_where(place: str) -> None:
    """Let the other ranks know how far this one has come, should it come no further."""
    if Ranks().count > 1:
        _store().set(f"{PLACE}{Ranks().rank}", place)


def who_is_late() -> str:
    """Return, once this rank has waited in vain, which others do not wait: where each of them was heard of last."""
    _store().set(f"{WAITED}{Ranks().rank}", "")
    time.sleep(GRACE)
    late = [rank for rank in range(Ranks().count) if not _store().check([f"{WAITED}{rank}"])]
    heard = {rank: _store().check([f"{PLACE}{rank}"]) and _store().get(f"{PLACE}{rank}").decode() for rank in late}
    named = [f"process {rank}, last heard of at {place or 'the beginning'}" for rank, place in heard.items()]
    return f"no answer from {'; '.join(named) or 'some process, which waits now as well'}"


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _sharded(model: nn.Module, ranks: int) -> nn.Module:
    is_transformer = model.config.backbone == "transformer"
    require(is_transformer, f"shard=True must go with backbone=transformer, not {model.config.backbone}")
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks,))
    for block in model.backbone.blocks:
        fully_shard(block, mesh=mesh)
        register_fsdp_forward_method(block, "read")
    return fully_shard(model, mesh=mesh, reshard_after_forward=True)  # weights are read between two steps too


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights, put together where they are sharded; all ranks must ask."""
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which each rank may hold a part; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
