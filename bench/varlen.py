"""Attention over segments by PyTorch's kernel for unequal lengths, beside minirm's tiles.

`torch.nn.attention.varlen` takes queries, and keys, end to end with the places where a sequence ends. A segment's
queries are its own tokens, as they lie; its keys are its path's, gathered; and since a causal mask ends at the last
query and the last key, each query sees the path before it and its segment up to itself. Nothing is padded and nothing
tiled. The kernel is for GPUs and half precision; `by_loop` says what it computes.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from minirm.models.kernels.rows import take_rows
from minirm.tokens.layout import Layout


@dataclass(frozen=True)
class Sequences:
    """The segments of a layout without a past, as the kernel wants them."""

    keys: Tensor  # (Σ path lengths,) which tokens, path after path
    query_ends: Tensor  # (n + 1,) int32: 0, and where each segment's queries end
    key_ends: Tensor  # (n + 1,) int32
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, layout: Layout, device: str) -> "Sequences":
        """Return the sequences of a layout, on a device."""
        queries = np.array([0, *(path[-1] + 1 for path in layout.paths)])
        keys = np.cumsum([0, *map(len, layout.paths)])
        index, *ends = [
            torch.from_numpy(part).to(device)
            for part in (np.concatenate(layout.paths), queries.astype(np.int32), keys.astype(np.int32))
        ]
        return cls(index, *ends, int(np.diff(queries).max()), int(np.diff(keys).max()))


def by_kernel(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Return attention by PyTorch's kernel: q (M, H, C), k and v (Σ path lengths, H, C) → (M, H, C)."""
    from torch.nn.attention.varlen import varlen_attn  # a prototype: only who asks for it needs it

    says = "window_size" if "window_size" in inspect.signature(varlen_attn).parameters else "is_causal"
    causal = {"window_size": (-1, 0), "is_causal": True}[says]  # its name changed between releases
    s = sequences
    return varlen_attn(q, k, v, s.query_ends, s.key_ends, s.most_queries, s.most_keys, **{says: causal})


def by_loop(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """Return the same, a sequence at a time."""
    parts = []
    ends = zip(pairwise(sequences.query_ends.tolist()), pairwise(sequences.key_ends.tolist()), strict=True)
    for (a, b), (start, stop) in ends:
        before = stop - start - (b - a)
        mask = torch.ones(b - a, stop - start, dtype=torch.bool, device=q.device).tril(before)
        one, *others = (rearrange(x, "m h c -> h m c") for x in (q[a:b], k[start:stop], v[start:stop]))
        parts.append(rearrange(F.scaled_dot_product_attention(one, *others, attn_mask=mask), "h m c -> m h c"))
    return torch.cat(parts)


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sequences: Sequences,
    head_width: int,
    kernel: Callable[[Tensor, Tensor, Tensor, Sequences], Tensor] = by_kernel,
) -> Tensor:
    """Return what `minirm.models.attention.segment_attention` returns for all tokens: q, k, v (M, H·C) → (M, H·C)."""
    q, k, v = (
        rearrange(x, "m (h c) -> m h c", c=head_width)
        for x in (q, take_rows(k, sequences.keys), take_rows(v, sequences.keys))
    )
    return kernel(q, k, v, sequences).flatten(1)
