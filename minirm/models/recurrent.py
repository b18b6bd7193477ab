"""GRU and LSTM backbones: the prompt runs once, and every response starts from its memory."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minirm.config import ModelConfig
from minirm.models.kernels.cpu_bfloat16 import fill_up
from minirm.models.kernels.recurrence import Memory, project_inputs, run_level
from minirm.models.kernels.rows import take_rows
from minirm.models.protocol import State
from minirm.models.transformer import build_norm
from minirm.tokens.layout import Layout


class RecurrentBlock(nn.Module):
    """x ← x + recurrent(norm(x)) over every path, level by level: prompts first, then what continues them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = build_norm(config)
        network = nn.GRU if config.backbone == "gru" else nn.LSTM
        self.recurrent = network(config.width, config.width)
        self.parts = 1 if config.backbone == "gru" else 2  # h, or h and the cell's memory
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, layout: Layout, slots: Tensor | None = None, past: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        """Return the block's output, and what each segment leaves in memory: (1 + segments, D) per part.

        Args:
            x: (M, D) the levels end to end, each step by step.
            layout: their segments.
            slots: where what is wanted lies in x, in that order; None: x as it lies.
            past: the memory of past segments. Row 0 is blank, row s + 1 is what segment s left.
        Returns:
            (M, D), or (slots, D); and the memory, what was past included.
        """
        sizes = [len(level.tokens) for level in layout.levels]
        *inputs, rest = project_inputs(self.recurrent, self.norm(x)).split([*sizes, len(x) - sum(sizes)])
        memory = past if past is not None else (x.new_zeros(1, x.shape[1]),) * self.parts
        segments = sum(len(level.segments) for level in layout.levels)
        memory = tuple(F.pad(part, (0, 0, 0, segments)) for part in memory)
        outputs = []
        for level, level_inputs in zip(layout.levels, inputs, strict=True):
            start = tuple(take_rows(part, level.parents + 1) for part in memory)  # (n, D) each
            output, ends = run_level(self.recurrent, level_inputs, start, level.steps)
            outputs.append(output)
            both = zip(memory, ends, strict=True)
            memory = tuple(part.index_copy(0, level.segments + 1, end.to(part.dtype)) for part, end in both)
        output = torch.cat([*outputs, x.new_zeros(len(rest), x.shape[1])])
        if slots is not None:
            x, output = take_rows(x, slots), take_rows(output, slots)
        return x + self.dropout(output), memory


class Recurrent(nn.Module):
    """Embedding, L residual recurrent layers, a last norm.

    Source: GRU, arXiv:1406.1078; LSTM, Hochreiter and Schmidhuber 1997.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
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
        """Return hidden states after the last norm; see `protocol.Backbone`."""
        filled, layout = fill_up(tokens[torch.cat([level.tokens for level in layout.levels])], layout)
        x = self.dropout(self.embedding(filled))  # (M, D), level by level
        wanted = layout.slots_in_levels[layout.reads] if only_reads else layout.slots_in_levels
        state = []
        for depth, block in enumerate(self.blocks):
            slots = wanted if depth == len(self.blocks) - 1 else None
            layer_past = None if past is None else past[depth]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x, memory = checkpoint(block, x, layout, slots, layer_past, use_reentrant=False)
            else:
                x, memory = block(x, layout, slots, layer_past)
            if keep_state:
                state.append(memory)
        return self.norm(x), state if keep_state else None
