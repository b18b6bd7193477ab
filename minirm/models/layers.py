"""What backbones are made of: attention over packed segments, norms, MLPs, rotary positions."""

import math
from dataclasses import replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minirm.config import ModelConfig, RopeScaling
from minirm.models.kernels.rows import take_rows
from minirm.models.kernels.strips import StripAttention, Strips
from minirm.tokens.layout import Layout, Tile, Tiles

SHORT_KEYS = 512
"""Up to this many keys, the CPU's float32 kernel beats its bfloat16 one, which is compiled for each shape it meets."""


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

    types = None if layout.types is None else filled(layout.types)
    everywhere = replace(layout.everywhere, place=filled(layout.everywhere.place))
    return filled(tokens), replace(layout, positions=filled(layout.positions), types=types, everywhere=everywhere)


def segment_attention(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, head_width: int, dropout: float = 0.0) -> Tensor:
    """Return softmax(q·kᵀ/√C)·v, each query over the keys that its tile lets it see.

    Args:
        q: (queries, H·C).
        k, v: (tokens, G·C) with G key-value heads; H must be a multiple of G.
        tiles: which queries see which tokens.
        head_width: C.
        dropout: probability that a weight of the softmax is dropped, now.
    Returns:
        (queries, H·C)
    """
    queries, keys = [tile.queries for tile in tiles.tiles], [tile.keys for tile in tiles.tiles]
    inputs = (_gather_tiles(x, index, head_width) for x, index in ((q, queries), (k, keys), (v, keys)))
    parts = [_attend(*qkv, tile, dropout) for *qkv, tile in zip(*inputs, tiles.tiles, strict=True)]
    return take_rows(torch.cat([rearrange(part, "n h r c -> (n r) (h c)") for part in parts]), tiles.place)


def _gather_tiles(x: Tensor, indices: list[Tensor], head_width: int) -> list[Tensor]:
    """Return rows of x (rows, H·C) as rectangles, one (n, H, R, C) for each index (n, R).

    They are taken together: the backward pass then makes one gradient of x's size, not one for each rectangle.
    """
    together = take_rows(x, torch.cat([index.flatten() for index in indices]))
    parts = together.split([index.numel() for index in indices])
    return [rearrange(x, "(n r) (h c) -> n h r c", n=len(i), c=head_width) for x, i in zip(parts, indices, strict=True)]


def _attend(q: Tensor, k: Tensor, v: Tensor, tile: Tile, dropout: float) -> Tensor:
    """Return attention inside one tile: q (n, H, R, C), k and v (n, G, S, C) → (n, H, R, C)."""
    if q.shape[1] > k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= SHORT_KEYS:
        with torch.autocast("cpu", enabled=False):
            return _attend(q.float(), k.float(), v.float(), tile, dropout).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=tile.mask(), dropout_p=dropout, is_causal=tile.causal)


def _means_at_reads(q: Tensor, x: Tensor, tiles: Tiles) -> Tensor:
    """Return the mean of x (M, D) by softmax(q·xᵀ) over what each read sees: q (N, H, D) → (N, H, D).

    A row of a tile is one read, n of them; its heads all look at the same S states.
    """
    means = []
    seen = _gather_tiles(x, [tile.keys for tile in tiles.tiles], x.shape[-1])  # (n, 1, S, D) each
    for tile, states in zip(tiles.tiles, seen, strict=True):
        scores, mask = q[tile.queries] @ states.mT, tile.mask()  # (n, 1, H, S), (n, 1, 1, S)
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        means.append((scores.softmax(-1) @ states)[:, 0])
    return torch.cat(means)[tiles.place]


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

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
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


class Stacked(nn.Linear):
    """Matrices on top of one another, [W₁; W₂; …]·x + b: one product instead of several."""

    def __init__(self, width: int, widths: dict[str, int], *, bias: bool) -> None:
        super().__init__(width, sum(widths.values()), bias=bias)
        ends = accumulate(widths.values())
        self.rows = {name: slice(end - widths[name], end) for name, end in zip(widths, ends, strict=True)}

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return rows `start` to `stop` of the result, (…, stop − start), and compute no other."""
        return F.linear(x, self.weight[start:stop], None if self.bias is None else self.bias[start:stop])

    def weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Return [W₁; W₂; …] and b. `lora.Adapted`, which may stand in its place, has none while it drops inputs."""
        return self.weight, self.bias


class Attention(nn.Module):
    """Self-attention over segments, with grouped key-value heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bias = config.style != "llama"
        self.head_width = config.head_width
        keys = config.key_value_heads * config.head_width
        self.widths = [config.width, keys, keys]
        self.qkv = Stacked(config.width, {"query": config.width, "key": keys, "value": keys}, bias=bias)
        self.out = nn.Linear(config.width, config.width, bias=bias)
        self.dropout = config.dropout if config.bidirectional else 0.0

    @torch.no_grad()
    def look_for_likeness(self) -> None:
        """Start with equal queries and keys, so that a token looks first for tokens like itself.

        q·k/√C is then about √C for a token's like and N(0, 1) for any other; rotary positions weaken that with the
        distance. What a response has in common with its prompt is visible from the first step, instead of being a
        coincidence that training has to find. Source: mimetic initialisation, Trockman and Kolter, arXiv:2305.09828.
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

    def forward(
        self,
        x: Tensor,
        tiles: Tiles | Strips,
        rotary: tuple[Tensor, Tensor] | None = None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the attention's output and the keys and values of every token so far.

        Args:
            x: (M, D) normalised hidden states.
            tiles: `layout.everywhere`, or its strips, which know of no past and drop no weights.
            rotary: cosines and sines of the M positions.
            past: keys and values (past tokens, G·C) that the layout's paths begin with.
        Returns:
            (M, D); and (k, v), each (past + M, G·C).
        """
        projected = self.qkv(x)
        q, k, v = projected.split(self.widths, dim=-1)  # (M, H·C), (M, G·C), (M, G·C)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if isinstance(tiles, Strips):
            projected = projected if rotary is None else torch.cat([q, k, v], dim=-1)
            return self.out(StripAttention.apply(projected, tiles)), (k, v)
        if past is not None:
            k, v = torch.cat([past[0], k]), torch.cat([past[1], v])  # (past + M, G·C)
        return self.out(segment_attention(q, k, v, tiles, self.head_width, self.dropout * self.training)), (k, v)

    def read(self, x: Tensor, tiles: Tiles, reads: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the attention's output at the reads alone, (N, D): the first half of the fused read.

        Args:
            x: (M, D) normalised hidden states.
            tiles: `layout.at_reads`.
            reads: (N,) the tokens that ask.
            rotary: cosines and sines of the M positions.
        """
        width, dropout = self.widths[0], self.dropout * self.training
        q = self.qkv.part(take_rows(x, reads), 0, width)  # (N, H·C)
        # Keys that are turned and weights that are dropped must exist; a map whose inputs are dropped is no matrix.
        whole = None if dropout or rotary is not None else self.qkv.weight_and_bias()
        if whole is not None:
            return self.out(self._attend_to_states(q, x, tiles, *whole))
        k, v = self.qkv.part(x, width, sum(self.widths)).chunk(2, dim=-1)  # (M, G·C) each
        if rotary is not None:
            cosines, sines = rotary
            q, k = rotate(q, cosines[reads], sines[reads]), rotate(k, cosines, sines)
        return self.out(segment_attention(q, k, v, tiles, self.head_width, dropout))

    def _attend_to_states(self, q: Tensor, x: Tensor, tiles: Tiles, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the attention of q (N, H·C) over x (M, D), (N, H·C), without the keys and values of x.

        q·(W_k·x) = (W_kᵀ·q)·x, and a mean of W_v·x is W_v times the mean of x: so the matrices meet the N reads, not
        the M tokens. The bias of the keys shifts all scores of a query alike, which the softmax does not see. A score
        costs D products instead of C, which is less in all unless more than about C reads see a token.

        Args:
            weight, bias: those of `qkv` as one map.
        """
        to_keys, to_values = rearrange(weight[self.widths[0] :], "(kv g c) d -> kv g c d", kv=2, c=self.head_width)
        # In float32 under any autocast: it is little, and a CPU compiles a bfloat16 product for each shape it meets.
        with torch.autocast(x.device.type, enabled=False):
            q = rearrange(q.to(x.dtype), "n (g h c) -> n g h c", g=len(to_keys), c=self.head_width)  # h: of its group
            q = torch.einsum("nghc,gcd->nghd", q / self.head_width**0.5, to_keys)
            means = _means_at_reads(q.flatten(1, 2), x, tiles).view_as(q)
            found = torch.einsum("nghd,gcd->nghc", means, to_values)
            found = found + rearrange(bias[-self.widths[2] :], "(g c) -> g 1 c", c=self.head_width)
        return rearrange(found, "n g h c -> n (g h c)")


class GeluMLP(nn.Module):
    """W₂·gelu(W₁·x), with GPT-2's tanh form of GELU or BERT's exact one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.inner_width)
        self.down = nn.Linear(config.inner_width, config.width)
        self.approximate = "none" if config.style == "bert" else "tanh"

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class SwiGLU(nn.Module):
    """W₃·(silu(W₁·x) ⊙ W₂·x). Source: Shazeer, arXiv:2002.05202."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Stacked(config.width, {"gate": config.inner_width, "up": config.inner_width}, bias=False)
        self.down = nn.Linear(config.inner_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Pooler(nn.Module):
    """tanh(W·x + b), what BERT makes of a row's first token before it is judged. Source: arXiv:1810.04805."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.dense(x).tanh())


def build_norm(config: ModelConfig) -> nn.Module:
    """Return the norm of a style: LayerNorm (gpt2, bert) or RMSNorm (llama)."""
    norm = nn.RMSNorm if config.style == "llama" else nn.LayerNorm
    return norm(config.width, eps=config.norm_eps)


def build_mlp(config: ModelConfig) -> nn.Module:
    """Return the MLP of a style: GELU (gpt2, bert) or SwiGLU (llama)."""
    return SwiGLU(config) if config.style == "llama" else GeluMLP(config)


def compile_mlps(model: nn.Module) -> None:
    """Run each MLP through torch.compile: where most of the arithmetic is, and the same graph for every batch.

    Attention is left out: its tiles change from batch to batch, and each change would be compiled anew.
    """
    for module in model.modules():
        if isinstance(module, GeluMLP | SwiGLU):
            module.compile(dynamic=True)
