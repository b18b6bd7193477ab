"""How good a reward model is, and how sure one can be of it. NumPy only; arrays, lists and tensors are all taken.

    right or wrong       pairwise_accuracy, kendall_tau_b, best_of_k_regret, best_of_k_hit_rate
    right by how much    negative_log_likelihood, brier_score, expected_calibration_error, fit_temperature
    how sure             bootstrap_interval, paired_interval, mcnemar
    related to what      pearson, spearman

A comparison gives a difference of rewards d = r_c − r_r in logits, and with it a probability σ(d) that the first is
better. An `outcome` is 1 where it is, 0 where it is not, and anything between for a soft label or a tie.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """An estimate with the two ends of its interval."""

    estimate: float
    low: float
    high: float


class CalibrationBins(NamedTuple):
    """The points of a reliability diagram, one array entry for each bin that holds a pair."""

    weight: NDArray  # share of all pairs, sums to 1
    probability: NDArray  # mean of what was predicted
    outcome: NDArray  # mean of what happened


def pairwise_accuracy(chosen: ArrayLike, rejected: ArrayLike) -> float:
    """Return the share of pairs whose chosen response has the higher reward; equal rewards count ½.

    Counting ties as wrong would punish, and counting them as right would reward, a model that says the same of all.

    Args:
        chosen, rejected: (N,) rewards.
    Returns:
        between 0 and 1; a constant reward gives exactly ½.
    Raises:
        ValueError: the shapes differ, or there is no pair, or a reward is NaN.
    """
    chosen, rejected = _vectors(chosen=chosen, rejected=rejected)
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))


def negative_log_likelihood(difference: ArrayLike, outcome: ArrayLike) -> float:
    """Return the mean of −p·log σ(d) − (1−p)·log σ(−d), the Bradley–Terry loss on held-out pairs.

    Args:
        difference: (N,) d = r_first − r_second, in logits.
        outcome: (N,) p, in [0, 1].
    Returns:
        nats per pair; log 2 = 0.693 for a constant reward.
    Raises:
        ValueError: the shapes differ, there is no pair, a value is NaN, or an outcome is outside [0, 1].
    """
    difference, outcome = _vectors(difference=difference, outcome=outcome)
    _check_unit("outcome", outcome)
    # logaddexp(0, −d) = −log σ(d) without overflow
    return float(np.mean(outcome * np.logaddexp(0, -difference) + (1 - outcome) * np.logaddexp(0, difference)))


def brier_score(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Return the mean of (probability − outcome)².

    Args:
        probability, outcome: (N,) in [0, 1].
    Returns:
        between 0 and 1; ¼ for a constant probability of ½ and hard outcomes.
    Raises:
        ValueError: the shapes differ, there is no pair, a value is NaN or outside [0, 1].
    Source: Brier 1950, in its form for two classes.
    """
    probability, outcome = _probabilities(probability, outcome)
    return float(np.mean((probability - outcome) ** 2))


def winner_confidence(chosen: ArrayLike, rejected: ArrayLike) -> tuple[NDArray, NDArray]:
    """Return (σ(|d|), whether the response with the higher reward is the chosen one), what calibration is measured on.

    The outcome of σ(r_c − r_r) is always 1, so that its calibration says nothing. The model's own winner is chosen
    without looking at the label.

    Args:
        chosen, rejected: (N,) rewards.
    Returns:
        probability: (N,) in [½, 1].
        outcome: (N,) 1, 0, or ½ for equal rewards.
    Raises:
        ValueError: the shapes differ, or there is no pair, or a reward is NaN.
    """
    chosen, rejected = _vectors(chosen=chosen, rejected=rejected)
    probability = 1 / (1 + np.exp(-np.abs(chosen - rejected)))
    return probability, (chosen > rejected) + 0.5 * (chosen == rejected)


def expected_calibration_error(
    probability: ArrayLike, outcome: ArrayLike, bins: int = 15, equal_mass: bool = False
) -> float:
    """Return Σ_b (n_b / N)·|mean outcome − mean probability| over the bins b of probability.

    Args:
        probability: (N,) in [0, 1]; see `winner_confidence`.
        outcome: (N,) in [0, 1].
        bins: how many.
        equal_mass: True makes bins of equally many pairs; False makes bins of equal width, ((b−1)/bins, b/bins].
    Returns:
        between 0 and 1; 0 is calibrated.
    Raises:
        ValueError: the shapes differ, there is no pair, a value is NaN or outside [0, 1], or `bins` is less than 1.
    Source: Guo et al. 2017, arXiv:1706.04599, Eq. 3; equal mass: Nixon et al. 2019, arXiv:1904.01685.
    """
    weight, mean_probability, mean_outcome = calibration_bins(probability, outcome, bins, equal_mass)
    return float(weight @ np.abs(mean_outcome - mean_probability))


def calibration_bins(
    probability: ArrayLike, outcome: ArrayLike, bins: int = 15, equal_mass: bool = False
) -> CalibrationBins:
    """Return the points of a reliability diagram; the arguments are those of `expected_calibration_error`."""
    probability, outcome = _probabilities(probability, outcome)
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    if equal_mass:  # by mean rank, so that equal probabilities share a bin whatever their order
        bin_of = ((_ranks(probability) - 0.5) / len(probability) * bins).astype(int)
    else:
        bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability)
    count = np.bincount(bin_of, minlength=bins)
    real = count > 0
    mean_probability = np.bincount(bin_of, probability, bins)[real] / count[real]
    mean_outcome = np.bincount(bin_of, outcome, bins)[real] / count[real]
    return CalibrationBins(count[real] / len(probability), mean_probability, mean_outcome)


def fit_temperature(difference: ArrayLike, outcome: ArrayLike) -> float:
    """Return the T > 0 for which σ(d / T) has the least negative log-likelihood; fit it on validation, use it on test.

    The likelihood is convex in β = 1/T, so its derivative Σ d·(σ(β·d) − p) changes sign once, and log β is bisected.

    Args:
        difference: (N,) d = r_first − r_second, in logits.
        outcome: (N,) p, in [0, 1].
    Returns:
        T between 1e-4 and 1e4: above 1 the rewards were too sure, below 1 not sure enough. An end of the range means
        that there is no minimum inside: pairs all in the right order (1e-4), or no better than chance (1e4). NaN where
        every d is 0: all T are alike.
    Raises:
        ValueError: the shapes differ, there is no pair, a value is NaN, or an outcome is outside [0, 1].
    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    difference, outcome = _vectors(difference=difference, outcome=outcome)
    _check_unit("outcome", outcome)
    if not difference.any():
        return float("nan")
    low, high = np.log(1e-4), np.log(1e4)
    for _ in range(60):  # 18.4 / 2⁶⁰: down to rounding
        middle = (low + high) / 2
        predicted = 0.5 * (1 + np.tanh(np.exp(middle) * difference / 2))  # σ without overflow
        if difference @ (predicted - outcome) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def kendall_tau_b(first: ArrayLike, second: ArrayLike) -> float:
    """Return (C − D) / √((P − ties of first)·(P − ties of second)), C and D of all P pairs in equal and opposite order.

    Args:
        first, second: (N,) two measures of the same items, N ≥ 2.
    Returns:
        between −1 and 1; NaN where one of the two is constant.
    Raises:
        ValueError: the shapes differ, there are fewer than 2 items, or a value is NaN.
    Source: Kendall 1945. Time O(N²), memory O(N).
    """
    first, second = _vectors(first=first, second=second, at_least=2)
    agreement = untied_first = untied_second = 0
    for i in range(1, len(first)):
        by_first, by_second = np.sign(first[i] - first[:i]), np.sign(second[i] - second[:i])
        agreement += by_first @ by_second
        untied_first += by_first @ by_first
        untied_second += by_second @ by_second
    return float(_ratio(agreement, np.sqrt(untied_first * untied_second)))


def best_of_k_regret(rewards: ArrayLike, utilities: ArrayLike, mask: ArrayLike | None = None) -> NDArray:
    """Return how much utility is lost by taking the response of highest reward instead of the best one, per prompt.

    Args:
        rewards: (B, K) what the model says; where several are highest, one of them is taken at random (their mean).
        utilities: (B, K) what is true: gold scores or human scores; the regret is in their unit.
        mask: (B, K) bool, True is real; None is all real.
    Returns:
        (B,) regrets, 0 or more; their mean and interval: `bootstrap_interval`.
    Raises:
        ValueError: the shapes differ or are not (B, K), or a row has no real response.
    """
    picked, utilities = _picked(rewards, utilities, mask)
    return utilities.max(1) - (picked * np.where(picked > 0, utilities, 0)).sum(1)


def best_of_k_hit_rate(rewards: ArrayLike, utilities: ArrayLike, mask: ArrayLike | None = None) -> NDArray:
    """Return the probability that the response of highest reward is one of the best, per prompt.

    Args:
        rewards, utilities, mask: as in `best_of_k_regret`.
    Returns:
        (B,) between 0 and 1; a constant reward gives 1/K where one response is best.
    Raises:
        ValueError: the shapes differ or are not (B, K), or a row has no real response.
    """
    picked, utilities = _picked(rewards, utilities, mask)
    return np.where(utilities == utilities.max(1, keepdims=True), picked, 0).sum(1)


def bootstrap_interval(
    values: ArrayLike, prompt: ArrayLike | None = None, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean of `values` with its bootstrap interval, drawing whole prompts with replacement.

    Pairs of one prompt share its difficulty and its responses; drawing them one by one would make the interval too
    narrow. Each resample draws as many prompts as there are and takes Σ values / Σ pairs over them.

    Args:
        values: (N,) one per pair, as 1, ½ or 0 for an accuracy, or the difference of two models.
        prompt: (N,) which prompt each value belongs to, any label; None makes each value its own prompt.
        resamples: how many.
        level: how much of the resampled means the interval holds, the rest being cut off equally at both ends.
        seed: of the random draws.
    Raises:
        ValueError: the shapes differ, there is no value, a value is NaN, `level` is not inside (0, 1), or `resamples`
            is less than 1.
    Source: Efron and Tibshirani 1993, chapter 13, the percentile interval; Field and Welsh 2007 for clusters.
    """
    (values,) = _vectors(values=values)
    if not 0 < level < 1:
        raise ValueError(f"level={level} must be inside (0, 1)")
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1")
    totals, sizes = _per_prompt(values, prompt)
    generator = np.random.default_rng(seed)
    prompts = len(totals)
    means = np.empty(resamples)
    chunk = max(1, 1_000_000 // prompts)  # 8 MB of indices at a time
    for start in range(0, resamples, chunk):
        drawn = generator.integers(prompts, size=(min(chunk, resamples - start), prompts))
        means[start : start + chunk] = totals[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_interval(
    first: ArrayLike, second: ArrayLike, prompt: ArrayLike | None = None, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return mean(first − second) with its bootstrap interval, for two models judged on the same pairs.

    What is hard for both cancels, so the interval is narrower than that of two separate ones; if it holds 0, the data
    do not tell the two apart.

    Args:
        first, second: (N,) one value per pair for each model, in the same order of pairs.
        prompt, level, seed: as in `bootstrap_interval`.
    Raises:
        ValueError: as in `bootstrap_interval`.
    """
    first, second = _vectors(first=first, second=second)
    return bootstrap_interval(first - second, prompt, level=level, seed=seed)


def mcnemar(first: ArrayLike, second: ArrayLike, *, mid_p: bool = True) -> float:
    """Return the two-sided p-value that two models are equally often right, from the pairs on which they differ.

    If they are, then of the n pairs on which one is better, X ~ Binomial(n, ½) go to the first. The exact p-value is
    P(X as far from n/2 as seen, or farther); mid-p counts the seen value itself half, which makes the test less timid.

    Args:
        first, second: (N,) 1 right, 0 wrong, ½ a tie, for the same pairs, each of its own prompt.
        mid_p: False gives the exact test.
    Returns:
        p between 0 and 1; 1 where they never differ.
    Raises:
        ValueError: the shapes differ, there is no pair, or a value is NaN.
    Source: McNemar 1947; mid-p: Fagerland, Lydersen and Laake 2013.
    """
    first, second = _vectors(first=first, second=second)
    won, lost = int((first > second).sum()), int((first < second).sum())
    n, fewer = won + lost, min(won, lost)
    places = np.arange(fewer)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - places) / (places + 1)))])  # log C(n, 0 … fewer)
    probability = np.exp(log_choose - n * np.log(2))
    p_value = 2 * probability.sum() - (probability[-1] if mid_p else 0)
    return float(min(1.0, p_value))


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Return the linear correlation of two measures of the same items.

    Args:
        first, second: (N,), N ≥ 2.
    Returns:
        between −1 and 1; NaN where one of the two is constant.
    Raises:
        ValueError: the shapes differ, there are fewer than 2 items, or a value is NaN.
    """
    first, second = _vectors(first=first, second=second, at_least=2)
    first, second = first - first.mean(), second - second.mean()
    return float(_ratio(first @ second, np.sqrt((first @ first) * (second @ second))))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return the correlation of the ranks of two measures of the same items, equal values sharing their mean rank.

    Args, Returns and Raises are those of `pearson`.
    """
    first, second = _vectors(first=first, second=second, at_least=2)
    return pearson(_ranks(first), _ranks(second))


def _array(values: ArrayLike) -> NDArray:
    if hasattr(values, "detach"):  # a torch tensor: NumPy knows neither bfloat16 nor the GPU
        values = values.detach().cpu().tolist()
    return np.asarray(values, dtype=float)


def _vectors(at_least: int = 1, **values: ArrayLike) -> list[NDArray]:
    arrays = {name: _array(value) for name, value in values.items()}
    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    if len({array.shape for array in arrays.values()}) > 1 or any(array.ndim != 1 for array in arrays.values()):
        raise ValueError(f"shapes must be (N,) and equal: {shapes}")
    for name, array in arrays.items():
        if len(array) < at_least:
            raise ValueError(f"{name} has {len(array)} values, it must have at least {at_least}")
        if np.isnan(array).any():
            raise ValueError(f"{name}[{np.isnan(array).argmax()}] is NaN, it must be a number")
    return list(arrays.values())


def _probabilities(probability: ArrayLike, outcome: ArrayLike) -> list[NDArray]:
    probability, outcome = _vectors(probability=probability, outcome=outcome)
    _check_unit("probability", probability)
    _check_unit("outcome", outcome)
    return [probability, outcome]


def _check_unit(name: str, array: NDArray) -> None:
    outside = (array < 0) | (array > 1)
    if outside.any():
        raise ValueError(f"{name}[{outside.argmax()}]={array[outside.argmax()]} must be in [0, 1]")


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else np.nan


def _ranks(values: NDArray) -> NDArray:
    """Return ranks from 1, equal values sharing their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _per_prompt(values: NDArray, prompt: ArrayLike | None) -> tuple[NDArray, NDArray]:
    """Return the sum of the values and their number, for each prompt."""
    if prompt is None:
        return values, np.ones(len(values))
    prompt = np.asarray(prompt)
    if prompt.shape != values.shape:
        raise ValueError(f"shapes must be (N,) and equal: values {values.shape}, prompt {prompt.shape}")
    _, which = np.unique(prompt, return_inverse=True)
    return np.bincount(which, values), np.bincount(which).astype(float)


def _picked(rewards: ArrayLike, utilities: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray, NDArray]:
    """Return ((B, K) the probability that each response is picked, (B, K) utilities, −∞ where masked)."""
    rewards, utilities = _array(rewards), _array(utilities)
    mask = np.ones(rewards.shape, bool) if mask is None else _array(mask).astype(bool)
    if rewards.ndim != 2 or not rewards.shape == utilities.shape == mask.shape:
        shapes = f"rewards {rewards.shape}, utilities {utilities.shape}, mask {mask.shape}"
        raise ValueError(f"shapes must be (B, K) and equal: {shapes}")
    if not mask.any(1).all():
        raise ValueError(f"row {mask.any(1).argmin()} has no real response, it must have at least 1")
    rewards, utilities = np.where(mask, rewards, -np.inf), np.where(mask, utilities, -np.inf)
    highest = mask & (rewards == rewards.max(1, keepdims=True))
    return highest / highest.sum(1, keepdims=True), utilities
