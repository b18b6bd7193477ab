"""Going on behind prompts token by token, each prompt's keys and values read once for all that is written behind it.

The plain way lays every step out as segments of one token and gathers each one's path, its prompt included. Here the
keys and values of the prompts lie in rectangles of like length from the first step on, those of what is written in one
of their own, and a softmax goes over both:

    softmax([q·K_promptᵀ, q·K_ownᵀ]/√C)·[V_prompt; V_own]       for K continuations, q·K_promptᵀ is one product

Letters beside the core's: n continuations that still go on, P prompts of a rectangle, S tokens of its longest, W tokens
written so far.

Source: Juravsky et al., arXiv:2402.05099 (Hydragen).
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirm.models.kernels.rows import take_rows
from minirm.tokens.layout import Layout


class Continuing:
    """Continuations of prompts that a transformer has read.

    Args:
        backbone: a `Transformer` that looks back.
        state: keys and values of the prompts' tokens, from every layer.
        layout: the prompts'.
        prompt_of: which prompt each continuation is behind.
        room: tokens that a continuation may have.
    """

    def __init__(
        self, backbone: nn.Module, state: Sequence, layout: Layout, prompt_of: Sequence[int], room: int
    ) -> None:
        device = state[0][0].device
        self.backbone, self.written = backbone, 0
        self.prompt_of = torch.tensor(prompt_of)
        self.lengths = torch.tensor([len(path) for path in layout.paths])
        self.rectangles = list(_of_like_length(self.lengths))
        paths = [torch.from_numpy(path) for path in layout.paths]
        tokens = [nn.utils.rnn.pad_sequence([paths[p] for p in some], True).to(device) for some in self.rectangles]
        self.blank = [self._blank(some).to(device) for some in self.rectangles]
        self.layers = [
            _Layer(block.attention, kept, tokens, len(prompt_of), room)
            for block, kept in zip(backbone.blocks, state, strict=True)
        ]
        self._arrange()

    def _blank(self, prompts: Tensor) -> Tensor:
        """Return (P, 1, 1, S) what is added to the scores of a rectangle: −∞ behind the end of a prompt."""
        lengths = self.lengths[prompts]
        behind = torch.arange(int(lengths.max())) >= lengths[:, None]
        return torch.zeros(behind.shape).masked_fill(behind, -torch.inf)[:, None, None]

    def _arrange(self) -> None:
        """Give each continuation a place beside the others behind its prompt; places that are left repeat one."""
        members: list[list[int]] = [[] for _ in self.lengths]
        for row, prompt in enumerate(self.prompt_of.tolist()):
            members[prompt].append(row)
        device, at, found = self.blank[0].device, 0, torch.empty(len(self.prompt_of), dtype=torch.long)
        self.places = []  # of each rectangle: (P,) which of its prompts go on, (P, K) the continuations behind each
        for some in self.rectangles:
            going = [p for p, prompt in enumerate(some.tolist()) if members[prompt]]
            rows = [members[some[p]] for p in going]
            most = max(map(len, rows), default=0)
            for its in rows:
                found[its] = at + torch.arange(len(its))
                at += most
            filled = torch.tensor([its + its[-1:] * (most - len(its)) for its in rows], dtype=torch.long)
            whole = len(going) == len(some)
            self.places.append((None if whole else torch.tensor(going, device=device), filled.to(device)))
        self.slots = found.to(device)

    def __call__(self, going: Sequence[int], tokens: Tensor) -> Tensor:
        """Return the hidden states (n, D) behind one more token of each continuation.

        Args:
            going: which of the last call's continuations go on.
            tokens: (n,) what they go on with.
        """
        if len(going) < len(self.prompt_of):
            kept = torch.tensor(going)
            self.prompt_of = self.prompt_of[kept]
            for layer in self.layers:
                layer.keep(kept.to(tokens.device))
            self._arrange()
        backbone = self.backbone
        positions = (self.lengths[self.prompt_of] + self.written).to(tokens.device)
        x = backbone.embed(tokens, positions, torch.ones_like(tokens))  # all that is written is of a response
        rotation = None if backbone.rotary is None else backbone.rotary(positions)
        for block, layer in zip(backbone.blocks, self.layers, strict=True):
            kernel = partial(layer.attend, self)
            x = block.add(x, block.attention(block.attention_norm(x), None, rotation, kernel=kernel)[0])
        self.written += 1
        return backbone.norm(x)


class _Layer:
    """One layer's keys and values: of prompts in rectangles, and of what is written."""

    def __init__(
        self, attention: nn.Module, kept: tuple[Tensor, Tensor], tokens: Sequence[Tensor], n: int, room: int
    ) -> None:
        self.widths, self.head_width = attention.widths, attention.head_width
        self.prompts = [tuple(self._heads(take_rows(x, index)).transpose(1, 2) for x in kept) for index in tokens]
        self.prompts = [tuple(x.contiguous() for x in pair) for pair in self.prompts]  # (P, G, S, C)
        shape = (n, self.widths[1] // self.head_width, room, self.head_width)
        self.own = [kept[0].new_empty(shape) for _ in range(2)]  # (n, G, room, C)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width))

    def keep(self, rows: Tensor) -> None:
        """Forget all continuations but these."""
        self.own = [x.index_select(0, rows) for x in self.own]

    def attend(self, now: Continuing, projected: Tensor) -> Tensor:
        """Return the attention of one token of each continuation, (n, H·C), and keep its key and value."""
        q, k, v = (self._heads(x) for x in projected.split(self.widths, dim=-1))
        for kept, new in zip(self.own, (k, v), strict=True):
            kept[:, :, now.written] = new
        keys, values = (x[:, :, : now.written + 1] for x in self.own)  # (n, G, W, C)
        n, G, C = k.shape
        q = q.view(n, G, -1, C) * C**-0.5  # (n, G, H/G, C)
        own, found = q @ keys.mT, []  # (n, G, H/G, W)
        for prompts, blank, (going, places) in zip(self.prompts, now.blank, now.places, strict=True):
            if not places.numel():
                continue
            k_prompt, v_prompt = prompts if going is None else (x[going] for x in prompts)
            blank = blank if going is None else blank[going]
            asked, scored = (x[places].transpose(1, 2).flatten(2, 3) for x in (q, own))  # (P, G, K·H/G, C or W)
            scores = torch.cat([asked @ k_prompt.mT + blank, scored], dim=-1)
            seen, self_seen = F.softmax(scores, dim=-1).split([k_prompt.shape[2], scored.shape[-1]], dim=-1)
            from_prompt = (seen @ v_prompt).unflatten(2, (places.shape[1], -1)).transpose(1, 2)  # (P, K, G, H/G, C)
            weights = self_seen.unflatten(2, (places.shape[1], -1)).transpose(1, 2)
            found.append((from_prompt.flatten(0, 1), weights.flatten(0, 1)))
        from_prompt, weights = (torch.cat(parts)[now.slots] for parts in zip(*found, strict=True))
        return (from_prompt + weights @ values).flatten(1)


def _of_like_length(lengths: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of prompts of which none is twice as long as another."""
    some: list[int] = []
    for prompt in lengths.argsort().tolist():
        if some and lengths[prompt] >= 2 * lengths[some[0]]:
            yield torch.tensor(some)
            some = []
        some.append(prompt)
    yield torch.tensor(some)
