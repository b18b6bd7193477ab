"""From rewards to the number that a step minimises: labels, margins, weights, hits."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minirm import links, listwise, ratings
from minirm.config import KNOWN_BY, OF_DIFFERENCES, OF_TIES, ModelConfig, PackingConfig, TrainConfig
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.pairs import pair_table
from minirm.losses import bradley_terry_loss, centering_penalty, davidson_loss, rao_kupper_loss
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, PackedBatch, fit, pack, tokenize, truncate
from minirm.tokens.steps import Steps
from minirm.tokens.tokenizer import Tokenizer
from minirm.training import objectives
from minirm.training.objectives import LOSSES, LanguageModelObjective, RewardObjective, count_hits, preference_losses

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


@given(scores=rankings)
def test_all_pairs_is_the_mean_over_the_pairs_of_each_row(scores):
    batch = batch_of(*scores, margin=0.5)
    rewards = some_rewards(batch)
    for row, found in zip(range(len(scores)), preference_losses(rewards, batch, TrainConfig()), strict=True):
        r, s = rewards[row].tolist(), scores[row]
        K = range(len(s))
        losses = [-log_sigmoid(r[i] - r[j] - 0.5) for i in K for j in K if s[i] > s[j]]
        assert found.item() == pytest.approx(sum(losses) / max(len(losses), 1), abs=1e-9)


@given(scores=rankings)
def test_plackett_luce_is_the_product_of_its_draws(scores):
    batch = batch_of(*scores)
    rewards = some_rewards(batch)
    for row, found in enumerate(preference_losses(rewards, batch, TrainConfig(loss="plackett_luce"))):
        r, s = rewards[row].tolist(), scores[row]
        K = range(len(s))
        losses = [math.log(sum(math.exp(r[j]) for j in K if s[j] <= s[i])) - r[i] for i in K]
        assert found.item() == pytest.approx(sum(losses), abs=1e-9)


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


COMPARING = [loss for loss in LOSSES if loss != "step"]


@pytest.mark.parametrize("loss", COMPARING)
def test_nan_behind_the_mask_reaches_neither_loss_nor_gradient(loss):
    batch = batch_of((2, 1, 0), (1, 0), (0,), (1, 1))
    found = {}
    for behind in (0.0, math.nan):
        rewards = some_rewards(batch, behind_mask=behind).requires_grad_()
        config = TrainConfig(loss=loss, centering=0.1, label_smoothing=0.1 if loss in OF_DIFFERENCES else 0.0)
        outcome = RewardObjective(config)(lambda _, given=rewards: given, batch)
        [gradient] = torch.autograd.grad(outcome.loss, rewards)
        found[behind] = (outcome.loss.item(), outcome.hits.item(), gradient.tolist())
    assert found[0.0] == list(found.values())[1]
    assert all(math.isfinite(value) for row in found[0.0][2] for value in row)


PAIR_LOSSES = {
    "all_pairs": bradley_terry_loss,
    "probit": links.probit_loss,
    "hinge": links.hinge_loss,
    "squared": links.squared_loss,
    "noise_corrected": links.noise_corrected_loss,
}


@pytest.mark.parametrize("loss", OF_DIFFERENCES)
def test_every_loss_of_differences_honours_margin_soft_label_and_noise(loss):
    """Of three responses the mean over the pairs that differ, by hand; smoothing mixes, the corrected loss unmixes."""
    batch = batch_of((2, 0, 0), margin=0.5)
    rewards = some_rewards(batch)
    pairs = rewards[0, [0, 0]], rewards[0, [1, 2]]
    config = TrainConfig(loss=loss, label_smoothing=0.2)
    noise = {"noise": 0.2} if loss == "noise_corrected" else {"probability": 0.8}
    expected = PAIR_LOSSES[loss](*pairs, margin=0.5, **noise).mean()
    torch.testing.assert_close(preference_losses(rewards, batch, config)[0], expected, rtol=1e-6, atol=1e-6)
    soft = batch_of((0, 1), probability=0.3)
    rewards = some_rewards(soft)
    dials = {"noise": 0.0} if loss == "noise_corrected" else {}
    expected = PAIR_LOSSES[loss](rewards[:, 1], rewards[:, 0], probability=0.3, **dials)
    found = preference_losses(rewards, soft, TrainConfig(loss=loss))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("probability", "outcome"), [(1.0, 1), (0.5, 0), (0.0, -1)])
def test_a_label_of_one_half_is_a_tie_and_one_of_0_the_reverse_for_losses_that_know_ties(probability, outcome):
    batch = batch_of((1, 0), probability=probability)
    rewards = some_rewards(batch)
    pair = rewards[:, 0], rewards[:, 1], torch.tensor([outcome])
    found = {loss: preference_losses(rewards, batch, TrainConfig(loss=loss, tie_width=0.7)) for loss in OF_TIES}
    torch.testing.assert_close(found["rao_kupper"], rao_kupper_loss(*pair, tie_width=0.7))
    torch.testing.assert_close(found["davidson"], davidson_loss(*pair, tie_weight=math.expm1(0.7)))
    thresholds = 0.7 * torch.tensor([1.0, 3.0, 5.0, 7.0])
    torch.testing.assert_close(found["graded_preference"], ratings.graded_preference_loss(*pair, thresholds=thresholds))


def test_the_size_of_scores_is_what_ratings_grades_and_listnet_learn():
    batch = batch_of((4, 1, 0))
    rewards, scores = some_rewards(batch), batch.scores
    assert scores.tolist() == [[4, 1, 0]] and batch.order.tolist() == [[2, 1, 0]]
    mask, thresholds = batch.mask, torch.tensor([-3.0, -1.0, 1.0, 3.0])
    first, second = rewards[0, [0, 0, 1]], rewards[0, [1, 2, 2]]
    graded = ratings.graded_preference_loss(first, second, torch.tensor([3, 4, 1]), thresholds=thresholds + 4)
    expected = {
        "rating": ratings.rating_loss(rewards, scores, mask),
        "ordinal": ratings.ordinal_loss(rewards, scores, mask, thresholds=thresholds),
        "graded_preference": graded.mean()[None],
        "listnet": listwise.listnet_loss(rewards, scores, mask),
        "lambdarank": listwise.lambdarank_loss(rewards, batch.order, mask),
    }
    for loss, value in expected.items():
        torch.testing.assert_close(preference_losses(rewards, batch, TrainConfig(loss=loss)), value)


def test_a_label_that_cannot_be_wrong_costs_nothing_for_it_beside_one_that_can():
    """Of two comparisons of three responses, the first is certain, and its best reward infinite: 0·∞ = 0."""
    batch = batch_of((2, 1, 0), (2, 1, 0))
    batch = replace(batch, probability=torch.tensor([1.0, 0.8]), labels=batch.labels._replace(uncertain=True))
    rewards = torch.tensor([[torch.inf, 1.0, 0.0], [2.0, 1.0, 0.0]], requires_grad=True)
    losses = preference_losses(rewards, batch, TrainConfig())
    assert losses[0].item() == pytest.approx(-log_sigmoid(1.0) / 3)  # the pair of 1 and 0, of three pairs
    (gradient,) = torch.autograd.grad(losses.sum(), rewards)
    assert gradient.isfinite().all() and gradient[0].tolist() == pytest.approx([0, -0.26894 / 3, 0.26894 / 3], abs=1e-5)


def test_scores_that_float32_takes_for_one_stay_apart_for_losses_of_order():
    batch = batch_of((2**24 + 1, 2**24))
    assert batch.order.tolist() == [[1, 0]] and (batch.scores[0, 0] - batch.scores[0, 1]).item() == 1


@pytest.mark.parametrize("loss", COMPARING)
def test_what_a_loss_cannot_use_is_refused_in_python_too(loss):
    def refused(batch: PackedBatch) -> str:
        with pytest.raises(InputError) as caught:
            preference_losses(some_rewards(batch), batch, TrainConfig(loss=loss))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    if loss not in OF_DIFFERENCES:
        assert f"loss={loss}: margin must be 0" in refused(batch_of((1, 0), margin=0.5))
        assert f"loss={loss}: probability must be" in refused(batch_of((1, 0), probability=0.9))
        with pytest.raises(InputError, match=f"label_smoothing=0.1 must be 0.0 for loss={loss}"):
            TrainConfig(loss=loss, label_smoothing=0.1)
    if loss in KNOWN_BY["grades"]:
        for scores in ((5, 0), (0.5, 0), (-1, 0)):
            assert "scores must be whole numbers from 0 to 4 (grades=5)" in refused(batch_of(scores))
    assert "labels of steps must not be there" in refused(pack([a_stepped_one()]))
    with pytest.raises(InputError, match="loss=step: labels of steps must be there"):
        preference_losses(torch.zeros(1, 2), batch_of((1, 0)), TrainConfig(loss="step"))


def a_stepped_one(labels: tuple[float, ...] = (1.0, 0.0, 1.0)) -> Encoded:
    response = np.arange(6, dtype=np.int32)
    return Encoded(TOKEN, (response,), (0.0,), steps=(Steps(np.array([1, 3, 5]), np.array(labels)),))


def test_steps_are_read_at_their_last_tokens_by_the_fused_read():
    """The rewards of a response in three steps are those of its three beginnings, each alone."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=16, layers=2, width=16, heads=2, max_positions=16)
    for backbone in ("transformer", "gru", "torch_decoder"):
        model = RewardModel(replace(config, backbone=backbone)).double().eval()
        other = Encoded(
            TOKEN + 7, (np.array([3, 2], dtype=np.int32),), (0.0,), steps=(Steps(np.array([1]), np.ones(1)),)
        )
        for share_prompt in (True, False):
            batch = pack([a_stepped_one(), other], share_prompt=share_prompt)
            assert batch.mask.tolist() == [[True] * 3, [True, False, False]]
            assert batch.scores.tolist() == [[1, 0, 1], [1, 0, 0]]
            rewards = model(batch)
            for step, end in enumerate((1, 3, 5)):
                alone = pack([Encoded(TOKEN, (np.arange(end + 1, dtype=np.int32),), (0.0,))])
                torch.testing.assert_close(rewards[0, step], model(alone)[0, 0])


def test_hits_of_steps_are_rewards_of_the_sign_that_the_label_asks_for():
    batch = pack([a_stepped_one((1.0, 0.0, 0.5)), a_stepped_one((1.0, 1.0, 0.0))])
    rewards = torch.tensor([[2.0, 3.0, 1.0], [0.0, 1.0, -4.0]])  # right, wrong, unsaid; half, right, right
    config = TrainConfig(loss="step")
    outcome = RewardObjective(config)(lambda _: rewards, batch)
    assert (outcome.hits.item(), outcome.cases.item()) == (3.5, 5)
    expected = ratings.step_loss(rewards, batch.scores, batch.mask).sum()
    torch.testing.assert_close(outcome.loss, expected)
    assert RewardObjective(config).total_weight(batch).item() == 2


def test_a_text_in_steps_is_read_where_the_text_of_each_ends():
    """As many tokens on as that beginning has alone; the last step at the end token, where scoring reads as well."""
    steps = ("First add them.", "Then halve it.", "Done.")
    tokenizer = Tokenizer.train(["\n".join(steps)] * 3)
    one = Comparison((), ("\n".join(steps),), (0.0,), steps=(steps,), step_labels=((1.0, 0.0, 1.0),))
    [encoded] = tokenize([one], tokenizer)
    [found], [ids] = encoded.steps, encoded.responses
    texts = [tokenizer.decode(ids[: end + 1]) for end in found.ends]
    assert texts == ["First add them.", "First add them.\nThen halve it.", "\n".join(steps)]
    assert found.ends[-1] == len(ids) - 1 and found.labels.tolist() == [1, 0, 1]


def test_a_step_that_is_cut_has_no_label_any_more():
    cut = truncate(a_stepped_one(), 5)  # one token of prompt, three and the end of the response
    assert cut.responses[0].tolist() == [0, 1, 2, 5]
    assert cut.steps[0].ends.tolist() == [1] and cut.steps[0].labels.tolist() == [1]
    counts = Counter()
    late = replace(a_stepped_one(), steps=(Steps(np.array([5]), np.ones(1)),))
    assert list(fit([late], PackingConfig(max_tokens=5), counts)) == []
    assert counts["dropped: no whole step left after the cut"] == 1


def test_blocks_change_no_loss(monkeypatch):
    batch = batch_of(tuple(range(9)), (3, 1, 2), margin=0.3, probability=0.8)
    rewards = some_rewards(batch)
    whole = preference_losses(rewards, batch, TrainConfig())
    monkeypatch.setattr(objectives, "BLOCK", 4)
    torch.testing.assert_close(preference_losses(rewards, batch, TrainConfig()), whole, rtol=1e-12, atol=1e-12)


def test_a_row_counts_once_or_once_for_each_of_its_pairs_and_by_its_weight():
    batch = batch_of((3, 2, 1, 0), (1, 0), (1, 1), (5,), weight=2.0)
    weights = {
        w: RewardObjective(TrainConfig(weighting=w)).comparison_weights(batch).tolist() for w in ("prompt", "pair")
    }
    assert weights == {"prompt": [2, 2, 0, 0], "pair": [12, 2, 0, 0]}  # nothing to learn from a tie or a single one
    ties_too = RewardObjective(TrainConfig(loss="rao_kupper")).comparison_weights(batch)
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
