"""What losses of rewards that are far apart, or infinite, have in common."""

import torch
from torch import Tensor


def log_span(width: Tensor) -> Tensor:
    """Return −log(1 − e^−width) of float64 widths ≥ 0, exact for small and for large ones."""
    near, far = -torch.expm1(-width), -torch.exp(-width.clamp(min=0.5))
    return -torch.where(width < 0.5, near.log(), far.log1p())


def finite_stand_in(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return (B, K) float64 rewards less the row's highest, ±1e300 for ±∞; what is masked vanishes beside all of them.

    So a level that all share is exact; e^r of those far below is right to 1e-16 times how far below they are.
    """
    r = rewards.double()
    if not r.shape[1]:
        return r  # nothing to be highest
    highest = r.detach().masked_fill(~mask | r.isinf(), -1e300).amax(1, keepdim=True)
    return (r - highest).clamp(-1e300, 1e300).masked_fill(~mask, -1.5e308)  # −∞ makes NaN in the backward pass


def take_limit(losses: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """Return (B,) losses of stand-ins as limits for ±∞, in the type of the rewards; NaN for two of one infinity."""
    losses = losses + torch.where(losses > 1e299, torch.inf, 0.0)
    twice = (((rewards == torch.inf) & mask).sum(1) > 1) | (((rewards == -torch.inf) & mask).sum(1) > 1)
    return losses.masked_fill(twice, torch.nan).to(torch.promote_types(rewards.dtype, torch.float32))
