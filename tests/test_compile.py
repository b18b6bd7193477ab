"""torch.compile by flag: the same rewards and gradients, from a graph that every batch fits."""

import pytest
import torch

from minirm.models.reward_model import RewardModel
from minirm.models.transformer import compile_mlps
from minirm.tokens.packing import pack
from tests.strategies import ARCHITECTURES
from tests.test_train import some_comparisons


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_compiled_mlps_change_no_reward_and_no_gradient(name):
    torch.manual_seed(0)
    model, batches = RewardModel(ARCHITECTURES[name]), [pack(some_comparisons(n, seed=n)) for n in (3, 8)]

    def rewards_and_gradients():
        for batch in batches:
            model.zero_grad()
            rewards = model(batch)
            rewards.tanh().sum().backward()
            yield rewards.detach(), [p.grad.clone() for p in model.parameters()]

    plain = list(rewards_and_gradients())
    compile_mlps(model)
    for (rewards, gradients), (expected, expected_gradients) in zip(rewards_and_gradients(), plain, strict=True):
        torch.testing.assert_close(rewards, expected)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)
