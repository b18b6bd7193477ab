"""A scored data set → an `Evaluation`: how often the rewards are right, how surely, and what else could explain it.

Every number is taken over the strictly ordered pairs of the comparisons, each pair counting once; a pair of equal
rewards counts one half. Pairs of one prompt are not independent, so intervals resample whole prompts. No accuracy
stands alone: beside it are what the length of the responses alone would reach, what is left where the better response
is the shorter one, what remains under another prompt, and which prompts the model had seen in training.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from minirm import metrics
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.pairs import PairTable, Responses, Rewards, flatten, flatten_rewards, ordered_pairs
from minirm.files.splits import prompt_key
from minirm.intervals import FEWEST_PROMPTS
from minirm.vectors import ranks

PROMPTS_AT_ONCE = 65536
"""Within which rewards are related to lengths together: what it takes in memory does not grow."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval."""

    value: float
    low: float | None
    """Lower end of the interval; None for fewer prompts than `minirm.intervals.FEWEST_PROMPTS`, too few for any."""
    high: float | None
    count: int
    """How many pairs, comparisons or prompts the mean is over."""
    chance: float = 0.5
    """The value that says nothing: what rewards drawn at random reach, or no difference."""

    @property
    def is_resolved(self) -> bool:
        """Whether the interval excludes chance; an estimate without an interval is not resolved."""
        return self.low is not None and not self.low <= self.chance <= self.high


@dataclass(frozen=True, slots=True)
class Surprise:
    """How well a language model foresees what it is to learn."""

    nats_per_token: float
    """Mean of −log p(token)."""
    perplexity: float
    """Its exponential: among how many equally likely tokens it would be as unsure."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How well rewards fit labels of single responses or steps, where no two responses can be compared."""

    loss: float
    """Mean of the loss that was trained on."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well σ(reward difference) serves as the probability that the better response is better."""

    nll_nats: float
    """Mean of −log probability of the label; knowing nothing gives ln 2 = 0.693."""
    brier: float
    """Mean of (1 − probability)², for hard labels; knowing nothing gives 0.25."""
    ece: float
    """Expected calibration error of the confidence max(p, 1 − p) in the response that the model prefers."""
    ece_of_noise: float
    """About what that would be if the same confidences were perfectly calibrated."""
    debiased: float | None
    """Root mean square of the same gaps, less what noise adds to it; None when no bin has two pairs."""
    temperature: float | None
    """By what the rewards should be divided for the least NLL on these pairs; above 1 the model is too sure. None when
    no pair has two different rewards."""
    bins: tuple["ReliabilityBin", ...]
    """The reliability diagram of that confidence, empty bins left out."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pairs about which the model is equally sure."""

    confidence: float
    """Mean of σ(|reward difference|)."""
    accuracy: float
    """How often the preferred response was the better one."""
    pairs: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rankings of more than two responses."""

    kendall_tau: Estimate
    """Mean of Kendall's tau-b between rewards and scores."""
    best_of_k: Estimate
    """How often the response with the highest reward has the highest score."""


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How much of the judgement, and of the reward, is length in characters."""

    longer_wins: Estimate
    """Accuracy of choosing the longer response."""
    gain: Estimate
    """Accuracy of the rewards minus that, over the same pairs."""
    better_is_shorter: Estimate | None
    """Accuracy of the rewards on the pairs whose better response is the shorter one; None when there are none."""
    correlation: float | None
    """Spearman's correlation of reward with length over all responses; None when either is constant."""
    correlation_within: Estimate | None
    """Mean of the same within the responses to each prompt."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """Test prompts that also stand in training; where there is no prompt, responses that do."""

    prompts: int
    """How many distinct prompts do."""
    leaked: Estimate | None
    """Accuracy on their pairs; None when there are none."""
    clean: Estimate | None
    """Accuracy on the other pairs."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one set of rewards is worth on one set of comparisons."""

    comparisons: int
    prompts: int
    """Different prompts; comparisons without a prompt count one each."""
    pairs: int
    """Strictly ordered pairs: the two scores differ."""
    label_ties: int
    """Pairs left out because their scores are equal, or their label as probably false as true."""
    reward_ties: int
    """Strictly ordered pairs with equal rewards; each counts one half."""
    length_ties: int
    """Strictly ordered pairs of equal length."""
    accuracy: Estimate
    calibration: Calibration
    length: LengthBias
    ranking: Ranking | None
    """None when no comparison has more than two responses."""
    swapped: Estimate | None
    """Accuracy of the rewards that the same responses get under another prompt; None: not measured."""
    leakage: Leakage | None
    """None: not measured."""
    subsets: dict[str, Estimate]
    """Accuracy per named part of a benchmark."""
    cut: dict[str, int] | None
    """Responses that were scored behind a cut prompt ("prompts"), or cut themselves ("responses"); None: not known."""
    dropped: dict[str, int] | None
    """Rows of the data that were left out, and responses that were merged, by reason; None: not known."""
    resamples: int
    seed: int

    def to_json(self) -> dict:
        """Return the same as dicts, lists, numbers and None."""
        return asdict(self)


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
        training_prompts: `minirm.files.splits.prompt_key` of all that was trained on; leakage is reported if given.
        cut: what `minirm.evaluation.scoring.score_comparisons` says that it cut; reported if given.
        dropped: what `minirm.files.survey.usable` says that it left out before; reported if given.
        resamples: bootstrap resamples of the prompts, for the 95% intervals.
    Raises:
        InputError: no comparison has two different scores.
        ValueError: the rewards do not match the comparisons, or one is not finite.
    """
    responses = flatten(comparisons, rewards)
    pairs, label_ties = ordered_pairs(responses)
    if not len(pairs):
        raise InputError(f"{len(comparisons)} comparisons, none with two different scores: nothing to evaluate")
    swapped = None if swapped_rewards is None else flatten_rewards(comparisons, swapped_rewards)
    estimate = partial(_estimate, resamples=resamples, seed=seed)
    return Evaluation(
        comparisons=len(comparisons),
        prompts=int(responses.prompt.max()) + 1,
        pairs=len(pairs),
        label_ties=label_ties,
        reward_ties=int((pairs.better_reward == pairs.worse_reward).sum()),
        length_ties=int((pairs.length_difference == 0).sum()),
        accuracy=estimate(_right(pairs.reward_difference), pairs.prompt),
        calibration=_calibration(pairs),
        length=_length_bias(responses, pairs, estimate),
        ranking=_ranking(responses, estimate),
        swapped=None if swapped is None else _accuracy(pairs, swapped, estimate),
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


def _accuracy(pairs: PairTable, rewards: NDArray, estimate: Estimator) -> Estimate:
    """Return the accuracy of other rewards of the same responses."""
    return estimate(_right(rewards[pairs.better_at] - rewards[pairs.worse_at]), pairs.prompt)


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
    within = np.concatenate([*_spearman_within(responses)])
    return LengthBias(
        longer_wins=estimate(longer, pairs.prompt),
        gain=estimate(right - longer, pairs.prompt, chance=0.0, lowest=-1.0),
        better_is_shorter=_part(right, pairs, shorter, estimate),
        correlation=_number(metrics.spearman(responses.reward, responses.length)),
        correlation_within=estimate(within, np.arange(len(within)), chance=0.0, lowest=-1.0) if len(within) else None,
    )


def _spearman_within(responses: Responses) -> Iterator[NDArray]:
    """Yield Spearman's correlation of reward and length within each prompt where neither is constant."""
    prompt = responses.prompt[responses.comparison]
    order = np.argsort(prompt, kind="stable")
    edges = np.searchsorted(prompt, np.arange(PROMPTS_AT_ONCE, prompt.max() + 1, PROMPTS_AT_ONCE), sorter=order)
    for some in np.split(order, edges):
        group = prompt[some] - prompt[some[0]]
        x, y = (_centred_ranks(values[some], group) for values in (responses.reward, responses.length))
        xy, xx, yy = (np.bincount(group, product) for product in (x * y, x * x, y * y))
        vary = (xx > 0) & (yy > 0)
        yield np.clip(xy[vary] / np.sqrt(xx[vary] * yy[vary]), -1, 1)


def _centred_ranks(values: NDArray, group: NDArray) -> NDArray:
    """Return ranks less their mean in each group; groups count from 0."""
    rank = ranks(values, group)
    return rank - (np.bincount(group, rank) / np.bincount(group))[group]


def _ranking(responses: Responses, estimate: Estimator) -> Ranking | None:
    found = np.fromiter(_ranked(responses), (float, 4))
    if not len(found):
        return None
    taus, hits, chances, prompts = found.T
    return Ranking(
        kendall_tau=estimate(taus, prompts, chance=0.0, lowest=-1.0),
        best_of_k=estimate(hits, prompts, chance=float(np.mean(chances))),
    )


def _ranked(responses: Responses) -> Iterator[tuple[float, float, float, int]]:
    """Yield Kendall's tau-b, best of K, its chance and the prompt of each comparison of more than two responses."""
    ends = np.cumsum(np.bincount(responses.comparison))
    for start, end in pairwise(chain([0], ends)):
        score, reward = responses.score[start:end], responses.reward[start:end]
        if len(score) > 2 and score.min() < score.max():
            tau = metrics.kendall_tau_b(reward, score)
            hit = metrics.best_of_k_hit_rate(reward[None], score[None])[0]
            chance = (score == score.max()).mean()
            prompt = responses.prompt[responses.comparison[start]]
            yield 0.0 if np.isnan(tau) else tau, hit, chance, prompt  # NaN: all rewards equal


def _leakage(
    comparisons: Sequence[Comparison], pairs: PairTable, training_prompts: Collection[bytes], estimate: Estimator
) -> Leakage:
    known = frozenset(training_prompts)
    found = {key for key in map(prompt_key, comparisons) if key in known}
    is_leaked = np.fromiter((prompt_key(comparison) in found for comparison in comparisons), bool)[pairs.comparison]
    right = _right(pairs.reward_difference)
    leaked, clean = (_part(right, pairs, chosen, estimate) for chosen in (is_leaked, ~is_leaked))
    return Leakage(len(found), leaked, clean)


def _subsets(comparisons: Sequence[Comparison], pairs: PairTable, estimate: Estimator) -> dict[str, Estimate]:
    names = np.array([comparison.subset for comparison in comparisons])[pairs.comparison]
    right = _right(pairs.reward_difference)
    return {str(name): _part(right, pairs, names == name, estimate) for name in np.unique(names) if name}


def _part(values: NDArray, pairs: PairTable, chosen: NDArray, estimate: Estimator) -> Estimate | None:
    """Return the estimate over some of the pairs; None where there are none."""
    return estimate(values[chosen], pairs.prompt[chosen]) if chosen.any() else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
