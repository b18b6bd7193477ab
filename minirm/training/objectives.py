"""What each stage minimises: a batch in, a weighted sum of losses out.

An objective has two parts, so that one training loop serves both stages: how much a batch weighs (known before the
forward pass), and what it gives: the sum of its losses, and what came out right. A step divides the sum of the losses
by the weight of everything in it, however many batches or processes that is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minirm.config import TrainConfig
from minirm.losses import all_pairs_loss, centering_penalty, number_of_pairs, plackett_luce_loss, rao_kupper_loss
from minirm.tokens.packing import PackedBatch

BLOCK = 256
"""From this K on, the loss sums all pairs block by block, so that no (B, K, K) is kept for the backward pass. Below, it
is small beside what the backbone holds, and to compute blocks twice only costs time: 1.9 times at K = 128 on a CPU."""


@dataclass(frozen=True)
class Outcome:
    """What a batch gives, as tensors on its device."""

    loss: Tensor  # () Σ weight·loss
    hits: Tensor  # () how many of `cases` came out right, ties counting half
    cases: Tensor  # () pairs (reward stage) or tokens (language-model stage)


@dataclass(frozen=True)
class RewardObjective:
    """Preferences, by the loss that the configuration names."""

    config: TrainConfig

    def row_weights(self, batch: PackedBatch) -> Tensor:
        """Return (B,) how much each comparison counts; 0 where nothing can be learned."""
        pairs = number_of_pairs(batch.scores, batch.mask)
        if self.config.loss == "all_pairs":
            return batch.weight * (pairs if self.config.weighting == "pair" else pairs > 0)
        return batch.weight * (batch.mask.sum(1) > 1)

    def total_weight(self, batch: PackedBatch) -> Tensor:
        """Return () how much the batch counts."""
        return self.row_weights(batch).sum(dtype=torch.float64)

    def __call__(self, model: nn.Module, batch: PackedBatch) -> Outcome:
        """Return what the batch gives under a reward model."""
        rewards = model(batch)  # (B, K)
        losses = preference_losses(rewards, batch, self.config)
        if self.config.centering:
            losses = losses + self.config.centering * centering_penalty(rewards, batch.mask)
        hits, cases = count_hits(rewards.detach(), batch)
        return Outcome((self.row_weights(batch) * losses).sum(), hits, cases)


def preference_losses(rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return (B,) losses of rewards (B, K), by the loss that the configuration names."""
    scores, mask = batch.scores, batch.mask
    if config.loss == "plackett_luce":
        return plackett_luce_loss(rewards, scores, mask)
    if config.loss == "rao_kupper":
        return _rao_kupper_pairs(rewards, batch, config)
    block = BLOCK if rewards.shape[1] >= BLOCK else None
    margin = batch.margin[:, None, None]
    loss = all_pairs_loss(rewards, scores, mask, margin=margin, block=block)
    smooth = config.label_smoothing
    if not smooth and not batch.has_soft_labels:
        return loss
    # A label that is right with probability p is p times this order and 1 − p times the reverse.
    probability = batch.probability * (1 - smooth) + (1 - batch.probability) * smooth
    reverse = all_pairs_loss(rewards, -scores, mask, margin=-margin, block=block)
    return probability * loss + (1 - probability) * reverse


def _rao_kupper_pairs(rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return (B,) the mean over the pairs i < j of a row, a tie in score being an outcome of its own."""
    first, second = torch.triu_indices(rewards.shape[1], rewards.shape[1], offset=1, device=rewards.device)
    real = batch.mask[:, first] & batch.mask[:, second]  # (B, pairs)
    rewards = rewards.masked_fill(~batch.mask, 0.0)  # NaN behind the mask would reach the gradient through 0 · NaN
    outcome = (batch.scores[:, first] - batch.scores[:, second]).sign()
    pairs = (side.flatten() for side in (rewards[:, first], rewards[:, second], outcome))
    losses = rao_kupper_loss(*pairs, tie_width=config.tie_width).view(real.shape)
    return losses.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)


def count_hits(rewards: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return how many pairs are in the right order, equal rewards counting ½, and how many there are.

    The order is turned round where its label is more probably false than true, and there is none at probability ½.
    """
    scores = (batch.scores * (batch.probability - 0.5).sign()[:, None]).masked_fill(~batch.mask, torch.nan)
    better = scores[:, :, None] > scores[:, None, :]  # (B, K, K)
    ahead = (rewards[:, :, None] - rewards[:, None, :]).sign()
    return ((ahead + 1) / 2 * better).sum(), better.sum()


@dataclass(frozen=True)
class LanguageModelObjective:
    """The next token, every one that is to be learned alike."""

    def total_weight(self, batch: PackedBatch) -> Tensor:
        """Return () how much the batch counts: the number of its targets."""
        return torch.tensor(len(batch.targets))

    def __call__(self, model: nn.Module, batch: PackedBatch) -> Outcome:
        """Return what the batch gives under a language model; a target counts as hit with its probability."""
        nll = model(batch)  # (S,)
        cases = nll.new_full((), len(nll))
        return Outcome(nll.sum(), (-nll.detach()).exp().sum(), cases)
