"""A causal transformer, GPT-2 style or Llama style by configuration."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minirm.backbones.protocol import State
from minirm.config import ModelConfig
from minirm.layers import Attention, RotaryPositions, build_mlp, build_norm, take_rows
from minirm.layout import Layout


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
        layout: Layout,
        rotary: tuple[Tensor, Tensor] | None,
        reads: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the block's output, (M, D) or at `reads` alone (N, D), and its keys and values."""
        tiles = layout.everywhere if reads is None else layout.at_reads
        attended, state = self.attention(self.attention_norm(x), tiles, rotary, reads, past)
        if reads is not None:
            x = take_rows(x, reads)  # (N, D): from here on, only what is read
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), state


class Transformer(nn.Module):
    """Embedding, L blocks, a last norm. Source: GPT-2 (Radford et al. 2019); Llama, arXiv:2302.13971."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        learned = config.style == "gpt2"
        self.positions = nn.Embedding(config.max_positions, config.width) if learned else None
        self.rotary = None if learned else RotaryPositions(config.head_width, config.rope_theta)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = build_norm(config)
        self._initialise()

    def _initialise(self) -> None:
        """GPT-2's: N(0, 0.02²), half of it for positions, less by √(2L) for what writes into the residual stream."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                scale = (2 * self.config.layers) ** -0.5 if into_residual else 0.5 if "positions" in name else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for block in self.blocks:
            block.attention.look_for_likeness()

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        *,
        only_reads: bool = False,
        past: State | None = None,
        keep_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """Return hidden states after the last norm; see `backbones.Backbone`."""
        x = self.embedding(tokens)  # (M, D)
        if self.positions is not None:
            x = x + self.positions(layout.positions)
        rotary = None if self.rotary is None else self.rotary(layout.positions)
        x = self.dropout(x)
        state = []
        for depth, block in enumerate(self.blocks):
            last = depth == len(self.blocks) - 1
            reads = layout.reads if only_reads and last else None
            layer_past = None if past is None else past[depth]
            if self.checkpointing and torch.is_grad_enabled():
                x, layer_state = checkpoint(block, x, layout, rotary, reads, layer_past, use_reentrant=False)
            else:
                x, layer_state = block(x, layout, rotary, reads, layer_past)
            state.append(layer_state)
        return self.norm(x), state if keep_state else None
