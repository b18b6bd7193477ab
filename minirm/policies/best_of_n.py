"""Best of n: the simplest way to follow a reward. Draw n responses, keep the one that it likes best.

From N samples of a prompt, what the best of any n ≤ N of them would earn is known without a bias: of the N rewards in
order, r_(1) ≤ … ≤ r_(N), the i-th is the highest of n drawn without replacement with probability

    w_i = C(i − 1, n − 1) / C(N, n)            E[best of n] = Σ_i w_i·r_(i)

and the same weights say what something else than the reward, of those chosen, would be on average.

Letters beside the core's: P prompts, N responses to each.

Source: Stiennon et al., arXiv:2009.01325, appendix G; the bound on KL: Beirami et al., arXiv:2401.01879.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.policies.sampling import Dialogue, Reward, rewards_of, sample

SAMPLES_AT_ONCE = 256
"""Responses that are drawn together."""


@dataclass(frozen=True)
class Drawn:
    """N responses to a prompt, in the order in which they were drawn, and their rewards."""

    prompt: Dialogue
    responses: tuple[str, ...]
    rewards: tuple[float, ...]
    unended: int
    """How many of them were stopped without an end."""

    @property
    def best(self) -> int:
        """Which has the highest reward; the first of several."""
        return max(range(len(self.rewards)), key=self.rewards.__getitem__)


def best_of_n(
    language_model: LanguageModel,
    tokenizer: AnyTokenizer,
    prompts: Sequence[Dialogue],
    reward: Reward,
    *,
    n: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[Drawn]:
    """Return n responses to each prompt, with their rewards.

    Args:
        reward: prompts and as many responses → numbers.
        max_new_tokens: where a response without an end is stopped.
        seed: of the draws.
    Raises:
        InputError: see `rewards_of`.
    """
    found = []
    at_once = max(1, SAMPLES_AT_ONCE // n)
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        repeated = [prompt for prompt in some for _ in range(n)]
        limits = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        drawn = sample(language_model, tokenizer, repeated, seed=seed, part=start, **limits)
        rewards = rewards_of(reward, repeated, [one.response for one in drawn])
        for p, prompt in enumerate(some):
            its = slice(p * n, (p + 1) * n)
            texts, unended = tuple(one.response for one in drawn[its]), sum(not one.has_end for one in drawn[its])
            found.append(Drawn(prompt, texts, tuple(rewards[its]), unended))
    return found


def expected_best(rewards: ArrayLike, values: ArrayLike | None = None) -> NDArray:
    """Return what the response with the highest of n rewards is worth on average, without bias, for n = 1 … N: (P, N).

    Args:
        rewards: (P, N) of N responses to each of P prompts, by which is chosen; among equal ones by lot.
        values: (P, N) by which the chosen is judged; None: by its reward.
    """
    rewards = np.asarray(rewards, dtype=float)
    values = rewards if values is None else np.asarray(values, dtype=float)
    N = rewards.shape[1]
    n, i = np.arange(1, N + 1)[:, None], np.arange(1, N + 1)
    with np.errstate(invalid="ignore"):
        chance = np.where(i >= n, np.exp(_log_choose(i - 1, n - 1) - _log_choose(N, n)), 0.0)  # (n, i)
    return np.stack([_sorted_by(mine, its) @ chance.T for mine, its in zip(rewards, values, strict=True)])


def _log_choose(n: NDArray | int, k: NDArray) -> NDArray:
    return gammaln(np.add(n, 1)) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1)


def _sorted_by(rewards: NDArray, values: NDArray) -> NDArray:
    """Return the values in the order of their rewards, equal rewards sharing the mean of their values."""
    _, which, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(which, values) / counts, counts)


def kl_bound(n: int) -> float:
    """Return log n − (n − 1)/n: the best of n is at most so many nats away from what its samples are drawn from.

    That is the language model at the temperature of the draws. It is a bound: the distance itself is less where
    responses repeat or their rewards are equal.
    Source: Beirami et al., arXiv:2401.01879.
    """
    return math.log(n) - (n - 1) / n
