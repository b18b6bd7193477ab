"""From a reward to what the policy is trained on: choose, take the logit, whiten, subtract the KL."""

import math

import numpy as np
import pytest
import torch

from minirm.shaping import kl_penalty, logit, select_reward, whiten

NAN = float("nan")


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_safety_reward_decides_below_its_threshold_and_where_the_prompt_asks_for_it():
    """Unsafe answer; safe answer; safe answer to a safety prompt; exactly at the threshold, which is not below it."""
    safety, helpfulness = f64(0.10, 0.90, 0.90, 0.15), f64(0.7, 0.4, 0.4, 0.6)
    is_safety_prompt = torch.tensor([False, False, True, False])
    assert select_reward(safety, helpfulness, is_safety_prompt).tolist() == [0.10, 0.4, 0.90, 0.6]
    assert select_reward(safety, helpfulness, is_safety_prompt, threshold=0.95).tolist() == [0.10, 0.90, 0.90, 0.15]


@pytest.mark.parametrize(
    "safety, is_safety_prompt, expected", [(-0.3, False, -0.3), (1.3, False, 0.4), (1.3, True, 1.3)]
)
def test_numbers_are_chosen_like_tensors(safety: float, is_safety_prompt: bool, expected: float):
    assert select_reward(safety, 0.4, is_safety_prompt) == expected
    assert select_reward(np.float64(safety), np.float64(0.4), np.bool_(is_safety_prompt)) == expected
    assert select_reward(f64(safety), f64(0.4), is_safety_prompt).tolist() == [expected]


def test_logit_by_hand():
    """log(0.9 / 0.1) = log 9 = 2.19722; ½ gives 0; 0.01 gives −log 99 = −4.59512."""
    assert logit(f64(0.9, 0.5, 0.01)).tolist() == pytest.approx([2.19722, 0.0, -4.59512], abs=1e-5)
    assert logit(0.9) == pytest.approx(math.log(9), rel=1e-15)


def test_logit_undoes_the_sigmoid():
    x = torch.linspace(-30, 30, 61, dtype=torch.float64)
    torch.testing.assert_close(logit(x.sigmoid()), x, rtol=1e-3, atol=1e-12)
    assert torch.autograd.gradcheck(logit, f64(0.1, 0.5, 0.9).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_saturated_sigmoid_has_a_finite_logit(dtype: torch.dtype):
    low, high = logit(torch.tensor([0.0, 1.0], dtype=dtype)).tolist()
    assert math.isfinite(low) and math.isfinite(high)
    assert low < -80 and high > 16


def test_a_tensor_that_is_no_probability_gives_nan_and_a_number_an_error():
    assert logit(f64(1.1, -0.1)).isnan().all()
    with pytest.raises(ValueError, match=r"probability=1.1 must be in \[0, 1\]"):
        logit(1.1)


def test_whiten_by_hand():
    """0.83, 1.2, 3.3, 4.6: mean 2.4825, sample variance 3.1759, so 0.83 becomes −1.6525 / 1.7821 = −0.92727."""
    values = f64(0.83, 1.2, 3.3, 4.6)
    assert whiten(values)[0].item() == pytest.approx(-0.92727, abs=1e-5)
    assert whiten(values).mean().item() == pytest.approx(0, abs=1e-12)
    assert whiten(values).std().item() == pytest.approx(1)


def test_keep_mean_keeps_the_mean():
    values = f64(100.83, 101.2, 103.3, 104.6)
    kept = whiten(values, keep_mean=True)
    assert kept.mean().item() == pytest.approx(values.mean().item())
    assert kept.std().item() == pytest.approx(1)
    torch.testing.assert_close(kept - values.mean(), whiten(values))


@pytest.mark.parametrize("keep_mean", [False, True])
def test_whiten_does_not_look_behind_the_mask(keep_mean: bool):
    values = f64(1.0, 5.0, 9.0, NAN, 1e9).view(1, 5)
    mask = torch.tensor([[True, True, True, False, False]])
    whitened = whiten(values, mask, keep_mean)
    torch.testing.assert_close(whitened[:, :3], whiten(values[:, :3], keep_mean=keep_mean))
    assert (whitened[:, 3:] == 0).all()


def test_a_shift_and_a_scale_do_not_survive_whitening():
    values = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(whiten(7 * values - 3), whiten(values), atol=1e-6, rtol=0)


@pytest.mark.parametrize("values", [f64(3.0), f64(3.0, 3.0, 3.0)], ids=["one", "equal"])
def test_values_without_spread_become_0_or_stay(values: torch.Tensor):
    assert (whiten(values) == 0).all()
    torch.testing.assert_close(whiten(values, keep_mean=True), values)


def test_nothing_real_whitens_to_0():
    assert whiten(f64(NAN, NAN), torch.tensor([False, False])).tolist() == [0.0, 0.0]


def test_kl_by_hand():
    """π gives the two tokens ½ and ½, π_0 gives ¼ and ½: log 2 + 0, positive where π has moved towards its response."""
    log_prob, reference = f64(0.5, 0.5).log()[None], f64(0.25, 0.5).log()[None]
    assert kl_penalty(log_prob, reference).tolist() == pytest.approx([math.log(2)])
    assert kl_penalty(reference, log_prob).tolist() == pytest.approx([-math.log(2)])


def test_kl_is_right_on_average():
    """Over all tokens, weighted by π, the estimate is the divergence itself."""
    policy, reference = f64(0.7, 0.2, 0.1), f64(0.2, 0.3, 0.5)
    expected = sum(p * math.log(p / q) for p, q in zip(policy.tolist(), reference.tolist(), strict=True))
    estimates = kl_penalty(policy.log()[:, None], reference.log()[:, None])  # (3,) one-token responses
    assert (policy * estimates).sum().item() == pytest.approx(expected)


def test_kl_counts_only_the_tokens_of_the_response():
    log_prob, reference = f64(-1.0, -1.0, NAN)[None], f64(-2.0, -3.0, 0.0)[None]
    mask = torch.tensor([[False, True, False]])
    assert kl_penalty(log_prob, reference, mask).tolist() == [2.0]


def test_from_two_rewards_to_what_a_policy_is_trained_on():
    """Llama 2's R = whiten(logit(R_c)) − β·KL: R_c = 0.1 (unsafe), 0.8 (helpful), 0.5 (a safety prompt), β = ½.

    logit: −2.1972, 1.3863, 0; mean −0.2703, deviations −1.9269, 1.6566, 0.2703, sample variance 3.2652, spread 1.8070.
    """
    safety, helpfulness = f64(0.1, 0.9, 0.5), f64(0.9, 0.8, 0.9)
    chosen = select_reward(safety, helpfulness, torch.tensor([False, False, True]))
    log_prob, reference = f64(-1.0, -1.0, -2.0).view(3, 1), f64(-1.0, -3.0, -1.0).view(3, 1)
    reward = whiten(logit(chosen)) - 0.5 * kl_penalty(log_prob, reference)
    assert reward.tolist() == pytest.approx([-1.9269 / 1.8070, 1.6566 / 1.8070 - 1, 0.2703 / 1.8070 + 0.5], abs=1e-3)


def test_a_safety_of_nan_is_not_safe():
    assert math.isnan(select_reward(NAN, 0.4, False))
    assert select_reward(f64(NAN), f64(0.4), torch.tensor([False])).isnan().all()


def test_the_logit_never_falls_near_0_and_1():
    p = torch.tensor([0.0, 1e-45, 1e-40, 1.2e-38, 1e-30, 0.5, 1 - 6e-8, 1.0])
    assert (logit(p).diff() >= 0).all() and logit(p)[0].item() == pytest.approx(-87.3365, abs=1e-3)


def test_equal_values_whiten_to_0_also_where_their_mean_is_rounded():
    assert (whiten(torch.full((7,), 10000.1)) == 0).all()
    for n in range(2, 40):  # some of these means are rounded in float64 too
        assert (whiten(torch.full((n,), 1e10 / 3, dtype=torch.float64)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_values_of_any_size_whiten_alike(dtype: torch.dtype):
    values = torch.tensor([1.0, 2.0, 4.0, -3.0]).to(dtype)
    torch.testing.assert_close(whiten(values * 2.0**100), whiten(values), atol=1e-5, rtol=0)


def test_kl_of_half_precision_is_summed_in_float32():
    log_prob, reference = torch.full((1, 200), -1.0).bfloat16(), torch.full((1, 200), -4.0).bfloat16()
    reference[0, 0] = -2.96875
    found = kl_penalty(log_prob, reference)
    assert found.dtype == torch.float32 and found.item() == 199 * 3 + 1.96875


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: whiten(f64(1.0, 2.0), torch.tensor([True])), r"mask \(1,\) torch.bool must be \(2,\) torch.bool"),
        (lambda: whiten(f64(1.0), f64(1.0)), "mask .* torch.float64 must be"),
        (lambda: kl_penalty(f64(1.0), f64(1.0, 2.0)), r"log_prob \(1,\), reference_log_prob \(2,\)"),
        (lambda: kl_penalty(f64(1.0), f64(1.0), torch.tensor([1])), "mask .* torch.int64 must be"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
