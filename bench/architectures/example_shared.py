"""A backbone of one's own that shares a prompt: its memory decays, and every response takes over the prompt's."""

import torch
from torch import nn


class Decay(nn.Module):
    """L times x ← x + gelu(W·h), where h_t = a ⊙ h_{t−1} + (1 − a) ⊙ x_t along each path."""

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.mixes = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))
        self.decays = nn.Parameter(torch.linspace(-3, 3, config.width).repeat(config.layers, 1))
        self.norm = nn.LayerNorm(config.width)
        self.gradient_checkpointing = False

    def forward(self, tokens, layout, *, only_reads=False, past=None, keep_state=False):
        if past is not None or keep_state:
            raise NotImplementedError("no generation")
        x = self.embedding(tokens)  # (M, D)
        for mix, decay in zip(self.mixes, self.decays.sigmoid(), strict=True):
            x = x + nn.functional.gelu(mix(self.remember(x, layout, decay)))
        x = self.norm(x)
        return (x[layout.reads] if only_reads else x), None

    def remember(self, x, layout, decay):
        ends = x.new_zeros(len(layout.paths) + 1, x.shape[1])  # memory at each segment's end; the last row: of nothing
        found = []
        for level in layout.levels:  # segments whose parents are done, longest first
            memory = ends[level.parents]
            for now in level.tokens.split(level.steps.tolist()):  # the next token of each that has one
                memory = torch.cat([decay * memory[: len(now)] + (1 - decay) * x[now], memory[len(now) :]])
                found.append(memory[: len(now)])
            ends = ends.index_copy(0, level.segments, memory)
        return torch.cat(found)[layout.slots_in_levels]  # (M, D)
