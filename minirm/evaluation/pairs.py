"""Comparisons and their rewards → every strictly ordered pair, as arrays.

What is measured of a reward model, and what is drawn of it, is read off these pairs. K responses give up to K(K−1)/2 of
them; pairs of equal scores are left out and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minirm.data.comparison import Comparison
from minirm.data.splits import has_prompt, prompt_key

Rewards = Sequence[Sequence[float]]
"""One list of K rewards per comparison, in logits."""


@dataclass(frozen=True, slots=True)
class PairTable:
    """The strictly ordered pairs, one per place in each array, in the order of the comparisons."""

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
    """All responses of all comparisons in one row, N in all."""

    comparison: NDArray
    prompt: NDArray
    place: NDArray  # among the comparison's K
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
    """Return all responses in one row; comparisons without a prompt share nothing and get a prompt number each.

    Raises:
        ValueError: the rewards do not match the comparisons, or one is not finite.
    """
    _check_counts(comparisons, rewards)
    counts = np.array([len(comparison.responses) for comparison in comparisons], dtype=int)
    index = np.repeat(np.arange(len(comparisons)), counts)
    numbers: dict[bytes | int, int] = {}
    keys = (prompt_key(comparison) if has_prompt(comparison) else i for i, comparison in enumerate(comparisons))
    prompt = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=int)
    certainty = np.array([comparison.probability for comparison in comparisons], dtype=float)
    responses = Responses(
        comparison=index,
        prompt=prompt[index],
        place=np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts),
        score=np.array([score for comparison in comparisons for score in comparison.scores], dtype=float),
        certainty=certainty[index],
        reward=np.array([reward for row in rewards for reward in row], dtype=float),
        length=np.array([len(text) for comparison in comparisons for text in comparison.responses], dtype=float),
    )
    finite = np.isfinite(responses.reward)
    if not finite.all():
        bad = finite.argmin()
        place = f"{_name(comparisons, index[bad])}: reward of response {responses.place[bad]}"
        raise ValueError(f"{place} is {responses.reward[bad]}, it must be a finite number")
    return responses


def ordered_pairs(responses: Responses) -> tuple[PairTable, int]:
    """Return the pairs whose scores differ, and how many others there are.

    A label that is more probably false than true is turned round; one that is true with probability ½ orders nothing.
    """
    first, second = _all_pairs(responses.comparison)
    certainty = responses.certainty[first]
    order = np.sign(responses.score[first] - responses.score[second]) * np.sign(certainty - 0.5)
    better, worse = np.where(order > 0, first, second), np.where(order > 0, second, first)
    strict = np.flatnonzero(order)
    better, worse, certainty = better[strict], worse[strict], certainty[strict]
    table = PairTable(
        comparison=responses.comparison[better],
        prompt=responses.prompt[better],
        better=responses.place[better],
        worse=responses.place[worse],
        certainty=np.maximum(certainty, 1 - certainty),
        better_reward=responses.reward[better],
        worse_reward=responses.reward[worse],
        length_difference=responses.length[better] - responses.length[worse],
    )
    return table, len(order) - len(strict)


def _all_pairs(comparison: NDArray) -> tuple[NDArray, NDArray]:
    """Return the places i < j of every pair of responses that belong to one comparison, in order."""
    counts = np.bincount(comparison)
    starts = np.cumsum(counts) - counts
    firsts, seconds = [np.zeros(0, int)], [np.zeros(0, int)]
    for k in np.unique(counts):  # all comparisons of K responses at once
        i, j = np.triu_indices(k, 1)
        start = starts[counts == k][:, None]
        firsts.append((start + i).ravel())
        seconds.append((start + j).ravel())
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    order = np.lexsort((second, first))
    return first[order], second[order]


def _check_counts(comparisons: Sequence[Comparison], rewards: Rewards) -> None:
    rule = "there must be one for each"
    if len(rewards) != len(comparisons):
        raise ValueError(f"{len(rewards)} lists of rewards for {len(comparisons)} comparisons: {rule}")
    for index, (comparison, row) in enumerate(zip(comparisons, rewards, strict=True)):
        if len(row) != len(comparison.responses):
            counts = f"{len(row)} rewards for {len(comparison.responses)} responses"
            raise ValueError(f"{_name(comparisons, index)}: {counts}: {rule}")


def _name(comparisons: Sequence[Comparison], index: int) -> str:
    return comparisons[index].source or f"comparison {index}"
