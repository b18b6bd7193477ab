"""What each stage minimises: a batch in, a weighted sum of losses out.

An objective has two parts, so that one training loop serves both stages: how much a batch weighs (known before the
forward pass), and what it gives: the sum of its losses, and what came out right. A step divides the sum of the losses
by the weight of everything in it, however many batches or processes that is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from minirm.config import KNOWN_BY, OF_DIFFERENCES, OF_SINGLES, OF_TIES, TrainConfig
from minirm.errors import InputError
from minirm.links import hinge_loss, noise_corrected_loss, probit_loss, squared_loss
from minirm.listwise import lambdarank_loss, listnet_loss
from minirm.losses import (
    all_pairs_loss,
    bradley_terry_loss,
    centering_penalty,
    davidson_loss,
    number_of_pairs,
    plackett_luce_loss,
    rao_kupper_loss,
)
from minirm.ratings import graded_preference_loss, ordinal_loss, rating_loss, step_loss
from minirm.tokens.packing import Labels, PackedBatch

BLOCK = 256
"""From this K on, the loss sums all pairs block by block, so that no (B, K, K) is kept for the backward pass. Below, it
is small beside what the backbone holds, and to compute blocks twice only costs time: 1.9 times at K = 128 on a CPU."""


@dataclass(frozen=True)
class Outcome:
    """What a batch gives, as tensors on its device."""

    loss: Tensor  # () Σ weight·loss
    hits: Tensor  # () how many of `cases` came out right, ties counting half
    cases: Tensor  # () pairs or steps (reward stage) or tokens (language-model stage)


@dataclass(frozen=True)
class RewardObjective:
    """Preferences, by the loss that the configuration names."""

    config: TrainConfig

    def comparison_weights(self, batch: PackedBatch) -> Tensor:
        """Return (B,) how much each comparison counts; 0 where nothing can be learned."""
        pairs = number_of_pairs(batch.order, batch.mask)
        if self.config.loss in OF_DIFFERENCES:
            return batch.weight * (pairs if self.config.weighting == "pair" else pairs > 0)
        return batch.weight * (batch.mask.sum(1) > (0 if self.config.loss in OF_SINGLES else 1))

    def total_weight(self, batch: PackedBatch) -> Tensor:
        """Return () how much the batch counts."""
        return self.comparison_weights(batch).sum(dtype=torch.float64)

    def __call__(self, model: nn.Module, batch: PackedBatch) -> Outcome:
        """Return what the batch gives under a reward model."""
        share = self.config.language_model_weight
        learns = share > 0 and model.training  # validation is of rewards alone
        rewards, nll = model(batch, with_language=True) if learns else (model(batch), None)  # (B, K), (S,)
        losses = preference_losses(rewards, batch, self.config)
        if learns:
            means = nll.new_zeros(len(losses)).scatter_reduce(0, batch.owners, nll, "mean", include_self=False)
            losses = losses + share * means
        if self.config.centering:
            losses = losses + self.config.centering * centering_penalty(rewards, batch.mask)
        hits, cases = (count_step_hits if batch.labels.steps else count_hits)(rewards.detach(), batch)
        return Outcome((self.comparison_weights(batch) * losses).sum(), hits, cases)


def preference_losses(rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return (B,) losses of rewards (B, K), by the loss that the configuration names.

    Raises:
        InputError: the batch holds labels that this loss can't use.
    """
    broken = broken_rule(batch.labels, config)
    if broken:
        raise InputError(broken)
    return LOSSES[config.loss](rewards, batch, config)


def broken_rule(labels: Labels, config: TrainConfig) -> str | None:
    """Return the rule of the configured loss that labels break, in one line; None where it can use them all."""
    loss, grades = config.loss, config.grades
    if labels.steps != (loss == "step"):
        return f"loss={loss}: labels of steps must " + (
            "not be there: only step knows them" if labels.steps else "be there"
        )
    if labels.margins and loss not in OF_DIFFERENCES:
        return f"loss={loss}: margin must be 0: only {', '.join(OF_DIFFERENCES)} know one"
    if labels.graded and loss in OF_TIES:
        return f"loss={loss}: probability must be 0, 0.5 (a tie) or 1: only {', '.join(OF_DIFFERENCES)} know others"
    if labels.uncertain and loss not in (*OF_DIFFERENCES, *OF_TIES):
        return f"loss={loss}: probability must be 1: only {', '.join(OF_DIFFERENCES)} know others"
    if loss in KNOWN_BY["grades"] and (labels.grades is None or labels.grades > grades):
        return f"loss={loss}: scores must be whole numbers from 0 to {grades - 1} (grades={grades})"
    return None


def _bradley_terry(rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return the loss of comparisons of at most two responses; 0 where their scores are equal, or one is alone."""
    first, second = rewards.masked_fill(~batch.mask, 0.0).unbind(1)  # (B,) each
    order = (batch.order[:, 0] - batch.order[:, 1]).sign()
    chosen, rejected = torch.where(order > 0, first, second), torch.where(order > 0, second, first)
    soft = config.label_smoothing or batch.labels.uncertain
    probability = _smoothed(batch.probability, config) if soft else 1.0
    losses = bradley_terry_loss(chosen, rejected, margin=batch.margin, probability=probability)
    return losses.masked_fill((order == 0) | ~batch.mask.all(1), 0.0)


def _all_pairs(rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return the mean of Bradley–Terry's loss over a row's pairs; of a label p, p·this + (1−p)·its reverse."""
    if rewards.shape[1] == 2:
        return _bradley_terry(rewards, batch, config)
    block = BLOCK if rewards.shape[1] >= BLOCK else None
    margin = batch.margin[:, None, None]
    loss = all_pairs_loss(rewards, batch.order, batch.mask, margin=margin, block=block)
    if not config.label_smoothing and not batch.labels.uncertain:
        return loss
    probability = _smoothed(batch.probability, config)
    reverse = all_pairs_loss(rewards, -batch.order, batch.mask, margin=-margin, block=block)
    loss, reverse = loss.masked_fill(probability == 0, 0.0), reverse.masked_fill(probability == 1, 0.0)  # 0·∞ = 0
    return probability * loss + (1 - probability) * reverse


def _differences(link: Callable[..., Tensor], rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return the mean of a pair's loss over the pairs of a row whose scores differ."""
    first, second, real = _pairs(rewards, batch)
    order = _order(batch)
    leads = order >= 0
    chosen, rejected = torch.where(leads, first, second), torch.where(leads, second, first)
    probability = batch.probability if link is noise_corrected_loss else _smoothed(batch.probability, config)
    noise = {"noise": config.label_smoothing} if link is noise_corrected_loss else {}
    margin, probability = (dial[:, None].expand_as(real).flatten() for dial in (batch.margin, probability))
    losses = link(chosen.flatten(), rejected.flatten(), margin=margin, probability=probability, **noise)
    return _mean(losses.view(real.shape), real & (order != 0))


def _outcomes(loss: Callable[..., Tensor], rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return the mean of a pair's loss over all pairs of a row, a tie being an outcome of its own.

    A label of probability 0 turns the outcome round, one of ½ makes it a tie.
    """
    first, second, real = _pairs(rewards, batch)
    grade = _order(batch)
    if loss is graded_preference_loss:
        grade = _difference(batch.scores)
    grade = grade * (2 * batch.probability[:, None] - 1)
    losses = loss(first.flatten(), second.flatten(), grade.flatten(), **_ties(loss, rewards, config))
    return _mean(losses.view(real.shape), real)


def _ties(loss: Callable[..., Tensor], rewards: Tensor, config: TrainConfig) -> dict:
    """Return what a loss of ties takes: Davidson's ν = e^η − 1 ties equal rewards as often as Rao–Kupper's η."""
    eta, device = config.tie_width, rewards.device
    if loss is davidson_loss:
        return {"tie_weight": torch.full((), eta, dtype=torch.float64, device=device).expm1()}
    if loss is graded_preference_loss:
        return {"thresholds": eta * (2 * torch.arange(config.grades - 1, device=device) + 1)}
    return {"tie_width": eta}


def _ordinal(rewards: Tensor, batch: PackedBatch, config: TrainConfig) -> Tensor:
    """Return the loss of grades whose thresholds lie 2η apart, around 0."""
    thresholds = config.tie_width * (2 * torch.arange(1, config.grades, device=rewards.device) - config.grades)
    return ordinal_loss(rewards, batch.scores, batch.mask, thresholds=thresholds)


LOSSES: dict[str, Callable[[Tensor, PackedBatch, TrainConfig], Tensor]] = {
    "all_pairs": _all_pairs,
    "noise_corrected": partial(_differences, noise_corrected_loss),
    "probit": partial(_differences, probit_loss),
    "hinge": partial(_differences, hinge_loss),
    "squared": partial(_differences, squared_loss),
    "plackett_luce": lambda rewards, batch, _: plackett_luce_loss(rewards, batch.order, batch.mask),
    "listnet": lambda rewards, batch, _: listnet_loss(rewards, batch.scores, batch.mask),
    "lambdarank": lambda rewards, batch, _: lambdarank_loss(rewards, batch.order, batch.mask),
    "rao_kupper": partial(_outcomes, rao_kupper_loss),
    "davidson": partial(_outcomes, davidson_loss),
    "graded_preference": partial(_outcomes, graded_preference_loss),
    "rating": lambda rewards, batch, _: rating_loss(rewards, batch.scores, batch.mask),
    "ordinal": _ordinal,
    "step": lambda rewards, batch, _: step_loss(rewards, batch.scores, batch.mask),
}
"""Name of a loss → (rewards, batch, configuration) → (B,) losses. A gain is how many lower scores there are."""


def _smoothed(probability: Tensor, config: TrainConfig) -> Tensor:
    """Return the probability of labels that are turned round as often as label_smoothing says."""
    smooth = config.label_smoothing
    return probability * (1 - smooth) + (1 - probability) * smooth


def _difference(values: Tensor) -> Tensor:
    """Return (B, pairs) value of i minus value of j, for i < j of each row."""
    first, second = torch.triu_indices(values.shape[1], values.shape[1], offset=1, device=values.device)
    return values[:, first] - values[:, second]


def _order(batch: PackedBatch) -> Tensor:
    """Return (B, pairs) 1 where the first of a pair has the higher score, −1 where the second has, else 0."""
    return _difference(batch.order).sign()


def _pairs(rewards: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return (B, pairs) rewards of the first and of the second of each pair i < j, and which pairs are real."""
    rewards = rewards.masked_fill(~batch.mask, 0.0)  # NaN behind the mask would reach the gradient through 0 · NaN
    first, second = torch.triu_indices(rewards.shape[1], rewards.shape[1], offset=1, device=rewards.device)
    return rewards[:, first], rewards[:, second], batch.mask[:, first] & batch.mask[:, second]


def _mean(losses: Tensor, real: Tensor) -> Tensor:
    return losses.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)


def count_hits(rewards: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return how many pairs are in the right order, equal rewards counting ½, and how many there are.

    The order is turned round where its label is more probably false than true, and there is none at probability ½.
    """
    scores = (batch.order * (batch.probability - 0.5).sign()[:, None]).masked_fill(~batch.mask, torch.nan)
    better = scores[:, :, None] > scores[:, None, :]  # (B, K, K)
    ahead = (rewards[:, :, None] - rewards[:, None, :]).sign()
    return ((ahead + 1) / 2 * better).sum(), better.sum()


def count_step_hits(rewards: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return how many steps have the reward's sign that their label asks for, 0 counting ½, and how many there are."""
    sides = (batch.scores - 0.5).sign() * rewards.sign()
    wanted = batch.mask & (batch.scores != 0.5)
    return ((sides + 1) / 2).masked_fill(~wanted, 0.0).sum(), wanted.sum()


@dataclass(frozen=True)
class LanguageModelObjective:
    """The next token, every one that is to be learned alike."""

    def total_weight(self, batch: PackedBatch) -> Tensor:
        """Return () how much the batch counts: the number of its targets."""
        return torch.tensor(len(batch.targets))

    def __call__(self, model: nn.Module, batch: PackedBatch) -> Outcome:
        """Return what the batch gives under a language model; a target counts as hit with its probability."""
        nll = model(batch)  # (S,)
        cases = nll.new_full((), len(nll))
        return Outcome(nll.sum(), (-nll.detach()).exp().sum(), cases)
