"""Rows of a matrix by their indices."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return x[index], (*index, D), for x (rows, D).

    `embedding` rather than `x[index]`: the same values, but its backward pass sums rows in parallel.
    """
    return F.embedding(index, x)


def gather_tiles(x: Tensor, indices: list[Tensor], head_width: int) -> list[Tensor]:
    """Return rows of x (rows, H·C) as rectangles, one (n, H, R, C) for each index (n, R).

    They are taken together: the backward pass then makes one gradient of x's size, not one for each rectangle.
    """
    together = take_rows(x, torch.cat([index.flatten() for index in indices]))
    parts = together.split([index.numel() for index in indices])
    return [rearrange(x, "(n r) (h c) -> n h r c", n=len(i), c=head_width) for x, i in zip(parts, indices, strict=True)]
