"""What an optimizer remembers, as tensors of a saved state."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from minirm.config_rules import require
from minirm.files.disk import check_tensors

REMEMBERED = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
REMEMBERED |= {"SGD": {"momentum_buffer"}, "Lion": {"momentum"}}
"""What an optimizer remembers of each weight."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer remembers of each weight, as tensors named "number.what"."""
    states = optimizer.state_dict()["state"]
    return {f"{n}.{what}": torch.as_tensor(value) for n, state in states.items() for what, value in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Let an optimizer remember what `optimizer_tensors` returned; its rates stay as they are."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, what = name.split(".", 1)
        states.setdefault(int(number), {})[what] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def moments_like(optimizer: torch.optim.Optimizer, names: Iterable[str]) -> dict[str, Tensor]:
    """Return tensors such as an optimizer remembers of the weights that these names, "number.what", speak of."""
    known, spoken_of = REMEMBERED[type(optimizer).__name__], {name.partition(".")[0] for name in names}
    weights = [weight.data for group in optimizer.param_groups for weight in group["params"]]
    return {
        f"{n}.{what}": torch.zeros(()) if what == "step" else torch.zeros_like(weight)
        for n, weight in enumerate(weights)
        if str(n) in spoken_of
        for what in known
    }


def check_moments(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Refuse what an optimizer can't have remembered of its weights.

    Raises:
        InputError: a tensor is missing or belongs to nothing, is of another shape or type, or is not finite.
    """
    check_tensors(tensors, moments_like(optimizer, tensors), path)
    check_counts(tensors, path)


def check_counts(moments: dict[str, Tensor], path: Path) -> None:
    """Refuse an optimizer that says that it took less than no step."""
    counts = (tensor for name, tensor in moments.items() if name.endswith(".step"))
    require(all(count >= 0 for count in counts), f"{path}: an optimizer's step is below 0")
