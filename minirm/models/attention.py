"""Self-attention over packed segments: the plain mathematics, and where a kernel may take its place."""

import math
from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minirm.config import ModelConfig, RopeScaling
from minirm.models.kernels.cpu_bfloat16 import is_slower
from minirm.models.kernels.reads import attend_to_states
from minirm.models.kernels.rows import gather_tiles, take_rows
from minirm.tokens.layout import Layout, Tile, Tiles

KeysValues = tuple[Tensor, Tensor]
"""(tokens, G·C) each."""
Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of M positions, (M, 1, C) each."""
Kernel = Callable[[Tensor], Tensor]
"""(M, (H + 2·G)·C) queries, keys and values side by side → what `segment_attention` makes of them, (M, H·C)."""


def segment_attention(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, head_width: int, dropout: float = 0.0) -> Tensor:
    """Return softmax(q·kᵀ/√C)·v, each query over the keys that its tile lets it see.

    Args:
        q: (queries, H·C).
        k, v: (tokens, G·C); H must be a multiple of G.
        tiles: which queries see which tokens.
        head_width: C.
        dropout: the probability with which a weight of the softmax is dropped now.
    Returns:
        (queries, H·C)
    """
    q = gather_tiles(q, [tile.queries for tile in tiles.tiles], head_width)  # a rectangle (n, H, R, C) for each tile
    k, v = (gather_tiles(x, [tile.keys for tile in tiles.tiles], head_width) for x in (k, v))
    attended = [_attend(*of_tile, dropout) for of_tile in zip(q, k, v, tiles.tiles, strict=True)]
    return take_rows(torch.cat([rearrange(x, "n h r c -> (n r) (h c)") for x in attended]), tiles.slots)


def _attend(q: Tensor, k: Tensor, v: Tensor, tile: Tile, dropout: float) -> Tensor:
    """Return attention inside one tile: q (n, H, R, C), k and v (n, G, S, C) → (n, H, R, C)."""
    if q.shape[1] > k.shape[1]:  # each head of keys and values serves H/G heads of queries
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if is_slower(q, k):
        with torch.autocast("cpu", enabled=False):
            return _attend(q.float(), k.float(), v.float(), tile, dropout).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=tile.mask(), dropout_p=dropout, is_causal=tile.causal)


class Stacked(nn.Linear):
    """Matrices on top of one another, [W₁; W₂; …]·x + b: one product instead of several."""

    def __init__(self, width: int, widths: dict[str, int], *, bias: bool) -> None:
        super().__init__(width, sum(widths.values()), bias=bias)
        ends = accumulate(widths.values())
        self.rows = {name: slice(end - widths[name], end) for name, end in zip(widths, ends, strict=True)}

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return entries `start` to `stop` of the result's last dimension, and compute no other."""
        return F.linear(x, self.weight[start:stop], None if self.bias is None else self.bias[start:stop])


class Attention(nn.Module):
    """Self-attention over segments, with grouped heads of keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bias = config.style != "llama"
        self.head_width = config.head_width
        shared = config.key_value_heads * config.head_width  # G·C
        self.widths = [config.width, shared, shared]
        self.qkv = Stacked(config.width, {"query": config.width, "key": shared, "value": shared}, bias=bias)
        self.out = nn.Linear(config.width, config.width, bias=bias)
        self.dropout = config.dropout if config.bidirectional else 0.0

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        rotation: Rotation | None = None,
        past: KeysValues | None = None,
        kernel: Kernel | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return the attention's output, (M, D), and the keys and values of every token so far, (past + M, G·C) each.

        Args:
            x: (M, D) normalised hidden states.
            layout: whose tiles `everywhere` are asked for where no kernel takes their place.
            rotation: of the M positions.
            past: keys and values that the layout's paths begin with.
            kernel: what computes `segment_attention` over the layout's tokens faster; None: nothing does.
        """
        projected = self.qkv(x)  # (M, (H + 2·G)·C)
        C, (q, k, v) = self.head_width, projected.split(self.widths, dim=-1)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
            projected = torch.cat([q, k, v], dim=-1)
        if past is not None:
            k, v = torch.cat([past[0], k]), torch.cat([past[1], v])
        if kernel is not None:
            return self.out(kernel(projected)), (k, v)
        return self.out(segment_attention(q, k, v, layout.everywhere, C, self.dropout * self.training)), (k, v)

    def read(self, x: Tensor, tiles: Tiles, reads: Tensor, rotation: Rotation | None = None) -> Tensor:
        """Return the attention's output at the reads alone, (N, D): the first half of the fused read.

        Args:
            x: (M, D) normalised hidden states.
            tiles: `layout.at_reads`.
            reads: (N,) the tokens that ask.
            rotation: of the M positions.
        """
        D, dropout = self.widths[0], self.dropout * self.training
        q = self.qkv.part(take_rows(x, reads), 0, D)  # (N, H·C)
        # q·(W·x) = (Wᵀ·q)·x needs no keys, unless they are rotated, weights dropped, or adapters (not Stacked) added.
        if rotation is None and not dropout and isinstance(self.qkv, Stacked):
            return self.out(attend_to_states(q, x, tiles, self.qkv, self.head_width))
        k, v = self.qkv.part(x, D, sum(self.widths)).chunk(2, dim=-1)  # (M, G·C) each
        if rotation is not None:
            cosines, sines = rotation
            q, k = rotate(q, cosines[reads], sines[reads]), rotate(k, cosines, sines)
        return self.out(segment_attention(q, k, v, tiles, self.head_width, dropout))

    @torch.no_grad()
    def look_for_likeness(self) -> None:
        """Start with equal queries and keys, so that a token looks first for tokens like itself.

        q·k/√C is then about √C for a token's like and N(0, 1) for any other; rotary positions weaken that with the
        distance. So each token finds its like from the first step, which training else has to come upon; what it takes
        for that to show where a reward is read, `likeness.py` says. Source: mimetic initialisation, arXiv:2305.09828.
        """
        width, keys = self.widths[:2]
        nn.init.normal_(self.qkv.weight[width : width + keys], std=width**-0.5)
        key = rearrange(self.qkv.weight[width : width + keys], "(g c) d -> g c d", c=self.head_width)
        self.qkv.weight[:width] = rearrange(key.repeat_interleave(width // keys, dim=0), "h c d -> (h c) d")

    @torch.no_grad()
    def begin_as_average(self) -> None:
        """Start with the mean of the values of all that a token sees, as a random projection of them.

        Queries of zero look everywhere alike, so that a read begins as a bag of what was said; values and output are
        drawn anew at unit gain, else the token's own state would drown the mean.
        """
        width, keys = self.widths[:2]
        self.qkv.weight[:width] = 0
        nn.init.normal_(self.qkv.weight[width + keys :], std=width**-0.5)
        nn.init.normal_(self.out.weight, std=width**-0.5)
        for bias in (self.qkv.bias, self.out.bias):
            if bias is not None:
                nn.init.zeros_(bias)


class RotaryPositions(nn.Module):
    """Rotates pairs of channels by an angle that grows with the position.

    Source: RoFormer, arXiv:2104.09864; the scaling, Llama 3, arXiv:2407.21783.
    """

    def __init__(self, head_width: int, theta: float, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        # On the CPU even where weights are made without memory, to be filled from a file that lacks these.
        exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width
        frequencies = theta**-exponents  # (C/2,)
        if scaling is not None:
            turns = scaling.trained_positions * frequencies / (2 * math.pi)
            low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
            kept = ((turns - low) / (high - low)).clamp(0, 1)
            frequencies = frequencies * (kept + (1 - kept) / scaling.factor)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: Tensor) -> Rotation:
        """Return the cosines and sines of positions (M,), each (M, 1, C)."""
        angles = positions[:, None].to(self.frequencies.dtype) * self.frequencies  # (M, C/2)
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return x (M, heads·C) with channel i of each head turned against channel i + C/2."""
    heads = rearrange(x, "m (h c) -> m h c", c=cosines.shape[-1])
    first, second = heads.chunk(2, dim=-1)
    turned = heads * cosines + torch.cat([-second, first], dim=-1) * sines
    return rearrange(turned, "m h c -> m (h c)").to(x.dtype)
