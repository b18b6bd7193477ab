"""bfloat16 on a CPU, where oneDNN compiles a product anew for each number of rows, and longer than it computes it."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from minirm.tokens.layout import Layout

SHORT_KEYS = 512
"""Up to this many keys, the CPU's float32 attention is faster than its bfloat16 one."""


def is_slower(q: Tensor, k: Tensor) -> bool:
    """Return whether attention of q (n, H, R, C) over k (n, H, S, C) is faster in float32."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= SHORT_KEYS


def fill_up(tokens: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
    """Return tokens (M,) and layout as they are; where products are in bfloat16 on a CPU, with more tokens at the end.

    Such a product is compiled for each number of rows it meets, which takes longer than the product itself. At most
    1/16 more tokens, which nobody sees or reads, leave 16 numbers between M and 2·M.
    """
    if tokens.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return tokens, layout
    more = -len(tokens) % (1 << max(0, len(tokens).bit_length() - 5))

    def filled(index: Tensor) -> Tensor:
        return F.pad(index, (0, more))

    longer = replace(layout, positions=filled(layout.positions), types=filled(layout.types))
    vars(longer)["everywhere"] = replace(layout.everywhere, slots=filled(layout.everywhere.slots))
    return filled(tokens), longer
