"""Is a reward model as sure as it is right: by hand, against scikit-learn, and where a number could mislead."""

import math

import numpy as np
import pytest

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

LOG_2 = math.log(2)
INF = math.inf


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_nll_by_hand():
    """d = 1: −log σ(1) = 0.31326 where the first is better, 1.31326 where it is not, between them for a tie."""
    assert negative_log_likelihood([1.0], [1.0]) == pytest.approx(0.31326, abs=1e-5)
    assert negative_log_likelihood([1.0, 1.0], [0.0, 0.5]) == pytest.approx((1.31326 + 0.81326) / 2, abs=1e-5)


def test_nll_of_knowing_nothing_is_log_2_and_of_being_very_wrong_is_finite():
    assert negative_log_likelihood(np.zeros(3), [1, 0, 1]) == pytest.approx(LOG_2)
    assert negative_log_likelihood([-1e4], [1.0]) == pytest.approx(1e4)


def test_brier_by_hand():
    """(0.8 − 1)² = 0.04 and (0.6 − 0)² = 0.36."""
    assert brier_score([0.8, 0.6], [1, 0]) == pytest.approx(0.20)


def test_brier_and_nll_agree_with_scikit_learn(rng: np.random.Generator):
    sklearn = pytest.importorskip("sklearn.metrics")
    difference, outcome = rng.normal(size=50), rng.integers(0, 2, 50)
    probability = 1 / (1 + np.exp(-difference))
    assert brier_score(probability, outcome) == pytest.approx(sklearn.brier_score_loss(outcome, probability))
    assert negative_log_likelihood(difference, outcome) == pytest.approx(sklearn.log_loss(outcome, probability))


def test_calibration_error_by_hand():
    """Two bins. Below ½: 0.2 and 0.4, mean 0.3, half of them happen: off by 0.2. Above: 0.9, happens: off by 0.1.

    Weighted by ⅔ and ⅓: 0.5/3.
    """
    assert expected_calibration_error([0.2, 0.4, 0.9], [0, 1, 1], bins=2) == pytest.approx(0.5 / 3)


def test_equal_mass_bins_hold_equally_many():
    """0.1, 0.2 | 0.3, 0.4 with outcomes 0, 0 | 1, 1: off by 0.15 and 0.65. Equal width puts all four in one of two."""
    probability, outcome = [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]
    assert expected_calibration_error(probability, outcome, bins=2, equal_mass=True) == pytest.approx(0.4)
    assert expected_calibration_error(probability, outcome, bins=2) == pytest.approx(0.25)


def test_equal_probabilities_share_a_bin_whatever_their_order(rng: np.random.Generator):
    probability, outcome = np.repeat([0.2, 0.6, 0.9], 7), rng.integers(0, 2, 21)
    error = expected_calibration_error(probability, outcome, bins=4, equal_mass=True)
    order = rng.permutation(21)
    assert expected_calibration_error(probability[order], outcome[order], 4, True) == pytest.approx(error)
    assert len(calibration_bins(probability, outcome, 4, equal_mass=True).weight) == 3


def test_a_bin_holds_its_upper_edge_and_the_first_one_also_0():
    bins = calibration_bins([0.0, 0.5, 0.51, 1.0], [0, 1, 0, 1], bins=2)
    assert bins.weight.tolist() == [0.5, 0.5]
    assert bins.probability.tolist() == pytest.approx([0.25, 0.755])
    assert bins.outcome.tolist() == [0.5, 0.5]


def test_calibration_error_agrees_with_a_loop(rng: np.random.Generator):
    probability = rng.random(500)
    outcome = rng.random(500) < probability**2
    expected = 0.0
    for b in range(15):
        inside = [i for i in range(500) if b / 15 < probability[i] <= (b + 1) / 15]
        if inside:
            gap = np.mean([outcome[i] for i in inside]) - np.mean([probability[i] for i in inside])
            expected += len(inside) / 500 * abs(gap)
    assert expected_calibration_error(probability, outcome) == pytest.approx(expected)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_what_happens_as_often_as_predicted_is_calibrated(equal_mass: bool):
    probability = np.repeat([0.25, 0.5, 1.0], 4)
    outcome = [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    assert expected_calibration_error(probability, outcome, equal_mass=equal_mass) == pytest.approx(0)


def test_calibration_is_measured_on_the_winner_that_the_model_names():
    """r = 2 against 0 and 0 against 2: both times sure by σ(2) = 0.88, once right. Equal rewards: ½, half right."""
    probability, outcome = winner_confidence([2.0, 0.0, 1.0], [0.0, 2.0, 1.0])
    assert probability.tolist() == pytest.approx([0.8808, 0.8808, 0.5], abs=1e-4)
    assert outcome.tolist() == [1.0, 0.0, 0.5]


def test_the_fitted_temperature_is_the_one_the_rewards_were_multiplied_by(rng: np.random.Generator):
    """Outcomes drawn from σ(d), rewards reported as 2.5·d: dividing by 2.5 sets them right."""
    d = rng.normal(size=200_000) * 2
    outcome = rng.random(200_000) < 1 / (1 + np.exp(-d))
    assert fit_temperature(2.5 * d, outcome) == pytest.approx(2.5, rel=0.02)


def test_the_fitted_temperature_is_a_minimum(rng: np.random.Generator):
    d = rng.normal(size=300)
    outcome = (rng.random(300) < 1 / (1 + np.exp(-d / 3))).astype(float)
    T = fit_temperature(d, outcome)
    best = negative_log_likelihood(d / T, outcome)
    assert best <= min(negative_log_likelihood(d / (T * factor), outcome) for factor in (0.5, 0.99, 1.01, 2))
    assert best <= negative_log_likelihood(d, outcome)


def test_the_temperature_has_a_soft_label_at_its_exact_place():
    """σ(3 / T) = 0.9 at T = 3 / log 9."""
    assert fit_temperature([3.0], [0.9]) == pytest.approx(3 / math.log(9), rel=1e-12)


def test_a_temperature_at_an_end_of_its_range_says_that_there_is_no_minimum():
    assert fit_temperature([1.0, 2.0], [1, 1]) == pytest.approx(1e-4)
    assert fit_temperature([1.0, 2.0], [0, 0]) == pytest.approx(1e4)


def test_equal_rewards_have_no_temperature():
    assert math.isnan(fit_temperature([0.0, 0.0], [1, 0.3]))
    assert fit_temperature([0.0, 1.0], [1, 0]) == pytest.approx(1e4)  # one pair that differs is enough


# ── Without chance ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_debiased_calibration_by_hand():
    """One bin of 0.8, outcomes 1, 1, 1, 0: the gap is −0.05, s² = 0.25, so 0.0025 − 0.25/4 is below 0 and counts as 0.

    With outcomes 0, 0, 0, 1 the gap is −0.55: √(0.3025 − 0.0625) = √0.24. A bin of one pair is left out.
    """
    assert debiased_calibration_error([0.8] * 4, [1, 1, 1, 0]) == 0
    assert debiased_calibration_error([0.8] * 4, [0, 0, 0, 1]) == pytest.approx(math.sqrt(0.24))
    assert debiased_calibration_error([0.8] * 4 + [0.1], [0, 0, 0, 1, 1]) == pytest.approx(math.sqrt(0.24))
    assert math.isnan(debiased_calibration_error([0.1, 0.8], [0, 1]))


def test_the_noise_of_calibration_by_hand():
    """Two bins of two pairs at ½ and at 0.9: √(2/π)·(√0.5 + √0.18)/4."""
    expected = math.sqrt(2 / math.pi) * (math.sqrt(0.5) + math.sqrt(0.18)) / 4
    assert calibration_noise([0.5, 0.5, 0.9, 0.9]) == pytest.approx(expected)


@pytest.mark.parametrize(("pairs", "biased"), [(30, 0.161), (100, 0.093), (300, 0.053), (1000, 0.028)])
def test_calibrated_rewards_show_chance_and_it_is_said_how_much(rng: np.random.Generator, pairs: int, biased: float):
    """The biased figures are those of an outside comparison; the debiased square is 0 on average."""
    shown, noise, debiased = [], [], []
    for _ in range(300):
        probability = 1 / (1 + np.exp(-np.abs(rng.normal(size=pairs) * 1.5)))
        outcome = (rng.random(pairs) < probability).astype(float)
        shown.append(expected_calibration_error(probability, outcome))
        noise.append(calibration_noise(probability))
        debiased.append(debiased_calibration_error(probability, outcome))
    assert np.mean(shown) == pytest.approx(biased, rel=0.25)
    assert np.mean(noise) == pytest.approx(np.mean(shown), rel=0.1)
    assert np.median(debiased) < np.mean(shown) / 2


def test_a_gap_that_is_there_survives_the_debiasing(rng: np.random.Generator):
    probability = np.full(20_000, 0.9)
    outcome = rng.random(20_000) < 0.7
    assert debiased_calibration_error(probability, outcome) == pytest.approx(0.2, abs=0.01)


# ── What is not finite, and what is refused ───────────────────────────────────────────────────────────────────────────


def test_an_infinite_difference_gives_the_limit():
    """∞ and right costs nothing: (0 + log 2)/2 = 0.3466; ∞ and wrong costs ∞."""
    assert negative_log_likelihood([INF, 0], [1, 1]) == pytest.approx(LOG_2 / 2)
    assert negative_log_likelihood([-INF, INF], [0, 1]) == 0
    assert negative_log_likelihood([INF, 0], [0.5, 1]) == INF
    assert winner_confidence([INF, INF, 0.0], [INF, 0.0, -INF])[0].tolist() == [0.5, 1.0, 1.0]
    assert winner_confidence([INF, -INF], [INF, 0.0])[1].tolist() == [0.5, 0.0]


def test_an_infinite_difference_leaves_the_temperature_to_the_others():
    d, outcome = [1.0, -1.0, 2.0], [0, 0, 1]
    assert fit_temperature([INF, *d], [1, *outcome]) == pytest.approx(fit_temperature(d, outcome))
    assert fit_temperature([INF, 1, -1, 2], [1, 0, 0, 1]) == pytest.approx(1.322, abs=1e-3)
    assert fit_temperature([INF, *d], [0, *outcome]) == pytest.approx(1e4)  # the hotter, the less wrong


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: negative_log_likelihood([0.0], [1.5]), r"outcome\[0\]=1.5 must be in \[0, 1\]"),
        (lambda: brier_score([0.5, -0.1], [1, 1]), r"probability\[1\]=-0.1 must be in \[0, 1\]"),
        (lambda: brier_score([INF], [1]), r"probability\[0\]=inf must be in \[0, 1\]"),
        (lambda: expected_calibration_error([0.5], [1], bins=0), "bins=0 must be at least 1"),
        (lambda: debiased_calibration_error([0.5], [1], bins=0), "bins=0 must be at least 1"),
        (lambda: calibration_noise([1.5]), r"probability\[0\]=1.5"),
        (lambda: fit_temperature([1.0], [2.0]), r"outcome\[0\]=2.0"),
        (lambda: winner_confidence([math.nan], [2.0]), r"chosen\[0\] is NaN"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
