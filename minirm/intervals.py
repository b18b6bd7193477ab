"""How sure one can be of a mean over pairs of responses, of which those to one prompt share its luck.

    bootstrap_interval    a mean, drawing whole prompts
    paired_interval       the difference of two models on the same pairs
    mcnemar               whether two models are equally often right

A resample weighs each prompt by an exponential draw w_g and takes Σ w_g·T_g / Σ w_g·n_g over the prompts' sums T_g
and numbers n_g of values: drawing pair by pair would make the interval too narrow. What is not among so few prompts
counts as well. Where values are bounded, each end is a quantile with one more prompt, of mean size, at the bound on
that side: without it 30 pairs of 30 right would leave no doubt. For one value of 0 or 1 to a prompt this is Clopper
and Pearson's exact interval. Where they are not, each end lies as far as Student's with the jackknife's standard
error, and the end to which the bootstrap leans farther: what is skewed errs towards its long tail.

Source: Rubin 1981, the Bayesian bootstrap; with a bound: Gaffke 2005, Learned-Miller and Thomas, arXiv:1905.06208; the
ratio for clusters: Cochran 1977, chapter 6; how far skew leans: Hall 1988, Annals of Statistics 16, 927.

Letters: G prompts. NaN and ±∞ are refused: a mean says nothing of them. `python -m bench losses --coverage` simulates
how often the intervals hold the truth.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtrit

from minirm.vectors import as_vectors

FEWEST_PROMPTS = 5
"""From so many prompts on an interval of .95 holds the truth in .93 of cases or more; fewer get none in print."""

FEWEST_UNBOUNDED = 10
"""The same for values without bounds, whose long tail fewer may not show."""


class Interval(NamedTuple):
    """An estimate with the two ends of its interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    prompt: ArrayLike | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of `values` with its bootstrap interval, resampling whole prompts.

    Args:
        values: (N,) one per pair, as 1, ½ or 0 for an accuracy, or the difference of two models.
        prompt: (N,) which prompt each value belongs to, any label; None makes each value its own prompt.
        bounds: the lowest and the highest value there could be, ∓∞ where there is none. None: 0 and 1 where values are
            0, ½ and 1 alone; −1 and 1 where they are differences of such; else none.
        resamples: how many.
        level: how often the interval should hold the true mean; it misses equally often at both ends.
        seed: of the random draws.
    Returns:
        the mean and two ends; one prompt without a bound leaves its end at ∓∞.
    Raises:
        ValueError: the shapes differ, there is no value, a value is not finite or outside the bounds, `level` is not
            inside (0, 1), or `resamples` is less than 1.
    """
    (values,) = as_vectors(values=values, finite=True)
    lowest, highest = _bounds_of(values) if bounds is None else bounds
    _check(values, (lowest, highest), level, resamples)
    totals, sizes = _per_prompt(values, prompt)
    mean = totals.sum() / sizes.sum()
    deviations, weights, extra = _resampled(totals - mean * sizes, sizes, resamples, seed)
    tails = (1 - level) / 2, (1 + level) / 2
    student = _student_ends(totals - mean * sizes, sizes, np.quantile(deviations / weights, tails), tails[1])
    ends = []
    for bound, tail, offset in zip((lowest, highest), tails, student, strict=True):
        if np.isfinite(bound):
            offset = np.quantile((deviations + extra * (bound - mean)) / (weights + extra), tail)
        ends.append(float(np.clip(mean + offset, lowest, highest)))
    return Interval(float(mean), *ends)


def _check(values: np.ndarray, bounds: tuple[float, float], level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must be inside (0, 1)")
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1")
    if not (values.min() >= bounds[0] and values.max() <= bounds[1]):
        raise ValueError(f"values from {values.min():g} to {values.max():g} must lie within bounds={bounds}")


def paired_interval(
    first: ArrayLike, second: ArrayLike, prompt: ArrayLike | None = None, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return mean(first − second) with its bootstrap interval, for two models judged on the same pairs.

    What is hard for both cancels, so that where the two correlate the interval is narrower than two separate ones would
    make it; if it holds 0, the data do not tell the two apart.

    Args:
        first, second: (N,) one value per pair for each model, in the same order of pairs.
        prompt, level, seed: as in `bootstrap_interval`.
    Raises:
        ValueError: as in `bootstrap_interval`.
    """
    first, second = as_vectors(first=first, second=second, finite=True)
    ranges = _bounds_of(first), _bounds_of(second)
    bounds = ranges[0][0] - ranges[1][1], ranges[0][1] - ranges[1][0]
    return bootstrap_interval(first - second, prompt, bounds=bounds, level=level, seed=seed)


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
        ValueError: the shapes differ, there is no pair, or a value is not finite.
    Source: McNemar 1947; mid-p: Fagerland, Lydersen and Laake 2013.
    """
    first, second = as_vectors(first=first, second=second, finite=True)
    won, lost = int((first > second).sum()), int((first < second).sum())
    fewer = min(won, lost)
    as_far = bdtr(fewer, won + lost, 0.5)
    farther = bdtr(fewer - 1, won + lost, 0.5) if fewer else 0.0
    return float(min(1.0, as_far + (farther if mid_p else as_far)))


def _bounds_of(values: NDArray) -> tuple[float, float]:
    """Return the bounds of what is right, wrong or a tie, or of a difference of such; else ∓∞."""
    if not np.isin(values, (-1, -0.5, 0, 0.5, 1)).all():
        return -np.inf, np.inf
    return (-1.0, 1.0) if values.min() < 0 else (0.0, 1.0)


def _per_prompt(values: NDArray, prompt: ArrayLike | None) -> tuple[NDArray, NDArray]:
    """Return the sum of the values and their number, for each prompt."""
    if prompt is None:
        return values, np.ones(len(values))
    prompt = np.asarray(prompt)
    if prompt.shape != values.shape:
        raise ValueError(f"shapes must be (N,) and equal: values {values.shape}, prompt {prompt.shape}")
    _, which = np.unique(prompt, return_inverse=True)
    return np.bincount(which, values), np.bincount(which).astype(float)


def _resampled(deviations: NDArray, sizes: NDArray, resamples: int, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return (resamples,) Σ w_g·(T_g − mean·n_g) and Σ w_g·n_g, and the weight of one more prompt of mean size."""
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, 2))
    chunk = max(1, 1_000_000 // len(sizes))  # 8 MB of weights at a time
    for start in range(0, resamples, chunk):
        weights = generator.standard_exponential((min(chunk, resamples - start), len(sizes)))
        sums[start : start + chunk] = weights @ np.stack([deviations, sizes], axis=1)
    return sums[:, 0], sums[:, 1], generator.standard_exponential(resamples) * sizes.mean()


def _student_ends(deviations: NDArray, sizes: NDArray, ends: NDArray, tail: float) -> NDArray:
    """Return both ends less the mean: Student's, the one to which the bootstrap's `ends` lean lengthened; ∓∞ for G = 1.

    The jackknife's error is √(Σ (e_g / (1 − h_g))²·(G − 1)/G) / Σ n, with e_g = T_g − mean·n_g and h_g = n_g / Σ n. Its
    degrees of freedom, (Σ n²)² / Σ n⁴ − 1 (Satterthwaite 1946, for prompts that share all their luck), are G − 1 where
    all have as many values. Skew moves Student's ratio three times as far as the mean, (2z² + 1)/(z² − 1) at z = 1.96:
    the ratio r of the bootstrap's two ends becomes r³, of which the long end takes r^1.5 and the other gives nothing.
    """
    G, total = len(sizes), sizes.sum()
    if G == 1:
        return np.array([-np.inf, np.inf])
    left_out = deviations / (1 - sizes / total)
    error = np.sqrt(left_out @ left_out * (G - 1) / G) / total
    freedom = max(1.0, (sizes**2).sum() ** 2 / (sizes**4).sum() - 1)
    half = stdtrit(freedom, tail) * error
    lean = (-ends[1] / ends[0]) ** 1.5 if ends[0] < 0 < ends[1] else 1.0
    return half * np.array([-max(1.0, 1 / lean), max(1.0, lean)])
