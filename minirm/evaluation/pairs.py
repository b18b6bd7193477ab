"""Comparisons and their rewards → every strictly ordered pair, as arrays.

What is measured of a reward model, and what is drawn of it, is read off these pairs. K responses give up to K(K−1)/2 of
them; pairs of equal scores are left out and counted.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minirm.data.comparison import Comparison
from minirm.files.splits import has_prompt, prompt_key

Rewards = Sequence[Sequence[float]]
"""One list of K rewards per comparison, in logits."""


class RewardLists(Sequence[list[float]]):
    """Lists of rewards, to which more can be added; in memory they are two arrays, a tenth of what lists take."""

    def __init__(self) -> None:
        self._values, self._ends = array("d"), array("q", [0])

    def extend(self, rewards: Rewards) -> None:
        """Add one list per comparison."""
        for its in rewards:
            self._values.extend(its)
            self._ends.append(len(self._values))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, n: int) -> list[float]:
        n = range(len(self))[n]  # from the end, where it is negative
        return self._values[self._ends[n] : self._ends[n + 1]].tolist()


class Responses(NamedTuple):
    """All N responses of all C comparisons, one behind another."""

    comparison: NDArray
    """(N,) index into the comparisons."""
    score: NDArray
    """(N,)"""
    reward: NDArray
    """(N,) in logits."""
    length: NDArray
    """(N,) in characters."""
    prompt: NDArray
    """(C,) number of the prompt, from 0 as they come; comparisons with equal prompts share it."""
    probability: NDArray
    """(C,) how probable it is that the label is true."""


@dataclass(frozen=True, slots=True)
class PairTable:
    """The strictly ordered pairs, P of them, in the order of the comparisons; every array has one entry for each."""

    responses: Responses
    better_at: NDArray
    """Where the response with the higher score stands among all responses …"""
    worse_at: NDArray
    """… and where the other does."""

    @property
    def comparison(self) -> NDArray:
        """Index into the comparisons."""
        return self.responses.comparison[self.better_at]

    @property
    def prompt(self) -> NDArray:
        """Number of the prompt."""
        return self.responses.prompt[self.comparison]

    @property
    def better(self) -> NDArray:
        """Which of the comparison's K responses has the higher score."""
        return self.better_at - np.searchsorted(self.responses.comparison, self.comparison)

    @property
    def worse(self) -> NDArray:
        """Which has the lower one."""
        return self.worse_at - np.searchsorted(self.responses.comparison, self.comparison)

    @property
    def certainty(self) -> NDArray:
        """How probable it is that better is better, above ½; 1 for a hard label."""
        probability = self.responses.probability[self.comparison]
        return np.maximum(probability, 1 - probability)

    @property
    def better_reward(self) -> NDArray:
        """Reward of the better response, in logits."""
        return self.responses.reward[self.better_at]

    @property
    def worse_reward(self) -> NDArray:
        """Reward of the worse response, in logits."""
        return self.responses.reward[self.worse_at]

    @property
    def reward_difference(self) -> NDArray:
        """Reward of better minus reward of worse, in logits."""
        return self.better_reward - self.worse_reward

    @property
    def length_difference(self) -> NDArray:
        """Characters of better minus characters of worse."""
        return self.responses.length[self.better_at] - self.responses.length[self.worse_at]

    def __len__(self) -> int:
        return len(self.better_at)


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
    reward = flatten_rewards(comparisons, rewards)
    counts, keys = np.empty(len(comparisons), np.int32), np.empty(len(comparisons), "S16")
    probability, score, length = np.empty(len(comparisons)), array("d"), array("i")
    for n, comparison in enumerate(comparisons):
        counts[n], probability[n] = len(comparison.responses), comparison.probability
        keys[n] = prompt_key(comparison) if has_prompt(comparison) else n.to_bytes(16, "little")
        score.extend(comparison.scores)
        length.extend(map(len, comparison.responses))
    _, first, of_key = np.unique(keys, return_index=True, return_inverse=True)
    return Responses(
        comparison=np.repeat(np.arange(len(comparisons), dtype=np.int32), counts),
        score=np.asarray(score),
        reward=reward,
        length=np.asarray(length),
        prompt=np.argsort(np.argsort(first))[of_key].astype(np.int32),  # numbered as they come
        probability=probability,
    )


def ordered_pairs(responses: Responses) -> tuple[PairTable, int]:
    """Return the pairs whose scores differ, and how many others there are.

    A label that is more probably false than true is turned round; one that is true with probability ½ orders nothing.
    """
    first, second = _all_pairs(np.bincount(responses.comparison))
    order = np.sign(responses.score[first] - responses.score[second])
    order *= np.sign(responses.probability[responses.comparison[first]] - 0.5)
    strict = order != 0
    better, worse = np.where(order > 0, (first, second), (second, first))[:, strict]
    return PairTable(responses, better, worse), len(order) - len(better)


def _all_pairs(counts: NDArray) -> NDArray:
    """Return the two responses of every pair, (2, pairs), of comparisons with so many responses each."""
    start, pairs = np.cumsum(counts) - counts, counts * (counts - 1) // 2
    found = np.empty((2, pairs.sum()), np.int32)
    for k in np.unique(counts):
        its = counts == k
        where = (np.cumsum(pairs) - pairs)[its, None] + np.arange(k * (k - 1) // 2)
        found[:, where] = start[its, None] + np.array(np.triu_indices(k, 1))[:, None]
    return found


def flatten_rewards(comparisons: Sequence[Comparison], rewards: Rewards) -> NDArray:
    """Return all N rewards.

    Raises:
        ValueError: they do not match the comparisons, or one is not finite.
    """
    rule = "there must be one for each"
    if len(rewards) != len(comparisons):
        raise ValueError(f"{len(rewards)} lists of rewards for {len(comparisons)} comparisons: {rule}")
    found = array("d")
    for n, (comparison, its) in enumerate(zip(comparisons, rewards, strict=True)):
        name = comparison.source or f"comparison {n}"
        if len(its) != len(comparison.responses):
            raise ValueError(f"{name}: {len(its)} rewards for {len(comparison.responses)} responses: {rule}")
        for k, reward in enumerate(its):
            if not math.isfinite(reward):
                raise ValueError(f"{name}: reward of response {k} is {reward}, it must be a finite number")
        found.extend(its)
    return np.asarray(found)
