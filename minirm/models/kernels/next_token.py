"""−log p of the next token, without the logits of a whole batch in memory."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 1024
"""Tokens whose V logits are held at the same time."""


def next_token_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return −log p (S,) of targets (S,) given states (S, D) and an unembedding (V, D), in nats, at least float32.

    Each chunk's logits are made again for the backward pass: (S, V) in float32 would outweigh the model.
    """
    chunks = zip(hidden.split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True)
    return torch.cat([checkpoint(_nll, states, weight, wanted, use_reentrant=False) for states, wanted in chunks])


def _nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, targets, reduction="none")
