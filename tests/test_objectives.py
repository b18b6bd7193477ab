"""From rewards to the number that a step minimises: labels, margins, weights, hits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minirm.config import TrainConfig
from minirm.data.records import Comparison
from minirm.evaluation.pairs import pair_table
from minirm.losses import bradley_terry_loss, centering_penalty
from minirm.tokens.packing import Encoded, PackedBatch, pack
from minirm.training import objectives
from minirm.training.objectives import LanguageModelObjective, RewardObjective, count_hits, preference_losses

TOKEN = np.zeros(1, dtype=np.int32)


def batch_of(*scores: tuple[float, ...], **dials: float) -> PackedBatch:
    """Return a batch of comparisons with the given scores; its tokens don't matter here."""
    return pack([Encoded(TOKEN, (TOKEN,) * len(row), tuple(map(float, row)), **dials) for row in scores])


def some_rewards(batch: PackedBatch, seed: int = 0, behind_mask: float = math.nan) -> Tensor:
    rewards = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rewards.masked_fill(~batch.mask, behind_mask)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


rankings = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=4)


@settings(deadline=None)
@given(
    margin=st.floats(-3, 3),
    probability=st.floats(0, 1),
    smoothing=st.floats(0, 0.49),
    first_is_better=st.booleans(),
)
def test_a_pair_is_bradley_terry_with_margin_soft_label_and_smoothing(margin, probability, smoothing, first_is_better):
    batch = batch_of((1, 0) if first_is_better else (0, 1), margin=margin, probability=probability)
    rewards = some_rewards(batch)
    chosen, rejected = rewards[0] if first_is_better else rewards[0].flip(0)
    right = float(batch.probability) * (1 - smoothing) + (1 - float(batch.probability)) * smoothing
    expected = bradley_terry_loss(chosen[None], rejected[None], margin=float(batch.margin), probability=right)
    losses = preference_losses(rewards, batch, TrainConfig(label_smoothing=smoothing))
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)  # label and margin travel in float32


@settings(deadline=None)
@given(scores=rankings)
def test_all_pairs_is_the_mean_over_the_pairs_of_each_row(scores):
    batch = batch_of(*scores, margin=0.5)
    rewards = some_rewards(batch)
    for row, found in zip(range(len(scores)), preference_losses(rewards, batch, TrainConfig()), strict=True):
        r, s = rewards[row].tolist(), scores[row]
        K = range(len(s))
        losses = [-log_sigmoid(r[i] - r[j] - 0.5) for i in K for j in K if s[i] > s[j]]
        assert found.item() == pytest.approx(sum(losses) / max(len(losses), 1), abs=1e-9)


@settings(deadline=None)
@given(scores=rankings)
def test_plackett_luce_is_the_product_of_its_draws(scores):
    batch = batch_of(*scores)
    rewards = some_rewards(batch)
    for row, found in enumerate(preference_losses(rewards, batch, TrainConfig(loss="plackett_luce"))):
        r, s = rewards[row].tolist(), scores[row]
        K = range(len(s))
        losses = [math.log(sum(math.exp(r[j]) for j in K if s[j] <= s[i])) - r[i] for i in K]
        assert found.item() == pytest.approx(sum(losses), abs=1e-9)


@settings(deadline=None)
@given(scores=rankings, tie_width=st.floats(0.1, 3))
def test_rao_kupper_is_the_mean_over_all_pairs_with_ties_as_an_outcome(scores, tie_width):
    batch = batch_of(*scores)
    rewards = some_rewards(batch)
    config = TrainConfig(loss="rao_kupper", tie_width=tie_width)
    for row, found in enumerate(preference_losses(rewards, batch, config)):
        r, s = rewards[row].tolist(), scores[row]
        losses = []
        for i in range(len(s)):
            for j in range(i):
                first, second = (log_sigmoid(sign * (r[i] - r[j]) - tie_width) for sign in (1, -1))
                tie = math.log(math.expm1(2 * tie_width)) + first + second
                losses.append(-(tie if s[i] == s[j] else first if s[i] > s[j] else second))
        assert found.item() == pytest.approx(sum(losses) / max(len(losses), 1), abs=1e-9)


@pytest.mark.parametrize("loss", ["all_pairs", "plackett_luce", "rao_kupper"])
def test_nan_behind_the_mask_reaches_neither_loss_nor_gradient(loss):
    batch = batch_of((2, 1, 0), (1, 0), (0,), (1, 1))
    found = {}
    for behind in (0.0, math.nan):
        rewards = some_rewards(batch, behind_mask=behind).requires_grad_()
        config = TrainConfig(loss=loss, centering=0.1, label_smoothing=0.1 if loss == "all_pairs" else 0.0)
        outcome = RewardObjective(config)(lambda _, given=rewards: given, batch)
        [gradient] = torch.autograd.grad(outcome.loss, rewards)
        found[behind] = (outcome.loss.item(), outcome.hits.item(), gradient.tolist())
    assert found[0.0] == list(found.values())[1]
    assert all(math.isfinite(value) for row in found[0.0][2] for value in row)


def test_blocks_change_no_loss(monkeypatch):
    batch = batch_of(tuple(range(9)), (3, 1, 2), margin=0.3, probability=0.8)
    rewards = some_rewards(batch)
    whole = preference_losses(rewards, batch, TrainConfig())
    monkeypatch.setattr(objectives, "BLOCK", 4)
    torch.testing.assert_close(preference_losses(rewards, batch, TrainConfig()), whole, rtol=1e-12, atol=1e-12)


def test_a_row_counts_once_or_once_for_each_of_its_pairs_and_by_its_weight():
    batch = batch_of((3, 2, 1, 0), (1, 0), (1, 1), (5,), weight=2.0)
    weights = {w: RewardObjective(TrainConfig(weighting=w)).row_weights(batch).tolist() for w in ("prompt", "pair")}
    assert weights == {"prompt": [2, 2, 0, 0], "pair": [12, 2, 0, 0]}  # nothing to learn from a tie or a single one
    ties_too = RewardObjective(TrainConfig(loss="rao_kupper")).row_weights(batch)
    assert ties_too.tolist() == [2, 2, 2, 0]


@pytest.mark.parametrize("weighting", ["prompt", "pair"])
def test_the_loss_is_the_sum_of_row_losses_by_their_weights(weighting):
    batch = batch_of((2, 1, 0), (0, 1), (1, 1))
    batch = replace(batch, weight=torch.tensor([0.5, 3.0, 7.0]))
    rewards, config = some_rewards(batch), TrainConfig(weighting=weighting)
    losses = preference_losses(rewards, batch, config)
    factors = [0.5, 3.0] if weighting == "prompt" else [1.5, 3.0]
    outcome = RewardObjective(config)(lambda _: rewards, batch)
    assert outcome.loss.item() == pytest.approx(factors[0] * losses[0].item() + factors[1] * losses[1].item())


def test_hits_count_equal_rewards_one_half_and_equal_scores_not_at_all():
    batch = batch_of((2, 1, 0), (0, 1), (1, 1))
    rewards = torch.tensor([[1.0, 1.0, 0.0], [3.0, 2.0, math.nan], [4.0, 5.0, math.nan]])
    outcome = RewardObjective(TrainConfig())(lambda _: rewards, batch)
    assert (outcome.hits.item(), outcome.cases.item()) == (2.5, 4)  # ½ + 1 + 1 of three pairs, 0 of one


@pytest.mark.parametrize(("probability", "expected"), [(0.9, (0, 1)), (0.1, (1, 1)), (0.5, (0, 0)), (1.0, (0, 1))])
def test_hits_are_of_the_order_that_is_probably_true(probability, expected):
    hits, cases = count_hits(torch.tensor([[1.0, 2.0]]), batch_of((1, 0), probability=probability))
    assert (hits.item(), cases.item()) == expected


@settings(deadline=None)
@given(
    scores=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=5),
    rewards=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=5, max_size=5),
    probability=st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]),
)
def test_training_counts_the_pairs_and_hits_that_evaluation_counts(scores, rewards, probability):
    rewards = [list(map(float, row)) for row in rewards[: len(scores)]]
    hits, cases = count_hits(torch.tensor(rewards), batch_of(*scores, probability=probability))
    rows = [Comparison((), ("a", "b"), tuple(map(float, row)), probability=probability) for row in scores]
    difference = pair_table(rows, rewards).reward_difference
    assert (hits.item(), cases.item()) == (((np.sign(difference) + 1) / 2).sum(), len(difference))


def test_centring_adds_its_weight_times_the_squared_mean():
    batch = batch_of((2, 1, 0), (1, 0))
    rewards = some_rewards(batch)
    plain, centred = (RewardObjective(TrainConfig(centering=c))(lambda _: rewards, batch).loss for c in (0.0, 0.25))
    penalty = 0.25 * centering_penalty(rewards, batch.mask).sum()
    torch.testing.assert_close(centred - plain, penalty)
    level = RewardObjective(TrainConfig(centering=0.25))(lambda _: rewards + 10, batch).loss
    assert level > centred + 40  # the comparisons alone would not see the shift


def test_the_language_model_counts_every_target_alike_and_hits_by_probability():
    batch = batch_of((1, 0))
    nll = torch.tensor([math.log(2), math.log(4)])
    objective = LanguageModelObjective()
    outcome = objective(lambda _: nll, batch)
    assert outcome.loss.item() == pytest.approx(math.log(8)) and outcome.hits.item() == pytest.approx(0.75)
    assert outcome.cases.item() == objective.total_weight(batch) == 2
