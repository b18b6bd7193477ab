"""Attention in strips against PyTorch's kernel over the same tiles: values, gradients, and when it serves."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.config import ModelConfig
from minirm.models.attention import segment_attention
from minirm.models.kernels.strips import MOST_KEYS, StripAttention, Strips, attend_in_strips, cut_into_strips, pay
from minirm.models.reward_model import RewardModel
from minirm.tokens.layout import Layout, Tiles, lay_out, lay_out_sequences
from tests.strategies import ARCHITECTURES, encoded_batches, packed_for, randomised

FORKED = lay_out([3, 5, 2, 9, 4], [-1, 0, 0, 0, -1], [1, 2, 3, 4])
ROWS = lay_out_sequences([2, 1, 4], [3, 6, 2])


def projections(layout: Layout, heads: int, groups: int, head_width: int, seed: int = 0) -> torch.Tensor:
    """Return random queries, keys and values (M, (H + 2·G)·C) in float64."""
    generator, size = torch.Generator().manual_seed(seed), (heads + 2 * groups) * head_width
    return torch.randn(layout.tokens_so_far, size, generator=generator, dtype=torch.float64, requires_grad=True)


def by_kernel(projected: torch.Tensor, tiles: Tiles, heads: int, groups: int, head_width: int) -> torch.Tensor:
    """Return the same attention by its slow twin."""
    widths = [heads * head_width, groups * head_width, groups * head_width]
    return segment_attention(*projected.split(widths, dim=-1), tiles, head_width)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.lists(st.integers(1, 12), max_size=4)), min_size=1, max_size=4),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (6, 3), (3, 1)]),
    most_queries=st.integers(1, 8),
    both_ways=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_strips_give_the_values_and_gradients_of_the_kernel(lengths, heads, most_queries, both_ways, seed):
    sizes, parents = [], []
    for prompt, responses in lengths:
        sizes, parents = [*sizes, prompt], [*parents, -1]
        parents += [len(sizes) - 1] * len(responses)
        sizes += responses
    layout = lay_out_sequences(sizes, sizes[::-1]) if both_ways else lay_out(sizes, parents, [0])
    shape = (*heads, 3)
    projected = projections(layout, *shape, seed=seed)
    with patch("minirm.models.kernels.strips.MOST_QUERIES", most_queries):
        fast = StripAttention.apply(projected, cut_into_strips(layout.everywhere, *shape))
    slow = by_kernel(projected, layout.everywhere, *shape)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fast, slow = (torch.autograd.grad((weight * result).sum(), projected)[0] for result in (fast, slow))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [FORKED, ROWS], ids=["decoder", "encoder"])
@pytest.mark.parametrize("most_queries", [3, 128])
def test_the_gradient_written_out_is_the_numerical_one(layout, most_queries):
    with patch("minirm.models.kernels.strips.MOST_QUERIES", most_queries):
        strips = cut_into_strips(layout.everywhere, 2, 1, 3)
    assert torch.autograd.gradcheck(StripAttention.apply, (projections(layout, 2, 1, 3), strips))


def test_a_strip_has_at_most_so_many_queries_of_a_segment_and_reaches_no_further_than_they_see():
    [tile] = lay_out([300], [-1], [0]).everywhere.tiles
    strips = cut_into_strips(Tiles((tile,), torch.arange(300)), 2, 2, 4).strips
    assert [strip.seen for strip in strips] == [100, 200, 300]  # three times 100, not 128, 128 and 44
    assert [strip.sure for strip in strips] == [1, 101, 201]
    assert [strip.last for strip in strips] == [False, False, True]
    assert [(strip.queries.stop - strip.queries.start) // 2 for strip in strips] == [100] * 3
    assert [strip.hidden.shape for strip in strips] == [(1, 1, 100, 99)] * 3


def test_every_query_of_every_head_lies_in_one_strip():
    strips = cut_into_strips(FORKED.everywhere, 3, 3, 2)
    assert [s.queries.start for s in strips.strips[1:]] == [s.queries.stop for s in strips.strips[:-1]]
    assert strips.strips[-1].queries.stop == strips.sizes[0] and sum(strips.sizes) == len(strips.rows)
    assert len(set(strips.slots.tolist())) == len(strips.slots) == 3 * FORKED.tokens_so_far


@pytest.mark.parametrize("layout", [FORKED, ROWS], ids=["decoder", "encoder"])
def test_weights_are_kept_for_a_gradient_alone(layout):
    strips = cut_into_strips(layout.everywhere, 2, 2, 3)
    projected = projections(layout, 2, 2, 3)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        with torch.no_grad():
            StripAttention.apply(projected, strips)
        StripAttention.apply(projected.detach(), strips)
        assert not kept
        StripAttention.apply(projected, strips)
    assert len(kept) == 1 + len(strips.strips)
    refusing = SimpleNamespace(needs_input_grad=(False, False))  # autograd itself would drop what is saved for nothing
    StripAttention.forward(refusing, projected.detach(), strips)


def test_under_autocast_strips_compute_in_float32():
    strips = cut_into_strips(FORKED.everywhere, 2, 2, 4)
    projected = projections(FORKED, 2, 2, 4).detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = StripAttention.apply(projected, strips)
    assert found.dtype == torch.float32
    found.square().sum().backward()
    exact = projected.detach().double().requires_grad_()
    expected = by_kernel(exact, FORKED.everywhere, 2, 2, 4)
    expected.square().sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(projected.grad.double(), exact.grad, rtol=2**-7, atol=1e-4)  # rounded to bfloat16 once


def test_strips_serve_on_a_cpu_where_there_is_work_and_no_path_is_very_long():
    long = lay_out([MOST_KEYS + 1], [-1], [0]).everywhere
    assert pay(lay_out([MOST_KEYS], [-1], [0]).everywhere)
    assert (
        not pay(long) and not pay(FORKED.everywhere) and not pay(lay_out([MOST_KEYS], [-1], [0]).to("meta").everywhere)
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "prefix", "bert"])
@settings(max_examples=5)
@given(batch=encoded_batches())
def test_a_transformer_takes_strips_where_they_pay_and_no_weights_are_dropped(name, batch):
    config = ARCHITECTURES[name]
    model, packed = randomised(RewardModel(config)), packed_for(name, batch)
    with (
        patch("minirm.models.kernels.strips.LEAST_WORK", 0),
        patch.object(StripAttention, "apply", wraps=StripAttention.apply) as used,
    ):
        model(packed)
    assert used.call_count == config.layers - 1  # the last one is read at the reads alone
    assert all(isinstance(call.args[1], Strips) for call in used.call_args_list)


def test_dropped_weights_are_left_to_the_kernel():
    config = ModelConfig(style="bert", layers=2, width=8, heads=2, vocab_size=300, dropout=0.5)
    model = RewardModel(config)
    with patch("minirm.models.kernels.strips.LEAST_WORK", 0):
        attention, tiles = model.backbone.blocks[0].attention, ROWS.everywhere
        assert attend_in_strips(attention.train(), tiles) is None
        assert attend_in_strips(attention.eval(), tiles) is not None
