"""Several heads on one backbone, each trained on a resample of its own: an ensemble for the price of one model.

Source: Osband et al., arXiv:1602.04938, heads on bootstrap resamples; Oza and Russell 2001, Poisson counts instead.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import PackedBatch
from minirm.training.objectives import Outcome, RewardObjective, count_hits, preference_losses


class ManyHeads(RewardModel):
    """A reward model of a decoder whose reward is the mean of H heads' rewards, or that of one of them."""

    def __init__(self, config: ModelConfig, heads: int) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.width, heads, bias=False)
        nn.init.normal_(self.head.weight, std=(config.width + 1) ** -0.5)
        self.only: int | None = None
        """The head whose rewards are returned; None: the mean of all."""

    def of_each(self, batch: PackedBatch) -> Tensor:
        """Return rewards (H, B, K); 0 where no response is."""
        hidden, _ = self.backbone(batch.tokens, batch.layout, only_reads=True)  # (N, D)
        rewards = self.head(hidden).T  # (H, N)
        places = rewards.new_zeros(len(rewards), batch.mask.numel()).index_copy(1, batch.place, rewards)
        return places.view(-1, *batch.mask.shape)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return rewards (B, K)."""
        rewards = self.of_each(batch)
        return rewards.mean(0) if self.only is None else rewards[self.only]


@dataclass(frozen=True)
class EachHeadsObjective(RewardObjective):
    """The mean of the heads' losses; in training a head meets each comparison a Poisson(1) number of times.

    The numbers depend on the seed and the comparison alone, so a head has the same resample in every epoch.
    """

    def __call__(self, model: ManyHeads, batch: PackedBatch) -> Outcome:
        """Return what the batch gives; what is counted as right is the mean reward's order."""
        if not model.training:
            return super().__call__(model, batch)
        rewards = model.of_each(batch)
        losses = torch.stack([preference_losses(each, batch, self.config) for each in rewards])  # (H, B)
        loss = (self.row_weights(batch) * (self.times(batch.rows, len(rewards)) * losses).mean(0)).sum()
        return Outcome(loss, *count_hits(rewards.detach().mean(0), batch))

    def times(self, rows: tuple[int, ...], heads: int) -> Tensor:
        """Return (H, B) how often each head meets each of these comparisons."""
        drawn = [np.random.default_rng([self.config.seed, row]).poisson(1.0, heads) for row in rows]
        return torch.tensor(np.array(drawn).T, dtype=torch.float32)
