"""How a decoder begins that is to see what a response has in common with its prompt.

Equal queries and keys let a token look for its like (`Attention.look_for_likeness`), but that alone shows nothing at
the token that is read. A token is most like itself; with positions and token types in the keys, its like in the prompt
is hardly more alike than others of the response; and it brings the values that the token has. So here what it is
and where it stands (position, prompt or response) begin in channels of their own; the first layer's queries and keys
see the former alone, sharply; its values see both. A response's token then looks half at the prompt and brings back
"prompt" where the prompt has it too, and "response" where it has not: each token knows whether it was found, and the
mean of that over a path is, but for a constant, the F1 of shared tokens. (Rotary positions turn a token away from its
like at a distance, so that less of it is seen.)
"""

import torch
from torch import nn

PLACE = 8
"""One channel in so many is for the place."""
LIKENESS = 22.0
"""Logit of a token's like; a hundred others, at N(0, 1), together have about that of 5."""


@torch.no_grad()
def keep_places_apart(transformer: nn.Module) -> None:
    """Leave a transformer's last channels to places and the others to tokens, which alone its first layer looks at."""
    width, places = transformer.config.width, transformer.token_types.weight
    apart = width - max(1, width // PLACE)
    transformer.embedding.weight[:, apart:] = 0
    places[:, :apart] = 0
    places *= (width / (width - apart)) ** 0.5  # as long as a token's embedding
    places[1] = -places[0]
    if transformer.positions is not None:
        transformer.positions.weight[:, :apart] = 0
    attention = transformer.blocks[0].attention
    matrix = attention.qkv.weight[: sum(attention.widths[:2])]  # queries and keys
    matrix[:, apart:] = 0
    matrix *= (LIKENESS / attention.head_width**0.5) ** 0.5
