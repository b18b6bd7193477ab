"""What a contestant costs: parameters, floating-point operations, time in training and in scoring, memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.architectures.contestants import Contestant
from bench.memory import peak_bytes
from bench.timing import Spread, interleaved, spread
from minirm.config import ModelConfig, TrainConfig
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, PackedBatch
from minirm.training.optimizers import build_optimizer, clip_gradients


@dataclass(frozen=True)
class Cost:
    """What one comparison of the sample costs."""

    width: int
    parameters: int
    """Without embeddings of tokens and positions."""
    flops: float
    """Multiplications and additions of the matrix products of one forward pass, per comparison, as they are computed:
    padding and repeated prompts count."""
    training: Spread
    """Seconds per comparison: forward, backward, optimizer step."""
    scoring: Spread
    """Seconds per comparison."""
    peak_bytes: int
    """The most that one training step on the longest of the batches allocates at once."""


def parameters(contestant: Contestant, config: ModelConfig) -> int:
    """Return the number of weights that work on every token: without embeddings of tokens and positions."""
    return weights_of(contestant.reward_model(config))


def weights_of(model: RewardModel) -> int:
    """Return the number of a model's weights without embeddings of tokens and positions."""
    embedding = model.backbone.embedding.weight
    return sum(p.numel() for name, p in model.named_parameters() if p is not embedding and "positions" not in name)


def flops(contestant: Contestant, config: ModelConfig, sample: Sequence[Sequence[Encoded]]) -> float:
    """Return the floating-point operations of scoring, per comparison of the sample's batches."""
    model = contestant.reward_model(config).eval()
    with torch.no_grad(), _plain_kernels(), FlopCounterMode(display=False) as counter:
        for batch in sample:
            model(contestant.pack(batch))
    return counter.get_total_flops() / sum(map(len, sample))


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Compute without the CPU's fused attention and fused LSTM, which the counter does not know."""
    fused, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mkldnn.enabled = fused


Sample = Sequence[Sequence[Encoded]]
"""Batches of texts."""


def measure(
    shapes: dict[str, tuple[Contestant, ModelConfig, Sample, Sample]], comparisons: int, rounds: int
) -> dict[str, Cost]:
    """Return the costs of contestants, timed against one another.

    Args:
        shapes: by name the contestant, its shape, and batches of the same texts as it is trained on, and as it scores.
        comparisons: how many the batches hold, before any contestant cut them into pairs.
        rounds: how often each is timed.
    """
    models, batches, scored = {}, {}, {}
    for name, (contestant, config, to_train, to_score) in shapes.items():
        models[name] = contestant.reward_model(config)
        batches[name] = [contestant.pack(batch) for batch in to_train]
        scored[name] = [contestant.pack(batch) for batch in to_score]
    steps = {name: _training(contestant, models[name], batches[name]) for name, (contestant, *_) in shapes.items()}
    training = interleaved(steps, rounds)
    scoring = interleaved({name: _scoring(models[name], scored[name]) for name in shapes}, rounds)
    costs = {}
    for name, (contestant, config, _, sample) in shapes.items():
        costs[name] = Cost(
            models[name].config.width,
            weights_of(models[name]),
            flops(contestant, config, sample),
            spread(np.array(training[name]) / comparisons),
            spread(np.array(scoring[name]) / comparisons),
            peak_bytes(_training(contestant, models[name], batches[name][-1:]), "cpu"),
        )
    return costs


def _training(contestant: Contestant, model: RewardModel, batches: Sequence[PackedBatch]) -> Callable[[], None]:
    config = TrainConfig()
    objective, optimizer = contestant.objective(config), build_optimizer(model, config)

    def train() -> None:
        model.train()
        for batch in batches:
            objective(model, batch).loss.backward()
            clip_gradients(model, config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return train


def _scoring(model: RewardModel, batches: Sequence[PackedBatch]) -> Callable[[], None]:
    @torch.inference_mode()
    def score() -> None:
        model.eval()
        for batch in batches:
            model(batch)

    return score


def matched_width(
    contestant: Contestant, config: ModelConfig, reference: Contestant, match: str, sample: Sequence[Sequence[Encoded]]
) -> int:
    """Return the width at which a contestant has as many parameters, or operations, as the reference at `config`.

    Widths are multiples of 2·heads; the nearest one is taken. Both measures grow with the width, so it is found by
    halving.

    Args:
        match: "parameters" or "flops".
    """

    def amount(who: Contestant, width: int) -> float:
        shape = replace(config, width=width)
        return parameters(who, shape) if match == "parameters" else flops(who, shape, sample)

    wanted, step = amount(reference, config.width), 2 * config.heads
    low, high = 1, 8 * -(-config.width // step)  # in steps
    while low < high:
        middle = (low + high) // 2
        if amount(contestant, middle * step) < wanted:
            low = middle + 1
        else:
            high = middle
    candidates = [width for width in (low - 1, low) if width > 0]
    return step * min(candidates, key=lambda width: abs(amount(contestant, width * step) - wanted))
