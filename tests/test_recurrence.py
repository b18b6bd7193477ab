"""GRU and LSTM by hand: the same values and gradients as PyTorch's own, whatever the lengths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minirm.models.kernels.recurrence import by_pytorch, project_inputs, run_level

NETWORKS = pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def a_level(kind: type[nn.Module], lengths: list[int], width: int = 3):
    """Return a float64 network, inputs (m, D), the memory that each segment starts from, and steps."""
    torch.manual_seed(0)
    steps = torch.tensor([sum(length > step for length in lengths) for step in range(max(lengths))])
    parts = 1 if kind is nn.GRU else 2
    x = torch.randn(sum(lengths), width, dtype=torch.float64, requires_grad=True)
    start = tuple(torch.randn(len(lengths), width, dtype=torch.float64, requires_grad=True) for _ in range(parts))
    return kind(width, width).double(), x, start, steps


def by_hand(network, x, start, steps):
    return run_level(network, project_inputs(network, x), start, steps)


@NETWORKS
@given(lengths=LENGTHS)
def test_states_and_all_gradients_are_those_of_pytorch(kind, lengths):
    network, x, start, steps = a_level(kind, lengths)
    found = []
    for run in (by_hand, by_pytorch):
        states, ends = run(network, x, start, steps)
        weighted = [(part * torch.arange(1.0, part.numel() + 1).view_as(part)).sum() for part in (states, *ends)]
        gradients = torch.autograd.grad(sum(weighted), [x, *start, *network.parameters()])
        found.append([states, *ends, *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@NETWORKS
def test_gradients_are_those_of_finite_differences(kind):
    network, x, start, steps = a_level(kind, [3, 2, 2], width=2)
    inputs = [project_inputs(network, x).detach().requires_grad_(), *start]

    def of(inputs, *start):
        states, ends = run_level(network, inputs, start, steps)
        return states, *ends

    assert torch.autograd.gradcheck(of, inputs)


@NETWORKS
def test_under_bfloat16_only_what_comes_from_the_inputs_is_rounded(kind):
    network, x, start, steps = a_level(kind, [5, 3], width=8)
    network, x, start = network.float(), x.float(), tuple(part.float() for part in start)
    exact, _ = by_hand(network, x, start, steps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, _ = by_hand(network, x, start, steps)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.02, atol=0.02)
    low.sum().backward()
    assert network.weight_hh_l0.grad.dtype == torch.float32
