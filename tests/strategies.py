"""Random comparisons and models for hypothesis."""

import numpy as np
import torch
from hypothesis import strategies as st

from minirm.config import ModelConfig
from minirm.tokens.packing import Encoded, PackedBatch, pack

VOCABULARY = 23

ARCHITECTURES = {
    "gpt2": ModelConfig(vocab_size=VOCABULARY, layers=2, width=8, heads=2, max_positions=64),
    "llama": ModelConfig(vocab_size=VOCABULARY, layers=2, width=16, heads=4, kv_heads=2, style="llama"),
    "prefix": ModelConfig(
        vocab_size=VOCABULARY, layers=2, width=8, heads=2, max_positions=64, style="prefix", token_types=True
    ),
    "bert": ModelConfig(vocab_size=VOCABULARY, layers=2, width=8, heads=2, max_positions=64, style="bert"),
    "torch_decoder": ModelConfig(
        vocab_size=VOCABULARY, layers=2, width=8, heads=2, max_positions=64, backbone="torch_decoder"
    ),
    "gru": ModelConfig(vocab_size=VOCABULARY, layers=2, width=6, heads=1, backbone="gru"),
    "lstm": ModelConfig(vocab_size=VOCABULARY, layers=2, width=6, heads=1, backbone="lstm"),
}
"""The smallest of each kind, two layers so that one is before the fused read."""
CAUSAL = ["gpt2", "llama", "gru", "lstm"]
"""Those that predict every next token, and can go on from a state."""


def packed_for(name: str, batch: list[Encoded], *, share_prompt: bool = True) -> PackedBatch:
    """Return a batch as an architecture reads it; an encoder never shares prompts."""
    both_ways = ARCHITECTURES[name].bidirectional
    return pack(batch, share_prompt=share_prompt and not both_ways, bidirectional=both_ways)


@st.composite
def encoded_batches(draw: st.DrawFn, most_responses: int = 4, most_tokens: int = 7) -> list[Encoded]:
    """Draw 1 to 4 comparisons of 1 to `most_responses` responses, of unequal lengths, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, most_responses))
        lengths = draw(st.lists(st.integers(1, most_tokens), min_size=count + 1, max_size=count + 1))
        texts = [rng.integers(0, VOCABULARY, size=length).astype(np.int32) for length in lengths]
        batch.append(Encoded(texts[0], tuple(texts[1:]), tuple(rng.integers(0, 3, size=count).astype(float).tolist())))
    return batch


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Return the model in float64 with every parameter drawn anew, so that no zero or one hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model
