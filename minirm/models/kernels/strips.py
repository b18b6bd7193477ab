"""Attention over segments as plain matrix products, forward and backward: the way of a CPU.

PyTorch's kernel for CPUs takes one head at a time, in blocks of 32 to 256 queries, and computes the weights anew in the
backward pass. A *strip* is up to `MOST_QUERIES` queries of every segment and every head of a tile: one batched product,
which reaches no further than the last key that one of them sees, and whose weights are kept.

`attention.segment_attention` is the plain twin, and serves where strips do not pay.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from minirm.tokens.layout import Tile, Tiles

MOST_QUERIES = 128
"""Queries of a segment in one strip. Fewer skip more of the keys that none of them sees, in smaller products."""
MOST_KEYS = 1024
"""On longer paths the kept weights, S for a query in a head, would outweigh all else that a layer keeps, about 16·C."""
LEAST_WORK = 5_000
"""Entries (a query and a key) of a batch below which the kernel takes about as long."""


@dataclass(frozen=True)
class Strip:
    """r queries of each of n segments and H heads, and what they see."""

    queries: slice  # which rows of queries: n·H·r, segment by segment, head by head
    keys: slice  # which rows of keys, and of values: n·H·S, those of the whole tile
    batch: int  # n·H
    seen: int  # so many keys, from the left, are seen by at least one of the queries …
    sure: int  # … and so many by all
    hidden: Tensor  # (n, 1, r, seen − sure) True where a query does not see one of those between
    last: bool  # of its tile: all S keys are seen


@dataclass(frozen=True)
class Strips:
    """All tokens as queries, grouped into strips. A row is one token's query, key or value in one head, (C,)."""

    strips: tuple[Strip, ...]
    heads: int  # H
    head_width: int  # C
    sizes: tuple[int, int, int]  # how many rows of queries, of keys and of values
    rows: Tensor  # (Σ sizes,) where each row lies among the M·(H + 2·G) of the projections
    slots: Tensor  # (M·H,) which row of queries each token and head is

    def of(self, strip: Strip, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a strip's part of all rows: (n·H, r, C) and, of keys and values, (n·H, seen, C)."""
        q, k, v = (x.view(strip.batch, -1, self.head_width) for x in
                   (queries[strip.queries], keys[strip.keys], values[strip.keys]))  # fmt: skip
        return q, k[:, : strip.seen], v[:, : strip.seen]


def attend_in_strips(attention: nn.Module, tiles: Tiles) -> Callable[[Tensor], Tensor] | None:
    """Return what `attention.segment_attention` computes over all tokens, by strips; None where they do not pay.

    The result takes queries, keys and values side by side, (M, (H + 2·G)·C), and returns (M, H·C).

    Args:
        attention: an `Attention`: its widths are read, and whether it drops weights now, which strips do not.
        tiles: `layout.everywhere`, nothing of which lies in a past.
    """
    if not pay(tiles) or (attention.training and attention.dropout):
        return None
    heads, groups = (width // attention.head_width for width in attention.widths[:2])
    return partial(_attend, strips=cut_into_strips(tiles, heads, groups, attention.head_width))


def _attend(projected: Tensor, strips: "Strips") -> Tensor:
    return StripAttention.apply(projected, strips)


def pay(tiles: Tiles) -> bool:
    """Return whether strips are faster than PyTorch's kernel, and their weights are not too many to keep."""
    work = sum(tile.queries.numel() * tile.keys.shape[1] for tile in tiles.tiles)
    return tiles.slots.is_cpu and work >= LEAST_WORK and max(tile.keys.shape[1] for tile in tiles.tiles) <= MOST_KEYS


def cut_into_strips(tiles: Tiles, heads: int, groups: int, head_width: int) -> Strips:
    """Return tiles as strips.

    Args:
        tiles: `layout.everywhere`, nothing of which lies in a past.
        heads: H.
        groups: G heads of keys and values; H must be a multiple of G.
        head_width: C.
    """
    head, parts = torch.arange(heads)[:, None], heads + 2 * groups
    owner = heads + head // (heads // groups)  # (H, 1) which part of a token is the head's key
    strips, order, first_query, first_row, first_key = [], [], 0, 0, 0
    for tile in tiles.tiles:
        n, S = tile.keys.shape
        numbers = first_query + torch.arange(tile.queries.numel()).view(n, 1, -1)
        numbers = heads * numbers + head  # (n, H, R) every query and head
        keys = slice(first_key, first_key + n * heads * S)
        for part in _parts(tile.queries.shape[1]):
            order.append(numbers[..., part].flatten())
            queries = slice(first_row, first_row + len(order[-1]))
            strips.append(Strip(queries, keys, n * heads, *_visible(tile, part), part.stop == tile.queries.shape[1]))
            first_row = queries.stop
        first_query, first_key = first_query + tile.queries.numel(), keys.stop
    order = torch.cat(order)
    slots = torch.empty_like(order)
    slots[order] = torch.arange(len(order))
    asked = torch.cat([tile.queries.flatten() for tile in tiles.tiles])
    queries = parts * asked[order // heads] + order % heads
    keys = torch.cat([(parts * tile.keys[:, None] + owner).flatten() for tile in tiles.tiles])
    return Strips(
        strips=tuple(strips),
        heads=heads,
        head_width=head_width,
        sizes=(len(queries), len(keys), len(keys)),
        rows=torch.cat([queries, keys, keys + groups]),
        slots=slots.view(-1, heads)[tiles.slots].flatten(),
    )


def _parts(queries: int) -> list[slice]:
    """Cut a tile's queries into as few parts as may be, of one size give or take one."""
    count = math.ceil(queries / MOST_QUERIES)
    return [slice(*ends) for ends in pairwise(queries * i // count for i in range(count + 1))]


def _visible(tile: Tile, part: slice) -> tuple[int, int, Tensor]:
    """Return how many keys one, and all, of a part of the queries see, and which of those between are hidden."""
    visible = tile.visible.expand(tile.queries.shape)[:, part]  # (n, r)
    seen, sure = int(visible.max()), int(visible.min())
    return seen, sure, (torch.arange(sure, seen) >= visible[..., None])[:, None]


class StripAttention(Function):
    """softmax(q·kᵀ/√C)·v of all tokens, each over the keys that it may see.

    `apply` takes the projections (M, (H + 2·G)·C), queries before keys before values, and strips; it returns (M, H·C).
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # a bfloat16 product is compiled for each shape it meets
    def forward(ctx: FunctionCtx, projected: Tensor, strips: Strips) -> Tensor:
        """Return the attention's result, (M, H·C)."""
        rows = projected.reshape(-1, strips.head_width).index_select(0, strips.rows)
        parts = rows.split(strips.sizes)
        parts[0].mul_(strips.head_width**-0.5)
        found, kept = torch.empty_like(parts[0]), []
        for strip in strips.strips:
            q, k, v = strips.of(strip, *parts)
            weights = torch.bmm(q, k.mT)  # (n·H, r, seen)
            between = weights.view(-1, strips.heads, *weights.shape[1:])[..., strip.sure :]
            between.masked_fill_(strip.hidden, -math.inf)
            torch.softmax(weights, -1, out=weights)
            torch.bmm(weights, v, out=found[strip.queries].view(q.shape))
            if ctx.needs_input_grad[0]:
                kept.append(weights)
        if kept:
            ctx.save_for_backward(rows, *kept)
            ctx.strips, ctx.shape = strips, projected.shape
        return found.index_select(0, strips.slots).view(len(projected), -1)

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the projections.

        With s = q·kᵀ, w = softmax(s), y = w·v: dv = wᵀ·dy, dw = dy·vᵀ, ds = w ⊙ (dw − Σ w ⊙ dw), dq = ds·k, dk = dsᵀ·q.
        """
        (rows, *kept), strips = ctx.saved_tensors, ctx.strips
        parts = rows.split(strips.sizes)
        arrived = torch.zeros_like(parts[0]).index_add_(0, strips.slots, gradient.reshape(-1, strips.head_width))
        left = torch.empty_like(rows)
        gradients = left.split(strips.sizes)
        # A tile's last strip first: it sees all of the tile's keys and makes their gradient, to which the others add.
        for strip, w in zip(reversed(strips.strips), reversed(kept), strict=True):
            q, k, v = strips.of(strip, *parts)
            dq, dk, dv = strips.of(strip, *gradients)
            dy, so_far = arrived[strip.queries].view(q.shape), 0.0 if strip.last else 1.0
            dv.baddbmm_(w.mT, dy, beta=so_far)
            ds = torch.bmm(dy, v.mT)
            torch._softmax_backward_data(ds, w, -1, w.dtype, grad_input=ds)
            torch.bmm(ds, k, out=dq)
            dk.baddbmm_(ds.mT, q, beta=so_far)
        gradients[0].mul_(strips.head_width**-0.5)  # the queries were scaled
        whole = left.new_zeros(ctx.shape).view(-1, strips.head_width).index_add_(0, strips.rows, left)
        return whole.view(ctx.shape), None
