"""Optimizers and rates against their formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.config import TrainConfig
from minirm.models.reward_model import RewardModel
from minirm.training.optimizers import Lion, build_optimizer, clip_gradients, rate_at
from tests.strategies import ARCHITECTURES


def test_lion_takes_the_steps_of_its_algorithm():
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight = torch.nn.Parameter(start.clone())
    lion = Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.2)
    momentum, expected = torch.zeros(3, dtype=torch.float64), start.clone()
    for gradient in (torch.tensor([1.0, -1.0, 0.0]), torch.tensor([-3.0, 0.2, 0.0]), torch.tensor([0.1, 5.0, -1.0])):
        gradient = gradient.double()
        weight.grad = gradient.clone()
        lion.step()
        update = (0.9 * momentum + 0.1 * gradient).sign()
        expected = expected - 0.1 * (update + 0.2 * expected)
        momentum = 0.99 * momentum + 0.01 * gradient
        torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gru"])
def test_only_matrices_decay(name):
    model = RewardModel(ARCHITECTURES[name])
    groups = build_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for parameter_name, parameter in model.named_parameters():
        spared = parameter.dim() < 2 or "positions" in parameter_name
        assert decay[id(parameter)] == (0.0 if spared else 0.3), parameter_name


def test_the_rate_rises_linearly_then_falls_to_its_last_part():
    config = TrainConfig(learning_rate=1.0, warmup=0.1, final_rate=0.2, schedule="linear")
    rates = [rate_at(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (n + 1) for n in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.2 + 0.8 * 0.5)
    cosine = TrainConfig(learning_rate=1.0, warmup=0.1, final_rate=0.2)
    assert rate_at(55, 100, cosine) == pytest.approx(0.2 + 0.8 * 0.5)
    assert rate_at(99, 100, cosine) == pytest.approx(0.2, abs=1e-3)
    constant = TrainConfig(learning_rate=1.0, warmup=0.0, schedule="constant")
    assert {rate_at(step, 100, constant) for step in range(100)} == {1.0}


@settings(max_examples=50)
@given(
    steps=st.integers(1, 40),
    warmup=st.floats(0, 0.9),
    final_rate=st.floats(0, 0.9),
    schedule=st.sampled_from(["cosine", "linear"]),
)
def test_the_rate_stays_above_its_last_part_which_a_step_after_the_last_reaches(steps, warmup, final_rate, schedule):
    config = TrainConfig(learning_rate=1.0, warmup=warmup, final_rate=final_rate, schedule=schedule)
    rise = math.ceil(warmup * steps)
    assert all(rate_at(step, steps, config) > final_rate for step in range(rise, steps))
    if rise < steps:
        assert rate_at(steps, steps, config) == pytest.approx(final_rate)


def test_clipping_scales_to_the_largest_norm_and_returns_the_norm_before():
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert clip_gradients(model, 1.0).item() == pytest.approx(5.0)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.8]]))
    assert clip_gradients(model, 0.0).item() == pytest.approx(1.0)
