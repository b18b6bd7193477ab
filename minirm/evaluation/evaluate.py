"""A scored data set → an `Evaluation`: how often the rewards are right, how surely, and what else could explain it.

Every number is taken over the strictly ordered pairs of the comparisons, each pair counting once; a pair of equal
rewards counts one half. Pairs of one prompt are not independent, so intervals resample whole prompts. No accuracy
stands alone: beside it are what the length of the responses alone would reach, what is left where the better response
is the shorter one, what remains under another prompt, and which prompts the model had seen in training.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from minirm import metrics
from minirm.data.comparison import Comparison
from minirm.data.splits import prompt_key
from minirm.errors import InputError
from minirm.evaluation.figures import (
    Calibration,
    Estimate,
    Evaluation,
    Leakage,
    LengthBias,
    Ranking,
    ReliabilityBin,
    as_table,
)
from minirm.evaluation.pairs import PairTable, Responses, Rewards, flatten, ordered_pairs, pair_table
from minirm.intervals import FEWEST_PROMPTS

__all__ = ["Evaluation", "PairTable", "as_table", "evaluate", "pair_table"]


def evaluate(
    comparisons: Sequence[Comparison],
    rewards: Rewards,
    *,
    swapped_rewards: Rewards | None = None,
    training_prompts: Collection[bytes] | None = None,
    cut: Mapping[str, int] | None = None,
    dropped: Mapping[str, int] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Return how well the rewards order the responses of the comparisons.

    Args:
        rewards: one list of K rewards per comparison, in logits.
        swapped_rewards: the same for the same responses behind another comparison's prompt.
        training_prompts: `minirm.data.splits.prompt_key` of all that was trained on; leakage is reported if given.
        cut: what `minirm.evaluation.scoring.score_comparisons` says that it cut; reported if given.
        dropped: what `minirm.files.survey.usable` says that it left out before; reported if given.
        resamples: bootstrap resamples of the prompts, for the 95% intervals.
    Raises:
        InputError: no comparison has two different scores.
        ValueError: the rewards do not match the comparisons, or one is not finite.
    """
    responses = flatten(comparisons, rewards)
    pairs, label_ties = ordered_pairs(responses)
    if not len(pairs.better):
        raise InputError(f"{len(comparisons)} comparisons, none with two different scores: nothing to evaluate")
    estimate = partial(_estimate, resamples=resamples, seed=seed)
    return Evaluation(
        comparisons=len(comparisons),
        prompts=len(np.unique(responses.prompt)),
        pairs=len(pairs.better),
        label_ties=label_ties,
        reward_ties=int((pairs.better_reward == pairs.worse_reward).sum()),
        length_ties=int((pairs.length_difference == 0).sum()),
        accuracy=estimate(_right(pairs.reward_difference), pairs.prompt),
        calibration=_calibration(pairs),
        length=_length_bias(responses, pairs, estimate),
        ranking=_ranking(comparisons, responses, estimate),
        swapped=None if swapped_rewards is None else _accuracy(comparisons, swapped_rewards, estimate),
        leakage=None if training_prompts is None else _leakage(comparisons, pairs, training_prompts, estimate),
        subsets=_subsets(comparisons, pairs, estimate),
        cut=None if cut is None else dict(cut),
        dropped=None if dropped is None else dict(dropped),
        resamples=resamples,
        seed=seed,
    )


def _right(difference: NDArray) -> NDArray:
    """Return 1 where the difference is above 0, ½ where it is 0, else 0."""
    return (np.sign(difference) + 1) / 2


def _estimate(
    values: NDArray, prompt: NDArray, *, chance: float = 0.5, lowest: float = 0.0, resamples: int, seed: int
) -> Estimate:
    """Return the mean of values between `lowest` and 1, with its interval over prompts where there are enough."""
    bounds = (lowest, 1.0)
    mean, low, high = metrics.bootstrap_interval(values, prompt, bounds=bounds, resamples=resamples, seed=seed)
    if len(np.unique(prompt)) < FEWEST_PROMPTS:
        return Estimate(mean, None, None, len(values), chance)
    return Estimate(mean, low, high, len(values), chance)


Estimator = Callable[..., Estimate]  # _estimate with resamples and seed filled in


def _accuracy(comparisons: Sequence[Comparison], rewards: Rewards, estimate: Estimator) -> Estimate:
    pairs = pair_table(comparisons, rewards)
    return estimate(_right(pairs.reward_difference), pairs.prompt)


def _calibration(pairs: PairTable) -> Calibration:
    difference = pairs.reward_difference
    confidence, right = metrics.winner_confidence(pairs.better_reward, pairs.worse_reward)
    probability = np.where(difference > 0, confidence, 1 - confidence)  # σ(difference)
    outcome = right * pairs.certainty + (1 - right) * (1 - pairs.certainty)  # a soft label is partly right
    bins = metrics.calibration_bins(confidence, outcome)
    return Calibration(
        nll_nats=metrics.negative_log_likelihood(difference, pairs.certainty),
        brier=metrics.brier_score(probability, pairs.certainty),
        ece=metrics.expected_calibration_error(confidence, outcome),
        ece_of_noise=metrics.calibration_noise(confidence),
        debiased=_number(metrics.debiased_calibration_error(confidence, outcome)),
        temperature=_number(metrics.fit_temperature(difference, pairs.certainty)),
        bins=tuple(
            ReliabilityBin(float(mean_confidence), float(mean_outcome), round(share * len(right)))
            for share, mean_confidence, mean_outcome in zip(*bins, strict=True)
        ),
    )


def _length_bias(responses: Responses, pairs: PairTable, estimate: Estimator) -> LengthBias:
    right, longer = _right(pairs.reward_difference), _right(pairs.length_difference)
    shorter = pairs.length_difference < 0
    within, prompt = _spearman_within(responses.reward, responses.length, responses.prompt)
    return LengthBias(
        longer_wins=estimate(longer, pairs.prompt),
        gain=estimate(right - longer, pairs.prompt, chance=0.0, lowest=-1.0),
        better_is_shorter=estimate(right[shorter], pairs.prompt[shorter]) if shorter.any() else None,
        correlation=_number(metrics.spearman(responses.reward, responses.length)),
        correlation_within=estimate(within, prompt, chance=0.0, lowest=-1.0) if len(within) else None,
    )


def _spearman_within(first: NDArray, second: NDArray, group: NDArray) -> tuple[NDArray, NDArray]:
    """Return Spearman's correlation within each group that has one, and the group's number."""
    _, group = np.unique(group, return_inverse=True)
    first, second = _centred_ranks(first, group), _centred_ranks(second, group)
    product = np.bincount(group, first * second)
    scale = np.sqrt(np.bincount(group, first**2) * np.bincount(group, second**2))
    varied = scale > 0
    return product[varied] / scale[varied], np.flatnonzero(varied)


def _centred_ranks(values: NDArray, group: NDArray) -> NDArray:
    """Return each value's rank within its group, equal values sharing their mean rank, minus the group's mean rank."""
    order = np.lexsort((values, group))
    sorted_values, sorted_group = values[order], group[order]
    is_new = np.append(True, (np.diff(sorted_values) != 0) | (np.diff(sorted_group) != 0))
    run = np.cumsum(is_new) - 1
    place = np.arange(len(values))
    ranks = np.empty(len(values))
    ranks[order] = (np.bincount(run, place) / np.bincount(run))[run]
    return ranks - (np.bincount(group, ranks) / np.bincount(group))[group]


def _ranking(comparisons: Sequence[Comparison], responses: Responses, estimate: Estimator) -> Ranking | None:
    taus, hits, chances, prompts, start = [], [], [], [], 0
    for comparison in comparisons:
        part = slice(start, start := start + len(comparison.responses))
        score, reward = responses.score[part], responses.reward[part]
        if len(score) <= 2 or score.min() == score.max():
            continue
        tau = metrics.kendall_tau_b(reward, score)
        taus.append(0.0 if np.isnan(tau) else tau)  # equal rewards order nothing
        hits.append(metrics.best_of_k_hit_rate(reward[None], score[None])[0])
        chances.append((score == score.max()).mean())
        prompts.append(responses.prompt[part.start])
    if not taus:
        return None
    taus, hits, prompts = np.array(taus), np.array(hits), np.array(prompts)
    return Ranking(
        kendall_tau=estimate(taus, prompts, chance=0.0, lowest=-1.0),
        best_of_k=estimate(hits, prompts, chance=float(np.mean(chances))),
    )


def _leakage(
    comparisons: Sequence[Comparison], pairs: PairTable, training_prompts: Collection[bytes], estimate: Estimator
) -> Leakage:
    known = frozenset(training_prompts)
    keys = list(map(prompt_key, comparisons))
    is_leaked = np.array([key in known for key in keys])[pairs.comparison]
    right = _right(pairs.reward_difference)
    parts = (estimate(right[part], pairs.prompt[part]) if part.any() else None for part in (is_leaked, ~is_leaked))
    return Leakage(len(known.intersection(keys)), *parts)


def _subsets(comparisons: Sequence[Comparison], pairs: PairTable, estimate: Estimator) -> dict[str, Estimate]:
    names = np.array([comparison.subset for comparison in comparisons])[pairs.comparison]
    right = _right(pairs.reward_difference)
    return {str(name): estimate(right[names == name], pairs.prompt[names == name]) for name in np.unique(names) if name}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
