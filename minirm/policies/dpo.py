"""DPO: a policy learns from comparisons themselves, without a reward model, for it is one.

    r_k  = β·Σ_t (log π(a_t) − log π₀(a_t))            the reward that response k would need for π to be the best policy
    loss = −log σ(r_i − r_j), a mean over the pairs of a comparison in which i is better than j

That is the objective of a reward model (`training.objectives`, labels' probabilities and weights included) on other
rewards, over the same packed comparisons: a prompt is computed once for all its responses.

Source: Rafailov et al., arXiv:2305.18290, Eq. 7.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field

import numpy as np
import torch
from torch import Tensor

from minirm.config import TrainConfig
from minirm.config_rules import Count, Positive, Seed, check, require
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.policies.learner import Learner, as_rows
from minirm.tokens.packing import Encoded, PackedBatch, pack
from minirm.training.objectives import RewardObjective


@dataclass(frozen=True)
class DPOConfig:
    """How a policy learns from comparisons."""

    epochs: Count = 1
    """Passes over the comparisons."""
    batch: Count = 16
    """Comparisons of an optimizer step."""
    learning_rate: Positive = 1e-4
    """Of Adam."""
    kl_weight: Positive = 0.1
    """β: what a nat away from the first model is worth, in units of the reward."""
    max_new_tokens: Count = 96
    """Where a response without an end is stopped, in what is shown."""
    seed: Seed = 0
    """Of the order, and of what is shown."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DPOStep:
    """What an optimizer step found before it was taken."""

    iteration: int  # counted from 1
    loss: float  # nats, mean over comparisons
    accuracy: float  # share of pairs that the policy orders as their scores do
    chosen: float  # mean of r over the best response of each comparison, a tie's by score: above 0, it became likelier
    rejected: float  # … over the worst one
    gradient_norm: float
    updates_per_second: float = dataclass_field(compare=False)

    def __str__(self) -> str:
        """Return what a reader wants of it in one line."""
        apart = f"chosen {self.chosen:+.2f}, rejected {self.rejected:+.2f}"
        return f"loss {self.loss:.3f}, accuracy {self.accuracy:.3f}, {apart}"


class DPO(Learner):
    """Lets a language model itself learn from comparisons.

    Args:
        comparisons: in tokens, each with two scores that differ; at least one.
    """

    def __init__(
        self, language_model: LanguageModel, tokenizer: AnyTokenizer, comparisons: Sequence[Encoded], config: DPOConfig
    ) -> None:
        require(len(comparisons) > 0, "no comparison is left to learn from")
        self.steps_per_epoch = math.ceil(len(comparisons) / config.batch)
        iterations = self.steps_per_epoch * config.epochs
        super().__init__(language_model, tokenizer, config, iterations=iterations, has_value=False)
        self.comparisons = comparisons
        self.objective = RewardObjective(TrainConfig())

    def run(self) -> Iterator[DPOStep]:
        """Yield what each step found, when it is taken.

        Raises:
            InputError: a loss or a gradient is not finite; the message names the step.
        """
        while self.done < self.iterations:
            began = time.perf_counter()
            batch, rewards = self._rewards(self._batch())
            outcome = self.objective(lambda _, found=rewards: found, batch)
            loss = outcome.loss / self.objective.total_weight(batch)
            norm = self.step(loss)
            self.done += 1
            is_reverse = batch.probability[:, None] < 0.5
            order = torch.where(is_reverse, -batch.order, batch.order)
            best, worst = (
                rewards.detach().gather(1, order.masked_fill(~batch.mask, off).sort(1).indices[:, end, None])
                for off, end in ((-torch.inf, -1), (torch.inf, 0))
            )
            found = (loss, outcome.hits / outcome.cases, best.mean(), worst.mean())
            rate = 1 / (time.perf_counter() - began)
            yield DPOStep(self.done, *(value.item() for value in found), norm, rate)

    def _batch(self) -> list[Encoded]:
        epoch, step = divmod(self.done, self.steps_per_epoch)
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.comparisons))
        size = self.config.batch
        return [self.comparisons[n] for n in order[step * size : (step + 1) * size]]

    def _rewards(self, comparisons: Sequence[Encoded]) -> tuple[PackedBatch, Tensor]:
        """Return the packed batch, and r of each response, (B, K); 0 where there is none."""
        items = [replace(one, learned=np.zeros(len(one.prompt), dtype=bool)) for one in comparisons]
        batch = pack(items).to(self.policy.device)
        with torch.no_grad():
            first_nll = self.first(batch)
        apart = first_nll - self.policy.language_model(batch)  # (S,) log π − log π₀
        lengths = torch.tensor([len(response) for item in items for response in item.responses])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (N, T)
        return batch, self.kl_weight * as_rows(as_rows(apart, mask).sum(1), batch.mask)
