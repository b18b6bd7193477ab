"""Processes that train together: what one does for all, what one refuses for all, and which of them is late."""

import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minirm.errors import InputError
from minirm.training.parallel import Ranks, whole

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)
"""How long a step, or an evaluation, may wait for another rank before that is named, and training ends."""
PLACE, WAITED = "minirm/place/", "minirm/waited/"
"""Where ranks say how far they have come, and that they have waited in vain."""
GRACE = 5.0
"""Seconds after which a rank that waited in vain asks which others did."""


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


def any_wants(*wishes: bool) -> list[bool]:
    """Return of each wish whether one of the ranks has it, so that all of them act after the same step."""
    return [total > 0 for total in Ranks().sum(torch.tensor(wishes, dtype=torch.float64))]


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


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights, put together where they are sharded; all ranks must ask."""
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
