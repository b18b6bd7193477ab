"""Attention over sequences end to end, by the loop that says what the GPU's kernel computes, against tiles."""

from functools import partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.config import ModelConfig
from minirm.models.attention import Attention, segment_attention
from minirm.models.kernels.varlen import Sequences, attend, attend_to_sequences
from minirm.models.reward_model import RewardModel
from minirm.tokens.layout import Layout, lay_out, lay_out_sequences, see_both_ways
from tests.strategies import ARCHITECTURES, packed_for, randomised
from tests.test_layout import forests
from tests.test_train import some_comparisons


def check_same_as_tiles(layout: Layout, heads: int, groups: int, seed: int) -> None:
    """Compare values and gradients, in float64."""
    widths, generator = [heads * 3, groups * 3, groups * 3], torch.Generator().manual_seed(seed)
    projected = torch.randn(layout.tokens_so_far, sum(widths), generator=generator, dtype=torch.float64)
    projected.requires_grad_()
    found = attend(projected, Sequences.of(layout), widths, 3)
    expected = segment_attention(*projected.split(widths, dim=-1), layout.everywhere, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    found, expected = (torch.autograd.grad((weight * result).sum(), projected)[0] for result in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sees", ["back", "both ways"])
@settings(max_examples=40)
@given(
    forest=forests(most_tokens=5),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_unequal_lengths_end_to_end_are_the_same_attention_as_tiles(sees, forest, heads, seed):
    layout = lay_out(*forest)
    check_same_as_tiles(see_both_ways(layout) if sees == "both ways" else layout, *heads, seed)


def test_an_encoder_sees_both_ways_end_to_end_too():
    check_same_as_tiles(lay_out_sequences([2, 1, 4], [3, 6, 2]), 2, 2, 0)
    check_same_as_tiles(lay_out_sequences([1, 1], [1, 1]), 2, 2, 0)


@pytest.mark.parametrize("name", ["gpt2", "llama", "prefix", "bert"])
def test_a_model_that_attends_to_sequences_gives_the_same_rewards_and_makes_no_tiles(name):
    model, batch = randomised(RewardModel(ARCHITECTURES[name])), packed_for(name, some_comparisons(9))
    expected, again = model(batch), packed_for(name, some_comparisons(9))

    def attending(attention: Attention, layout: Layout) -> partial:
        shape = {"widths": attention.widths, "head_width": attention.head_width}
        return partial(attend, sequences=Sequences.of(layout), **shape)

    with (
        patch("minirm.models.kernels.choice.attend_to_sequences", attending),
        patch.object(Layout, "everywhere", property(lambda layout: pytest.fail("tiles are made"))),
    ):
        found = model(again)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_cpu_has_no_such_kernel():
    attention = Attention(ModelConfig(layers=1, width=16, heads=2, vocab_size=300))
    assert attend_to_sequences(attention, lay_out([3], [-1], [0])) is None
