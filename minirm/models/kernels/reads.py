"""Attention at the reads without the keys and values of what they look at.

q·(W_k·x) = (W_kᵀ·q)·x, and a mean of W_v·x is W_v times the mean of x: so the two matrices meet the N reads, not the M
tokens. `attention.segment_attention` over keys and values is the plain twin. In the bench (`speed read`) a
training step is 1.69 × as fast at one layer, 1.09 × at two and 1.02 × at four.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from minirm.models.kernels.rows import gather_tiles
from minirm.tokens.layout import Tiles


def attend_to_states(q: Tensor, x: Tensor, tiles: Tiles, qkv: nn.Linear, head_width: int) -> Tensor:
    """Return the attention of q (N, H·C) over x (M, D), (N, H·C).

    The bias of the keys shifts all scores of a query alike, which the softmax does not see. A score costs D products
    instead of C, which is less in all unless more than about C reads see a token.

    Args:
        q: (N, H·C) queries of the reads.
        x: (M, D) normalised hidden states.
        tiles: `layout.at_reads`.
        qkv: the matrices of queries, keys and values, one on top of the other, and their biases.
        head_width: C.
    """
    D, keys = x.shape[1], (qkv.out_features - x.shape[1]) // 2
    to_keys, to_values = rearrange(qkv.weight[D:], "(kv g c) d -> kv g c d", kv=2, c=head_width)
    # In float32 under any autocast: it is little, and a CPU compiles a bfloat16 product for each shape it meets.
    with torch.autocast(x.device.type, enabled=False):
        q = rearrange(q.to(x.dtype), "n (g h c) -> n g h c", g=len(to_keys), c=head_width)  # h: heads of a group
        q = torch.einsum("nghc,gcd->nghd", q / head_width**0.5, to_keys)
        means = means_at_reads(q.flatten(1, 2), x, tiles).view_as(q)
        found = torch.einsum("nghd,gcd->nghc", means, to_values)
        found = found + rearrange(qkv.bias[-keys:], "(g c) -> g 1 c", c=head_width)
    return rearrange(found, "n g h c -> n (g h c)")


def means_at_reads(q: Tensor, x: Tensor, tiles: Tiles) -> Tensor:
    """Return the mean of x (M, D) by softmax(q·xᵀ) over what each read sees: q (N, H, D) → (N, H, D).

    A row of a tile is one read, n of them; its heads all look at the same S states.
    """
    means = []
    seen = gather_tiles(x, [tile.keys for tile in tiles.tiles], x.shape[-1])  # (n, 1, S, D) each
    for tile, states in zip(tiles.tiles, seen, strict=True):
        scores, mask = q[tile.queries] @ states.mT, tile.mask()  # (n, 1, H, S), (n, 1, 1, S)
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        means.append((scores.softmax(-1) @ states)[:, 0])
    return torch.cat(means)[tiles.slots]
