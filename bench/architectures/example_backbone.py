"""A backbone of one's own: a causal convolution over each path, in padded rows."""

import torch
from torch import nn

from bench.architectures.rows import rows_of_paths


class Convolution(nn.Module):
    """L times x ← x + gelu(mix of this token and the REACH tokens before it)."""

    REACH = 8

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(nn.Conv1d(config.width, config.width, self.REACH + 1) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.gradient_checkpointing = False

    def forward(self, tokens, layout, *, only_reads=False, past=None, keep_state=False):
        if past is not None or keep_state:
            raise NotImplementedError("no generation")
        rows = rows_of_paths(tokens, layout, only_reads=only_reads)
        x = self.embedding(rows.tokens).transpose(1, 2)  # (S, D, T)
        for layer in self.layers:
            x = x + nn.functional.gelu(layer(nn.functional.pad(x, (self.REACH, 0))))
        hidden = self.norm(x.transpose(1, 2)).flatten(0, 1)  # (S·T, D)
        return torch.index_select(hidden, 0, rows.places), None
