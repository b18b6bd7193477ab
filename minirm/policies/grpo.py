"""GRPO: every token is an action, judged as its response is among those to its prompt; no value is learned.

    A_i = (r_i − mean r) / (std r + 1e-4)                         over the K responses to the prompt
    k3  = π₀/π − 1 − log π₀/π ≥ 0                                 at each token, now
    loss = −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) + β·k3              ρ = π(a_t) / π_old(a_t)

is a mean over the tokens of a response, then over responses. β stands in the loss, not in the reward.

Source: DeepSeekMath, arXiv:2402.03300, Eq. 3 and 4; std is that of a sample (K − 1), and 1e-4 keeps equal rewards apart
from 0/0, both as in TRL.
"""

from dataclasses import replace

from torch import Tensor

from minirm.policies.ppo import clipped_gain
from minirm.policies.trainer import Experience, Method

LEAST_SPREAD = 1e-4


class GRPO(Method):
    """What is GRPO's own."""

    name = "GRPO"

    def judge(self, experience: Experience, samples_per_prompt: int, kl_weight: float) -> Experience:
        """Return the experience with its advantages: the same for each token of a response."""
        rewards = experience.rewards.view(-1, samples_per_prompt)  # (prompts, K)
        spread = rewards.std(1, keepdim=True) + LEAST_SPREAD
        advantages = (rewards - rewards.mean(1, keepdim=True)) / spread
        return replace(experience, advantages=advantages.view(-1, 1) * experience.mask)

    def loss(self, log_p: Tensor, values: Tensor, experience: Experience, kl_weight: float) -> tuple[Tensor, Tensor]:
        """Return the loss, a mean over each response's tokens and then over responses, and which are clipped."""
        e, device = experience, log_p.device
        old_log_p, first_log_p, advantages = (
            e.at_tokens(rows, device) for rows in (e.log_p, e.first_log_p, e.advantages)
        )
        gain, clipped = clipped_gain((log_p - old_log_p).exp(), advantages, self.clip)
        behind = first_log_p - log_p  # log π₀/π
        k3 = behind.expm1() - behind
        share = e.mask.to(log_p.dtype) / e.mask.sum(1, keepdim=True) / len(e.samples)  # (N, T), its sum is 1
        losses = kl_weight * k3 - gain
        return (losses * e.at_tokens(share, device)).sum(), clipped
