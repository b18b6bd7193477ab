"""What each number of an evaluation says, by hand, against scipy and scikit-learn, and where it could mislead."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm import metrics
from minirm.metrics import (
    best_of_k_hit_rate,
    best_of_k_regret,
    bootstrap_interval,
    brier_score,
    calibration_bins,
    expected_calibration_error,
    fit_temperature,
    kendall_tau_b,
    mcnemar,
    negative_log_likelihood,
    paired_interval,
    pairwise_accuracy,
    pearson,
    spearman,
    winner_confidence,
)

stats = pytest.importorskip("scipy.stats")

LOG_2 = math.log(2)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ── Right or wrong ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_accuracy_counts_equal_rewards_half():
    """Right, tied, wrong, right: (1 + ½ + 0 + 1) / 4."""
    assert pairwise_accuracy([2.0, 1.0, 0.0, 5.0], [1.0, 1.0, 3.0, -5.0]) == 0.625


def test_a_constant_reward_is_right_half_of_the_time():
    assert pairwise_accuracy(np.zeros(7), np.zeros(7)) == 0.5


def test_accuracy_of_swapped_pairs_is_the_complement(rng: np.random.Generator):
    chosen, rejected = rng.integers(0, 4, (2, 100))
    assert pairwise_accuracy(chosen, rejected) + pairwise_accuracy(rejected, chosen) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_tensors_lists_and_arrays_say_the_same(dtype: torch.dtype):
    chosen, rejected = [2.0, 1.0, 0.5], [1.0, 1.0, 3.0]
    tensors = (torch.tensor(values, dtype=dtype, requires_grad=True) for values in (chosen, rejected))
    assert pairwise_accuracy(*tensors) == pairwise_accuracy(chosen, rejected) == 0.5


def test_kendall_by_hand():
    """1 2 3 against 1 3 2: two of three pairs agree, one does not: (2 − 1) / 3."""
    assert kendall_tau_b([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)


def test_kendall_does_not_count_ties_against_a_measure():
    """1 1 2 against 1 2 3: two pairs agree, one is tied in the first: 2 / √(2·3)."""
    assert kendall_tau_b([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


some_numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30)


@settings(deadline=None, max_examples=60)
@given(some_numbers)
def test_correlations_agree_with_scipy(pairs: list[tuple[int, int]]):
    first, second = np.array(pairs, dtype=float).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert all(math.isnan(f(first, second)) for f in (kendall_tau_b, pearson, spearman))
        return
    assert kendall_tau_b(first, second) == pytest.approx(stats.kendalltau(first, second).statistic, abs=1e-12)
    assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-12)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_best_of_k_by_hand():
    """Row 1: the model picks utility 5, the best is 7: regret 2, a miss. Row 2: it picks the best.

    Row 3: two rewards are highest, with utilities 1 and 3: on average 2, regret 1, half a hit.
    Row 4: the highest reward is masked; of the others the better one is picked.
    """
    rewards = [[3.0, 1.0, 2.0], [0.0, 9.0, 1.0], [4.0, 4.0, 0.0], [0.0, 1.0, 9.0]]
    utilities = [[5.0, 7.0, 1.0], [0.0, 1.0, 0.5], [1.0, 3.0, 2.0], [0.0, 1.0, 2.0]]
    mask = np.ones((4, 3), bool)
    mask[3, 2] = False
    assert best_of_k_regret(rewards, utilities, mask).tolist() == [2.0, 0.0, 1.0, 0.0]
    assert best_of_k_hit_rate(rewards, utilities, mask).tolist() == [0.0, 1.0, 0.5, 1.0]


def test_best_of_k_does_not_look_behind_the_mask():
    rewards, utilities = np.array([[1.0, 0.0, np.nan]]), np.array([[2.0, 3.0, np.nan]])
    mask = torch.tensor([[True, True, False]])
    assert best_of_k_regret(rewards, utilities, mask).tolist() == [1.0]
    assert best_of_k_hit_rate(rewards, utilities, mask).tolist() == [0.0]


def test_a_constant_reward_hits_the_best_of_k_once_in_k():
    assert best_of_k_hit_rate(np.zeros((1, 5)), np.arange(5.0)[None]).tolist() == pytest.approx([0.2])
    assert best_of_k_hit_rate(np.zeros((1, 5)), np.zeros((1, 5))).tolist() == pytest.approx([1.0])  # all are best


# ── Right by how much ─────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── How sure ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_interval_is_that_of_the_normal_approximation_when_there_is_much_data(rng: np.random.Generator):
    """Accuracy 0.7 on 4,000 prompts: 0.7 ± 1.96·√(0.7·0.3/4000) = 0.7 ± 0.0142."""
    values = rng.permutation(np.repeat([1.0, 0.0], [2800, 1200]))
    estimate, low, high = bootstrap_interval(values)
    assert estimate == pytest.approx(0.7)
    assert (low, high) == pytest.approx((0.6858, 0.7142), abs=1e-3)


def test_pairs_of_one_prompt_are_drawn_together(rng: np.random.Generator):
    """Copies of a pair add nothing: 100 prompts with nine equal values each are as uncertain as 100 values."""
    values = rng.random(100)
    alone = bootstrap_interval(values)
    copies = bootstrap_interval(np.repeat(values, 9), np.repeat(np.arange(100), 9))
    assert copies == pytest.approx(alone)
    too_sure = bootstrap_interval(np.repeat(values, 9))
    assert too_sure.high - too_sure.low < 0.5 * (alone.high - alone.low)


def test_prompts_of_unequal_size_agree_with_a_loop(rng: np.random.Generator):
    prompt = np.array(["c", "a", "b", "a", "a", "b"])
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.5])
    means = []
    for _ in range(20_000):
        drawn = np.concatenate([values[prompt == p] for p in rng.choice(["a", "b", "c"], 3)])
        means.append(drawn.mean())
    estimate, low, high = bootstrap_interval(values, prompt, level=0.8)
    assert estimate == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(np.quantile(means, [0.1, 0.9]), abs=0.02)


def test_the_interval_holds_the_truth_as_often_as_it_says(rng: np.random.Generator):
    """300 data sets of 60 prompts with 1 to 6 pairs, which share the prompt's luck; 90% should hold the true mean."""
    held = 0
    for seed in range(300):
        sizes = rng.integers(1, 7, 60)
        prompt = np.repeat(np.arange(60), sizes)
        values = rng.normal(size=60)[prompt] + rng.normal(size=len(prompt))
        _, low, high = bootstrap_interval(values, prompt, resamples=400, level=0.9, seed=seed)
        held += low <= 0 <= high
    assert 0.84 <= held / 300 <= 0.95


def test_the_same_seed_gives_the_same_interval_and_a_higher_level_a_wider_one():
    values = np.arange(20.0)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_what_is_hard_for_both_models_cancels_in_a_paired_interval(rng: np.random.Generator):
    hardness = rng.normal(size=400)
    first, second = hardness + 0.1 + 0.05 * rng.normal(size=400), hardness
    paired = paired_interval(first, second)
    assert paired.estimate == pytest.approx(np.mean(first - second))
    assert 0.08 < paired.low < paired.high < 0.12
    alone = bootstrap_interval(first)
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_mcnemar_by_hand():
    """They differ on 4 pairs, 3 to 1. Of 2⁴ = 16 ways, 1 + 4 are at least as uneven, on each side: 10/16 exact.

    Mid-p takes the 4 + 4 that are just as uneven half: 6/16.
    """
    first, second = [1, 1, 1, 0, 1, 0], [0, 0, 0, 1, 1, 0]
    assert mcnemar(first, second, mid_p=False) == pytest.approx(10 / 16)
    assert mcnemar(first, second) == pytest.approx(6 / 16)


@pytest.mark.parametrize("won, lost", [(0, 1), (5, 5), (3, 9), (20, 4), (2100, 1900)])
def test_mcnemar_agrees_with_scipys_binomial_test(won: int, lost: int):
    first, second = np.repeat([1.0, 0.0], [won, lost]), np.repeat([0.0, 1.0], [won, lost])
    assert mcnemar(first, second, mid_p=False) == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    wins = stats.binom(won + lost, 0.5)
    mid_p = 2 * wins.cdf(min(won, lost) - 1) + wins.pmf(min(won, lost))
    assert mcnemar(first, second) == pytest.approx(mid_p)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_models_that_never_differ_or_differ_evenly_are_not_told_apart():
    assert mcnemar([1, 0, 0.5], [1, 0, 0.5]) == 1
    assert mcnemar([1, 0], [0, 1]) == 1


# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pairwise_accuracy([1.0], [1.0, 2.0]), r"equal: chosen \(1,\), rejected \(2,\)"),
        (lambda: pairwise_accuracy([[1.0]], [[2.0]]), r"shapes must be \(N,\)"),
        (lambda: pairwise_accuracy([], []), "chosen has 0 values, it must have at least 1"),
        (lambda: pairwise_accuracy([1.0, math.nan], [0.0, 0.0]), r"chosen\[1\] is NaN"),
        (lambda: negative_log_likelihood([0.0], [1.5]), r"outcome\[0\]=1.5 must be in \[0, 1\]"),
        (lambda: brier_score([0.5, -0.1], [1, 1]), r"probability\[1\]=-0.1 must be in \[0, 1\]"),
        (lambda: expected_calibration_error([0.5], [1], bins=0), "bins=0 must be at least 1"),
        (lambda: fit_temperature([1.0], [2.0]), r"outcome\[0\]=2.0"),
        (lambda: kendall_tau_b([1.0], [1.0]), "first has 1 values, it must have at least 2"),
        (lambda: best_of_k_regret([1.0], [1.0]), r"must be \(B, K\) and equal: rewards \(1,\)"),
        (lambda: best_of_k_hit_rate([[1.0]], [[1.0]], [[False]]), "row 0 has no real response"),
        (lambda: bootstrap_interval([1.0], level=1.0), r"level=1.0 must be inside \(0, 1\)"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples=0 must be at least 1"),
        (lambda: bootstrap_interval([1.0, 2.0], ["a"]), r"values \(2,\), prompt \(1,\)"),
        (lambda: paired_interval([1.0, 2.0], [1.0]), r"first \(2,\), second \(1,\)"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_metrics_need_no_torch():
    assert "torch" not in vars(metrics)
