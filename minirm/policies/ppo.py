"""PPO: every token is an action, and a learned value says what was to be expected.

    R_t = −β·(log π_old(a_t) − log π₀(a_t)), and behind the last token the reward as well
    A_t = Σ_k λᵏ·(R_{t+k} + V_{t+k+1} − V_{t+k})                          advantage; nothing is discounted
    Â = whiten(A)                                                         over all tokens of an iteration
    loss = −min(ρ·Â, clip(ρ, 1 − ε, 1 + ε)·Â) + c·(V − A − V_old)²        ρ = π(a_t) / π_old(a_t), a mean over tokens

Source: PPO, arXiv:1707.06347, Eq. 7 and 11; with the KL penalty for language models, arXiv:1909.08593 and 2203.02155.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from minirm.config_rules import NotNegative
from minirm.policies.trainer import Experience, Method
from minirm.shaping import whiten


@dataclass(frozen=True)
class PPO(Method):
    """What is PPO's own."""

    name = "PPO"
    has_value = True
    least_samples = 1

    decay: Annotated[float, Meta(ge=0, le=1)] = 0.95
    """λ of the generalised advantage, 0 to 1: from trust in the value alone to trust in what came alone."""
    value_weight: NotNegative = 0.5
    """c: what the value's error counts."""

    def judge(self, experience: Experience, samples_per_prompt: int, kl_weight: float) -> Experience:
        """Return the experience with its advantages, whitened over all tokens, and what V should have been."""
        e = experience
        token_rewards = -kl_weight * (e.log_p - e.first_log_p)
        token_rewards[torch.arange(len(e.samples)), e.mask.sum(1) - 1] += e.rewards
        advantages = generalised_advantages(token_rewards, e.values, self.decay)
        return replace(e, advantages=whiten(advantages, e.mask), returns=advantages + e.values)

    def loss(self, log_p: Tensor, values: Tensor, experience: Experience, kl_weight: float) -> tuple[Tensor, Tensor]:
        """Return the loss of policy and value, a mean over the tokens of all responses, and which are clipped."""
        e, device = experience, log_p.device
        old_log_p, advantages, returns = (e.at_tokens(rows, device) for rows in (e.log_p, e.advantages, e.returns))
        ratio = (log_p - old_log_p).exp()
        gain, clipped = clipped_gain(ratio, advantages, self.clip)
        return (self.value_weight * (values - returns).square() - gain).mean(), clipped


def generalised_advantages(rewards: Tensor, values: Tensor, decay: float) -> Tensor:
    """Return A_t = Σ_k λᵏ·(R_{t+k} + V_{t+k+1} − V_{t+k}), (N, T); V behind the end is 0.

    Args:
        rewards, values: (N, T), 0 behind the last token of a row.
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


def clipped_gain(ratio: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A), and where it is the clipped one, which has no gradient.

    Source: PPO, arXiv:1707.06347, Eq. 7.
    """
    free, held = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    return torch.minimum(free, held), held < free
