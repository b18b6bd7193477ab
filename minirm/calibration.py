"""Is a reward model as sure as it is right? Probabilities against what happened.

    right by how much    negative_log_likelihood, brier_score, fit_temperature
    as sure as right     expected_calibration_error, debiased_calibration_error, calibration_noise

A comparison gives a difference of rewards d = r_c − r_r in logits, and with it a probability σ(d) that the first is
better. An `outcome` is 1 where it is, 0 where it is not, and anything between for a soft label or a tie. What is
refused, and what ±∞ gives, is said in `metrics.py`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirm.vectors import as_vectors, ranks

UNIT = ("probability", "outcome")
"""Arguments that must be in [0, 1], wherever they occur."""


class CalibrationBins(NamedTuple):
    """The points of a reliability diagram, one array entry for each bin that holds a pair."""

    weight: NDArray  # share of all pairs, sums to 1
    probability: NDArray  # mean of what was predicted
    outcome: NDArray  # mean of what happened


def negative_log_likelihood(difference: ArrayLike, outcome: ArrayLike) -> float:
    """Return the mean of −p·log σ(d) − (1−p)·log σ(−d), the Bradley–Terry loss on held-out pairs.

    Args:
        difference: (N,) d = r_first − r_second, in logits.
        outcome: (N,) p, in [0, 1].
    Returns:
        nats per pair; log 2 = 0.693 for a constant reward.
    """
    difference, outcome = as_vectors(difference=difference, outcome=outcome, unit=UNIT)
    # logaddexp(0, −d) = −log σ(d) without overflow; where it is ∞, a label of probability 0 still costs nothing
    right = np.where(outcome > 0, np.logaddexp(0, -difference), 0)
    wrong = np.where(outcome < 1, np.logaddexp(0, difference), 0)
    return float(np.mean(outcome * right + (1 - outcome) * wrong))


def brier_score(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Return the mean of (probability − outcome)².

    Args:
        probability, outcome: (N,) in [0, 1].
    Returns:
        between 0 and 1; ¼ for a constant probability of ½ and hard outcomes.
    Source: Brier 1950, in its form for two classes.
    """
    probability, outcome = as_vectors(probability=probability, outcome=outcome, unit=UNIT)
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
    """
    chosen, rejected = as_vectors(chosen=chosen, rejected=rejected)
    equal = chosen == rejected  # ∞ and ∞ too
    probability = 1 / (1 + np.exp(-np.abs(np.where(equal, 0, chosen) - np.where(equal, 0, rejected))))
    return probability, (chosen > rejected) + 0.5 * equal


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
    Source: Guo et al. 2017, arXiv:1706.04599, Eq. 3; equal mass: Nixon et al. 2019, arXiv:1904.01685.
    """
    weight, mean_probability, mean_outcome = calibration_bins(probability, outcome, bins, equal_mass)
    return float(weight @ np.abs(mean_outcome - mean_probability))


def debiased_calibration_error(
    probability: ArrayLike, outcome: ArrayLike, bins: int = 15, equal_mass: bool = False
) -> float:
    """Return the root mean square of the gaps of calibration, less what the bins' own noise adds to it.

        √max(0, Σ_b w_b·(gap_b² − s_b²/n_b))    gap_b, s_b²: mean and variance of outcome − probability, w_b = n_b / Σ n

    A mean of absolute gaps is above 0 of calibrated rewards too (`calibration_noise`). The square has an unbiased
    estimate, which may be negative and then counts as 0. Bins of one pair tell nothing of their noise and are left out.

    Args:
        probability, outcome, bins, equal_mass: as in `expected_calibration_error`.
    Returns:
        between 0 and 1; NaN where no bin has two pairs.
    Source: Kumar, Liang and Ma 2019, arXiv:1909.10155, section 4.1, with the variance that the pairs of a bin have.
    """
    probability, outcome = as_vectors(probability=probability, outcome=outcome, unit=UNIT)
    bin_of = _bin_of(probability, bins, equal_mass)
    count = np.bincount(bin_of, minlength=bins)
    several = count > 1
    n = count[several]
    gap = np.bincount(bin_of, outcome - probability, bins) / np.maximum(count, 1)
    squares = np.bincount(bin_of, (outcome - probability - gap[bin_of]) ** 2, bins)[several]
    unbiased = n @ (gap[several] ** 2 - squares / ((n - 1) * n)) / n.sum() if n.size else np.nan
    return float(np.sqrt(np.maximum(unbiased, 0)))


def calibration_noise(probability: ArrayLike, bins: int = 15, equal_mass: bool = False) -> float:
    """Return about what `expected_calibration_error` shows of so many pairs whose probabilities are perfectly right.

    A bin's gap then spreads by s_b = √(Σ p·(1−p)) / n_b around 0, and its mean size is √(2/π)·s_b, as of a normal one.
    """
    (probability,) = as_vectors(probability=probability, unit=UNIT)
    variance = np.bincount(_bin_of(probability, bins, equal_mass), probability * (1 - probability), bins)
    return float(np.sqrt(2 / np.pi) * np.sqrt(variance).sum() / len(probability))


def calibration_bins(
    probability: ArrayLike, outcome: ArrayLike, bins: int = 15, equal_mass: bool = False
) -> CalibrationBins:
    """Return the points of a reliability diagram; the arguments are those of `expected_calibration_error`."""
    probability, outcome = as_vectors(probability=probability, outcome=outcome, unit=UNIT)
    bin_of = _bin_of(probability, bins, equal_mass)
    count = np.bincount(bin_of, minlength=bins)
    real = count > 0
    mean_probability = np.bincount(bin_of, probability, bins)[real] / count[real]
    mean_outcome = np.bincount(bin_of, outcome, bins)[real] / count[real]
    return CalibrationBins(count[real] / len(probability), mean_probability, mean_outcome)


def fit_temperature(difference: ArrayLike, outcome: ArrayLike) -> float:
    """Return the T > 0 for which σ(d / T) has the least negative log-likelihood; fit it on validation, use it on test.

    It is convex in β = 1/T, so its derivative Σ d·(σ(β·d) − p) changes sign once, and log β is bisected.

    Args:
        difference: (N,) d = r_first − r_second, in logits.
        outcome: (N,) p, in [0, 1].
    Returns:
        T between 1e-4 and 1e4: above 1 the rewards were too sure, below 1 not sure enough. An end of the range means
        that the least lies there or beyond it: 1e-4 where all pairs are in the right order, or the d are so small; 1e4
        where they are no better than chance, or so large. NaN where every d is 0: all T are alike.
    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    difference, outcome = as_vectors(difference=difference, outcome=outcome, unit=UNIT)
    if not difference.any():
        return float("nan")
    low, high = np.log(1e-4), np.log(1e4)
    for _ in range(60):  # 18.4 / 2⁶⁰: down to rounding
        middle = (low + high) / 2
        error = 0.5 * (1 + np.tanh(np.exp(middle) * difference / 2)) - outcome  # σ − p without overflow
        if np.where(error == 0, 0, difference) @ error > 0:  # ∞·0 = 0: what is surely right asks for no other T
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def _bin_of(probability: NDArray, bins: int, equal_mass: bool) -> NDArray:
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    if equal_mass:  # by mean rank, so that equal probabilities share a bin whatever their order
        return ((ranks(probability) - 0.5) / len(probability) * bins).astype(int)
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability)
