"""A transformer, by configuration a decoder in the style of GPT-2 or Llama, or an encoder in the style of BERT."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minirm.config import ModelConfig
from minirm.models.kernels.rows import take_rows
from minirm.models.kernels.strips import Strips, cut_into_strips, pay
from minirm.models.layers import Attention, RotaryPositions, build_mlp, build_norm, fill_up
from minirm.models.protocol import State
from minirm.tokens.layout import Layout, Tiles

KeysValues = tuple[Tensor, Tensor]
"""(tokens, G·C) each."""


class Block(nn.Module):
    """x ← x + attention(norm(x)); x ← x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = build_norm(config)
        self.mlp = build_mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        tiles: Tiles | Strips,
        rotary: tuple[Tensor, Tensor] | None,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return the block's output (M, D), and its keys and values."""
        attended, state = self.attention(self.attention_norm(x), tiles, rotary, past)
        return self._add(x, attended), state

    def read(self, x: Tensor, layout: Layout, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the block's output at `layout.reads` alone, (N, D): the fused read."""
        attended = self.attention.read(self.attention_norm(x), layout.at_reads, layout.reads, rotary)
        return self._add(take_rows(x, layout.reads), attended)

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class EncoderBlock(nn.Module):
    """x ← norm(x + attention(x)); x ← norm(x + mlp(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = build_norm(config)
        self.mlp = build_mlp(config)
        self.mlp_norm = build_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, tiles: Tiles | Strips, rotary: None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Return the block's output (M, D), and its keys and values."""
        attended, state = self.attention(x, tiles, rotary, past)
        return self._add(x, attended), state

    def read(self, x: Tensor, layout: Layout, rotary: None) -> Tensor:
        """Return the block's output at `layout.reads` alone, (N, D): the fused read."""
        attended = self.attention.read(x, layout.at_reads, layout.reads, rotary)
        return self._add(take_rows(x, layout.reads), attended)

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(attended))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Transformer(nn.Module):
    """Embedding, L blocks, a last norm; BERT: its norm stands behind the embedding, since every block ends with one.

    Source: GPT-2 (Radford et al. 2019); Llama, arXiv:2302.13971; BERT, arXiv:1810.04805.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        learned, encodes = config.style != "llama", config.bidirectional
        self.positions = nn.Embedding(config.max_positions, config.width) if learned else None
        self.rotary = None if learned else RotaryPositions(config.head_width, config.rope_theta, config.rope_scaling)
        self.token_types = nn.Embedding(2, config.width) if encodes else None
        self.embedding_norm = build_norm(config) if encodes else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        block = EncoderBlock if encodes else Block
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.norm = nn.Identity() if encodes else build_norm(config)
        self._initialise()

    def _initialise(self) -> None:
        """Draw matrices from N(0, 0.02²), as BERT and GPT-2 do, but keys from N(0, 1/D), and queries equal to them.

        A decoder's positions have half of that deviation, and what writes into its residual stream 1/√(2L) of it.
        """
        encodes = self.config.bidirectional
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                scale = (2 * self.config.layers) ** -0.5 if into_residual else 0.5 if "positions" in name else 1.0
                nn.init.normal_(parameter, std=0.02 * (1.0 if encodes else scale))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for block in self.blocks:
            block.attention.look_for_likeness()

    def begin_as_average(self) -> None:
        """Let the last block begin as the mean of what each token sees; see `Attention.begin_as_average`."""
        self.blocks[-1].attention.begin_as_average()

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        *,
        only_reads: bool = False,
        past: State | None = None,
        keep_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """Return hidden states after the last norm; see `backbones.Backbone`.

        Raises:
            ValueError: an encoder needs `lay_out_rows`, every other style `lay_out`.
        """
        if (layout.types is not None) != self.config.bidirectional:
            raise ValueError(f"style={self.config.style} must be packed with bidirectional={self.config.bidirectional}")
        filled, layout = fill_up(tokens, layout)
        x = self.embedding(filled)  # (M, D)
        if self.positions is not None:
            x = x + self.positions(layout.positions)
        if self.token_types is not None:
            x = x + self.token_types(layout.types)
        rotary = None if self.rotary is None else self.rotary(layout.positions)
        x = self.dropout(self.embedding_norm(x))
        fused = only_reads and past is None and not keep_state  # else keys and values are needed everywhere
        blocks = self.blocks[:-1] if fused else self.blocks
        tiles = self._in_strips_if_they_pay(layout.everywhere) if blocks and past is None else layout.everywhere
        state = []
        for block, layer_past in zip(blocks, past or [None] * len(blocks), strict=True):
            x, layer_state = self._run(block, x, tiles, rotary, layer_past)
            if keep_state:  # else its tensors would live until the last layer
                state.append(tuple(kept[: layout.tokens_so_far] for kept in layer_state))
        if fused:
            return self.norm(self._run(self.blocks[-1].read, x, layout, rotary)), None
        x = self.norm(take_rows(x, layout.reads) if only_reads else x[: len(tokens)])  # without what `fill_up` added
        return x, state if keep_state else None

    def _in_strips_if_they_pay(self, tiles: Tiles) -> Tiles | Strips:
        """Return what attention runs over; weights that are to be dropped are left to PyTorch's kernel."""
        c, drops = self.config, self.training and self.blocks[0].attention.dropout > 0
        return cut_into_strips(tiles, c.heads, c.key_value_heads, c.head_width) if not drops and pay(tiles) else tiles

    def _run(self, part: Callable, *inputs: object) -> object:
        """Return part(*inputs); with checkpointing, only the inputs are kept for the backward pass."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)
