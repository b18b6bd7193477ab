"""Optimizers by name, and how their rate moves."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from minirm.config import TrainConfig
from minirm.training.parallel import whole


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return what learns, by name: adapters and head where there are adapters, else everything."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Lion(torch.optim.Optimizer):
    """Steps of one size for every weight, along the sign of a momentum. Source: arXiv:2302.06675, Alg. 2."""

    def __init__(self, parameters: Iterable, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Take one step; a closure is not called, as no caller here has one."""
        for group in self.param_groups:
            fast, slow = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                direction = momentum.lerp(parameter.grad, 1 - fast).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - slow)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of what learns; only matrices decay, and learned positions don't."""
    matrices, rest = [], []
    for name, parameter in trained_weights(model).items():
        decays = parameter.dim() >= 2 and "positions" not in name
        (matrices if decays else rest).append(parameter)
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    everything = [*matrices, *rest]
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
        case "adam":
            return torch.optim.Adam(everything, lr=config.learning_rate, betas=config.betas, fused=True)
        case "sgd":
            return torch.optim.SGD(everything, lr=config.learning_rate, momentum=0.9)
        case "lion":
            return Lion(groups, config.learning_rate, config.betas, config.weight_decay)


def rate_at(step: int, steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0, of `steps` in all."""
    warmup = math.ceil(config.warmup * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)  # in [0, 1)
    fall = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}[config.schedule]
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)


@torch.no_grad()
def clip_gradients(model: nn.Module, largest: float) -> Tensor:
    """Scale the gradients so that their norm is at most `largest` (0: leave them), and return the norm before, ()."""
    return whole(nn.utils.clip_grad_norm_(model.parameters(), largest if largest > 0 else math.inf))
