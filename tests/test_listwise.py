"""ListNet and LambdaRank: values by hand, loops, derivatives, what changes nothing, extremes."""

import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from minirm.listwise import lambdarank_loss, listnet_loss
from minirm.losses import bradley_terry_loss, plackett_luce_loss
from minirm.metrics import ndcg
from tests import loss_oracles as oracles
from tests.test_losses import assert_agrees, example_rows, gradient, rows

INF, NAN = math.inf, math.nan
LOSSES = {"listnet": listnet_loss, "lambdarank": lambdarank_loss}
both = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
REAL = torch.ones(1, 3, dtype=torch.bool)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_listnet_by_hand():
    """Worths 4, 2, 1 for scores with worths 2, 1, 1: −½·log(4/7) − ¼·log(2/7) − ¼·log(1/7) = 1.07948."""
    loss = listnet_loss(row(4, 2, 1).log(), row(2, 1, 1).log(), REAL)
    assert loss.item() == pytest.approx(0.5 * math.log(7 / 4) + 0.25 * math.log(7 / 2) + 0.25 * math.log(7))


def test_lambdarank_by_hand():
    """Gains 3, 1, 0 ranked 2, 1, 3 by rewards 1, 2, 0; discounts 1, 0.63093, ½; the best DCG is 3.63093.

    |ΔNDCG|: 2·0.36907 for (0, 1), 3·0.13093 for (0, 2), 1·½ for (1, 2), each over 3.63093; −log σ of −1, 1 and 2.
    """
    expected = (0.73814 * 1.31326 + 0.39279 * 0.31326 + 0.5 * 0.12693) / 3.63093
    assert lambdarank_loss(row(1, 2, 0), row(3, 1, 0), REAL).item() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=40)
@given(rows())
def test_listnet_agrees_with_a_loop(one: tuple[Tensor, Tensor, Tensor]):
    lists = zip(*(x.tolist() for x in one), strict=True)
    expected = [oracles.listnet(*each) if any(each[2]) else 0.0 for each in lists]
    assert_agrees(listnet_loss(*one), one[0], expected)


@pytest.mark.parametrize("top", [None, 1, 3])
def test_lambdarank_weighs_a_pair_by_what_swapping_it_does_to_ndcg(top: int | None):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        rewards, gains = (
            torch.randn(4, 6, generator=generator).double(),
            torch.randint(1, 4, (4, 6), generator=generator),
        )
        mask = torch.rand(4, 6, generator=generator) < 0.8
        mask[:, 0] = True
        lists = zip(*(x.tolist() for x in (rewards, gains, mask)), strict=True)
        expected = [oracles.lambdarank(*each, top) for each in lists]
        found = lambdarank_loss(rewards.masked_fill(~mask, NAN), gains.double().masked_fill(~mask, NAN), mask, top=top)
        assert found.tolist() == pytest.approx(expected)


@both
def test_first_and_second_derivatives(loss):
    rewards, scores, mask = example_rows()
    assert torch.autograd.gradcheck(lambda r: loss(r, scores, mask), rewards)
    assert torch.autograd.gradgradcheck(lambda r: loss(r, scores, mask), rewards)


def test_listnet_derivative_is_the_difference_of_the_two_distributions():
    rewards = row(1, 2, 0).requires_grad_()
    expected = rewards.softmax(1) - row(3, 1, 0).softmax(1)
    torch.testing.assert_close(gradient(listnet_loss(rewards, row(3, 1, 0), REAL), rewards), expected.detach())
    assert gradient(listnet_loss(rewards, row(6, 7, 5), REAL), rewards).abs().max() < 1e-12  # the same, up to a shift


@both
def test_a_shift_of_a_row_changes_nothing_and_its_gradient_sums_to_0(loss):
    rewards, scores, mask = example_rows()
    torch.testing.assert_close(loss(rewards + 3, scores, mask), loss(rewards, scores, mask))
    sums = gradient(loss(rewards, scores, mask), rewards).sum(1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-14, rtol=0)


def test_what_scores_and_gains_leave_unchanged():
    rewards, scores, mask = example_rows()
    torch.testing.assert_close(listnet_loss(rewards, scores + 7, mask), listnet_loss(rewards, scores, mask))
    torch.testing.assert_close(lambdarank_loss(rewards, 7 * scores, mask), lambdarank_loss(rewards, scores, mask))


def test_limits():
    rewards = torch.randn(5, 3, dtype=torch.float64)
    scores, mask = torch.tensor([[900.0, 0.0, -900.0]]).expand(5, 3), torch.ones(5, 3, dtype=torch.bool)
    best_alone = plackett_luce_loss(rewards, scores, mask, top=1)
    torch.testing.assert_close(listnet_loss(rewards, scores, mask), best_alone)
    two, gains = rewards[:, :2], torch.tensor([[3.0, 1.0]]).expand(5, 2)
    factor = (1 - 1 / math.log2(3)) * 2 / (3 + 1 / math.log2(3))
    expected = factor * bradley_terry_loss(two[:, 0], two[:, 1])
    torch.testing.assert_close(lambdarank_loss(two, gains.double(), mask[:, :2]), expected)
    assert (lambdarank_loss(rewards, torch.ones_like(rewards), mask) == 0).all()


def test_a_step_against_lambdaranks_gradient_raises_ndcg():
    rewards, gains = row(0.0, 0.1, 0.2).requires_grad_(), row(3, 1, 0)
    before = ndcg(rewards, gains)[0]
    moved = rewards - gradient(lambdarank_loss(rewards, gains, REAL), rewards)
    assert ndcg(moved, gains)[0] > before


@both
def test_padding_is_never_looked_at(loss):
    rewards, scores, mask = example_rows()
    dirty = rewards.detach().masked_fill(~mask, NAN).requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        dirty_loss = loss(dirty, scores.masked_fill(~mask, NAN), mask)
        assert torch.equal(gradient(dirty_loss, dirty), gradient(loss(rewards, scores, mask), rewards))
    assert torch.equal(dirty_loss, loss(rewards, scores, mask))


@both
def test_extremes(loss):
    """Large rewards stay finite, also in half precision; an infinite one gives the limit, two alike have none."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        rewards = torch.tensor([[1e4, -1e4, 1e4]], dtype=dtype, requires_grad=True)
        found = loss(rewards, row(2, 1, 0), REAL)
        assert found.isfinite().all() and gradient(found, rewards).isfinite().all()
        assert loss(torch.tensor([[0.0, INF, 1.0]], dtype=dtype), row(2, 1, 0), REAL).item() == INF
    assert loss(row(INF, INF, 0), row(2, 1, 0), REAL).isnan().all()
    assert loss(row(NAN, 1, 0), row(2, 1, 0), REAL).isnan().all()
    assert lambdarank_loss(row(INF, 1, -INF), row(2, 1, 1), REAL).item() == 0
    assert listnet_loss(row(INF, 1, 0), row(900, -900, -900), REAL).item() == 0
    large = torch.tensor([[1e7 + 1, 1e7, 1e7]])
    assert listnet_loss(large, row(1, 0, 0), REAL).item() == pytest.approx(
        oracles.listnet([1, 0, 0], [1, 0, 0], [True] * 3)
    )


def test_rewards_that_differ_by_little_beside_a_large_one_keep_their_ranks():
    """1e-30 and 0 beside 1e4, and with ranks as rewards: the same weights. A shared level of 1e17 leaves log 2."""
    gains, mask = row(0, 1, 2), REAL
    found = lambdarank_loss(row(1e4, 1e-30, 0), gains, mask)
    assert found.item() == pytest.approx(
        1e4 / 600 * oracles.lambdarank([600, 1e-30, 0], [0, 1, 2], [True] * 3), rel=1e-3
    )
    assert listnet_loss(row(1e17, 1e17), row(1, 0), REAL[:, :2]).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: listnet_loss(row(1)[0], row(1)[0], REAL), r"rewards \(1,\) must be \(B, K\)"),
        (lambda: lambdarank_loss(row(1, 2, 3), row(1, 2), REAL), r"rewards \(1, 3\), gains \(1, 2\)"),
        (lambda: lambdarank_loss(row(1, 2, 3), row(1, 2, 3), REAL, top=0), "top=0 must be at least 1"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
