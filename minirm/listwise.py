"""Losses of a whole list of responses: what it is worth to have the best ones on top.

    listnet_loss       the distribution of the best one, from scores and from rewards
    lambdarank_loss    every pair, weighed by what swapping it would change in NDCG

`plackett_luce_loss` is a third. What goes in, what comes out, and what is not finite: as in `losses.py`.
"""

import torch
from torch import Tensor

from minirm.limits import finite_stand_in, take_limit
from minirm.losses import check_rows, fill_masked, softplus, widen


def listnet_loss(rewards: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Return −Σ_i P_s(i)·log P_r(i), with P_s = softmax(scores) and P_r = softmax(rewards), one loss per row.

    Derivative: dL/dr_i = P_r(i) − P_s(i), which sums to 0.
    Invariance: a shift of a row's rewards or of its scores; the order of its responses. Not a scaling of scores: their
    differences are read as logits, of which the rewards are to become the same.
    Limits: least at r = s up to a shift, where it is the entropy of P_s. Scores far apart make P_s(best) = 1, and it is
    `plackett_luce_loss` with top = 1. Equal scores ask for equal rewards.

    Args:
        rewards: (B, K) in logits; a row of one response or none gives 0.
        scores: (B, K) in logits; their size is used.
        mask: (B, K) bool, True is real; behind False anything may stand.
    Source: ListNet, Cao et al. 2007, its top-one form.
    """
    check_rows(mask, rewards=rewards, scores=scores)
    wanted = fill_masked(scores, mask, -torch.inf).double().softmax(1).masked_fill(~mask, 0.0)
    r = finite_stand_in(rewards, mask)
    surprise = (r.logsumexp(1, keepdim=True) - r).masked_fill(wanted == 0, 0.0)
    return take_limit((wanted * surprise).sum(1), rewards, mask)


def lambdarank_loss(rewards: Tensor, gains: Tensor, mask: Tensor, *, top: int | None = None) -> Tensor:
    """Return Σ |ΔNDCG_ij|·−log σ(r_i − r_j) over the pairs with gain_i > gain_j, one loss per row.

        |ΔNDCG_ij| = (gain_i − gain_j)·|1/log2(1 + rank_i) − 1/log2(1 + rank_j)| / (the DCG of the best order)

    Derivative: dL/dr_i = Σ_j |ΔNDCG_ij|·(σ(r_i − r_j) − [gain_i > gain_j]); ranks are those of the rewards as they are,
    and count as constants. Equal rewards are ranked in the order in which they come.
    Invariance: a shift of a row's rewards, a scaling of its gains, the order of its responses unless rewards are equal.
    Limits: K = 2 is (1 − 1/log2 3)·(gain_0 − gain_1)/(gain_0 + gain_1/log2 3) times `bradley_terry_loss`. A row whose
    gains are all alike gives 0.

    Args:
        rewards: (B, K) in logits.
        gains: (B, K) what a response is worth, 0 or more; their size is used.
        mask: (B, K) bool, True is real; behind False anything may stand.
        top: how many places of the ranking count; None is all.
    Source: LambdaRank, Burges 2010, MSR-TR-2010-82; as a loss: Wang et al. 2018, "The LambdaLoss framework".
    """
    check_rows(mask, rewards=rewards, gains=gains)
    if top is not None and top < 1:
        raise ValueError(f"top={top} must be at least 1")
    r = widen(rewards).masked_fill(~mask, 0.0)
    gains = gains.to(r.dtype).masked_fill(~mask, 0.0)
    places = torch.arange(r.shape[1], device=r.device)
    discounts = 1 / (2 + places).to(r.dtype).log2()
    if top is not None:
        discounts = discounts.masked_fill(places >= top, 0.0)
    best = (gains.sort(dim=1, descending=True).values * discounts).sum(1)
    ranked = r.detach().masked_fill(~mask, -torch.inf)
    rank = ranked.argsort(dim=1, descending=True, stable=True).argsort(1)
    discount = discounts.expand_as(r).gather(1, rank)
    wins = (gains[:, :, None] > gains[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    change = (gains[:, :, None] - gains[:, None, :]) * (discount[:, :, None] - discount[:, None, :]).abs()
    behind = (r[:, None, :] - r[:, :, None]).masked_fill(~wins, -torch.inf)
    losses = softplus(behind).masked_fill(change == 0, 0.0)  # beyond `top` an infinite loss counts 0 times
    return (change * losses).sum((1, 2)) / torch.where(best > 0, best, 1.0)
