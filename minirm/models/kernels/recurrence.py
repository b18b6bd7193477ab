"""GRU and LSTM over packed steps, forward and backward written out.

A level's tokens lie step by step: the first tokens of all its segments (longest first), then the second ones, and so
on. What comes from the inputs, x = W_ih·input + b_ih, is one product for all of them; only what comes from the step
before must wait for it. With each gate's own part of x, W and b:

    GRU     r, z = σ(x + h·W + b)    n = tanh(x + r·(h·W + b))    h ← n + z·(h − n)
    LSTM    i, f, o = σ(x + h·W)     g = tanh(x + h·W)            c ← f·c + i·g       h ← o·tanh(c)

Backward is a loop too, over d, the gradient of h. The factors by which d reaches each gate depend on the forward pass
alone, so they are computed for all tokens at once (`passes`), and the gradient of W is one product in the end.

`nn.GRU` gives the same, but on a CPU each step of its backward pass through a PackedSequence fills a gradient of the
size of all inputs, so that its time grows with the square of their length. On a GPU it is cuDNN's, and is used.
Sources: arXiv:1406.1078; Hochreiter and Schmidhuber 1997, in PyTorch's arrangement.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.utils.rnn import PackedSequence

from minirm.models.kernels.rows import take_rows

Recurrence = nn.GRU | nn.LSTM
Memory = tuple[Tensor, ...]
"""A GRU's h, or an LSTM's h and c."""


def project_inputs(network: Recurrence, x: Tensor) -> Tensor:
    """Return what `run_level` wants of x (M, D): on a CPU, what all gates get from it, (M, gates·D)."""
    if x.is_cuda:
        return x
    bias = network.bias_ih_l0 if isinstance(network, nn.GRU) else network.bias_ih_l0 + network.bias_hh_l0
    return F.linear(x, network.weight_ih_l0, bias)


def run_level(network: Recurrence, inputs: Tensor, start: Memory, steps: Tensor) -> tuple[Tensor, Memory]:
    """Run n segments side by side.

    Args:
        network: of one layer; its weights are used.
        inputs: (m, ·) what `project_inputs` returned of the level's tokens, step by step.
        start: the memory that each segment begins with, (n, D) each.
        steps: (R,) on the host: how many segments reach each step; they never become more.
    Returns:
        h after every token, (m, D), and the memory after each segment's last one, (n, D) each.
    """
    if inputs.is_cuda:
        return by_pytorch(network, inputs, start, steps)
    weight, bias, last = network.weight_hh_l0, network.bias_hh_l0, _last_tokens(steps)
    if isinstance(network, nn.GRU):
        after = (GruSteps.apply(inputs, *start, weight, bias, steps),)
    else:
        after = LstmSteps.apply(inputs, *start, weight, steps)
    return after[0], tuple(take_rows(part, last) for part in after)


def by_pytorch(network: Recurrence, x: Tensor, start: Memory, steps: Tensor) -> tuple[Tensor, Memory]:
    """Return what `run_level` returns, by the network's own forward pass, of its inputs x (m, D) themselves."""
    network.train(torch.is_grad_enabled())  # cuDNN then keeps what a backward pass needs; one layer drops nothing
    first = tuple(part[None] for part in start)
    output, ends = network(PackedSequence(x, steps), first if len(first) == 2 else first[0])
    return output.data, tuple(end[0] for end in (ends if len(first) == 2 else (ends,)))


class GruSteps(torch.autograd.Function):
    """h after every token, (m, D), of x (m, 3·D) in the order r, z, n, and h before the first, (n, D)."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: FunctionCtx, x: Tensor, start: Tensor, weight: Tensor, bias: Tensor, steps: Tensor) -> Tensor:
        sizes, width = steps.tolist(), start.shape[1]
        inner, gates, states = torch.empty_like(x), torch.empty_like(x), x.new_empty(len(x), width)
        (x_rz, x_n), (h_rz, h_n) = (part.split([2 * width, width], dim=1) for part in (x, inner))
        r, z, n = gates.chunk(3, dim=1)
        columns = (x_rz, x_n, inner, h_rz, h_n, gates[:, : 2 * width], z, r, n, states)  # views, made once
        h, transposed = start, weight.t()
        for x_rz, x_n, h_all, h_rz, h_n, rz, z, r, n, new in zip(*(c.split(sizes) for c in columns), strict=True):
            h = h[: len(new)]
            torch.addmm(bias, h, transposed, out=h_all)
            torch.add(x_rz, h_rz, out=rz).sigmoid_()
            torch.addcmul(x_n, r, h_n, out=n).tanh_()
            h = torch.lerp(n, h, z, out=new)
        ctx.save_for_backward(inner[:, 2 * width :], gates, states, start, weight, steps)
        return states

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple:
        h_n, gates, states, start, weight, steps = ctx.saved_tensors
        before = _before(start, states, steps)
        r, z, n = gates.chunk(3, dim=1)
        to_n = (1 - z) * (1 - n * n)
        passes = torch.stack([to_n * h_n * r * (1 - r), (before - n) * z * (1 - z), to_n * r], dim=1)  # (m, 3, D)
        sizes, d, inner, carried = steps.tolist(), gradient.clone(), torch.empty_like(passes), start[:0]
        rows = zip(*(part.split(sizes) for part in (d, passes, inner, z)), strict=True)
        for d_here, passes_here, inner_here, z_here in reversed(list(rows)):
            d_here[: len(carried)] += carried
            torch.mul(d_here[:, None], passes_here, out=inner_here)
            carried = torch.addmm(d_here * z_here, inner_here.flatten(1), weight)
        outer, inner = torch.cat([inner[:, :2], (d * to_n)[:, None]], dim=1).flatten(1), inner.flatten(1)
        return outer, carried, inner.t() @ before, inner.sum(0), None


class LstmSteps(torch.autograd.Function):
    """h and c after every token, (m, D) each, of x (m, 4·D) in the order i, f, g, o, and of h and c before, (n, D)."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: FunctionCtx, x: Tensor, start: Tensor, cell: Tensor, weight: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        sizes, width = steps.tolist(), start.shape[1]
        gates, (states, cells, bounded) = torch.empty_like(x), x.new_empty(3, len(x), width)
        columns = (x, gates, gates[:, : 2 * width], *gates.chunk(4, dim=1), cells, bounded, states)
        h, c, transposed = start, cell, weight.t()
        for x_all, all_gates, i_f, i, f, g, o, new_c, tanh_c, new_h in zip(
            *(column.split(sizes) for column in columns), strict=True
        ):
            torch.addmm(x_all, h[: len(x_all)], transposed, out=all_gates)
            i_f.sigmoid_(), g.tanh_(), o.sigmoid_()
            c = torch.mul(f, c[: len(f)], out=new_c).addcmul_(i, g)
            h = torch.mul(o, torch.tanh(c, out=tanh_c), out=new_h)
        ctx.save_for_backward(gates, states, cells, bounded, start, cell, weight, steps)
        return states, cells

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: FunctionCtx, gradient: Tensor, cell_gradient: Tensor) -> tuple:
        gates, states, cells, bounded, start, cell, weight, steps = ctx.saved_tensors
        i, f, g, o = gates.chunk(4, dim=1)
        c_before = _before(cell, cells, steps)
        to_c, to_o = o * (1 - bounded * bounded), bounded * o * (1 - o)
        passes = torch.stack([g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g)], dim=1)  # (m, 3, D)
        d, d_c, carried, carried_c = gradient.clone(), cell_gradient.clone(), start[:0], cell[:0]
        inner = torch.empty_like(gates).unflatten(1, (4, -1))
        columns = (d, d_c, to_c, to_o, passes, f, inner, inner[:, :3], inner[:, 3])
        rows = zip(*(column.split(steps.tolist()) for column in columns), strict=True)
        for d_here, dc_here, to_c_here, to_o_here, passes_here, f_here, inner_here, i_f_g, o_here in reversed(
            list(rows)
        ):
            d_here[: len(carried)] += carried
            dc_here[: len(carried)] += carried_c
            dc_here.addcmul_(d_here, to_c_here)
            torch.mul(dc_here[:, None], passes_here, out=i_f_g)
            torch.mul(d_here, to_o_here, out=o_here)
            carried, carried_c = inner_here.flatten(1) @ weight, dc_here * f_here
        inner = inner.flatten(1)
        return inner, carried, carried_c, inner.t() @ _before(start, states, steps), None


def _before(start: Tensor, after: Tensor, steps: Tensor) -> Tensor:
    """Return (m, D) what each token began with: the start (n, D), or what stood after the token before it (m, D)."""
    ahead = torch.cat([steps[:1], steps[:-1]])  # how far back the token before it lies
    return take_rows(torch.cat([start, after]), torch.arange(len(after)) + len(start) - ahead.repeat_interleave(steps))


def _last_tokens(steps: Tensor) -> Tensor:
    """Return (n,) where each segment's last token lies, step by step."""
    segment = torch.arange(int(steps[0]))
    lengths = (steps > segment[:, None]).sum(1)
    return steps.cumsum(0)[lengths - 1] - steps[lengths - 1] + segment
