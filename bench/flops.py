"""How much arithmetic the exact reward needs, and how fast this machine multiplies matrices."""

import time
from collections.abc import Iterable, Sequence

import torch

from bench.timing import wait_for_gpu
from minirm.config import ModelConfig
from minirm.tokens.packing import Encoded

SHAPES = ((2048, 2048, 2048), (4096, 1024, 1024), (4096, 256, 1024), (4096, 1024, 256), (8192, 512, 2048))
"""(rows, inner, columns) of the matrix products tried: large squares, and those of a backbone."""
GPU_SHAPES = ((8192, 8192, 8192), (16384, 4096, 4096), (16384, 768, 3072))


def useful_flops(
    config: ModelConfig, batch: Iterable[Encoded], *, backward: bool = True, attention: bool = True
) -> int:
    """Return the floating-point operations in the matrix products that exact rewards need.

    Real tokens only, a prompt once for all its responses, causal attention by the keys that a token sees, and the final
    layer only where a reward is read: its queries meet hidden states, or, where positions turn keys (llama), the keys
    and values of all tokens. A product of (m, k) and (k, n) counts 2·m·k·n; norms, activations and softmax count
    nothing. The backward pass needs two products for each one of the forward pass. Without `attention`, its two
    products (q·kᵀ and weights·v) count nothing.
    """
    total, per_key = 0, 4 * config.width * attention
    turns = config.style == "llama"
    for encoded in batch:
        prompt = len(encoded.prompt)
        lengths = [len(response) for response in encoded.responses]
        tokens = prompt + sum(lengths)
        seen = _triangle(prompt) + sum(prompt * length + _triangle(length) for length in lengths)
        read = sum(prompt + length for length in lengths)
        total += (config.layers - 1) * (tokens * (_keys_values(config) + _rest(config)) + per_key * seen)
        if turns:
            total += tokens * _keys_values(config) + per_key * read
        else:  # each head of a read meets the two matrices once, and states of width D instead of keys of width C
            total += len(lengths) * 4 * config.width**2 + per_key * config.heads * read
        total += len(lengths) * _rest(config)
        total += len(lengths) * 2 * config.width  # the head
    return total * (3 if backward else 1)


def flops_of_rows(config: ModelConfig, lengths: Iterable[int], *, backward: bool = True) -> int:
    """Return the same for rows of these lengths, each read for itself without a pad, every layer at every token."""
    total = 0
    for length in lengths:
        total += config.layers * (
            length * (_keys_values(config) + _rest(config)) + 4 * config.width * _triangle(length)
        )
        total += 2 * config.width  # the head
    return total * (3 if backward else 1)


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def _keys_values(config: ModelConfig) -> int:
    return 2 * config.width * 2 * config.key_value_heads * config.head_width


def _rest(config: ModelConfig) -> int:
    """Queries, the attention's output projection and the MLP, per token."""
    matrices = 3 if config.style == "llama" else 2
    return 2 * config.width * (2 * config.width + matrices * config.inner_width)


def best_matrix_rate(
    dtype: torch.dtype, device: str = "cpu", seconds: float = 0.05, shapes: Sequence[tuple[int, int, int]] = SHAPES
) -> float:
    """Return the FLOP/s of the fastest of some shapes, each repeated for at least so many seconds."""
    return max(_rate(*shape, dtype, device, seconds) for shape in shapes)


def _rate(rows: int, inner: int, columns: int, dtype: torch.dtype, device: str, at_least: float) -> float:
    a = torch.randn(rows, inner, dtype=dtype, device=device)
    b = torch.randn(inner, columns, dtype=dtype, device=device)
    out = a @ b
    calls, spent = 1, 0.0
    while spent < at_least:  # once more with twice the calls until that takes long enough
        calls *= 2
        wait_for_gpu()
        began = time.perf_counter()
        for _ in range(calls):
            torch.mm(a, b, out=out)
        wait_for_gpu()
        spent = time.perf_counter() - began
    return 2 * rows * inner * columns * calls / spent
