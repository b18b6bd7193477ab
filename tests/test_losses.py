"""What exactly is the reward-model loss, and is yours right? Each test is one sentence of the answer.

Sections: values worked by hand · agreement with loops · derivatives · what changes nothing · limits · extremes ·
memory, graphs and devices · errors. The loops are in `loss_oracles.py`.
"""

import math
from functools import partial
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minirm.losses import (
    all_pairs_loss,
    bradley_terry_loss,
    centering_penalty,
    davidson_loss,
    mix_labels,
    number_of_pairs,
    plackett_luce_loss,
    rao_kupper_loss,
)
from tests import loss_oracles as oracles

LOG_2 = math.log(2)
NAN = float("nan")
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]

PAIR_LOSSES = {
    "bradley_terry": bradley_terry_loss,
    "bradley_terry, margin": partial(bradley_terry_loss, margin=0.7),
    "bradley_terry, soft label": partial(bradley_terry_loss, margin=0.3, probability=0.8),
    "rao_kupper, first better": lambda a, b: rao_kupper_loss(a, b, torch.ones_like(a), tie_width=0.5),
    "rao_kupper, tie": lambda a, b: rao_kupper_loss(a, b, torch.zeros_like(a), tie_width=0.5),
    "rao_kupper, second better": lambda a, b: rao_kupper_loss(a, b, -torch.ones_like(a), tie_width=0.5),
    "davidson, first better": lambda a, b: davidson_loss(a, b, torch.ones_like(a), tie_weight=0.5),
    "davidson, tie": lambda a, b: davidson_loss(a, b, torch.zeros_like(a), tie_weight=0.5),
    "davidson, second better": lambda a, b: davidson_loss(a, b, -torch.ones_like(a), tie_weight=0.5),
}
"""(B,) and (B,) rewards → (B,) losses."""

COMPARING_LOSSES = {
    "all_pairs": all_pairs_loss,
    "all_pairs, margin": partial(all_pairs_loss, margin=0.7),
    "all_pairs, blocks of 2": partial(all_pairs_loss, block=2),
    "plackett_luce": plackett_luce_loss,
    "plackett_luce, top 2": partial(plackett_luce_loss, top=2),
}
ROW_LOSSES = {**COMPARING_LOSSES, "centering": lambda rewards, scores, mask: centering_penalty(rewards, mask)}
"""(B, K) rewards, scores and mask → (B,) losses. Those that compare depend on differences of rewards alone."""

pair_losses = pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES)
comparing_losses = pytest.mark.parametrize("loss", COMPARING_LOSSES.values(), ids=COMPARING_LOSSES)
row_losses = pytest.mark.parametrize("loss", ROW_LOSSES.values(), ids=ROW_LOSSES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def example_rows(dtype: torch.dtype = torch.float64, real: float = 0.8) -> tuple[Tensor, Tensor, Tensor]:
    """Five rows of six responses with ties and gaps, one row all tied, one with a single response, one with none."""
    generator = torch.Generator().manual_seed(3)
    rewards = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    scores = torch.randint(0, 4, (5, 6), generator=generator).double()
    mask = torch.rand(5, 6, generator=generator) < real
    scores[2] = 1.0
    mask[3] = torch.arange(6) == 4
    mask[4] = False
    return rewards.to(dtype).requires_grad_(), scores, mask


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


# ── Values worked by hand ─────────────────────────────────────────────────────────────────────────────────────────────


def test_bradley_terry_by_hand():
    """r_c = 1, r_r = 0: −log σ(1) = log(1 + e^−1) = 0.31326. The other way round it is log(1 + e) = 1.31326."""
    losses = bradley_terry_loss(f64(1.0, 0.0), f64(0.0, 1.0))
    assert losses.tolist() == pytest.approx([0.31326, 1.31326], abs=1e-5)


def test_a_margin_is_subtracted_from_the_difference():
    """r_c − r_r = 1, m = 3: −log σ(1 − 3) = log(1 + e²) = 2.12693. With m = 1 nothing is left: log 2."""
    losses = bradley_terry_loss(f64(1.0, 1.0), f64(0.0, 0.0), margin=f64(3.0, 1.0))
    assert losses.tolist() == pytest.approx([2.12693, LOG_2], abs=1e-5)


def test_a_soft_label_mixes_the_two_losses():
    """p = ¾, x = 1: ¾·0.31326 + ¼·1.31326 = 0.56326."""
    assert bradley_terry_loss(f64(1.0), f64(0.0), probability=0.75).item() == pytest.approx(0.56326, abs=1e-5)


def test_all_pairs_by_hand():
    """Rewards 2, 0, 1 for scores 3, 2, 1. Pairs in order of score: 2−0, 2−1 and 0−1.

    −log σ: log(1 + e^−2) = 0.12693, log(1 + e^−1) = 0.31326, log(1 + e) = 1.31326; the mean is 0.58448.
    """
    loss = all_pairs_loss(f64(2.0, 0.0, 1.0)[None], f64(3.0, 2.0, 1.0)[None], torch.ones(1, 3, dtype=torch.bool))
    assert loss.tolist() == pytest.approx([0.58448], abs=1e-5)


def test_plackett_luce_by_hand():
    """Worths e^r of 4, 2, 1 in this order of preference: P = 4/7 · 2/3 · 1/1 = 8/21, −log = 0.96508."""
    rewards, scores = f64(4.0, 2.0, 1.0).log()[None], f64(3.0, 2.0, 1.0)[None]
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert plackett_luce_loss(rewards, scores, mask).item() == pytest.approx(math.log(21 / 8), abs=1e-12)
    assert plackett_luce_loss(rewards, scores, mask, top=1).item() == pytest.approx(math.log(7 / 4), abs=1e-12)


def test_breslow_draws_the_tied_ones_from_the_same_rest():
    """Worths 4, 2, 1, the first two tied: P = 4/7 · 2/7 · 1/1 = 8/49. A tie at place 1 or 2 is kept whole by top=1."""
    rewards, scores = f64(4.0, 2.0, 1.0).log()[None], f64(2.0, 2.0, 1.0)[None]
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert plackett_luce_loss(rewards, scores, mask).item() == pytest.approx(math.log(49 / 8), abs=1e-12)
    assert plackett_luce_loss(rewards, scores, mask, top=1).item() == pytest.approx(math.log(49 / 8), abs=1e-12)


def test_rao_kupper_by_hand():
    """Worths 3 and 1, θ = e^η = 2: P(first) = 3/(3 + 2·1) = 3/5, P(second) = 1/(1 + 2·3) = 1/7, the tie is the rest.

    1 − 3/5 − 1/7 = 9/35, which is (θ² − 1)·3·1 / (5·7).
    """
    worths = f64(3.0, 3.0, 3.0), f64(1.0, 1.0, 1.0)
    losses = rao_kupper_loss(worths[0].log(), worths[1].log(), torch.tensor([1, 0, -1]), tie_width=LOG_2)
    assert (-losses).exp().tolist() == pytest.approx([3 / 5, 9 / 35, 1 / 7], abs=1e-12)


def test_davidson_by_hand():
    """Worths 4 and 1, ν = ½: 4 to ½·√4 to 1, so P(first) = 4/6, P(tie) = 1/6, P(second) = 1/6."""
    first, second = f64(4.0, 4.0, 4.0).log(), f64(1.0, 1.0, 1.0).log()
    losses = davidson_loss(first, second, torch.tensor([1, 0, -1]), tie_weight=0.5)
    assert (-losses).exp().tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6], abs=1e-12)


def test_centering_by_hand():
    """Rewards 1, 2 and 6: the mean is 3, its square 9. Without the 6 it is 1.5² = 2.25."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert centering_penalty(f64(1.0, 2.0, 6.0).repeat(2, 1), mask).tolist() == [9.0, 2.25]


def test_number_of_pairs_by_hand():
    """Scores 3, 1, 1, 0: six pairs, one of them tied. Without the 3 there are three, one of them tied."""
    mask = torch.tensor([[True, True, True, True], [False, True, True, True]])
    assert number_of_pairs(f64(3.0, 1.0, 1.0, 0.0).repeat(2, 1), mask).tolist() == [5, 2]


# ── Agreement with loops ──────────────────────────────────────────────────────────────────────────────────────────────

reward = st.floats(-8, 8)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Draw (B, K) rewards of any float type, scores with ties, and a mask with NaN behind it."""
    B, K = draw(st.integers(1, 3)), draw(st.integers(1, 6))

    def table(elements: st.SearchStrategy) -> list[list]:
        return draw(st.lists(st.lists(elements, min_size=K, max_size=K), min_size=B, max_size=B))

    mask = torch.tensor(table(st.booleans()))
    rewards = torch.tensor(table(reward), dtype=draw(st.sampled_from(DTYPES)))
    scores = torch.tensor(table(st.integers(-2, 2)), dtype=torch.float32)
    return rewards.masked_fill(~mask, NAN), scores.masked_fill(~mask, NAN), mask


def assert_agrees(losses: Tensor, rewards: Tensor, expected: list[float]) -> None:
    exact = rewards.dtype == torch.float64
    assert losses.dtype == (torch.float64 if exact else torch.float32)
    assert losses.tolist() == pytest.approx(expected, rel=1e-11 if exact else 3e-6, abs=1e-11 if exact else 3e-6)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(reward, reward, st.floats(-3, 3), st.floats(0, 1)), min_size=1, max_size=5),
    st.sampled_from(DTYPES),
)
def test_bradley_terry_agrees_with_a_loop(pairs: list[tuple], dtype: torch.dtype):
    chosen, rejected, margin, probability = torch.tensor(pairs, dtype=torch.float64).T
    chosen, rejected = chosen.to(dtype), rejected.to(dtype)
    losses = bradley_terry_loss(chosen, rejected, margin=margin, probability=probability)
    columns = (column.tolist() for column in (chosen, rejected, margin, probability))
    assert_agrees(losses, chosen, [oracles.bradley_terry(*pair) for pair in zip(*columns, strict=True)])


@settings(max_examples=60)
@given(rows(), st.floats(-2, 2), st.sampled_from([None, 1, 2, 4, 99]))
def test_all_pairs_agrees_with_a_loop(row: tuple[Tensor, Tensor, Tensor], margin: float, block: int | None):
    losses = all_pairs_loss(*row, margin=margin, block=block)
    lists = zip(*(x.tolist() for x in row), strict=True)
    assert_agrees(losses, row[0], [oracles.all_pairs(*one, margin) for one in lists])


@settings(max_examples=40)
@given(rows(), st.sampled_from([None, 1, 2, 99]))
def test_all_pairs_agrees_with_a_loop_when_each_pair_has_a_margin(row: tuple[Tensor, ...], block: int | None):
    scores = row[1]
    margin = 0.5 * (scores[:, :, None] - scores[:, None, :])  # (B, K, K), NaN behind the mask; not symmetric
    losses = all_pairs_loss(*row, margin=margin, block=block)
    lists = zip(*(x.tolist() for x in (*row, margin)), strict=True)
    assert_agrees(losses, row[0], [oracles.all_pairs(*one) for one in lists])


@settings(max_examples=60)
@given(rows(), st.sampled_from([None, 1, 2, 3, 9]))
def test_plackett_luce_agrees_with_a_loop(row: tuple[Tensor, Tensor, Tensor], top: int | None):
    lists = zip(*(x.tolist() for x in row), strict=True)
    assert_agrees(plackett_luce_loss(*row, top=top), row[0], [oracles.plackett_luce(*one, top) for one in lists])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(reward, reward, st.sampled_from([-1, 0, 1]), st.floats(0.01, 3)), min_size=1, max_size=5),
    st.sampled_from(DTYPES),
)
def test_rao_kupper_agrees_with_the_worths_of_the_paper(pairs: list[tuple], dtype: torch.dtype):
    first, second, outcome, tie_width = torch.tensor(pairs, dtype=torch.float64).T
    first, second = first.to(dtype), second.to(dtype)
    losses = rao_kupper_loss(first, second, outcome, tie_width=tie_width)
    columns = (column.tolist() for column in (first, second, outcome, tie_width))
    assert_agrees(losses, first, [oracles.rao_kupper(*pair) for pair in zip(*columns, strict=True)])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(reward, reward, st.sampled_from([-1, 0, 1]), st.floats(0.01, 9)), min_size=1, max_size=5),
    st.sampled_from(DTYPES),
)
def test_davidson_agrees_with_the_worths_of_the_paper(pairs: list[tuple], dtype: torch.dtype):
    first, second, outcome, tie_weight = torch.tensor(pairs, dtype=torch.float64).T
    first, second = first.to(dtype), second.to(dtype)
    losses = davidson_loss(first, second, outcome, tie_weight=tie_weight)
    columns = (column.tolist() for column in (first, second, outcome, tie_weight))
    assert_agrees(losses, first, [oracles.davidson(*pair) for pair in zip(*columns, strict=True)])


@settings(max_examples=40)
@given(rows())
def test_centering_agrees_with_a_loop(row: tuple[Tensor, Tensor, Tensor]):
    rewards, _, mask = row
    lists = zip(rewards.tolist(), mask.tolist(), strict=True)
    assert_agrees(centering_penalty(rewards, mask), rewards, [oracles.centering(*one) for one in lists])


def test_scores_may_be_integers_beyond_float32():
    scores = torch.tensor([[2**24 + 1, 2**24]])  # one number in float32
    rewards, mask = f64(0.0, 0.0)[None], torch.ones(1, 2, dtype=torch.bool)
    assert all_pairs_loss(rewards, scores, mask).item() == pytest.approx(LOG_2)
    assert plackett_luce_loss(rewards, scores, mask).item() == pytest.approx(LOG_2)
    assert number_of_pairs(scores, mask).item() == 1


# ── Derivatives ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bradley_terry_pushes_chosen_up_and_rejected_down():
    """x = 1: dL/dr_c = −σ(−1) = −0.26894. A step against the gradient raises the chosen reward."""
    chosen, rejected = f64(1.0).requires_grad_(), f64(0.0).requires_grad_()
    by_chosen, by_rejected = torch.autograd.grad(bradley_terry_loss(chosen, rejected).sum(), (chosen, rejected))
    assert (by_chosen.item(), by_rejected.item()) == pytest.approx((-0.26894, 0.26894), abs=1e-5)


@pytest.mark.parametrize("margin, probability", [(0.0, 0.9), (0.4, 0.5), (-1.0, 0.2)])
def test_a_soft_label_is_least_where_the_model_says_the_same(margin: float, probability: float):
    best = f64(margin + math.log(probability / (1 - probability))).requires_grad_()
    loss = bradley_terry_loss(best, f64(0.0), margin=margin, probability=probability)
    entropy = -probability * math.log(probability) - (1 - probability) * math.log(1 - probability)
    assert loss.item() == pytest.approx(entropy)
    assert gradient(loss, best).item() == pytest.approx(0, abs=1e-15)


def test_all_pairs_derivative_is_the_one_in_its_docstring():
    rewards, scores, mask = example_rows()
    r, s = rewards.detach(), scores.masked_fill(~mask, NAN)
    x = r[:, :, None] - r[:, None, :] - 0.7
    pull = (s[:, :, None] > s[:, None, :]) * torch.sigmoid(-x)  # (B, K, K), i preferred to j
    expected = (pull.sum(1) - pull.sum(2)) / number_of_pairs(scores, mask).clamp(min=1)[:, None]
    torch.testing.assert_close(gradient(all_pairs_loss(rewards, scores, mask, margin=0.7), rewards), expected)


def test_plackett_luce_derivative_is_draws_expected_minus_draws_won():
    """Worths 4, 2, 1: the last is in three draws with 1/7, 1/3 and 1, and wins one: dL/dr = 1/7 + 1/3 = 10/21."""
    rewards = f64(4.0, 2.0, 1.0).log()[None].requires_grad_()
    loss = plackett_luce_loss(rewards, f64(3.0, 2.0, 1.0)[None], torch.ones(1, 3, dtype=torch.bool))
    assert gradient(loss, rewards)[0].tolist() == pytest.approx([4 / 7 - 1, 2 / 7 + 2 / 3 - 1, 10 / 21])


def test_a_rao_kupper_tie_pulls_the_rewards_together():
    first, second = f64(1.0).requires_grad_(), f64(0.0)
    by_first = gradient(rao_kupper_loss(first, second, torch.zeros(1), tie_width=0.5), first).item()
    assert by_first == pytest.approx(oracles.sigmoid(0.5 + 1) - oracles.sigmoid(0.5 - 1))
    assert by_first > 0


def test_centering_moves_all_rewards_of_a_row_alike():
    rewards = f64(1.0, 2.0, 6.0)[None].requires_grad_()
    assert gradient(centering_penalty(rewards), rewards).tolist() == [[2.0, 2.0, 2.0]]  # 2·3/3


@pair_losses
def test_first_and_second_derivatives_of_pair_losses(loss):
    rewards = tuple(torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(loss, rewards)
    assert torch.autograd.gradgradcheck(loss, rewards)


@row_losses
def test_first_and_second_derivatives_of_row_losses(loss):
    rewards, scores, mask = example_rows()
    assert torch.autograd.gradcheck(lambda rewards: loss(rewards, scores, mask), rewards)
    assert torch.autograd.gradgradcheck(lambda rewards: loss(rewards, scores, mask), rewards)


def test_margins_labels_and_tie_widths_may_be_learned():
    first, second, value = (torch.rand(4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    outcome = torch.tensor([1, 0, -1, 0])
    for loss in (
        lambda a, b, v: bradley_terry_loss(a, b, margin=v, probability=v),
        lambda a, b, v: rao_kupper_loss(a, b, outcome, tie_width=v),
        lambda a, b, v: davidson_loss(a, b, outcome, tie_weight=v),
    ):
        assert torch.autograd.gradcheck(loss, (first, second, value))
        assert torch.autograd.gradgradcheck(loss, (first, second, value))


@pytest.mark.parametrize("block", [None, 1, 4])
@pytest.mark.parametrize("shape", [(), (5, 1, 1), (5, 6, 6)])
def test_all_pairs_has_derivatives_in_its_margin(shape: tuple[int, ...], block: int | None):
    rewards, scores, mask = example_rows()
    margin = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: all_pairs_loss(rewards, scores, mask, margin=m, block=block), margin)


# ── What changes nothing ──────────────────────────────────────────────────────────────────────────────────────────────


@pair_losses
def test_a_shift_of_both_rewards_changes_nothing(loss):
    first, second = torch.randn(2, 8, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(loss(first + 5, second + 5), loss(first, second))
    by_first, by_second = torch.autograd.grad(loss(first, second).sum(), (first, second))
    torch.testing.assert_close(by_first, -by_second)


@comparing_losses
def test_a_shift_of_a_row_changes_nothing_and_its_gradient_sums_to_0(loss):
    rewards, scores, mask = example_rows()
    shift = torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(loss(rewards + shift, scores, mask), loss(rewards, scores, mask))
    sums = gradient(loss(rewards, scores, mask), rewards).sum(1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-14, rtol=0)


@comparing_losses
def test_only_the_order_of_the_scores_counts(loss):
    rewards, scores, mask = example_rows()
    assert torch.equal(loss(rewards, scores.exp() * 7 - 3, mask), loss(rewards, scores, mask))


@row_losses
def test_the_order_of_the_responses_changes_nothing(loss):
    rewards, scores, mask = example_rows()
    order = torch.tensor([3, 0, 5, 2, 4, 1])
    shuffled = loss(rewards[:, order], scores[:, order], mask[:, order])
    torch.testing.assert_close(shuffled, loss(rewards, scores, mask))


@row_losses
def test_padding_changes_nothing_even_when_it_is_nan(loss):
    rewards, scores, mask = example_rows()
    clean, clean_gradient = loss(rewards, scores, mask), gradient(loss(rewards, scores, mask), rewards)
    dirty = rewards.detach().masked_fill(~mask, NAN).requires_grad_()
    dirty_loss = loss(dirty, scores.masked_fill(~mask, NAN), mask)
    assert torch.equal(dirty_loss, clean)
    assert torch.equal(gradient(dirty_loss, dirty), clean_gradient)
    assert (clean_gradient[~mask] == 0).all()


@row_losses
def test_padding_of_nan_goes_unnoticed_by_the_search_for_nan(loss):
    """`torch.autograd.detect_anomaly` stops at the first NaN inside a backward pass, even one that is masked later."""
    rewards, scores, mask = example_rows()
    dirty = rewards.detach().masked_fill(~mask, NAN).requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        assert gradient(loss(dirty, scores, mask), dirty).isfinite().all()


@row_losses
def test_a_row_does_not_depend_on_the_other_rows_of_its_batch(loss):
    """One batch of five is five batches of one: what gradient accumulation and several processes rest on."""
    rewards, scores, mask = example_rows()
    one_by_one = torch.cat([loss(rewards[i : i + 1], scores[i : i + 1], mask[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(one_by_one, loss(rewards, scores, mask), rtol=1e-14, atol=0)


@row_losses
def test_unequal_k_is_the_same_as_rows_of_their_own_length(loss):
    rewards, scores, mask = example_rows()
    for i in range(3):
        real = mask[i]
        alone = loss(rewards[i, real][None], scores[i, real][None], real[real][None])
        torch.testing.assert_close(alone, loss(rewards, scores, mask)[i : i + 1])


def test_swapping_the_pair_and_the_outcome_changes_nothing():
    first, second = torch.randn(2, 3, dtype=torch.float64)
    outcome = torch.tensor([1, 0, -1])
    swapped = rao_kupper_loss(second, first, -outcome, tie_width=0.4)
    assert torch.equal(swapped, rao_kupper_loss(first, second, outcome, tie_width=0.4))


@pytest.mark.parametrize("loss", [all_pairs_loss, partial(all_pairs_loss, block=2)], ids=["whole", "blocks"])
def test_rows_without_an_ordered_pair_give_exactly_0_and_no_gradient(loss):
    """All tied, a single response, none at all."""
    rewards, scores, mask = example_rows()
    losses = loss(rewards, scores, mask, margin=0.7)
    assert losses[2:].tolist() == [0, 0, 0]
    assert (gradient(losses, rewards)[2:] == 0).all()
    assert (losses[:2] > 0).all()
    assert number_of_pairs(scores, mask)[2:].tolist() == [0, 0, 0]


def test_plackett_luce_gives_exactly_0_for_one_response_or_none():
    rewards, scores, mask = example_rows()
    losses = plackett_luce_loss(rewards, scores, mask)
    assert losses[3:].tolist() == [0, 0]
    assert (gradient(losses, rewards)[3:] == 0).all()


# ── Limits: how the losses are one another ────────────────────────────────────────────────────────────────────────────


def two_responses(scores: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    rewards = torch.randn(8, 2, dtype=torch.float64)
    return rewards, torch.tensor(scores, dtype=torch.float64).expand(8, 2), torch.ones(8, 2, dtype=torch.bool)


def test_of_two_responses_all_pairs_and_plackett_luce_are_bradley_terry():
    rewards, scores, mask = two_responses((1.0, 0.0))
    expected = bradley_terry_loss(rewards[:, 0], rewards[:, 1])
    torch.testing.assert_close(all_pairs_loss(rewards, scores, mask), expected)
    torch.testing.assert_close(plackett_luce_loss(rewards, scores, mask), expected)
    torch.testing.assert_close(plackett_luce_loss(rewards, scores, mask, top=1), expected)


def test_a_tie_of_two_is_twice_the_even_label_for_plackett_luce_and_nothing_for_all_pairs():
    rewards, scores, mask = two_responses((0.0, 0.0))
    even = bradley_terry_loss(rewards[:, 0], rewards[:, 1], probability=0.5)
    torch.testing.assert_close(plackett_luce_loss(rewards, scores, mask), 2 * even)
    assert (all_pairs_loss(rewards, scores, mask) == 0).all()


@pytest.mark.parametrize("block", [None, 1])
def test_a_soft_label_for_a_whole_row_is_the_order_and_its_reverse(block: int | None):
    """p·L(s, m) + (1−p)·L(−s, −m) at K = 2 is `bradley_terry_loss` with margin m and probability p."""
    rewards, scores, mask = two_responses((1.0, 0.0))
    p, m = torch.rand(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    forward = all_pairs_loss(rewards, scores, mask, margin=m[:, None, None], block=block)
    reverse = all_pairs_loss(rewards, -scores, mask, margin=-m[:, None, None], block=block)
    expected = bradley_terry_loss(rewards[:, 0], rewards[:, 1], margin=m, probability=p)
    torch.testing.assert_close(p * forward + (1 - p) * reverse, expected)


def test_each_pair_of_a_ranking_of_four_weighs_one_sixth():
    """InstructGPT's 1/C(K,2): by C(4,2) = 6 pairs, and by what `number_of_pairs` says for every pair alike."""
    rewards = torch.randn(2, 4, dtype=torch.float64)
    scores, mask = f64(4.0, 3.0, 2.0, 1.0).repeat(2, 1), torch.tensor([[True] * 4, [True, True, False, True]])
    i, j = torch.triu_indices(4, 4, 1)
    pairs = bradley_terry_loss(rewards[:, i].flatten(), rewards[:, j].flatten()).view(2, 6)
    real = mask[:, i] & mask[:, j]
    losses, n = all_pairs_loss(rewards, scores, mask), number_of_pairs(scores, mask)
    assert n.tolist() == [6, 3]
    torch.testing.assert_close(losses[0], pairs[0].mean())
    torch.testing.assert_close((n * losses).sum() / n.sum(), pairs[real].mean())


def test_the_probabilities_of_all_rankings_sum_to_1():
    scores = torch.tensor(list(permutations([4.0, 3.0, 2.0, 1.0])))  # (24, 4)
    rewards = torch.randn(1, 4, dtype=torch.float64).expand(24, 4)
    losses = plackett_luce_loss(rewards, scores, torch.ones(24, 4, dtype=torch.bool))
    assert (-losses).exp().sum().item() == pytest.approx(1)


def test_the_probabilities_of_the_three_outcomes_sum_to_1():
    first, second, outcome = torch.randn(3), torch.randn(3), torch.tensor([1, 0, -1])
    losses = rao_kupper_loss(first[:1].expand(3), second[:1].expand(3), outcome, tie_width=0.8)
    assert (-losses).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_rao_kupper_is_bradley_terry_with_the_tie_width_as_margin():
    first, second = torch.randn(2, 4, dtype=torch.float64)
    for width in (0.0, 0.6):
        won = rao_kupper_loss(first, second, torch.ones(4), tie_width=width)
        torch.testing.assert_close(won, bradley_terry_loss(first, second, margin=width))
        lost = rao_kupper_loss(first, second, -torch.ones(4), tie_width=width)
        torch.testing.assert_close(lost, bradley_terry_loss(second, first, margin=width))


def test_a_soft_label_for_a_margin_of_each_pair_takes_the_reverse_margin_turned_round():
    """p·L(s, m) + (1−p)·L(−s, −mᵀ) is the mean over the pairs of the mixture of each pair; with −m it is not."""
    rewards, scores, mask = torch.randn(1, 3, dtype=torch.float64), f64(3.0, 2.0, 1.0)[None], torch.ones(1, 3).bool()
    margin = torch.rand(1, 3, 3, dtype=torch.float64)
    forward, reverse = (
        all_pairs_loss(rewards, s, mask, margin=m) for s, m in ((scores, margin), (-scores, -margin.mT))
    )
    i, j = torch.triu_indices(3, 3, 1)
    pairs = bradley_terry_loss(rewards[0, i], rewards[0, j], margin=margin[0, i, j], probability=0.8)
    torch.testing.assert_close(0.8 * forward + 0.2 * reverse, pairs.mean()[None])


def test_davidson_without_ties_is_bradley_terry():
    first, second = torch.randn(2, 4, dtype=torch.float64)
    won = davidson_loss(first, second, torch.ones(4), tie_weight=0.0)
    torch.testing.assert_close(won, bradley_terry_loss(first, second))
    assert davidson_loss(first, second, torch.zeros(4), tie_weight=0.0).tolist() == [math.inf] * 4


def test_how_the_two_models_of_ties_differ():
    """With ν = e^η − 1 both tie equal rewards alike. Of what is not tied, Davidson's first is better with σ(d),
    Rao–Kupper's more surely; and ties of rewards 12 apart are e^6 times as probable to Davidson, about."""
    first, second, eta = f64(0.0, 1.0, 12.0), f64(0.0, 0.0, 0.0), 0.7
    found = {}
    for name, loss in (
        ("rao_kupper", partial(rao_kupper_loss, tie_width=eta)),
        ("davidson", partial(davidson_loss, tie_weight=math.expm1(eta))),
    ):
        won, tied, lost = ((-loss(first, second, torch.full((3,), o))).exp() for o in (1, 0, -1))
        torch.testing.assert_close(won + tied + lost, torch.ones(3, dtype=torch.float64))
        found[name] = (won / (won + lost), tied)
    torch.testing.assert_close(found["davidson"][0], (first - second).sigmoid())
    assert (found["rao_kupper"][0] > found["davidson"][0])[1:].all()
    assert found["rao_kupper"][1][0].item() == pytest.approx(found["davidson"][1][0].item())
    ratio = (found["davidson"][1] / found["rao_kupper"][1])[2].item()
    assert ratio == pytest.approx(math.exp(6) * math.expm1(eta) / math.expm1(2 * eta) * math.exp(eta), rel=0.02)


def test_equal_rewards_tie_with_the_documented_probability():
    """tanh(η/2) at η = 1 is 0.46212; no width, no ties."""
    loss = rao_kupper_loss(f64(3.0, 3.0), f64(3.0, 3.0), torch.zeros(2), tie_width=f64(1.0, 0.0))
    assert (-loss).exp().tolist() == pytest.approx([0.46212, 0.0], abs=1e-5)


def test_centering_of_a_pair_is_a_quarter_of_trls():
    chosen, rejected = torch.randn(2, 8, dtype=torch.float64)
    trl = (chosen + rejected) ** 2  # what center_rewards_coefficient weighs
    torch.testing.assert_close(4 * centering_penalty(torch.stack([chosen, rejected], 1)), trl)


def test_label_smoothing_is_a_soft_label():
    chosen, rejected = torch.randn(2, 8, dtype=torch.float64)
    right, wrong = bradley_terry_loss(chosen, rejected), bradley_terry_loss(rejected, chosen)
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected, probability=0.9), 0.9 * right + 0.1 * wrong)


# ── Extremes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dtypes
@pair_losses
def test_pairs_stay_finite_at_rewards_of_ten_thousand(loss, dtype: torch.dtype):
    first = torch.tensor([1e4, -1e4, 1e4], dtype=dtype).requires_grad_()
    second = torch.tensor([-1e4, 1e4, 1e4], dtype=dtype).requires_grad_()
    losses = loss(first, second)
    gradients = torch.autograd.grad(losses.sum(), (first, second))
    assert losses.isfinite().all()
    assert all(g.isfinite().all() and (g.abs() <= 1).all() for g in gradients)


@dtypes
@row_losses
def test_rows_stay_finite_at_rewards_of_ten_thousand(loss, dtype: torch.dtype):
    _, scores, mask = example_rows()
    signs = torch.tensor([1.0, -1, 1, -1, -1, 1])
    rewards = (1e4 * signs).to(dtype).repeat(5, 1).masked_fill(~mask, NAN).requires_grad_()
    losses = loss(rewards, scores, mask)
    assert losses.isfinite().all()
    assert gradient(losses, rewards).isfinite().all()


def test_a_pair_that_is_wrong_by_far_costs_its_difference():
    """log(sigmoid(−20000)) is log 0 = −∞; softplus is 20000. Its derivative is −1, the steepest there is."""
    chosen = torch.tensor([-1e4], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.tensor([1e4]))
    assert loss.item() == 20_000
    assert gradient(loss, chosen).item() == -1


def test_a_pair_that_is_right_by_far_still_has_a_loss():
    """−log σ(30) = 9.4e-14, which log(sigmoid(30)) in float32 rounds to 0."""
    loss = bradley_terry_loss(torch.tensor([30.0]), torch.tensor([0.0]))
    assert loss.item() == pytest.approx(9.3576e-14, rel=1e-4)


@pytest.mark.parametrize("x", [19.9, 20.1, 25.0, 39.0, 41.0])
def test_float64_is_exact_where_softplus_would_turn_linear(x: float):
    """F.softplus returns x itself above 20, which is 2e-9 too little there."""
    loss = bradley_terry_loss(f64(0.0), f64(x)).item()
    assert loss == pytest.approx(x + math.log1p(math.exp(-x)), abs=1e-14, rel=0)


@dtypes
def test_half_precision_goes_in_and_float32_mathematics_comes_out(dtype: torch.dtype):
    """The loss of rounded rewards is the exact loss of what they were rounded to; 256 − 255 is not rounded away."""
    chosen, rejected = torch.tensor([256.0, 3.0], dtype=dtype), torch.tensor([255.0, 3.0], dtype=dtype)
    losses = bradley_terry_loss(chosen, rejected, margin=torch.tensor([0.25, 1e-3], dtype=torch.float64))
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = [oracles.bradley_terry(1.0, 0.0, 0.25), oracles.bradley_terry(0.0, 0.0, 1e-3)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("outcome", [1, -1])
def test_no_tie_width_is_no_trouble_for_pairs_that_are_not_tied(outcome: int):
    width = torch.zeros(1, requires_grad=True)
    loss = rao_kupper_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([outcome]), tie_width=width)
    assert gradient(loss, width).item() == pytest.approx(oracles.sigmoid(-outcome))


def test_a_wide_tie_does_not_overflow():
    """At η = 1000 everything is a tie: −log P(tie) = 0, though e^2η is not a number that float32 can hold."""
    loss = rao_kupper_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0]), tie_width=1000.0)
    assert loss.item() == pytest.approx(0, abs=1e-3)


def test_a_ranking_of_rewards_that_share_a_large_level_keeps_its_differences():
    """float32 rewards 1e7 + 1 and 1e7 differ by 1: log(1 + e^−1) = 0.31326, with derivative ∓0.26894."""
    rewards = torch.tensor([[1e7 + 1, 1e7]], requires_grad=True)
    loss = plackett_luce_loss(rewards, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.31326, abs=1e-5) and loss.dtype == torch.float32
    assert gradient(loss, rewards)[0].tolist() == pytest.approx([-0.26894, 0.26894], abs=1e-5)
    far = torch.tensor([[0.0, -9999.0, -10000.0]])
    loss = plackett_luce_loss(far, torch.tensor([[2.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.31326, abs=1e-5)


@dtypes
@pytest.mark.parametrize("level", [1e7, 1e17, 1e30])
def test_a_level_that_all_share_is_exact_whatever_its_size(level: float, dtype: torch.dtype):
    """Three equal rewards: 1·log 3 + log 2 of the ranking, as at level 0, though log 3 is nothing beside 1e30."""
    rewards = torch.full((1, 3), level, dtype=torch.float64).to(dtype).clamp(max=torch.finfo(dtype).max)
    rewards.requires_grad_()
    loss = plackett_luce_loss(rewards, torch.tensor([[2.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(6), rel=1e-6)
    assert gradient(loss, rewards)[0].tolist() == pytest.approx([-2 / 3, -1 / 6, 5 / 6], rel=1e-2)


def test_a_mean_is_not_lost_beside_rewards_that_cancel():
    """2²⁴, 1, −2²⁴: the mean is ⅓, which float32 rounds away on the way."""
    assert centering_penalty(torch.tensor([[2.0**24, 1.0, -(2.0**24)]])).item() == pytest.approx(1 / 9)


def test_odds_of_davidson_do_not_cancel_in_float32():
    """log ν is small beside log ν + lead/2 and the other way round: relative, also where the loss is tiny."""
    leads, weights = torch.tensor([-6.6494, 0.3, 20.0, 100.0]), torch.tensor([1e-30, 1e-8, 1.0, 1e6])
    lead, weight = torch.cartesian_prod(leads, weights).T
    for outcome in (1, 0, -1):
        arguments = torch.zeros_like(lead), torch.full_like(lead, outcome)
        found = davidson_loss(lead, *arguments, tie_weight=weight).double()
        exact = davidson_loss(lead.double(), *(x.double() for x in arguments), tie_weight=weight)
        torch.testing.assert_close(found, exact, rtol=2e-7, atol=1e-44)
        expected = [oracles.davidson(d, 0.0, outcome, w) for d, w in zip(lead.tolist(), weight.tolist(), strict=True)]
        torch.testing.assert_close(exact, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("width", [1e-12, 0.2, 0.3, 12.0, 18.0, 30.0])
def test_a_tie_in_float64_is_exact_for_every_width(width: float):
    """At d = 0 it is −log tanh(η/2) = log1p(2/(e^η − 1))."""
    loss = rao_kupper_loss(f64(0.0), f64(0.0), f64(0.0), tie_width=width).item()
    assert loss == pytest.approx(math.log1p(2 / math.expm1(width)), rel=1e-14, abs=0)


def test_ties_in_float32_are_those_in_float64_and_never_negative():
    """d = −6.6494, η = 29.78: 9e-11; d = 0, η = 12: 2·log(1 + e^−12) = 1.2288e-5."""
    generator = torch.Generator().manual_seed(0)
    d, width = 10 * torch.randn(50_000, generator=generator), 30 * torch.rand(50_000, generator=generator)
    d[:2], width[:2] = torch.tensor([-6.6494, 0.0]), torch.tensor([29.78, 12.0])
    loss = rao_kupper_loss(d, torch.zeros_like(d), torch.zeros_like(d), tie_width=width)
    exact = rao_kupper_loss(d.double(), torch.zeros_like(d).double(), torch.zeros_like(d), tie_width=width.double())
    torch.testing.assert_close(loss.double(), exact, rtol=3e-6, atol=0)
    assert (loss >= 0).all()
    assert loss[:2].tolist() == pytest.approx([9.0e-11, 1.2288e-5], rel=1e-3)


INF = math.inf
INFINITE_PAIRS = [(INF, 0.0), (0.0, INF), (-INF, 0.0), (0.0, -INF), (INF, -INF), (-INF, INF)]


@dtypes
@pair_losses
@pytest.mark.parametrize(("first", "second"), INFINITE_PAIRS)
def test_an_infinite_reward_gives_the_limit_of_a_pair_and_a_finite_gradient(loss, first, second, dtype: torch.dtype):
    """The limit is told by rewards of ±1e4: what is below 1 there goes to 0, what is above to ∞."""
    a, b = (torch.tensor([r], dtype=dtype, requires_grad=True) for r in (first, second))
    found = loss(a, b)
    near = loss(*(torch.tensor([max(min(r, 1e4), -1e4)], dtype=torch.float64) for r in (first, second))).item()
    assert found.item() == (0.0 if near < 1 else INF)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.sum(), (a, b)))


def test_a_label_that_cannot_be_wrong_costs_nothing_for_it_at_infinity():
    """p as the number 1.0 and as a tensor of 1 are the same: 0·∞ does not count."""
    for probability, expected in ((1.0, 0.0), (torch.tensor(1.0), 0.0), (torch.tensor(0.0), INF), (0.5, INF)):
        assert bradley_terry_loss(f64(INF), f64(0.0), probability=probability).item() == expected
    assert bradley_terry_loss(f64(-INF), f64(0.0), probability=torch.tensor(0.0)).item() == 0.0
    for probability in (0.0, torch.tensor(0.0)):  # 1e30² is ∞ as well, in float32
        assert mix_labels(lambda x: x.relu().square(), torch.tensor([1e30]), probability).item() == 0.0


@dtypes
@comparing_losses
def test_an_infinite_reward_gives_the_limit_of_a_row(loss, dtype: torch.dtype):
    """∞ where it should be highest costs nothing more, where it should not, ∞; so does −∞ below."""
    scores, mask = f64(2.0, 1.0, 0.0)[None], torch.ones(1, 3, dtype=torch.bool)

    def of(*values: float) -> float:
        rewards = torch.tensor([values], dtype=dtype, requires_grad=True)
        found = loss(rewards, scores, mask)
        assert gradient(found, rewards).isfinite().all()
        return found.item()

    assert of(INF, 1.0, 0.0) == pytest.approx(of(1e4, 1.0, 0.0), abs=1e-3)
    assert of(1.0, 0.0, -INF) == pytest.approx(of(1.0, 0.0, -1e4), abs=1e-3)
    assert of(0.0, INF, 1.0) == INF == of(-INF, 0.0, 1.0)


@comparing_losses
def test_rewards_that_are_the_same_infinity_have_no_difference(loss):
    scores, mask = f64(2.0, 1.0)[None], torch.ones(1, 2, dtype=torch.bool)
    for rewards in ((INF, INF), (-INF, -INF), (NAN, 0.0)):
        assert loss(f64(*rewards)[None], scores, mask).isnan().all()
    assert bradley_terry_loss(f64(INF), f64(INF)).isnan().all()


# ── Memory, graphs and devices ────────────────────────────────────────────────────────────────────────────────────────

ALL_LOSSES = {
    **{name: (loss, 2) for name, loss in PAIR_LOSSES.items()},
    **{name: (loss, 3) for name, loss in ROW_LOSSES.items()},
    "bradley_terry, labels": (bradley_terry_loss, 4),
    "all_pairs, margins by blocks": (partial(all_pairs_loss, block=4), 5),
}


def run(name: str, device: str) -> tuple[Tensor, Tensor]:
    """Return losses and gradient of one entry of ALL_LOSSES."""
    loss, kind = ALL_LOSSES[name]
    return call(loss, kind, arguments(kind, device))


def arguments(kind: int, device: str) -> list[Tensor]:
    rewards, scores, mask = (x.detach().to(device) for x in example_rows(torch.float32))
    pair = [rewards[:, 0].clone(), rewards[:, 1].clone()]
    labels = [scores[:, 0], scores[:, 1] / 4]
    margin = scores[:, :, None] - scores[:, None, :]
    rows = [rewards, scores, mask]
    return {2: pair, 3: rows, 4: pair + labels, 5: [*rows, margin]}[kind]


def call(loss, kind: int, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    inputs[0].requires_grad_()
    names = {4: ("margin", "probability"), 5: ("margin",)}.get(kind, ())
    positional = len(inputs) - len(names)
    losses = loss(*inputs[:positional], **dict(zip(names, inputs[positional:], strict=True)))
    return losses, gradient(losses, inputs[0])


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_no_loss_looks_at_a_value_to_know_a_shape(name: str):
    """Tensors on "meta" have shapes and no values: .item(), boolean indexing and the like raise."""
    losses, by_rewards = run(name, "meta")
    assert losses.shape == (5,)
    assert by_rewards.shape[0] == 5


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_each_loss_is_one_graph(name: str):
    loss, kind = ALL_LOSSES[name]
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, reference in zip(call(compiled, kind, arguments(kind, "cpu")), run(name, "cpu"), strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_on_cuda_nothing_waits_for_the_host(name: str):
    loss, kind = ALL_LOSSES[name]
    inputs = arguments(kind, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses, by_rewards = call(loss, kind, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, reference in zip((losses, by_rewards), run(name, "cpu"), strict=True):
        torch.testing.assert_close(ours.cpu(), reference)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_each_loss_is_captured_in_a_cuda_graph(name: str):
    loss, kind = ALL_LOSSES[name]
    inputs = arguments(kind, "cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(loss, kind, inputs)  # warm up outside the capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(loss, kind, inputs)
    with torch.no_grad():
        inputs[0].neg_()
    graph.replay()
    for ours, reference in zip(captured, call(loss, kind, [x.detach().clone() for x in inputs]), strict=True):
        torch.testing.assert_close(ours, reference)


def bytes_kept_for_backward(loss, *inputs: Tensor) -> int:
    kept = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = loss(*inputs)
    assert losses.requires_grad
    return sum(x.nbytes for x in kept.values())


def test_blocks_keep_no_matrix_of_pairs_for_the_backward_pass():
    B, K = 2, 128
    rewards, scores = torch.randn(B, K, requires_grad=True), torch.randn(B, K)
    mask = torch.ones(B, K, dtype=torch.bool)
    matrix = 4 * B * K * K
    assert bytes_kept_for_backward(all_pairs_loss, rewards, scores, mask) > matrix
    assert bytes_kept_for_backward(partial(all_pairs_loss, block=16), rewards, scores, mask) < matrix / 16
    assert bytes_kept_for_backward(plackett_luce_loss, rewards, scores, mask) < matrix / 8


@pytest.mark.parametrize("block", [1, 2, 5, 6, 100])
def test_blocks_change_neither_value_nor_gradient(block: int):
    rewards, scores, mask = example_rows()
    whole = all_pairs_loss(rewards, scores, mask, margin=0.3)
    parts = all_pairs_loss(rewards, scores, mask, margin=0.3, block=block)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient(parts, rewards), gradient(whole, rewards))


# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

ROW = torch.zeros(2, 3)
REAL = torch.ones(2, 3, dtype=torch.bool)
PAIR = torch.zeros(4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bradley_terry_loss(PAIR, PAIR[:3]), r"equal: chosen \(4,\), rejected \(3,\)"),
        (lambda: bradley_terry_loss(PAIR, PAIR[:, None]), r"equal: chosen \(4,\), rejected \(4, 1\)"),
        (lambda: bradley_terry_loss(PAIR, PAIR, margin=PAIR[:, None]), r"margin \(4, 1\) must be a number or \(4,\)"),
        (lambda: bradley_terry_loss(PAIR, PAIR, probability=PAIR[:2]), r"probability \(2,\) must be a number"),
        (lambda: bradley_terry_loss(PAIR, PAIR, probability=1.5), r"probability=1.5 must be in \[0, 1\]"),
        (lambda: all_pairs_loss(PAIR, PAIR, PAIR > 0), r"rewards \(4,\) must be \(B, K\)"),
        (lambda: all_pairs_loss(ROW, ROW[:, :2], REAL), r"rewards \(2, 3\), scores \(2, 2\), mask \(2, 3\)"),
        (lambda: all_pairs_loss(ROW, ROW, ROW), r"mask torch.float32 must be torch.bool"),
        (lambda: all_pairs_loss(ROW, ROW, REAL, margin=PAIR[:2]), r"margin \(2,\) must be a number, \(2, 1, 1\)"),
        (lambda: all_pairs_loss(ROW, ROW, REAL, block=0), "block=0 must be at least 1"),
        (lambda: plackett_luce_loss(ROW, ROW, REAL, top=0), "top=0 must be at least 1"),
        (lambda: rao_kupper_loss(PAIR, PAIR, PAIR[:1], tie_width=1.0), r"outcome \(1,\)"),
        (lambda: davidson_loss(PAIR, PAIR, PAIR, tie_weight=-0.1), "tie_weight=-0.1 must be at least 0"),
        (lambda: davidson_loss(PAIR, PAIR, PAIR, tie_weight=PAIR[:3]), r"tie_weight \(3,\) must be a number"),
        (lambda: rao_kupper_loss(PAIR, PAIR, PAIR, tie_width=-0.1), "tie_width=-0.1 must be at least 0"),
        (lambda: rao_kupper_loss(PAIR, PAIR, PAIR, tie_width=PAIR[:3]), r"tie_width \(3,\) must be a number"),
        (lambda: centering_penalty(PAIR), r"rewards \(4,\) must be \(B, K\)"),
        (lambda: centering_penalty(ROW, REAL.long()), "mask torch.int64 must be torch.bool"),
        (lambda: number_of_pairs(ROW, REAL[:1]), r"mask \(1, 3\)"),
    ],
)
def test_errors_name_the_field_the_value_and_the_rule(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
