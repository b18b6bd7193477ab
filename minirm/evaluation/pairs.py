"""Comparisons and their rewards → every strictly ordered pair, as arrays.

What is measured of a reward model, and what is drawn of it, is read off these pairs. K responses give up to K(K−1)/2 of
them; pairs of equal scores are left out and counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minirm.data.comparison import Comparison
from minirm.data.splits import has_prompt, prompt_key

Rewards = Sequence[Sequence[float]]
"""One list of K rewards per comparison, in logits."""


@dataclass(frozen=True, slots=True)
class PairTable:
    """The strictly ordered pairs, one to an entry of each array, in the order of the comparisons."""

    comparison: NDArray
    """Index into the comparisons."""
    prompt: NDArray
    """Number of the prompt; comparisons with equal prompts share it."""
    better: NDArray
    """Which of the comparison's K responses has the higher score."""
    worse: NDArray
    certainty: NDArray
    """How probable it is that better is better, above ½; 1 for a hard label."""
    better_reward: NDArray
    worse_reward: NDArray
    length_difference: NDArray
    """Characters of better minus characters of worse."""

    @property
    def reward_difference(self) -> NDArray:
        """Reward of better minus reward of worse, in logits."""
        return self.better_reward - self.worse_reward


class Responses(NamedTuple):
    """All N responses of all comparisons, one to an entry of each array."""

    comparison: NDArray
    prompt: NDArray
    number: NDArray  # among the comparison's K
    score: NDArray
    certainty: NDArray  # the comparison's probability
    reward: NDArray
    length: NDArray


def pair_table(comparisons: Sequence[Comparison], rewards: Rewards) -> PairTable:
    """Return the pairs that `evaluate` measures, for pictures and for tests between two models.

    Raises:
        ValueError: the rewards do not match the comparisons, or one is not finite.
    """
    return ordered_pairs(flatten(comparisons, rewards))[0]


def flatten(comparisons: Sequence[Comparison], rewards: Rewards) -> Responses:
    """Return all responses; comparisons without a prompt share nothing and get a prompt number each.

    Raises:
        ValueError: the rewards do not match the comparisons, or one is not finite.
    """
    _check(comparisons, rewards)
    counts = np.array([len(comparison.responses) for comparison in comparisons], dtype=int)
    index = np.repeat(np.arange(len(comparisons)), counts)
    named = (prompt_key(c) if has_prompt(c) else i.to_bytes(16, "little") for i, c in enumerate(comparisons))
    keys = np.fromiter(named, "S16", len(comparisons))
    _, first, of_key = np.unique(keys, return_index=True, return_inverse=True)
    prompt = np.argsort(np.argsort(first))[of_key]  # numbered as they come
    certainty = np.array([comparison.probability for comparison in comparisons], dtype=float)
    return Responses(
        comparison=index,
        prompt=prompt[index],
        number=np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts),
        score=np.array([score for comparison in comparisons for score in comparison.scores], dtype=float),
        certainty=certainty[index],
        reward=np.array([reward for its in rewards for reward in its], dtype=float),
        length=np.array([len(text) for comparison in comparisons for text in comparison.responses], dtype=float),
    )


def ordered_pairs(responses: Responses) -> tuple[PairTable, int]:
    """Return the pairs whose scores differ, and how many others there are.

    A label that is more probably false than true is turned round; one that is true with probability ½ orders nothing.
    """
    counts = np.bincount(responses.comparison)
    pairs = [start + _pairs(k) for start, k in zip(np.cumsum(counts) - counts, counts.tolist(), strict=True)]
    first, second = np.concatenate([np.zeros((2, 0), int), *pairs], axis=1)
    certainty = responses.certainty[first]
    order = np.sign(responses.score[first] - responses.score[second]) * np.sign(certainty - 0.5)
    strict = order != 0
    better, worse = np.where(order > 0, (first, second), (second, first))[:, strict]
    table = PairTable(
        comparison=responses.comparison[better],
        prompt=responses.prompt[better],
        better=responses.number[better],
        worse=responses.number[worse],
        certainty=np.maximum(certainty, 1 - certainty)[strict],
        better_reward=responses.reward[better],
        worse_reward=responses.reward[worse],
        length_difference=responses.length[better] - responses.length[worse],
    )
    return table, len(order) - len(better)


@cache
def _pairs(k: int) -> NDArray:
    """Return every i < j below k, (2, k(k−1)/2)."""
    return np.array(np.triu_indices(k, 1))


def _check(comparisons: Sequence[Comparison], rewards: Rewards) -> None:
    rule = "there must be one for each"
    if len(rewards) != len(comparisons):
        raise ValueError(f"{len(rewards)} lists of rewards for {len(comparisons)} comparisons: {rule}")
    for index, (comparison, its) in enumerate(zip(comparisons, rewards, strict=True)):
        name = comparison.source or f"comparison {index}"
        if len(its) != len(comparison.responses):
            raise ValueError(f"{name}: {len(its)} rewards for {len(comparison.responses)} responses: {rule}")
        for k, reward in enumerate(its):
            if not math.isfinite(reward):
                raise ValueError(f"{name}: reward of response {k} is {reward}, it must be a finite number")
