"""Words beside the network: a linear read-out of hashed n-grams, added to the reward.

    r(prompt, response) = network + s/√G · Σ_g w[hash(g)]        over the response's G n-grams g of up to n tokens

Few comparisons teach so plain a model words, where a network from nothing knows none yet; the network learns what is
left. Source: "wide and deep", arXiv:1606.07792; hashed features: arXiv:0902.2206.
"""

import torch
from torch import Tensor, nn

from minirm.tokens.layout import Layout

BITS = 18
"""Of a hash: there are 2^18 weights, and some n-grams share one."""
SCALE = 100.0
"""s: at the network's rate the read-out learns so much faster; s times the rate is best at about 0.03."""
MIXER = 0x9E3779B97F4A7C15 - (1 << 64)
"""2^64 over the golden ratio: products with it are spread over the upper bits. Source: Knuth, TAOCP 3, section 6.4."""


class NGrams(nn.Module):
    """What the n-grams of a response say. Args: longest: n, at least 1."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.weight = nn.Parameter(torch.zeros(1 << BITS))

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Return (N,) what each response adds to its reward; responses are read once each, in their order."""
        here, before = torch.arange(len(tokens), device=tokens.device), layout.positions.roll(1)
        inside = layout.types == 1
        begins = inside & ((layout.types.roll(1) == 0) | (layout.positions != before + 1))
        response = (begins.cumsum(0) - 1).clamp(min=0)  # (M,)
        behind = here - here.where(begins, 0).cummax(0).values  # (M,) how many of its tokens stand before each
        sums, counts = self.weight.new_zeros(2, len(layout.reads)).unbind()
        hashed = torch.zeros_like(tokens)
        for n in range(self.longest):
            hashed = (hashed.roll(1) + tokens + 1) * MIXER  # integers overflow, as they should
            whole = inside & (behind >= n)
            said = self.weight[(hashed >> (64 - BITS)) & ((1 << BITS) - 1)]
            sums = sums.index_add(0, response, said.masked_fill(~whole, 0.0))
            counts = counts.index_add(0, response, whole.to(counts.dtype))
        return SCALE * sums / counts.sqrt()
