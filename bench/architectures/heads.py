"""Other heads: read elsewhere than at the last token; and several on one backbone, an ensemble."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import PackedBatch
from minirm.training.objectives import Outcome, RewardObjective, count_hits, preference_losses


class PooledRead(RewardModel):
    """A reward model whose reward is read at the response's first token, or at all: their mean, by equal weights or by
    the softmax of a learned score, which begins equal."""

    def __init__(self, config: ModelConfig, read: str) -> None:
        super().__init__(config)
        self.read = read
        self.score = nn.Linear(config.width, 1, bias=False) if read == "learned mean" else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return rewards (B, K)."""
        hidden, _ = self.backbone(batch.tokens, batch.layout)  # (M, D)
        tokens, response = self.responses(batch)
        score = hidden.new_zeros(len(tokens)) if self.score is None else self.score(hidden[tokens])[:, 0]
        weight = (score - score.max()).exp()
        zero = hidden.new_zeros(len(batch.slots))
        pooled = zero.index_add(
            0, response, weight * self.head(hidden[tokens])[:, 0]
        )  # the head is linear: pool rewards
        rewards = pooled / zero.index_add(0, response, weight)  # (N,)
        return rewards.new_zeros(batch.mask.numel()).index_copy(0, batch.slots, rewards).view(batch.mask.shape)

    def responses(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return the tokens of all responses that are read, (R,), and which of the N responses each belongs to."""
        own = {}
        for level in batch.layout.levels:
            own.update(zip(level.segments.tolist(), level.lengths.tolist(), strict=True))
        tails = {path[-1]: path[-own[segment] :] for segment, path in enumerate(batch.layout.paths)}
        spans = [tails[read][: 1 if self.read == "first" else None] for read in batch.layout.reads.tolist()]
        which = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        device = batch.tokens.device
        return torch.from_numpy(np.concatenate(spans)).to(device), torch.from_numpy(which).to(device)


class ManyHeads(RewardModel):
    """A reward model of a decoder whose reward is the mean of H heads' rewards, or that of one of them.

    Each is trained on a resample of its own. Source: Osband et al., arXiv:1602.04938; Poisson counts instead of a
    bootstrap, Oza and Russell 2001.
    """

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
        places = rewards.new_zeros(len(rewards), batch.mask.numel()).index_copy(1, batch.slots, rewards)
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
        loss = (self.comparison_weights(batch) * (self.times(batch.numbers, len(rewards)) * losses).mean(0)).sum()
        return Outcome(loss, *count_hits(rewards.detach().mean(0), batch))

    def times(self, rows: tuple[int, ...], heads: int) -> Tensor:
        """Return (H, B) how often each head meets each of these comparisons."""
        drawn = [np.random.default_rng([self.config.seed, row]).poisson(1.0, heads) for row in rows]
        return torch.tensor(np.array(drawn).T, dtype=torch.float32)
