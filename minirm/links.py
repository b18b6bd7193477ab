"""Other functions of the difference of two rewards than −log σ, and labels that are known to be wrong at a rate.

    x = r_c − r_r − m         ℓ(x)             ℓ′(x)                 ℓ″(x)            x → −∞    x → ∞
    bradley_terry_loss        −log σ(x)        −σ(−x)                σ(x)·σ(−x)       −x        e^−x
    probit_loss               −log Φ(x)        −φ(x)/Φ(x)            ℓ′·(ℓ′ − x)      x²/2      φ(x)/x
    hinge_loss                max(0, 1 − x)    −1 below 1, else 0    0                −x        0
    squared_loss              (1 − x)²         −2·(1 − x)            2                x²        x²
    noise_corrected_loss      −log σ(x) and −log σ(−x), so weighed that labels wrong at rate ε give −log σ(x) on average

Φ and φ are the standard normal distribution and its density. Each takes a label that is right with probability p as
p·ℓ(x) + (1−p)·ℓ(−x), stays the same when both rewards shift, and has dL/dr_c = −dL/dr_r = p·ℓ′(x) − (1−p)·ℓ′(−x).
What goes in, what comes out, and what is not finite: as in `losses.py`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minirm.losses import cast, check_number_or_shape, check_probability, check_same_shape, mix_labels, softplus, widen


def probit_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, probability: Tensor | float = 1.0
) -> Tensor:
    """Return −log Φ(x), one loss per pair: what is liked more is liked so with normal noise, not logistic noise.

    Limits: near x = 0 it is Bradley–Terry at 1.6 times the difference; a pair that is wrong by far costs x²/2, with a
    slope of x, so that one wrong label outweighs many others.

    Args:
        chosen, rejected, margin, probability: as in `bradley_terry_loss`; the unit is the noise of a difference.
    Source: Thurstone 1927, case V.
    """
    check_probability(probability, chosen.shape)
    return _pair_loss(_probit, chosen, rejected, margin, probability)


def _probit(behind: Tensor) -> Tensor:
    """In float64, and from x = −1,000 down as its limit x²/2 + log(−x·√2π): there log_ndtr loses its derivative."""
    x = -behind.double()
    far = x.clamp(max=-1e3)
    limit = far.square() / 2 + (-far).log() + math.log(2 * math.pi) / 2
    return torch.where(x < -1e3, limit, -torch.special.log_ndtr(x.clamp(-1e3, 1e3))).to(behind.dtype)


def hinge_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, probability: Tensor | float = 1.0
) -> Tensor:
    """Return max(0, 1 − x), one loss per pair: nothing is learned of a pair that is right by 1 and its margin.

    Limits: it holds no probability, so that its rewards' scale says nothing; at x = 1 exactly the slope is 0.

    Args:
        chosen, rejected, margin, probability: as in `bradley_terry_loss`.
    Source: SLiC-HF, arXiv:2305.10425, its rank calibration, with δ = 1 + m.
    """
    check_probability(probability, chosen.shape)
    return _pair_loss(lambda behind: (1 + behind).relu(), chosen, rejected, margin, probability)


def squared_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, probability: Tensor | float = 1.0
) -> Tensor:
    """Return (1 − x)², one loss per pair: the difference is to be 1 and its margin, neither less nor more.

    Limits: with labels p it is least at x = 2p − 1, finite for p = 1, where Bradley–Terry's rewards part without end. A
    pair that is right by more than 1 is pulled back.

    Args:
        chosen, rejected, margin, probability: as in `bradley_terry_loss`.
    Source: IPO, arXiv:2310.12036, Eq. 17, in units of its 1/(2τ).
    """
    check_probability(probability, chosen.shape)
    return _pair_loss(lambda behind: (1 + behind).square(), chosen, rejected, margin, probability)


def noise_corrected_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    noise: Tensor | float,
    margin: Tensor | float = 0.0,
    probability: Tensor | float = 1.0,
) -> Tensor:
    """Return ((1 − ε)·ℓ(x) − ε·ℓ(−x)) / (1 − 2ε) with ℓ = −log σ, one loss per pair.

    Where a label is turned round with probability ε, its mean over that is ℓ(x) of the true label: unbiased. Smoothing,
    p = 1 − ε in `bradley_terry_loss`, instead fits the noisy labels, and is biased towards small differences.

    Derivative: dL/dr_c = −dL/dr_r = −σ(−x) − ε/(1 − 2ε). It never vanishes.
    Limits: ε = 0 is `bradley_terry_loss`. The loss has no least value: for x → ∞ it falls as −x·ε/(1 − 2ε), so that few
    pairs can be fitted without end; it needs many, or decay, or an early stop. A label p counts as (p − ε)/(1 − 2ε).

    Args:
        chosen, rejected, margin, probability: as in `bradley_terry_loss`.
        noise: ε, a number or (B,), in [0, ½).
    Source: Chowdhury et al., arXiv:2403.00409, robust DPO; Natarajan et al. 2013.
    """
    check_number_or_shape("noise", noise, chosen.shape)
    if isinstance(noise, float | int) and not 0 <= noise < 0.5:
        raise ValueError(f"noise={noise} must be in [0, 0.5)")
    check_probability(probability, chosen.shape)
    one = torch.ones_like(chosen, dtype=torch.float64)  # labels of half precision are corrected in full
    return _pair_loss(softplus, chosen, rejected, margin, (one * probability - noise) / (one - 2 * one * noise))


def _pair_loss(
    link: Callable[[Tensor], Tensor],
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | float,
    probability: Tensor | float,
) -> Tensor:
    """Return p·link(−x) + (1−p)·link(x), where `link` takes how far the better one lies behind; p of any size."""
    check_same_shape(chosen=chosen, rejected=rejected)
    check_number_or_shape("margin", margin, chosen.shape)
    behind = widen(rejected) - widen(chosen)
    behind = behind + cast(margin, behind)
    return mix_labels(link, behind, cast(probability, behind))
