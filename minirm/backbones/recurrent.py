"""GRU and LSTM backbones: the prompt runs once, and every response starts from its memory."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import checkpoint

from minirm.backbones.protocol import State
from minirm.config import ModelConfig
from minirm.layers import build_norm, take_rows
from minirm.layout import Layout


class RecurrentBlock(nn.Module):
    """x ← x + recurrent(norm(x)) over every path, level by level: prompts first, then what continues them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = build_norm(config)
        network = nn.GRU if config.backbone == "gru" else nn.LSTM
        self.recurrent = network(config.width, config.width, batch_first=True)
        self.parts = 1 if config.backbone == "gru" else 2  # h, or h and the cell's memory
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, layout: Layout, reads: Tensor | None = None, past: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the block's output, (M, D) or at `reads` alone (N, D), and its memory, (rows, D) per part."""
        normed = self.norm(x)
        memory = past if past is not None else (x.new_zeros(1, x.shape[1]),) * self.parts
        outputs = []
        for level in layout.levels:
            start = tuple(take_rows(part, level.parents)[None] for part in memory)  # (1, n, D) each
            sequence = PackedSequence(take_rows(normed, level.order), level.steps)
            output, end = self.recurrent(sequence, start if self.parts == 2 else start[0])
            outputs.append(output.data)
            end = end if self.parts == 2 else (end,)
            memory = tuple(torch.cat([part, new[0].to(part.dtype)]) for part, new in zip(memory, end, strict=True))
        order = layout.level_order
        if reads is not None:
            x, order = take_rows(x, reads), order[reads]
        return x + self.dropout(take_rows(torch.cat(outputs), order)), memory


class Recurrent(nn.Module):
    """Embedding, L residual recurrent layers, a last norm.

    Source: GRU, arXiv:1406.1078; LSTM, Hochreiter and Schmidhuber 1997.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(RecurrentBlock(config) for _ in range(config.layers))
        self.norm = build_norm(config)
        nn.init.normal_(self.embedding.weight, std=0.02)

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
        x = self.dropout(self.embedding(tokens))  # (M, D)
        state = []
        for depth, block in enumerate(self.blocks):
            reads = layout.reads if only_reads and depth == len(self.blocks) - 1 else None
            layer_past = None if past is None else past[depth]
            if self.checkpointing and torch.is_grad_enabled():
                x, memory = checkpoint(block, x, layout, reads, layer_past, use_reentrant=False)
            else:
                x, memory = block(x, layout, reads, layer_past)
            state.append(memory)
        return self.norm(x), state if keep_state else None
