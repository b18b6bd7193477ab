"""Attention over segments by PyTorch's kernel for sequences of unequal lengths: the way of a GPU in half precision.

`torch.nn.attention.varlen` takes queries, and keys, end to end with the places where a sequence ends. A segment's
queries are its own tokens, as they lie; its keys are its path's, gathered; and since a causal mask ends at the last
query and the last key, each query sees the path before it and its segment up to itself. Nothing is padded and nothing
tiled, and a batch's segments are one kernel.

`attention.segment_attention` is the plain twin; `by_loop` says what the kernel computes.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minirm.models.kernels.rows import take_rows
from minirm.tokens.layout import Layout

WIDEST_HEAD = 256
"""Numbers of a head, a multiple of 8, that the kernel takes."""
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Sequences:
    """The segments of a layout without a past, as the kernel wants them."""

    keys: Tensor  # (Σ path lengths,) which tokens, path after path
    query_ends: Tensor  # (n + 1,) int32: 0, and where each segment's queries end
    key_ends: Tensor  # (n + 1,) int32
    most_queries: int
    most_keys: int
    causal: bool  # a query sees nothing of its segment behind itself

    @classmethod
    def of(cls, layout: Layout) -> "Sequences":
        """Return the sequences of a layout, where its tensors lie."""
        queries, keys = ([0, *np.cumsum(sizes)] for sizes in (layout.lengths, list(map(len, layout.paths))))
        arrays = np.concatenate(layout.paths), np.array(queries, np.int32), np.array(keys, np.int32)
        device, most = layout.positions.device, (max(layout.lengths), max(map(len, layout.paths)))
        index, *ends = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
        return cls(index, *ends, *most, causal=not layout.both_ways)


def attend_to_sequences(attention: nn.Module, layout: Layout) -> Callable[[Tensor], Tensor] | None:
    """Return what `attention.segment_attention` computes over all tokens of a layout; None where the kernel can't.

    The result takes queries, keys and values side by side, (M, (H + 2·G)·C), and returns (M, H·C).

    Args:
        attention: an `Attention`: its widths are read, and whether it drops weights now, which the kernel does not.
        layout: of a batch without a past.
    """
    fits = attention.head_width % 8 == 0 and attention.head_width <= WIDEST_HEAD
    drops = attention.training and attention.dropout
    if not (layout.positions.is_cuda and fits and _is_half(attention)) or drops:
        return None
    return partial(attend, sequences=Sequences.of(layout), widths=attention.widths, head_width=attention.head_width)


def _is_half(attention: nn.Module) -> bool:
    """Return whether queries, keys and values come out in half precision now."""
    autocast = torch.is_autocast_enabled("cuda")
    return (torch.get_autocast_dtype("cuda") if autocast else next(attention.parameters()).dtype) in HALF


def attend(projected: Tensor, sequences: Sequences, widths: list[int], head_width: int) -> Tensor:
    """Return the attention's result (M, H·C) of queries, keys and values (M, (H + 2·G)·C), each a part of `widths`."""
    q, both = projected.split([widths[0], 2 * widths[1]], dim=-1)
    q = rearrange(q, "m (h c) -> m h c", c=head_width)
    k, v = rearrange(take_rows(both, sequences.keys), "m (two g c) -> two m g c", two=2, c=head_width)
    if q.shape[1] > k.shape[1]:  # each head of keys and values serves H/G heads of queries
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    return (by_kernel if q.is_cuda else by_loop)(q, k, v, sequences).flatten(1)


def by_kernel(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Return attention by PyTorch's kernel: q (M, H, C), k and v (Σ path lengths, H, C) → (M, H, C)."""
    from torch.nn.attention.varlen import varlen_attn  # a prototype: only who asks for it needs it

    says = "window_size" if "window_size" in inspect.signature(varlen_attn).parameters else "is_causal"
    causal = {"window_size": (-1, 0 if sequences.causal else -1), "is_causal": sequences.causal}[says]  # by release
    s = sequences
    return varlen_attn(q, k, v, s.query_ends, s.key_ends, s.most_queries, s.most_keys, **{says: causal})


def by_loop(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Return the same, a sequence at a time."""
    parts = []
    ends = zip(pairwise(sequences.query_ends.tolist()), pairwise(sequences.key_ends.tolist()), strict=True)
    for (a, b), (start, stop) in ends:
        mask = torch.ones(b - a, stop - start, dtype=torch.bool, device=q.device)
        if sequences.causal:
            mask = mask.tril(stop - start - (b - a))
        one, *others = (rearrange(x, "m h c -> h m c") for x in (q[a:b], k[start:stop], v[start:stop]))
        parts.append(rearrange(F.scaled_dot_product_attention(one, *others, attn_mask=mask), "h m c -> m h c"))
    return torch.cat(parts)
