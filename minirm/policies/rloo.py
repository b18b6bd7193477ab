"""RLOO: a whole response is one action, and the other responses to its prompt say what was to be expected.

    R_i = r_i − β·Σ_t (log π_old(a_t) − log π₀(a_t))
    A_i = R_i − mean of R_j over the K − 1 other responses j to the prompt
    loss = −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A)                ρ = Π_t π(a_t) / π_old(a_t), a mean over responses

In the first step ρ is 1, and the gradient is REINFORCE's, −A·∇ log π.

Source: Ahmadian et al., arXiv:2402.14740, section 3.2; Kool et al. 2019.
"""

from dataclasses import replace

from torch import Tensor

from minirm.policies.learner import as_rows
from minirm.policies.ppo import clipped_gain
from minirm.policies.trainer import Experience, Method


class RLOO(Method):
    """What is RLOO's own."""

    name = "RLOO"

    def judge(self, experience: Experience, samples_per_prompt: int, kl_weight: float) -> Experience:
        """Return the experience with its advantages: the same for each token of a response."""
        e, k = experience, samples_per_prompt
        earned = (e.rewards - kl_weight * e.kl_nats).view(-1, k)  # (prompts, K)
        others = (earned.sum(1, keepdim=True) - earned) / (k - 1)
        return replace(e, advantages=(earned - others).view(-1, 1) * e.mask)

    def loss(self, log_p: Tensor, values: Tensor, experience: Experience, kl_weight: float) -> tuple[Tensor, Tensor]:
        """Return the loss, a mean over responses, and which are clipped."""
        e = experience
        apart = log_p - e.at_tokens(e.log_p, log_p.device)  # (S,)
        ratio = as_rows(apart, e.mask).sum(1).exp()  # (N,)
        gain, clipped = clipped_gain(ratio, e.advantages[:, 0].to(log_p.device), self.clip)
        return -gain.mean(), clipped
