"""Single changes of minirm's GPT-2, each of one thing."""

from collections.abc import Callable
from dataclasses import replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.models.attention import Attention, Kernel, KeysValues, RotaryPositions, segment_attention
from minirm.models.transformer import Transformer, build_mlp, build_norm
from minirm.tokens.layout import Layout, Tiles


def changed(config: ModelConfig, change: Callable[[Transformer], None]) -> Transformer:
    """Return a fresh transformer with one thing changed."""
    model = Transformer(config)
    change(model)
    return model


@torch.no_grad()
def start(model: Transformer, *, equal: bool, large: bool) -> None:
    """Draw queries and keys anew: equal or apart, with variance 1/D, which minirm has, or 0.02², which GPT-2 has."""
    width = model.config.width
    for block in model.blocks:
        query_and_key = block.attention.qkv.weight[: 2 * width]
        nn.init.normal_(query_and_key, std=width**-0.5 if large else 0.02)
        if equal:
            query_and_key[:width] = query_and_key.data[width:]


def as_gpt2(model: Transformer) -> None:
    """Draw what minirm starts otherwise as GPT-2 does: queries and keys apart and small, and positions like tokens."""
    start(model, equal=False, large=False)
    nn.init.normal_(model.positions.weight, std=0.02)


@torch.no_grad()
def loud_read(model: Transformer) -> None:
    """Draw the last layer's values and output with variance 1/D, as `begin_as_average` does; queries look as before."""
    attention, width = model.blocks[-1].attention, model.config.width
    for weight in (attention.qkv.weight[2 * width :], attention.out.weight):
        nn.init.normal_(weight, std=width**-0.5)


def rms_norm(model: Transformer) -> None:
    """Put RMSNorm in the place of LayerNorm."""
    llama = replace(model.config, style="llama")
    for block in model.blocks:
        block.attention_norm, block.mlp_norm = build_norm(llama), build_norm(llama)
    model.norm = build_norm(llama)


def swiglu(model: Transformer) -> None:
    """Put SwiGLU of as many weights, but without biases, in the place of the GELU MLP, drawn as that is."""
    llama = replace(model.config, style="llama", mlp_width=round(8 * model.config.width / 3))
    for block in model.blocks:
        block.mlp = build_mlp(llama)
        nn.init.normal_(block.mlp.gate_up.weight, std=0.02)
        nn.init.normal_(block.mlp.down.weight, std=0.02 * (2 * model.config.layers) ** -0.5)


# ── Positions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_positions(model: Transformer) -> None:
    """Leave positions out: that a token sees only what stands before it is all that tells of order."""
    model.positions = None


def rotary(model: Transformer) -> None:
    """Turn queries and keys by their positions, instead of adding learned positions to the embedding."""
    model.positions, model.rotary = None, RotaryPositions(model.config.head_width, model.config.rope_theta)


def alibi(model: Transformer) -> None:
    """Look less at what is further away, instead of adding learned positions to the embedding."""
    model.positions, model.rotary = None, Places()
    for block in model.blocks:
        attention = LinearlyBiased(model.config)
        attention.load_state_dict(block.attention.state_dict())
        block.attention = attention


class Places(nn.Module):
    """Hands positions (M,) on to the attention, where rotary ones would hand on cosines and sines."""

    def forward(self, positions: Tensor) -> Tensor:
        return positions


class LinearlyBiased(Attention):
    """softmax(q·kᵀ/√C − m·distance)·v, with m = 2^(−8h/H) in head h of 1 … H. Source: ALiBi, arXiv:2108.12409.

    Of the distance i − j the query's part i is the same for all its keys, and the softmax loses it. What is left is
    m·j: the product of one more channel, in which a query has m and a key its position.
    """

    def forward(
        self, x: Tensor, layout: Layout, places: Tensor, past: KeysValues | None = None, kernel: Kernel | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Return the attention's output, (M, D), with keys and values; see `Attention`. It continues no past."""
        if past is not None:
            raise NotImplementedError("ALiBi here continues no past: where its keys stand is not kept")
        q, k, v = self.qkv(x).split(self.widths, dim=-1)
        return self.out(self._attend(q, k, v, places, layout.everywhere)), (k, v)

    def read(self, x: Tensor, tiles: Tiles, reads: Tensor, places: Tensor) -> Tensor:
        """Return the attention's output at the reads alone, (N, D)."""
        q, k, v = self.qkv(x).split(self.widths, dim=-1)
        return self.out(self._attend(q[reads], k, v, places, tiles))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, places: Tensor, tiles: Tiles) -> Tensor:
        C, H = self.head_width, self.widths[0] // self.head_width
        slopes = 2.0 ** (-8 * torch.arange(1, H + 1, dtype=q.dtype, device=q.device) / H)
        root = (C + 1) ** 0.5  # by which `segment_attention` divides
        q = _widened(q * (root * C**-0.5), repeat(root * slopes, "h -> n h", n=len(q)), C)
        k = _widened(k, repeat(places.to(k.dtype), "m -> m h", h=H), C)
        v = _widened(v, v.new_zeros(len(v), H), C)
        found = rearrange(segment_attention(q, k, v, tiles, C + 1), "n (h c) -> n h c", h=H)
        return rearrange(found[..., :C], "n h c -> n (h c)")


def _widened(x: Tensor, channel: Tensor, head_width: int) -> Tensor:
    """Return x (n, H·C) with one more channel (n, H) in each head: (n, H·(C + 1))."""
    heads = rearrange(x, "n (h c) -> n h c", c=head_width)
    return rearrange(torch.cat([heads, channel[..., None]], dim=-1), "n h c -> n (h c)")
