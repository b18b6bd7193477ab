"""Other functions of a difference, and labels that are wrong at a known rate: values, loops, the table's columns."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minirm.links import hinge_loss, noise_corrected_loss, probit_loss, squared_loss
from minirm.losses import bradley_terry_loss
from tests import loss_oracles as oracles

LINKS = {"probit": probit_loss, "hinge": hinge_loss, "squared": squared_loss}
LOSSES = {**LINKS, "noise_corrected": partial(noise_corrected_loss, noise=0.2)}
links = pytest.mark.parametrize("name", LINKS)
all_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
INF = math.inf


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_values_by_hand():
    """x = 1 − 0 and 0 − 1: −log Φ(1) = −log 0.84134 = 0.17275, −log Φ(−1) = 1.84102; hinge 0 and 2; squared 0 and 4."""
    pair = f64(1.0, 0.0), f64(0.0, 1.0)
    assert probit_loss(*pair).tolist() == pytest.approx([0.17275, 1.84102], abs=1e-5)
    assert hinge_loss(*pair).tolist() == [0, 2] and squared_loss(*pair).tolist() == [0, 4]
    assert hinge_loss(*pair, margin=0.5).tolist() == [0.5, 2.5]


def test_noise_corrected_by_hand():
    """x = 1, ε = 0.1: (0.9·0.31326 − 0.1·1.31326)/0.8 = 0.18826."""
    assert noise_corrected_loss(f64(1.0), f64(0.0), noise=0.1).item() == pytest.approx(0.18826, abs=1e-5)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(-4, 4), st.floats(-4, 4), st.floats(-2, 2), st.floats(0, 1), st.floats(0, 0.45)), min_size=1
    ),
    st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_each_agrees_with_a_loop(pairs: list[tuple], dtype: torch.dtype):
    chosen, rejected, margin, probability, noise = torch.tensor(pairs, dtype=torch.float64).T
    chosen, rejected = chosen.to(dtype), rejected.to(dtype)
    close = {"rel": 1e-11, "abs": 1e-11} if dtype == torch.float64 else {"rel": 3e-5, "abs": 1e-5}
    columns = [column.tolist() for column in (chosen, rejected, margin, probability)]
    for name, loss in LINKS.items():
        found = loss(chosen, rejected, margin=margin, probability=probability)
        expected = [oracles.linked(name, *pair) for pair in zip(*columns, strict=True)]
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found.tolist() == pytest.approx(expected, **close)
    found = noise_corrected_loss(chosen, rejected, noise=noise, margin=margin)
    columns = [column.tolist() for column in (chosen, rejected, noise, margin)]
    expected = [oracles.noise_corrected(*pair) for pair in zip(*columns, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=close["rel"] * 30, abs=close["abs"] * 30)


@all_losses
def test_first_and_second_derivatives(loss):
    rewards = tuple(torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(loss, rewards)
    assert torch.autograd.gradgradcheck(loss, rewards)


def slope_and_curvature(loss, x: float) -> tuple[float, float]:
    reward = f64(x).requires_grad_()
    (slope,) = torch.autograd.grad(loss(reward, f64(0.0)).sum(), reward, create_graph=True)
    curvature = torch.autograd.grad(slope.sum(), reward)[0] if slope.requires_grad else f64(0.0)
    return slope.item(), curvature.item()


@pytest.mark.parametrize("x", [-2.0, 0.3, 3.0])
def test_slope_and_curvature_are_those_of_the_table(x: float):
    density, below = math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), oracles.normal_cdf(x)
    right, wrong = oracles.sigmoid(x), oracles.sigmoid(-x)
    assert slope_and_curvature(bradley_terry_loss, x) == pytest.approx((-wrong, right * wrong))
    assert slope_and_curvature(probit_loss, x) == pytest.approx((s := -density / below, s * (s - x)))
    assert slope_and_curvature(hinge_loss, x) == (-1.0 if x < 1 else 0.0, 0.0)
    assert slope_and_curvature(squared_loss, x) == pytest.approx((-2 * (1 - x), 2))
    corrected = partial(noise_corrected_loss, noise=0.2)
    assert slope_and_curvature(corrected, x)[0] == pytest.approx(-wrong - 0.2 / 0.6)


def test_what_the_table_says_of_pairs_far_apart():
    wrong, right, zero = f64(-30.0), f64(30.0), f64(0.0)
    assert bradley_terry_loss(wrong, zero).item() == pytest.approx(30)
    assert probit_loss(wrong, zero).item() == pytest.approx(450, rel=0.01)
    assert probit_loss(f64(6.0), zero).item() == pytest.approx(math.exp(-18) / math.sqrt(2 * math.pi) / 6, rel=0.03)
    assert hinge_loss(wrong, zero).item() == 31 and hinge_loss(right, zero).item() == 0
    assert squared_loss(right, zero).item() == 29**2


@all_losses
def test_a_shift_of_both_rewards_changes_nothing(loss):
    first, second = torch.randn(2, 8, dtype=torch.float64)
    torch.testing.assert_close(loss(first + 5, second + 5), loss(first, second))


@links
def test_a_label_that_is_right_with_probability_p_mixes_the_pair_and_its_reverse(name: str):
    first, second, margin = torch.randn(3, 8, dtype=torch.float64)
    mixed = LINKS[name](first, second, margin=margin, probability=0.7)
    there, back = LINKS[name](first, second, margin=margin), LINKS[name](second, first, margin=-margin)
    torch.testing.assert_close(mixed, 0.7 * there + 0.3 * back)


def test_the_squared_loss_is_least_where_the_difference_is_2p_minus_1():
    best = f64(2 * 0.7 - 1).requires_grad_()
    assert torch.autograd.grad(squared_loss(best, f64(0.0), probability=0.7).sum(), best)[0].item() == pytest.approx(0)


def test_labels_turned_round_at_the_rate_that_is_corrected_for_cost_what_the_true_ones_do():
    """Unbiased: (1 − ε)·L(pair) + ε·L(reverse) is the loss of the true label. Smoothing is not."""
    first, second = torch.randn(2, 8, dtype=torch.float64)
    true = bradley_terry_loss(first, second)
    corrected = partial(noise_corrected_loss, noise=0.3)
    torch.testing.assert_close(0.7 * corrected(first, second) + 0.3 * corrected(second, first), true)
    smoothed = partial(bradley_terry_loss, probability=0.7)
    assert (0.7 * smoothed(first, second) + 0.3 * smoothed(second, first) - true).abs().min() > 1e-3


def test_the_corrected_loss_falls_without_end_and_that_without_noise_is_bradley_terry():
    far = noise_corrected_loss(f64(100.0, 1e4), f64(0.0, 0.0), noise=0.1)
    assert far.tolist() == pytest.approx([-100 * 0.1 / 0.8, -1e4 * 0.1 / 0.8])
    first, second = torch.randn(2, 8, dtype=torch.float64)
    torch.testing.assert_close(noise_corrected_loss(first, second, noise=0.0), bradley_terry_loss(first, second))
    soft = noise_corrected_loss(first, second, noise=0.2, probability=0.8)  # (0.8 − 0.2)/0.6 = 1
    torch.testing.assert_close(soft, bradley_terry_loss(first, second))


@links
def test_an_infinite_reward_gives_the_limit(name: str):
    right = INF if name == "squared" else 0.0
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        first, second = (torch.tensor(r, dtype=dtype) for r in ((INF, 0.0, 0.0, -INF), (0.0, -INF, INF, 0.0)))
        assert LINKS[name](first, second).tolist() == [right, right, INF, INF]
        assert LINKS[name](first, second, probability=torch.tensor(1.0)).tolist() == [right, right, INF, INF]
        assert LINKS[name](first, second, probability=torch.tensor(0.0)).tolist() == [INF, INF, right, right]
    assert LINKS[name](f64(INF), f64(INF)).isnan().all()


def test_the_probit_of_a_pair_that_is_very_wrong_pulls_by_its_difference():
    """The derivative of torch.special.log_ndtr in float32 says 3.5 million for 20,000."""
    chosen = torch.tensor([-1e4], requires_grad=True)
    loss = probit_loss(chosen, torch.tensor([1e4]))
    assert loss.item() == pytest.approx(2e8) and torch.autograd.grad(loss.sum(), chosen)[0].item() == pytest.approx(
        -2e4
    )


@pytest.mark.parametrize("x", [-500.0, -999.0, -1001.0, -1e7, -1e30])
def test_the_probit_keeps_value_and_slope_however_far_a_pair_is_wrong(x: float):
    """−log Φ(x) = x²/2 + log(−x·√2π) + 1/x² … and −φ/Φ = x − 1/−x + 2/−x³ …, for large −x."""
    reward = f64(x).requires_grad_()
    loss = probit_loss(reward, f64(0.0))
    assert loss.item() == pytest.approx(x**2 / 2 + math.log(-x * math.sqrt(2 * math.pi)) + x**-2, rel=1e-10)
    assert torch.autograd.grad(loss.sum(), reward)[0].item() == pytest.approx(x + 1 / x - 2 / x**3, rel=1e-9)


@all_losses
@pytest.mark.parametrize("label", [1.0, 0.0])
def test_a_label_that_cannot_be_wrong_is_no_number_less_where_the_other_half_overflows(loss, label: float):
    """1e30² is ∞ in float32, and 0·∞ is 0 here."""
    pair = torch.tensor([1e30, 1e4]), torch.zeros(2)
    for probability in (label, torch.tensor(label), torch.full((2,), label).bfloat16()):
        there, back = loss(*pair, probability=probability), loss(*pair[::-1], probability=1 - probability)
        assert not there.isnan().any()
        torch.testing.assert_close(there, back)


def test_labels_and_noise_of_half_precision_are_corrected_in_full():
    noise, label = torch.tensor([0.3]).bfloat16(), torch.tensor([1.0]).bfloat16()
    found = noise_corrected_loss(f64(1.0), f64(0.0), noise=noise, probability=label).item()
    assert found == pytest.approx(oracles.noise_corrected(1.0, 0.0, noise.item()), rel=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: probit_loss(f64(1.0), f64(1.0, 2.0)), r"equal: chosen \(1,\), rejected \(2,\)"),
        (lambda: hinge_loss(f64(1.0), f64(1.0), margin=f64(1.0, 2.0)), r"margin \(2,\) must be a number or \(1,\)"),
        (lambda: squared_loss(f64(1.0), f64(1.0), probability=1.5), r"probability=1.5 must be in \[0, 1\]"),
        (lambda: noise_corrected_loss(f64(1.0), f64(1.0), noise=0.5), r"noise=0.5 must be in \[0, 0.5\)"),
        (lambda: noise_corrected_loss(f64(1.0), f64(1.0), noise=f64(0.1, 0.2)), r"noise \(2,\) must be a number"),
        (lambda: noise_corrected_loss(f64(1.0), f64(1.0), noise=0.1, probability=-1), "probability=-1 must be"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
