"""What happens between a reward model and the trainer of a policy, after Llama 2 (arXiv:2307.09288, section 3.2.3).

R_c = R_s if the prompt is marked safety or R_s < 0.15, else R_h        select_reward
R̂_c = whiten(logit(R_c))                                                logit, whiten
R   = R̂_c − β·KL(π ‖ π_0)                                               kl_penalty

What is not finite: nothing is refused for it. NaN gives NaN; ±∞ is handed on where it counts alone, and gives NaN where
it is averaged or taken from itself. Anything may stand behind a mask.
"""

import math
import sys

import torch
from torch import Tensor


def select_reward(
    safety: Tensor | float, helpfulness: Tensor | float, is_safety_prompt: Tensor | bool, threshold: float = 0.15
) -> Tensor | float:
    """Return the safety reward where the prompt asks for it or the answer is unsafe, the helpfulness reward elsewhere.

    Args:
        safety, helpfulness: rewards as probabilities in (0, 1), numbers or tensors of one shape.
        is_safety_prompt: bool of that shape, True where the prompt is marked as one that may draw an unsafe answer.
        threshold: a safety reward strictly below it decides by itself.
    Returns:
        a number for numbers, a tensor of that shape for tensors.
    Source: Llama 2, arXiv:2307.09288, section 3.2.3, R_c and its 0.15.
    """
    unsafe = ~(safety >= threshold) if isinstance(safety, Tensor) else not safety >= threshold  # NaN is not safe
    if isinstance(unsafe, bool):
        return safety if is_safety_prompt or unsafe else helpfulness
    return torch.where(torch.as_tensor(is_safety_prompt, device=unsafe.device) | unsafe, safety, helpfulness)


def logit(probability: Tensor | float) -> Tensor | float:
    """Return log(p / (1−p)), the inverse of the sigmoid.

    What is nearer to 0 or 1 than any normal number inside (0, 1) counts as the nearest of them: a sigmoid in low
    precision readily gives an exact 0 or 1, and one sure answer should not make the whole batch infinite. In float32
    the result lies between −87.3 and 16.6.

    Args:
        probability: a number or a tensor of any shape, in [0, 1]; a tensor's values outside give NaN.
    Returns:
        the same shape, in logits; float32 for half precision.
    Raises:
        ValueError: a number is outside [0, 1].
    Source: Llama 2, arXiv:2307.09288, section 3.2.3, LOGIT.
    """
    if not isinstance(probability, Tensor):
        if probability < 0 or probability > 1:
            raise ValueError(f"probability={probability} must be in [0, 1]")
        inside = min(max(probability, sys.float_info.min), 1 - sys.float_info.epsilon / 2)
        return math.log(inside) - math.log1p(-inside)
    p = _widen(probability)
    limits = torch.finfo(p.dtype)
    inside = p.clamp(limits.tiny, 1 - limits.eps / 2)
    return (inside.log() - (-inside).log1p()).masked_fill((p < 0) | (p > 1), torch.nan)


def whiten(values: Tensor, mask: Tensor | None = None, keep_mean: bool = False) -> Tensor:
    """Return (x − mean) / √(var + 1e-8), over all real values together; plus the mean again where it is to be kept.

    Args:
        values: any shape.
        mask: bool of that shape, True is real; None is all real. What stands behind False changes nothing.
        keep_mean: True scales the spread to 1 and leaves the mean; False moves the mean to 0.
    Returns:
        the same shape, float32 for half precision, 0 where masked. One value alone, or equal ones, have no spread: 0,
        or the mean.
    Raises:
        ValueError: the shapes differ, or `mask` is not bool.
    Source: Llama 2, arXiv:2307.09288, section 3.2.3, WHITEN; the variance is that of a sample, Σ(x − mean)² / (n − 1).
    """
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    _check_mask(mask, values)
    x = values.double()  # whose squares do not overflow
    highest = x.detach().masked_fill(~mask, -torch.inf).amax().masked_fill(~mask.any(), 0.0)
    x = (x - highest).masked_fill(~mask, 0.0)  # equal values are 0 now, whatever their mean rounds to
    count = mask.sum()
    mean = x.sum() / count.clamp(min=1)
    deviation = (x - mean).masked_fill(~mask, 0.0)
    variance = deviation.square().sum() / (count - 1).clamp(min=1)
    whitened = deviation * torch.rsqrt(variance + 1e-8)
    kept = (whitened + (highest + mean)).masked_fill(~mask, 0.0) if keep_mean else whitened
    return kept.to(_widen(values).dtype)


def kl_penalty(log_prob: Tensor, reference_log_prob: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return Σ_t log π(a_t) − log π_0(a_t) over the tokens of each response, the KL term of R = R̂ − β·KL(π ‖ π_0).

    It is an estimate from the one response that was drawn from π: right on average over responses, while a single one
    may be negative. Its sign is KL's own: positive where π prefers its response more than the reference does.

    Args:
        log_prob, reference_log_prob: (…, T) log-probabilities of the tokens that were drawn, in nats.
        mask: (…, T) bool, True for the tokens of the response; None is all.
    Returns:
        (…) nats per response; float32 for half precision.
    Raises:
        ValueError: the shapes differ, or `mask` is not bool.
    Source: Llama 2, arXiv:2307.09288, section 3.2.3; Ziegler et al. 2019, arXiv:1909.08593, Eq. 2.
    """
    if log_prob.shape != reference_log_prob.shape:
        raise ValueError(
            f"shapes must be equal: log_prob {tuple(log_prob.shape)}, "
            f"reference_log_prob {tuple(reference_log_prob.shape)}"
        )
    log_ratio = _widen(log_prob) - _widen(reference_log_prob)
    if mask is None:
        return log_ratio.sum(-1)
    _check_mask(mask, log_ratio)
    return log_ratio.masked_fill(~mask, 0.0).sum(-1)


def _widen(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_mask(mask: Tensor, values: Tensor) -> None:
    if mask.shape != values.shape or mask.dtype != torch.bool:
        raise ValueError(f"mask {tuple(mask.shape)} {mask.dtype} must be {tuple(values.shape)} torch.bool")
