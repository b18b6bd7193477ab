"""Rewards in, losses out: what a reward model learns from comparisons, unreduced, one number per pair or prompt.

    bradley_terry_loss    one pair: hard label, margin, soft label
    all_pairs_loss        K scored responses, every pair of them
    plackett_luce_loss    K ranked responses, the ranking as a whole
    rao_kupper_loss       one pair where a tie is an outcome of its own
    davidson_loss         the same, by another model of ties
    centering_penalty     holds the level of the rewards, which the losses above leave free

`links.py` has other functions of a difference and noisy labels, `listwise.py` other losses of a whole list, and
`ratings.py` labels that say how good or how much better; what they share stands at the end, and in `limits.py`.

Throughout, σ(x) = 1 / (1 + e^−x), rewards are in logits and losses in nats. The mathematics is done in float32, or in
float64 where rewards come in float64, are added up first or may tie: bfloat16 rounds small differences of large rewards
to 0. −log σ(x) is computed as softplus(−x) = log(1 + e^−x), which stays finite where log(sigmoid(x)) is −∞.

What is not finite: an infinite reward gives the loss's limit, 0 and ∞ included. NaN stands where there is no limit,
since rewards that are compared are the same infinity (for a list as a whole: any two of it), and where a reward is NaN.
Of labels, only scores of which the order alone counts may be infinite. Anything may stand behind a mask.

Nothing here makes a GPU wait for the host: every shape is known before any value is, so each loss is one graph under
`torch.compile(fullgraph=True)` and can be captured in a CUDA graph. For the same reason only shapes, types and Python
numbers are checked, each by a ValueError that names argument, value and rule; the values inside tensors are not.

How to reduce is the caller's choice. Over B prompts with n_b pairs each (`number_of_pairs`), L = `all_pairs_loss`:

    every prompt alike    Σ_b L_b / B             each pair of a prompt weighs 1/n_b; InstructGPT's 1/C(K,2)
    every pair alike      Σ_b n_b·L_b / Σ_b n_b   a prompt with K = 9 weighs as much as 36 prompts with K = 2
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minirm.limits import finite_stand_in, log_span, take_limit


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, probability: Tensor | float = 1.0
) -> Tensor:
    """Return −p·log σ(x) − (1−p)·log σ(−x) with x = r_c − r_r − m, one loss per pair.

    Derivative: dL/dr_c = σ(x) − p = −dL/dr_r. For p = 1 it is −σ(−x), never positive: r_c is pushed up, r_r down.
    Invariance: a shift of both rewards by one number changes nothing; its two derivatives sum to 0.
    Limits: m = 0, p = 1 is Bradley–Terry, −log σ(r_c − r_r), which is log 2 at r_c = r_r. p = ½ is a tie; p = 1 − ε
    smooths the label. The minimum over r_c − r_r lies at m + log(p / (1−p)), and is the entropy of p.

    Args:
        chosen, rejected: (B,) rewards, in logits.
        margin: m, a number or (B,), in logits; how far apart the pair should be.
        probability: p, a number or (B,), in [0, 1]; how probable it is that `chosen` is the better one.
    Source: Bradley and Terry 1952; InstructGPT, arXiv:2203.02155, Eq. 1; the margin: Llama 2, arXiv:2307.09288, Eq. 2.
    """
    check_same_shape(chosen=chosen, rejected=rejected)
    check_number_or_shape("margin", margin, chosen.shape)
    check_probability(probability, chosen.shape)
    behind = widen(rejected) - widen(chosen)  # −x before the margin
    if isinstance(margin, Tensor) or margin:
        behind = behind + cast(margin, behind)
    if not isinstance(probability, Tensor) and probability == 1:
        return softplus(behind)
    return mix_labels(softplus, behind, cast(probability, behind))


def all_pairs_loss(
    rewards: Tensor, scores: Tensor, mask: Tensor, *, margin: Tensor | float = 0.0, block: int | None = None
) -> Tensor:
    """Return the mean of −log σ(r_i − r_j − m) over the pairs i, j of a row with s_i > s_j, one loss per row.

    Equal scores make no pair. A row without any pair gives exactly 0, with zero gradient.

    Derivative: dL/dr_i = (1/n) Σ_j ([s_j > s_i]·σ(−x_ji) − [s_i > s_j]·σ(−x_ij)) with x_ij = r_i − r_j − m over n
    pairs: up for each response that i should beat, down for each that should beat i, most where the order is wrong.
    Invariance: a shift of a row's rewards, an increasing function of its scores, the order of its responses. The
    derivatives of a row sum to 0.
    Limits: K = 2 with s = (1, 0) is `bradley_terry_loss(r_0, r_1, margin=m)`. A soft label p for the whole row is
    p·all_pairs_loss(r, s, mask, margin=m) + (1−p)·all_pairs_loss(r, −s, mask, margin=−m), with −mᵀ for a (B, K, K) m.

    Args:
        rewards: (B, K) in logits.
        scores: (B, K) higher is better; only their order is used.
        mask: (B, K) bool, True is real; behind False, rewards, scores and margins may hold anything, NaN too.
        margin: m in logits: a number, (B, 1, 1) for one per row, or (B, K, K) where [b, i, j] is for i preferred to j.
        block: None holds (B, K, K) for the backward pass. A number walks over the preferred responses that many at a
            time and computes each block again in the backward pass: memory B·block·K, for large K.
    Source: InstructGPT, arXiv:2203.02155, Eq. 1, where 1/n = 1/C(K,2).
    """
    check_rows(mask, rewards=rewards, scores=scores)
    B, K = rewards.shape
    if isinstance(margin, Tensor) and margin.dim() > 0 and margin.shape not in ((B, 1, 1), (B, K, K)):
        raise ValueError(f"margin {tuple(margin.shape)} must be a number, ({B}, 1, 1) or ({B}, {K}, {K})")
    if block is not None and block < 1:
        raise ValueError(f"block={block} must be at least 1")
    rewards, scores = widen(rewards), fill_masked(scores, mask, torch.nan)  # NaN > x is False: no pair
    if block is None:
        total, pairs = _sum_over_pairs(rewards, scores, margin, 0, K)
        return total / pairs.clamp(min=1)
    total, pairs = rewards.new_zeros(B), rewards.new_zeros(B)
    for start in range(0, K, block):
        part = (rewards, scores, margin, start, start + block)
        found = checkpoint(_sum_over_pairs, *part, use_reentrant=False, preserve_rng_state=False)
        total, pairs = total + found[0], pairs + found[1]
    return total / pairs.clamp(min=1)


def _sum_over_pairs(
    rewards: Tensor, scores: Tensor, margin: Tensor | float, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Return ((B,) Σ −log σ(x_ij), (B,) how many) over the pairs whose better response i is in start … stop−1."""
    wins = scores[:, start:stop, None] > scores[:, None, :]  # (B, block, K)
    behind = rewards[:, None, :] - rewards[:, start:stop, None]  # (B, block, K), −x_ij before the margin
    if isinstance(margin, Tensor) and margin.dim() == 3 and margin.shape[1] > 1:  # one per pair
        margin = margin[:, start:stop]
    if isinstance(margin, Tensor) or margin:
        behind = behind + cast(margin, behind)
    losses = softplus(behind.masked_fill(~wins, -torch.inf))  # 0 where there is no pair, and no NaN from ∞ − ∞ there
    return losses.sum((1, 2)), wins.sum((1, 2)).to(losses.dtype)


def number_of_pairs(scores: Tensor, mask: Tensor) -> Tensor:
    """Return (B,) how many pairs of responses of each row differ in score: the n_b that weighs every pair alike.

    Args:
        scores, mask: (B, K), as in `all_pairs_loss`.
    """
    check_rows(mask, scores=scores)
    scores = fill_masked(scores, mask, torch.nan)
    return (scores[:, :, None] > scores[:, None, :]).sum((1, 2))


def plackett_luce_loss(rewards: Tensor, scores: Tensor, mask: Tensor, *, top: int | None = None) -> Tensor:
    """Return −log P(ranking), where each place is drawn by softmax from the responses not yet placed, one loss per row.

        L = Σ_i (log Σ_{j: s_j ≤ s_i} e^r_j − r_i)        0 for one response or none; memory is O(B·K)

    Equal scores follow Breslow's rule: the tied ones are drawn each from the same rest, which still holds all of them.

    Derivative: dL/dr_i = Σ_{k: s_k ≥ s_i} e^r_i / (Σ_{j: s_j ≤ s_k} e^r_j) − 1, both over the kept places only: the
    probability of being drawn, summed over the draws that i was in, minus the one draw that i won.
    Invariance: a shift of a row's rewards, an increasing function of its scores, the order of its responses. The
    derivatives of a row sum to 0.
    Limits: K = 2 with unequal scores is `bradley_terry_loss`; K = 2 tied is twice its p = ½, for Breslow reads a tie as
    "alike", where `all_pairs_loss` reads it as "not compared". top = 1 without ties is the cross-entropy of the best.

    Args:
        rewards: (B, K) in logits.
        scores: (B, K) higher is better; only their order is used.
        mask: (B, K) bool, True is real; behind False, rewards and scores may hold anything, NaN too.
        top: how many places of the ranking count; None is all. Ties that begin within the first `top` are kept whole.
    Source: Plackett 1975; ListMLE: Xia et al. 2008; the ties: Breslow 1974, for the same likelihood in Cox regression.
    """
    check_rows(mask, rewards=rewards, scores=scores)
    if top is not None and top < 1:
        raise ValueError(f"top={top} must be at least 1")
    ranked, order = (-fill_masked(scores, mask, -torch.inf)).sort(dim=1, stable=True)  # best first, masked last
    better = torch.searchsorted(ranked, ranked)  # (B, K) how many score higher: the place where the tied ones begin
    r = finite_stand_in(rewards, mask).gather(1, order)
    log_rest = r.flip(1).logcumsumexp(1).flip(1).gather(1, better)  # (B, K) log Σ e^r_j from that place on
    kept = mask.gather(1, order) & (better < (mask.shape[1] if top is None else top))
    return take_limit((log_rest - r).masked_fill(~kept, 0.0).sum(1), rewards, mask)


def rao_kupper_loss(first: Tensor, second: Tensor, outcome: Tensor, *, tie_width: Tensor | float) -> Tensor:
    """Return −log P(outcome) for a pair that may also be judged a tie, one loss per pair.

        P(first better)  = σ(d − η)        d = r_first − r_second, η = tie_width
        P(second better) = σ(−d − η)
        P(tie)           = (e^2η − 1)·σ(d − η)·σ(−d − η)        the three sum to 1

    Derivative: dL/dr_first = −dL/dr_second is −σ(η − d) for outcome 1, σ(η + d) for −1, and for a tie the sum of these
    two, σ(η + d) − σ(η − d), which is 0 at d = 0 and pulls the two rewards together elsewhere.
    Invariance: a shift of both rewards; swapping the two and the sign of the outcome.
    Limits: η → 0 is `bradley_terry_loss`, and a tie becomes impossible (loss ∞). For outcome ±1 it is Bradley–Terry
    with margin η, at any η.

    Args:
        first, second: (B,) rewards, in logits.
        outcome: (B,) 1 where the first is better, 0 for a tie, −1 where the second is.
        tie_width: η ≥ 0, a number, () or (B,), in logits; it may be learned. Equal rewards tie with P = tanh(η/2).
    Source: Rao and Kupper 1967, with η = log θ.
    """
    check_same_shape(first=first, second=second, outcome=outcome)
    check_number_or_shape("tie_width", tie_width, first.shape)
    if isinstance(tie_width, float | int) and not tie_width >= 0:
        raise ValueError(f"tie_width={tie_width} must be at least 0")
    d = first.double() - second.double()
    eta = tie_width * torch.ones_like(d)
    tie = outcome == 0
    lead = torch.where(outcome >= 0, d, -d)  # of the one that is named as better
    # log(e^2η − 1) is 2η, which goes into the two softplus, so that nothing cancels, less what `log_span` adds; the
    # inner where keeps its ∞ at η = 0 out of the gradient of pairs that are not tied
    tied = softplus(lead - eta) + softplus(-lead - eta) + log_span(torch.where(tie, 2 * eta, 1.0))
    return torch.where(tie, tied, softplus(eta - lead)).to(widen(first).dtype)


def davidson_loss(first: Tensor, second: Tensor, outcome: Tensor, *, tie_weight: Tensor | float) -> Tensor:
    """Return −log P(outcome) for a pair that may also be judged a tie, one loss per pair.

        P(first better) : P(tie) : P(second better) = e^{d/2} : ν : e^{−d/2}    d = r_first − r_second, ν = tie_weight

    Derivative: dL/dr_first = −dL/dr_second = ½·(P(first better) − P(second better) − outcome).
    Invariance: a shift of both rewards; swapping the two and the sign of the outcome.
    Limits: ν → 0 is `bradley_terry_loss`, and a tie becomes impossible (loss ∞). Rao–Kupper's η ties equal rewards as
    often as ν = e^η − 1. But of pairs that are not tied the first is better with σ(d) here, whatever ν (Luce's axiom),
    and more surely than that there; and ties of rewards far apart fall as e^{−|d|/2} here, as e^{−|d|} there.

    Args:
        first, second: (B,) rewards, in logits.
        outcome: (B,) 1 where the first is better, 0 for a tie, −1 where the second is.
        tie_weight: ν ≥ 0, a number, () or (B,); it may be learned. Equal rewards tie with P = ν/(2 + ν).
    Source: Davidson 1970, "On extending the Bradley–Terry model to accommodate ties".
    """
    check_same_shape(first=first, second=second, outcome=outcome)
    check_number_or_shape("tie_weight", tie_weight, first.shape)
    if isinstance(tie_weight, float | int) and not tie_weight >= 0:
        raise ValueError(f"tie_weight={tie_weight} must be at least 0")
    d = first.double() - second.double()
    nu = tie_weight * torch.ones_like(d)
    tie = outcome == 0
    log_nu = torch.where(tie, nu, nu.clamp(min=1e-300)).log()  # log 0 for ties alone
    lead = torch.where(outcome >= 0, d, -d)
    # −log P = log(1 + odds against) = softplus(log of those odds). They are e^−lead + ν·e^{−lead/2} to 1, and for a tie
    # (e^{d/2} + e^{−d/2}) / ν, where log(e^{d/2} + e^{−d/2}) is the mean of softplus(d) and softplus(−d).
    against_winner = log_nu - lead / 2 + softplus(-lead / 2 - log_nu)
    against_tie = (softplus(lead) + softplus(-lead)) / 2 - log_nu
    return softplus(torch.where(tie, against_tie, against_winner)).to(widen(first).dtype)


def centering_penalty(rewards: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return (mean of the row's rewards)², one penalty per row: it holds the level that comparisons leave free.

    The square of the mean, not the mean of the squares: it moves all rewards of a row by the same amount, so that it
    never works against the differences that the comparisons ask for.

    Derivative: dL/dr_i = 2·mean/n, the same for all n responses of the row.
    Invariance: any change of the rewards that keeps their mean, the order of the responses. Not a shift.
    Limits: K = 2 gives ¼·(r_c + r_r)², so TRL's `center_rewards_coefficient` c, which weighs (r_c + r_r)², is 4c here.

    Args:
        rewards: (B, K) in logits; a row without a real response gives 0.
        mask: (B, K) bool, True is real; None is all real.
    Source: Eisenstein et al. 2023, arXiv:2312.09244, the term (r_c + r_r)² there.
    """
    mask = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask
    check_rows(mask, rewards=rewards)
    total = rewards.double().masked_fill(~mask, 0.0).sum(1)
    return (total / mask.sum(1).clamp(min=1)).square().to(widen(rewards).dtype)


# ── What the other files of losses share ──────────────────────────────────────────────────────────────────────────────


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x) = −log σ(−x), within 2 units in the last place.

    Above its threshold F.softplus returns x itself. The default of 20 errs by 2e-9 there, which float64 shows.
    """
    return F.softplus(x, threshold=40.0)


def mix_labels(link: Callable[[Tensor], Tensor], behind: Tensor, probability: Tensor | float) -> Tensor:
    """Return p·link(behind) + (1−p)·link(−behind), with 0·∞ = 0: a label that can't be wrong costs nothing for it."""

    def weighed(behind: Tensor, weight: Tensor | float) -> Tensor:
        never = (weight == 0) & link(behind.detach()).isinf()  # also where a finite difference overflows
        return weight * link(behind.masked_fill(never, 0.0))

    return weighed(behind, probability) + weighed(-behind, 1 - probability)


def widen(rewards: Tensor) -> Tensor:
    return rewards if rewards.dtype == torch.float64 else rewards.float()


def cast(value: Tensor | float, like: Tensor) -> Tensor | float:
    return value.to(like.dtype) if isinstance(value, Tensor) else value


def fill_masked(scores: Tensor, mask: Tensor, value: float) -> Tensor:
    scores = scores if scores.is_floating_point() else scores.double()  # float64 holds integers up to 2⁵³ exactly
    return scores.masked_fill(~mask, value)


def check_same_shape(**tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes must be equal: {shapes}")


def check_number_or_shape(name: str, value: Tensor | float, shape: torch.Size) -> None:
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape != shape:
        raise ValueError(f"{name} {tuple(value.shape)} must be a number or {tuple(shape)}, one per pair")


def check_probability(probability: Tensor | float, shape: torch.Size) -> None:
    check_number_or_shape("probability", probability, shape)
    if not isinstance(probability, Tensor) and not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} must be in [0, 1]")


def check_rows(mask: Tensor, **tensors: Tensor) -> None:
    """Refuse tensors that are not all (B, K), and a mask that is not bool."""
    for name, tensor in tensors.items():
        if tensor.dim() != 2:
            raise ValueError(f"{name} {tuple(tensor.shape)} must be (B, K)")
    check_same_shape(**tensors, mask=mask)
    if mask.dtype != torch.bool:
        raise ValueError(f"mask {mask.dtype} must be torch.bool, True is real")
