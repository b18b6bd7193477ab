"""PPO: a policy learns from a reward, and is held near the language model π₀ that it began as.

    R_t = −β·(log π_old(a_t) − log π₀(a_t)), and behind the last token the reward as well
    A_t = Σ_k λᵏ·(R_{t+k} + V_{t+k+1} − V_{t+k})                          advantage; nothing is discounted
    Â = whiten(A)                                                         over all tokens of an iteration
    loss = −min(ρ·Â, clip(ρ, 1 − ε, 1 + ε)·Â) + c·(V − A − V_old)²        ρ = π(a_t) / π_old(a_t), a mean over tokens

Source: PPO, arXiv:1707.06347, Eq. 7 and 11; with the KL penalty for language models, arXiv:1909.08593 and 2203.02155.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from minirm.config_rules import NotNegative, Positive, Seed, check, require
from minirm.errors import InputError, shorten
from minirm.files.disk import load_weights
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.policies.sampling import Dialogue, Reward, Sample, sample
from minirm.runs.state import State, check_moments
from minirm.shaping import kl_penalty, whiten
from minirm.tokens.packing import PackedBatch, pack
from minirm.training.optimizers import optimizer_tensors, restore_optimizer

AtLeastOne = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class PPOConfig:
    """How a policy learns."""

    iterations: AtLeastOne = 60
    """How often responses are drawn and learned from."""
    prompts_per_iteration: AtLeastOne = 64
    """Responses that are drawn each time, one to a prompt."""
    epochs: AtLeastOne = 2
    """Passes over the responses of an iteration."""
    batch: AtLeastOne = 16
    """Responses of an optimizer step."""
    learning_rate: Positive = 3e-4
    """Of Adam."""
    kl_weight: NotNegative = 0.05
    """β: what a nat away from the first model costs, in units of the reward."""
    clip: Positive = 0.2
    """ε: how far from 1 the ratio of probabilities may go before a token stops to count."""
    decay: Annotated[float, Meta(ge=0, le=1)] = 0.95
    """λ of the generalised advantage, 0 to 1: from trust in the value alone to trust in what came alone."""
    value_weight: NotNegative = 0.5
    """c: what the value's error counts."""
    max_new_tokens: AtLeastOne = 96
    """Where a response without an end is stopped."""
    seed: Seed = 0
    """Of prompts, draws and batches."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Iteration:
    """What an iteration found, before the policy learned from it."""

    iteration: int  # counted from 1
    reward: float  # mean
    kl_nats: float  # mean over responses of Σ_t log π(a_t) − log π₀(a_t)
    tokens: float  # mean length of a response


class Policy(nn.Module):
    """A language model, and beside it a head for V: the return that is still to come."""

    def __init__(self, language_model: LanguageModel) -> None:
        super().__init__()
        self.language_model = language_model
        self.value = nn.Linear(language_model.config.width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return log π(a_t) and V_t for each token of the responses, (S,) each."""
        hidden = self.language_model.states(batch)
        return -self.language_model.nll(hidden, batch.targets), self.value(hidden)[:, 0]


@dataclass(frozen=True)
class Experience:
    """n responses of at most T tokens, and what was thought of them when they were drawn."""

    samples: list[Sample]
    mask: Tensor  # (n, T) bool, True is a token
    log_p: Tensor  # (n, T) log π_old
    advantages: Tensor  # (n, T), whitened
    returns: Tensor  # (n, T) what V should have been

    def part(self, rows: Sequence[int]) -> "Experience":
        """Return some of the responses."""
        index = torch.as_tensor(rows)
        tensors = (t[index] for t in (self.mask, self.log_p, self.advantages, self.returns))
        return Experience([self.samples[row] for row in rows], *tensors)


class PPO:
    """Trains a language model itself, and holds all that going on needs.

    Args:
        language_model: the policy; a copy of it as it comes is π₀.
        prompts: at least one; drawn from anew in each iteration.
        reward: prompts and responses → numbers.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        tokenizer: AnyTokenizer,
        prompts: Sequence[Dialogue],
        reward: Reward,
        config: PPOConfig,
    ) -> None:
        self.tokenizer, self.prompts, self.reward, self.config = tokenizer, prompts, reward, config
        self.policy = Policy(language_model).eval().to(language_model.backbone.embedding.weight.device)
        self.first = copy.deepcopy(language_model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate)
        self.done = 0  # iterations

    def run(self) -> Iterator[Iteration]:
        """Yield what each iteration found, when the policy has learned from it.

        Raises:
            InputError: a loss, a gradient or the policy's own logits are not finite; the message names the iteration.
        """
        while self.done < self.config.iterations:
            rng = np.random.default_rng([self.config.seed, self.done])
            experience, found = self._explore(rng)
            for _ in range(self.config.epochs):
                order = rng.permutation(len(experience.samples))
                for start in range(0, len(order), self.config.batch):
                    self._learn(experience.part(order[start : start + self.config.batch].tolist()))
            self.done += 1
            yield found

    def _explore(self, rng: np.random.Generator) -> tuple[Experience, Iteration]:
        config = self.config
        drawn = [self.prompts[i] for i in rng.integers(len(self.prompts), size=config.prompts_per_iteration)]
        samples = self.write(drawn, seed=config.seed + self.done + 1)
        rewards = torch.tensor(self.reward(drawn, [one.response for one in samples]), dtype=torch.float32)
        experience, kl_nats = gather(self.policy, self.first, samples, rewards, config)
        tokens = experience.mask.sum(1).double().mean().item()
        return experience, Iteration(self.done + 1, rewards.mean().item(), kl_nats.mean().item(), tokens)

    def _learn(self, experience: Experience) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = surrogate_loss(self.policy, experience, self.config)
        self._check_finite("loss", loss.item())
        loss.backward()
        self._check_finite("gradient norm", nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0).item())
        self.optimizer.step()

    def write(self, prompts: Sequence[Dialogue], *, seed: int) -> list[Sample]:
        """Return a response of the policy, as it is now, to each prompt.

        Raises:
            InputError: learning has left it logits that are not finite.
        """
        most = self.config.max_new_tokens
        try:
            return sample(self.policy.language_model, self.tokenizer, prompts, max_new_tokens=most, seed=seed)
        except FloatingPointError as error:
            raise InputError(f"{error} {self._where()}") from None

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise InputError(f"{what} is {value} {self._where()}")

    def _where(self) -> str:
        """Return when something came out that is not finite, and what may have led to it."""
        config, iteration = self.config, min(self.done + 1, self.config.iterations)
        rate, costs = f"learning_rate={config.learning_rate}", f"kl_weight={config.kl_weight}"
        return f"in iteration {iteration}: {rate}, {costs} or value_weight={config.value_weight} may be too high"

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Return the policy and the optimizer's moments, and the iterations done."""
        tensors = {f"policy.{name}": tensor for name, tensor in self.policy.state_dict().items()}
        tensors |= {f"adam.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        return tensors, {"done": self.done}

    def restore(self, state: State) -> None:
        """Go back to where `state` was asked for; π₀ stays what it is.

        Raises:
            InputError: it is the state of another policy, or no run of PPO saves it.
        """
        done, path = state.progress.get("done"), state.path
        require(done in range(self.config.iterations + 1), f"{path}: done={shorten(done)} is no number of iterations")
        check_moments(state.under("adam."), self.optimizer, path)
        load_weights(self.policy, state.under("policy."), path)
        restore_optimizer(self.optimizer, state.under("adam."))
        self.done = done


@torch.no_grad()
def gather(
    policy: Policy, first: LanguageModel, samples: list[Sample], rewards: Tensor, config: PPOConfig
) -> tuple[Experience, Tensor]:
    """Return what there is to learn from responses and their rewards (n,), and how far each is from π₀ (n,) in nats."""
    batch = _packed(samples, policy)
    mask = _mask(samples)
    log_p, values = (_as_rows(flat, mask) for flat in policy(batch))  # (n, T)
    first_log_p = _as_rows(-first(batch), mask)
    token_rewards = -config.kl_weight * (log_p - first_log_p)
    token_rewards[torch.arange(len(samples)), mask.sum(1) - 1] += rewards
    advantages = generalised_advantages(token_rewards, values, config.decay)
    experience = Experience(samples, mask, log_p, whiten(advantages, mask), advantages + values)
    return experience, kl_penalty(log_p, first_log_p, mask)


def generalised_advantages(rewards: Tensor, values: Tensor, decay: float) -> Tensor:
    """Return A_t = Σ_k λᵏ·(R_{t+k} + V_{t+k+1} − V_{t+k}), (n, T); V behind the end is 0.

    Args:
        rewards, values: (n, T), 0 behind the last token of a row.
        decay: λ.
    Source: Schulman et al., arXiv:1506.02438, Eq. 16, with γ = 1.
    """
    errors = rewards + nn.functional.pad(values[:, 1:], (0, 1)) - values
    advantages = torch.empty_like(errors)
    ahead = errors.new_zeros(len(errors))
    for t in reversed(range(errors.shape[1])):
        ahead = errors[:, t] + decay * ahead
        advantages[:, t] = ahead
    return advantages


def surrogate_loss(policy: Policy, experience: Experience, config: PPOConfig) -> Tensor:
    """Return the clipped loss of policy and value, (), a mean over the tokens of all responses."""
    mask = experience.mask
    log_p, values = policy(_packed(experience.samples, policy))
    old_log_p, advantages, returns = (
        rows[mask].to(log_p.device) for rows in (experience.log_p, experience.advantages, experience.returns)
    )
    ratio = (log_p - old_log_p).exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    return (config.value_weight * (values - returns).square() - gain).mean()


def _packed(samples: Sequence[Sample], policy: Policy) -> PackedBatch:
    return pack([one.encoded for one in samples]).to(policy.value.weight.device)


def _mask(samples: Sequence[Sample]) -> Tensor:
    """Return which places of (n, T) hold a token."""
    lengths = torch.tensor([[len(one.encoded.responses[0])] for one in samples])
    return torch.arange(int(lengths.max())) < lengths


def _as_rows(flat: Tensor, mask: Tensor) -> Tensor:
    """Return values of tokens, end to end (S,), as rows (n, T) on the host, 0 where there is no token."""
    rows = torch.zeros(mask.shape, dtype=flat.dtype)
    rows[mask] = flat.cpu()
    return rows
