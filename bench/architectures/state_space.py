"""A selective state space in plain PyTorch: a memory that each token writes to, and lets fade, as it chooses.

Every response takes over the memory that its prompt left, so that a prompt is computed once.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.models.protocol import State
from minirm.tokens.layout import Layout

STATES, REACH = 4, 4
"""Numbers that a channel remembers; and how many tokens, itself included, the convolution before it mixes."""


class StateSpace(nn.Module):
    """L times x ← x + mix(norm(x)). Source: Mamba, arXiv:2312.00752."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.layers))
        self.mixes = nn.ModuleList(Selective(config.width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.gradient_checkpointing = False
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        *,
        only_reads: bool = False,
        past: State | None = None,
        keep_state: bool = False,
    ) -> tuple[Tensor, None]:
        """Return hidden states after the last norm; see `protocol.Backbone`. It keeps no state for later calls."""
        if past is not None or keep_state:
            raise NotImplementedError("no generation")
        x, steps_back = self.embedding(tokens), tokens_before(layout)  # (M, D)
        for norm, mix in zip(self.norms, self.mixes, strict=True):
            x = x + mix(norm(x), layout, steps_back)
        x = self.norm(x)
        return (x[layout.reads] if only_reads else x), None


class Selective(nn.Module):
    """h ← exp(−Δ·a) ⊙ h + Δ·u·B and y = h·C + d ⊙ u along each path, where Δ, B and C depend on the token.

    u is a convolution over the last tokens; y is gated. E = 2·D channels, of N states each.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner, rank = 2 * width, max(1, width // 16)
        self.enter = nn.Linear(width, 2 * inner, bias=False)
        self.taps = nn.Parameter(torch.empty(REACH, inner).uniform_(-0.5, 0.5))  # as nn.Conv1d draws them: 1/√REACH
        self.choose = nn.Linear(inner, rank + 2 * STATES, bias=False)
        self.step = nn.Linear(rank, inner)
        self.log_rates = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(inner))  # flat: it is not to decay
        self.past_by = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, width, bias=False)
        self.rank = rank
        with torch.no_grad():  # steps from 0.001 to 0.1
            steps = torch.exp(torch.empty(inner).uniform_(np.log(0.001), np.log(0.1)))
            self.step.bias.copy_(steps + (-torch.expm1(-steps)).log())

    def forward(self, x: Tensor, layout: Layout, steps_back: list[Tensor]) -> Tensor:
        """Return (M, D) what the M tokens make of x (M, D)."""
        u, gate = self.enter(x).chunk(2, dim=-1)  # (M, E) each
        padded = F.pad(u, (0, 0, 0, 1))
        u = F.silu(sum(tap * padded[back] for tap, back in zip(self.taps, steps_back, strict=True)))
        step, write, read = self.choose(u).split([self.rank, STATES, STATES], dim=-1)
        step = F.softplus(self.step(step))  # (M, E)
        fade = torch.exp(-step[..., None] * self.log_rates.exp().view(-1, STATES))  # (M, E, N)
        written = (step * u)[..., None] * write[:, None]  # (M, E, N)
        y = torch.bmm(scan(fade, written, layout), read[..., None])[..., 0] + self.past_by * u
        return self.leave(y * F.silu(gate))


def tokens_before(layout: Layout) -> list[Tensor]:
    """Return for 0, 1, … tokens back on its path which token stands there, (M,); M where there is none."""
    lengths = np.array(layout.lengths)
    ends = lengths.cumsum()
    before = np.arange(-1, ends[-1])
    before[ends - lengths] = [ends[parent] - 1 if parent >= 0 else ends[-1] for parent in layout.parents]
    before[-1] = ends[-1]
    found = [np.arange(ends[-1])]
    for _ in range(REACH - 1):
        found.append(before[found[-1]])
    return [torch.from_numpy(index).to(layout.positions.device) for index in found]


def scan(fade: Tensor, written: Tensor, layout: Layout) -> Tensor:
    """Return h (M, E, N), where h ← fade ⊙ h + written along each path, from 0."""
    ends, found = written.new_zeros(len(layout.paths) + 1, *written.shape[1:]), []  # the last: of no segment
    for level in layout.levels:  # segments whose parents are done, longest first
        memory, left = ends[level.parents], []
        steps = level.steps.tolist()  # how many segments have a next token
        fades, writes = (x.index_select(0, level.tokens).split(steps) for x in (fade, written))
        for now_fade, now_written in zip(fades, writes, strict=True):
            left.append(memory[len(now_fade) :])
            memory = torch.addcmul(now_written, now_fade, memory[: len(now_fade)])
            found.append(memory)
        ends = ends.index_copy(0, level.segments, torch.cat([memory, *reversed(left)]))
    return torch.cat(found).index_select(0, layout.slots_in_levels)
