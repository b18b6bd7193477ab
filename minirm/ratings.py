"""Labels that say how good, or how much better: the size of a score is used, not its order alone.

    rating_loss              a number for each response: squared error
    ordinal_loss             one of C grades for each response, in order
    graded_preference_loss   how much better the first of a pair is: "slightly", "clearly", "much"
    step_loss                right or wrong, for each step of a response

The first two and the last fix the level of the rewards, which comparisons leave free. What goes in, what comes out, and
what is not finite: as in `losses.py`. A letter beside the legend: C grades; S steps.
"""

import torch
from torch import Tensor

from minirm.limits import log_span
from minirm.losses import cast, check_rows, check_same_shape, mix_labels, softplus, widen


def rating_loss(rewards: Tensor, ratings: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (r_i − y_i)² over a row's responses, one loss per row.

    Derivative: dL/dr_i = 2·(r_i − y_i)/n over the row's n responses.
    Invariance: the order of the responses; a shift of rewards and ratings together. Not a shift of rewards alone.
    Limits: least at r = y, where it is 0. Of noisy ratings the mean is learned, in the unit of the ratings.

    Args:
        rewards, ratings: (B, K) in one unit; a row without a real response gives 0.
        mask: (B, K) bool, True is real; behind False anything may stand.
    Source: HelpSteer2, arXiv:2406.08673, its regression reward model.
    """
    check_rows(mask, rewards=rewards, ratings=ratings)
    error = widen(rewards) - cast(ratings, widen(rewards))
    return _mean(error.masked_fill(~mask, 0.0).square(), mask)


def ordinal_loss(rewards: Tensor, grades: Tensor, mask: Tensor, *, thresholds: Tensor) -> Tensor:
    """Return the mean of −log P(grade_i) over a row's responses, one loss per row.

        P(grade = k) = σ(θ_k − r) − σ(θ_{k−1} − r)        θ_{−1} = −∞, θ_{C−1} = ∞

    Derivative: dL/dr_i = (σ(r_i − θ_k) − σ(θ_{k−1} − r_i))/n with k = grade_i: r_i is pulled into its grade's span.
    Invariance: the order of the responses; a shift of rewards and thresholds together.
    Limits: C = 2 with θ = 0 is −log σ(±r). The distance between grades is free, where `rating_loss` takes it as equal.

    Args:
        rewards: (B, K) in logits; a row without a real response gives 0.
        grades: (B, K) whole numbers 0 … C−1.
        mask: (B, K) bool, True is real; behind False anything may stand.
        thresholds: (C−1,) θ_0 < θ_1 < …, in logits; they may be learned.
    Source: McCullagh 1980, the proportional odds model.
    """
    check_rows(mask, rewards=rewards, grades=grades)
    losses = _cumulative(widen(rewards).masked_fill(~mask, 0.0), grades.masked_fill(~mask, 0), thresholds)
    return _mean(losses.masked_fill(~mask, 0.0), mask)


def graded_preference_loss(first: Tensor, second: Tensor, grade: Tensor, *, thresholds: Tensor) -> Tensor:
    """Return −log P(grade) for a pair that is judged by how much better the first one is, one loss per pair.

        P(grade ≤ k) = σ(θ_k − d) with d = r_first − r_second, for grades −G … G; θ_{−k−1} = −θ_k

    Derivative: dL/dr_first = −dL/dr_second = σ(d − θ_k) − σ(θ_{k−1} − d) for grade k.
    Invariance: a shift of both rewards; swapping the two and the sign of the grade.
    Limits: G = 1 with θ_0 = η is `rao_kupper_loss`. `bradley_terry_loss` with a probability for each grade is another
    reading of such labels (Liu et al., arXiv:2411.12843), which needs to know the probabilities.

    Args:
        first, second: (B,) rewards, in logits.
        grade: (B,) whole numbers −G … G: 0 a tie, 1 slightly better, … G the most; below 0 the second is better.
        thresholds: (G,) 0 < θ_0 < θ_1 < …, in logits, between the grades 0 | 1 | … | G; they may be learned.
    Source: Agresti 1992, "Analysis of ordinal paired comparison data"; the data: arXiv:2411.12843.
    """
    check_same_shape(first=first, second=second, grade=grade)
    both = torch.cat([-thresholds.flip(0), thresholds])
    return _cumulative(widen(first) - widen(second), grade + len(thresholds), both)


def step_loss(rewards: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of −y·log σ(r) − (1−y)·log σ(−r) over the steps of a row, one loss per row.

    Derivative: dL/dr_t = (σ(r_t) − y_t)/n over the row's n steps.
    Invariance: the order of the steps. σ(r_t) is the probability that step t is right, so a shift changes it.
    Limits: one step and y = 1 is `bradley_terry_loss` against a reward of 0.

    Args:
        rewards: (B, S) in logits, read at the last token of each step; a row without a step gives 0.
        labels: (B, S) y in [0, 1]: 1 right, 0 wrong.
        mask: (B, S) bool, True is a step; behind False anything may stand.
    Source: Lightman et al., arXiv:2305.20050, section 2.6.
    """
    check_rows(mask, rewards=rewards, labels=labels)
    behind = -widen(rewards).masked_fill(~mask, 0.0)
    labels = cast(labels, behind).masked_fill(~mask, 0.0)
    return _mean(mix_labels(softplus, behind, labels).masked_fill(~mask, 0.0), mask)


def _cumulative(x: Tensor, grade: Tensor, thresholds: Tensor) -> Tensor:
    """Return −log(σ(b − x) − σ(a − x)) for the span from a to b of each grade, a tensor of the shape of x.

    As softplus(x − b) + softplus(a − x) − log(1 − e^{a − b}) nothing cancels; it is done in float64.
    """
    if thresholds.dim() != 1:
        raise ValueError(f"thresholds {tuple(thresholds.shape)} must be (number of grades − 1,)")
    end = x.new_full((1,), torch.inf, dtype=torch.float64)
    low = torch.cat([-end, thresholds])[grade.long()]
    high = torch.cat([thresholds, end])[grade.long()]
    above = (x - high).masked_fill(high == torch.inf, -torch.inf)  # an open end costs an infinite x nothing
    below = (low - x).masked_fill(low == -torch.inf, -torch.inf)
    return (softplus(above) + softplus(below) + log_span(high - low)).to(x.dtype)


def _mean(losses: Tensor, mask: Tensor) -> Tensor:
    return losses.sum(1) / mask.sum(1).clamp(min=1)
