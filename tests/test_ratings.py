"""Labels that say how good, or how much better: ratings, grades, graded preferences, steps."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from minirm.losses import bradley_terry_loss, rao_kupper_loss
from minirm.ratings import graded_preference_loss, ordinal_loss, rating_loss, step_loss
from tests import loss_oracles as oracles
from tests.test_losses import example_rows, gradient

INF, NAN = math.inf, math.nan
THRESHOLDS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
ROWS = {
    "rating": rating_loss,
    "ordinal": partial(ordinal_loss, thresholds=THRESHOLDS),
    "step": lambda rewards, labels, mask: step_loss(rewards, labels / 3, mask),
}
each = pytest.mark.parametrize("loss", ROWS.values(), ids=ROWS)
REAL = torch.ones(1, 2, dtype=torch.bool)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_rating_by_hand():
    """Rewards 1 and 3 for ratings 2 and 5: (1 + 4)/2. The derivative is 2·(r − y)/n: −1 and −2."""
    rewards = row(1, 3).requires_grad_()
    loss = rating_loss(rewards, row(2, 5), REAL)
    assert loss.item() == 2.5 and gradient(loss, rewards).tolist() == [[-1.0, -2.0]]


def test_ordinal_by_hand():
    """Thresholds ±log 3, r = 0: P = ¼, ½, ¼ for grades 0, 1, 2."""
    thresholds, grades = f64(-math.log(3), math.log(3)), torch.tensor([[0], [1], [2]])
    losses = ordinal_loss(torch.zeros(3, 1, dtype=torch.float64), grades, grades >= 0, thresholds=thresholds)
    assert (-losses).exp().tolist() == pytest.approx([0.25, 0.5, 0.25])


def test_graded_preference_by_hand():
    """θ = log 3, log 9 at d = 0: P(tie) = ¾ − ¼, P(slightly) = 9/10 − ¾, P(much) = 1/10, either way."""
    grades = torch.tensor([-2, -1, 0, 1, 2])
    losses = graded_preference_loss(torch.zeros(5), torch.zeros(5), grades, thresholds=f64(math.log(3), math.log(9)))
    assert (-losses).exp().tolist() == pytest.approx([0.1, 0.15, 0.5, 0.15, 0.1], rel=1e-6)


def test_step_by_hand():
    """r = 1 and 0 for a right and a wrong step: (0.31326 + 0.69315)/2; a label of ½ mixes: (0.31326 + 1.31326)/2."""
    assert step_loss(row(1, 0), row(1, 0), REAL).item() == pytest.approx(0.50321, abs=1e-5)
    assert step_loss(row(1), row(0.5), REAL[:, :1]).item() == pytest.approx(0.81326, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_each_agrees_with_a_loop(dtype: torch.dtype):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        rewards = (3 * torch.randn(4, 5, generator=generator)).to(dtype)
        grades, mask = torch.randint(0, 4, (4, 5), generator=generator), torch.rand(4, 5, generator=generator) < 0.7
        close = {"rel": 1e-10} if dtype == torch.float64 else {"rel": 1e-5, "abs": 1e-6}
        lists = list(zip(*(x.tolist() for x in (rewards, grades, mask)), strict=True))
        dirty = rewards.masked_fill(~mask, NAN), grades.double().masked_fill(~mask, NAN), mask
        t = THRESHOLDS.tolist()
        expected = {
            "rating": [oracles.rating(*one) for one in lists],
            "ordinal": [oracles.ordinal(*one, t) for one in lists],
            "step": [oracles.step(r, [y / 3 for y in g], m) for r, g, m in lists],
        }
        for name, loss in ROWS.items():
            assert loss(*dirty).tolist() == pytest.approx(expected[name], **close)
        first, second, grade = rewards[:, 0], rewards[:, 1], grades[:, 0] - grades[:, 1]
        found = graded_preference_loss(first, second, grade, thresholds=f64(0.5, 1.0, 3.0))
        columns = (x.tolist() for x in (first, second, grade))
        expected_grades = [oracles.graded_preference(*pair, [0.5, 1.0, 3.0]) for pair in zip(*columns, strict=True)]
        assert found.tolist() == pytest.approx(expected_grades, **close)


@each
def test_first_and_second_derivatives_of_rows(loss):
    rewards, scores, mask = example_rows()
    assert torch.autograd.gradcheck(lambda r: loss(r, scores, mask), rewards)
    assert torch.autograd.gradgradcheck(lambda r: loss(r, scores, mask), rewards)


def test_thresholds_may_be_learned_and_graded_preferences_have_derivatives():
    rewards, scores, mask = example_rows()
    thresholds = THRESHOLDS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: ordinal_loss(rewards, scores, mask, thresholds=t), thresholds)
    first, second = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    grade, widths = torch.tensor([-2, -1, 0, 1, 2]), f64(0.4, 1.1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, t: graded_preference_loss(a, b, grade, thresholds=t), (first, second, widths)
    )


@each
def test_padding_is_never_looked_at(loss):
    rewards, scores, mask = example_rows()
    dirty = rewards.detach().masked_fill(~mask, NAN).requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        dirty_loss = loss(dirty, scores.masked_fill(~mask, NAN), mask)
        assert torch.equal(gradient(dirty_loss, dirty), gradient(loss(rewards, scores, mask), rewards))
    assert torch.equal(dirty_loss, loss(rewards, scores, mask))


def test_what_changes_nothing():
    rewards, scores, mask = example_rows()
    torch.testing.assert_close(rating_loss(rewards + 3, scores + 3, mask), rating_loss(rewards, scores, mask))
    shifted = ordinal_loss(rewards + 3, scores, mask, thresholds=THRESHOLDS + 3)
    torch.testing.assert_close(shifted, ordinal_loss(rewards, scores, mask, thresholds=THRESHOLDS))
    first, second, grade = rewards[:, 0].detach(), rewards[:, 1].detach(), torch.tensor([-2, -1, 0, 1, 2])
    found = graded_preference_loss(first, second, grade, thresholds=f64(0.4, 1.1))
    torch.testing.assert_close(graded_preference_loss(second + 3, first + 3, -grade, thresholds=f64(0.4, 1.1)), found)


def test_limits():
    first, second = torch.randn(2, 6, dtype=torch.float64)
    outcome = torch.tensor([1, 0, -1, 1, 0, -1])
    graded = graded_preference_loss(first, second, outcome, thresholds=f64(0.7))
    torch.testing.assert_close(graded, rao_kupper_loss(first, second, outcome, tie_width=0.7))
    ones = torch.ones(6, 1, dtype=torch.bool)
    against_zero = bradley_terry_loss(first, torch.zeros_like(first))
    torch.testing.assert_close(step_loss(first[:, None], torch.ones(6, 1), ones), against_zero)
    torch.testing.assert_close(ordinal_loss(first[:, None], ones.long(), ones, thresholds=f64(0.0)), against_zero)


def test_the_probabilities_of_all_grades_sum_to_1():
    rewards, grades = torch.full((4, 1), 0.3), torch.arange(4)[:, None]
    assert (-ordinal_loss(rewards, grades, grades >= 0, thresholds=THRESHOLDS)).exp().sum().item() == pytest.approx(1)


@each
def test_extremes(loss):
    """Rewards of ±1e4 are finite in every type; the limit at ∞ is 0 where that is the label, else ∞."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        rewards = torch.tensor([[1e4, -1e4]], dtype=dtype, requires_grad=True)
        found = loss(rewards, row(0, 3), REAL)
        assert found.isfinite().all() and gradient(found, rewards).isfinite().all()
        assert loss(torch.tensor([[INF, 0.0]], dtype=dtype), row(0, 3), REAL).item() == INF
    assert loss(row(NAN, 0), row(0, 3), REAL).isnan().all()


def test_an_infinite_reward_is_in_the_last_grade_and_right_for_sure():
    grades = torch.tensor([[0, 3]])
    assert ordinal_loss(row(-INF, INF), grades, REAL, thresholds=THRESHOLDS).item() == 0
    assert step_loss(row(-INF, INF), row(0, 1), REAL).item() == 0
    assert graded_preference_loss(f64(INF), f64(0), torch.tensor([2]), thresholds=f64(0.4, 1.1)).item() == 0
    assert graded_preference_loss(f64(INF), f64(0), torch.tensor([1]), thresholds=f64(0.4, 1.1)).item() == INF


def test_thresholds_closer_than_float32_can_tell_keep_their_distance():
    """A span of 1e-9 at the reward itself has the probability 1e-9/4."""
    loss = ordinal_loss(torch.ones(1, 1), torch.tensor([[1]]), REAL[:, :1], thresholds=f64(1.0, 1 + 1e-9))
    assert loss.item() == pytest.approx(-math.log(1e-9 / 4))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rating_loss(row(1, 2), row(1), REAL), r"rewards \(1, 2\), ratings \(1, 1\)"),
        (lambda: ordinal_loss(row(1), row(1), REAL[:, :1], thresholds=f64(1)[0]), r"thresholds \(\) must be"),
        (lambda: graded_preference_loss(f64(1), f64(1, 2), f64(1), thresholds=f64(1)), r"second \(2,\)"),
        (lambda: step_loss(row(1, 2), row(1, 2), REAL.long()), "mask torch.int64 must be torch.bool"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
