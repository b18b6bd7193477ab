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
    kendall_tau_b,
    ndcg,
    pairwise_accuracy,
    pearson,
    spearman,
)
from minirm.vectors import ranks

stats = pytest.importorskip("scipy.stats")

INF = math.inf


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


@settings(max_examples=60)
@given(some_numbers)
def test_correlations_agree_with_scipy(pairs: list[tuple[int, int]]):
    first, second = np.array(pairs, dtype=float).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert all(math.isnan(f(first, second)) for f in (kendall_tau_b, pearson, spearman))
        return
    assert kendall_tau_b(first, second) == pytest.approx(stats.kendalltau(first, second).statistic, abs=1e-12)
    assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-12)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-INF, -1.0, 0.0, 2.0, INF])), min_size=1, max_size=20))
def test_ranks_agree_with_scipy_and_count_on_from_group_to_group(entries):
    group, values = (np.array(column) for column in zip(*entries, strict=True))
    assert ranks(values).tolist() == stats.rankdata(values).tolist()
    for one in set(group.tolist()):
        expected = stats.rankdata(values[group == one]) + (group < one).sum()
        assert ranks(values, group)[group == one].tolist() == expected.tolist()


def test_best_of_k_by_hand():
    """RawRecord 1: the model picks utility 5, the best is 7: regret 2, a miss. RawRecord 2: it picks the best.

    RawRecord 3: two rewards are highest, with utilities 1 and 3: on average 2, regret 1, half a hit.
    RawRecord 4: the highest reward is masked; of the others the better one is picked.
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


def test_ndcg_by_hand():
    """Gains 3, 1, 0, ranked 1, 3, 0 by reward: 1 + 3/log2 3 over 3 + 1/log2 3 = 2.89279/3.63093 = 0.79671.

    The first place alone: 1/3. All rewards equal: each gain has the mean discount of the three places.
    """
    rewards, gains = [[1.0, 2.0, 0.0]], [[3.0, 1.0, 0.0]]
    assert ndcg(rewards, gains).tolist() == pytest.approx([0.79671], abs=1e-5)
    assert ndcg(rewards, gains, top=1).tolist() == pytest.approx([1 / 3])
    mean_discount = (1 + 1 / math.log2(3) + 1 / 2) / 3
    assert ndcg(np.zeros((1, 3)), gains).tolist() == pytest.approx([4 * mean_discount / (3 + 1 / math.log2(3))])
    assert ndcg([[9.0, *rewards[0]]], [[math.nan, *gains[0]]], [[False, True, True, True]]).tolist() == pytest.approx(
        [0.79671], abs=1e-5
    )


def test_ndcg_agrees_with_scikit_learn(rng: np.random.Generator):
    sklearn = pytest.importorskip("sklearn.metrics")
    for top in (None, 3):
        rewards, gains = rng.integers(0, 4, (20, 6)).astype(float), rng.integers(0, 3, (20, 6)).astype(float)
        gains[:, 0] = 2  # one that is worth something
        expected = [sklearn.ndcg_score(g[None], r[None], k=top) for g, r in zip(gains, rewards, strict=True)]
        assert ndcg(rewards, gains, top=top).tolist() == pytest.approx(expected)


def test_a_correlation_is_exact_at_its_ends_and_at_any_scale():
    assert math.isnan(pearson([0.1] * 3, [1, 2, 4]))
    assert pearson([1e200, 2e200, 3e200], [1, 2, 3]) == pytest.approx(1)
    assert pearson([1e-300, 2e-300, 4e-300], [1, 2, 4]) == pytest.approx(1)
    assert pearson([1e308, -1e308, 0], [1, -1, 0]) == pytest.approx(1)
    assert pearson([1e16, 1e16, 1e16 + 2], [1, 1, 2]) == pytest.approx(1)  # the mean of the first is no float
    assert ndcg([[1, 2, 3]], [[1e308, 1e308, 0]]) == pytest.approx(ndcg([[1, 2, 3]], [[1, 1, 0]]))
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=7)
        assert pearson(values, -3 * values) >= -1 and pearson(values, 3 * values) <= 1


def test_infinity_is_a_value_like_any_other_where_values_are_ordered():
    """[∞, ∞, 1] against [1, 2, 3]: of three pairs one is tied in the first and two disagree: −2/√(2·3)."""
    assert kendall_tau_b([INF, INF, 1], [1, 2, 3]) == pytest.approx(-2 / math.sqrt(6))
    assert spearman([INF, 3, -INF], [3, 2, 1]) == pytest.approx(1)
    assert pairwise_accuracy([INF, INF, -INF, 0.0], [INF, 0.0, 0.0, -INF]) == 0.625
    assert best_of_k_regret([[INF, 0.0]], [[1.0, 3.0]]).tolist() == [2.0]
    assert best_of_k_regret([[1.0, 0.0]], [[INF, INF]]).tolist() == [0.0]
    assert best_of_k_regret([[1.0, 0.0]], [[0.0, INF]]).tolist() == [INF]
    assert ndcg([[INF, -INF]], [[1.0, 0.0]]).tolist() == [1.0]


# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pairwise_accuracy([1.0], [1.0, 2.0]), r"equal: chosen \(1,\), rejected \(2,\)"),
        (lambda: pairwise_accuracy([[1.0]], [[2.0]]), r"shapes must be \(N,\)"),
        (lambda: pairwise_accuracy([], []), "chosen has 0 values, it must have at least 1"),
        (lambda: pairwise_accuracy([1.0, math.nan], [0.0, 0.0]), r"chosen\[1\] is NaN"),
        (lambda: kendall_tau_b([1.0], [1.0]), "first has 1 values, it must have at least 2"),
        (lambda: best_of_k_regret([1.0], [1.0]), r"must be \(B, K\) and equal: rewards \(1,\)"),
        (lambda: best_of_k_hit_rate([[1.0]], [[1.0]], [[False]]), "row 0 has no real response"),
        (lambda: best_of_k_regret([[1.0], [math.nan]], [[1.0], [1.0]]), r"rewards\[1, 0\] is NaN"),
        (lambda: ndcg([[1.0]], [[math.nan]]), r"utilities\[0, 0\] is NaN"),
        (lambda: ndcg([[1.0, 2.0]], [[-1.0, 2.0]]), "gains from -1 to 2 must be finite and at least 0"),
        (lambda: ndcg([[1.0]], [[1.0]], top=0), "top=0 must be at least 1"),
        (lambda: pearson([1.0, INF], [1.0, 2.0]), r"first\[1\] is inf, it must be finite"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_metrics_need_no_torch():
    assert "torch" not in vars(metrics)


def test_what_is_measured_of_a_model_is_all_found_in_one_place():
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__)
    assert {"expected_calibration_error", "bootstrap_interval", "mcnemar"} <= set(metrics.__all__)
