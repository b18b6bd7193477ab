"""How good a reward model is. NumPy; arrays, lists and tensors are all taken.

    right or wrong       pairwise_accuracy, kendall_tau_b, best_of_k_regret, best_of_k_hit_rate, ndcg
    related to what      pearson, spearman
    right by how much    negative_log_likelihood, brier_score, fit_temperature, expected_calibration_error, …: in
                         `calibration.py`, and here too
    how sure             bootstrap_interval, paired_interval, mcnemar: in `intervals.py`, and here too

What is not finite: NaN is refused. ±∞ is a value like any other where values are put in order, equal to itself; a
function of its size returns its limit, ∞ included, and refuses it where a mean would have none. Every refusal, also of
shapes that differ and of values outside the range that is named, is a ValueError of one line.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirm.calibration import (
    brier_score,
    calibration_bins,
    calibration_noise,
    debiased_calibration_error,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    winner_confidence,
)
from minirm.intervals import Interval, bootstrap_interval, mcnemar, paired_interval
from minirm.vectors import as_array, as_vectors, ranks

__all__ = [
    "best_of_k_hit_rate", "best_of_k_regret", "bootstrap_interval", "brier_score", "calibration_bins",
    "calibration_noise", "debiased_calibration_error", "expected_calibration_error", "fit_temperature", "Interval",
    "kendall_tau_b", "mcnemar", "ndcg", "negative_log_likelihood", "paired_interval", "pairwise_accuracy",
    "pearson", "spearman", "winner_confidence",
]  # fmt: skip


def pairwise_accuracy(chosen: ArrayLike, rejected: ArrayLike) -> float:
    """Return the share of pairs whose chosen response has the higher reward; equal rewards count ½.

    Counting ties as wrong would punish, and counting them as right would reward, a model that says the same of all.

    Args:
        chosen, rejected: (N,) rewards.
    Returns:
        between 0 and 1; a constant reward gives exactly ½.
    """
    chosen, rejected = as_vectors(chosen=chosen, rejected=rejected)
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))


def kendall_tau_b(first: ArrayLike, second: ArrayLike) -> float:
    """Return (C − D) / √((P − ties of first)·(P − ties of second)), C and D of all P pairs in equal and opposite order.

    Args:
        first, second: (N,) two measures of the same items, N ≥ 2.
    Returns:
        between −1 and 1; NaN where one of the two is constant.
    Source: Kendall 1945. Time O(N²), memory O(N).
    """
    first, second = map(ranks, as_vectors(first=first, second=second, at_least=2))
    agreement = untied_first = untied_second = 0
    for i in range(1, len(first)):
        by_first, by_second = np.sign(first[i] - first[:i]), np.sign(second[i] - second[:i])
        agreement += by_first @ by_second
        untied_first += by_first @ by_first
        untied_second += by_second @ by_second
    scale = np.sqrt(untied_first * untied_second)
    return float(agreement / scale) if scale > 0 else float("nan")


def best_of_k_regret(rewards: ArrayLike, utilities: ArrayLike, mask: ArrayLike | None = None) -> NDArray:
    """Return how much utility is lost by taking the response of highest reward instead of the best one, per prompt.

    Args:
        rewards: (B, K) what the model says; where several are highest, one of them is taken at random (their mean).
        utilities: (B, K) what is true: gold scores or human scores; the regret is in their unit.
        mask: (B, K) bool, True is real; None is all real.
    Returns:
        (B,) regrets, 0 or more; their mean and interval: `bootstrap_interval`.
    """
    picked, utilities = _picked(rewards, utilities, mask)
    best = utilities.max(1, keepdims=True)
    lost = np.subtract(best, utilities, out=np.zeros_like(utilities), where=(picked > 0) & (utilities < best))
    return (picked * lost).sum(1)


def best_of_k_hit_rate(rewards: ArrayLike, utilities: ArrayLike, mask: ArrayLike | None = None) -> NDArray:
    """Return the probability that the response of highest reward is one of the best, per prompt.

    Args:
        rewards, utilities, mask: as in `best_of_k_regret`.
    Returns:
        (B,) between 0 and 1; a constant reward gives 1/K where one response is best.
    """
    picked, utilities = _picked(rewards, utilities, mask)
    return np.where(utilities == utilities.max(1, keepdims=True), picked, 0).sum(1)


def ndcg(rewards: ArrayLike, gains: ArrayLike, mask: ArrayLike | None = None, *, top: int | None = None) -> NDArray:
    """Return Σ_i gain_i / log2(1 + rank_i), ranked by reward, over the same ranked by gain, per prompt.

    Args:
        rewards: (B, K) what the model says; equal ones share the mean of their places' discounts.
        gains: (B, K) what a response is worth, finite and 0 or more: a score, or 2^score − 1.
        mask: (B, K) bool, True is real; None is all real.
        top: how many places count; None is all.
    Returns:
        (B,) between 0 and 1; NaN where all gains are 0.
    Source: Järvelin and Kekäläinen 2002; ties: McSherry and Najork 2008.
    """
    _, gains = _picked(rewards, gains, mask)
    real = gains > -np.inf
    if not ((gains >= 0) & (gains < np.inf) | ~real).all():
        raise ValueError(f"gains from {gains[real].min():g} to {gains[real].max():g} must be finite and at least 0")
    if top is not None and top < 1:
        raise ValueError(f"top={top} must be at least 1")
    K = gains.shape[1]
    discounts = 1 / np.log2(2 + np.arange(K)) * (np.arange(K) < (K if top is None else top))
    until = np.append(0, np.cumsum(discounts))
    gains = np.where(real, gains, 0)
    gains = gains / (gains.max(1, keepdims=True) + (gains == 0).all(1, keepdims=True))  # whose sum does not overflow
    order_by = [np.where(real, as_array(rewards), -np.inf), gains]
    found, best = (_discounted(gains, by, real, until) for by in order_by)
    return np.divide(found, best, out=np.full(len(gains), np.nan), where=best > 0)


def _discounted(gains: NDArray, by: NDArray, real: NDArray, until: NDArray) -> NDArray:
    """Return (B,) Σ gain·discount, ranked by `by`; `until` holds the sums of the first 0 … K discounts."""
    before = ((by[:, None, :] > by[:, :, None]) & real[:, None]).sum(2)  # (B, K) how many stand before
    equal = ((by[:, None, :] == by[:, :, None]) & real[:, None]).sum(2) * real
    return (gains * (until[before + equal] - until[before]) / np.maximum(equal, 1)).sum(1)


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Return the linear correlation of two measures of the same items.

    Args:
        first, second: (N,), N ≥ 2.
    Returns:
        between −1 and 1; NaN where one of the two is constant.
    """
    first, second = as_vectors(first=first, second=second, at_least=2, finite=True)
    if (first == first[0]).all() or (second == second[0]).all():
        return float("nan")
    first, second = _direction(first), _direction(second)
    return float(np.clip(first @ second, -1, 1))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return the correlation of the ranks of two measures of the same items, equal values sharing their mean rank.

    Args and Returns are those of `pearson`; ±∞ has a rank like any other.
    """
    first, second = as_vectors(first=first, second=second, at_least=2)
    return pearson(ranks(first), ranks(second))


def _direction(values: NDArray) -> NDArray:
    """Return values less their mean, of length 1; scaled first, for squares neither overflow nor vanish."""
    for _ in range(2):  # beside a large level the first mean is rounded
        values = values / np.abs(values).max()
        values = values - values.mean()
    return values / np.sqrt(values @ values)


def _picked(rewards: ArrayLike, utilities: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray, NDArray]:
    """Return ((B, K) the probability that each response is picked, (B, K) utilities, −∞ where masked)."""
    rewards, utilities = as_array(rewards), as_array(utilities)
    mask = np.ones(rewards.shape, bool) if mask is None else as_array(mask).astype(bool)
    if rewards.ndim != 2 or not rewards.shape == utilities.shape == mask.shape:
        shapes = f"rewards {rewards.shape}, utilities {utilities.shape}, mask {mask.shape}"
        raise ValueError(f"shapes must be (B, K) and equal: {shapes}")
    if not mask.any(1).all():
        raise ValueError(f"row {mask.any(1).argmin()} has no real response, it must have at least 1")
    for name, array in (("rewards", rewards), ("utilities", utilities)):
        if np.isnan(array[mask]).any():
            raise ValueError(f"{name}{np.argwhere(mask & np.isnan(array))[0].tolist()} is NaN, it must be a number")
    rewards, utilities = np.where(mask, rewards, -np.inf), np.where(mask, utilities, -np.inf)
    highest = mask & (rewards == rewards.max(1, keepdims=True))
    return highest / highest.sum(1, keepdims=True), utilities
