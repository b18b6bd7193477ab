"""python -m bench plan: what a training will take: memory of each GPU, bytes between them, seconds.

A formula, from how minirm trains (float32 weights, AdamW, FSDP2 by blocks, activations of packed tokens), and held
against a CPU by --check: by how much a step raised the resident memory of 1, 2 and 4 processes.
"""

import argparse
import math
import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

FLOAT = 4
"""Bytes of a number: weights, gradients and what is sent are float32."""
LIKE_LLAMA = 128
"""Width for each layer, where only the number of parameters is given."""


@dataclass(frozen=True)
class Shape:
    """A transformer: layers of `block` parameters, and what is outside of them."""

    layers: int
    width: int
    block: int
    outside: int  # embedding, last norm and head

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.block + self.outside


def shape_of(parameters: float, vocabulary: int = 32_768) -> Shape:
    """Return a shape of about so many parameters: 12·D² in each of D / 128 layers."""
    width = 128 * max(1, round((parameters * LIKE_LLAMA / 12) ** (1 / 3) / 128))
    block, outside = 12 * width**2, vocabulary * width
    return Shape(max(1, round((parameters - outside) / block)), width, block, outside)


WORK = 30.0
"""What one block computes anew in the backward pass, and its gradients, in widths for each token: some 16 that autograd
keeps, of which the MLP's hidden layer is 8, and the gradients of those; measured on one process and 3,072 tokens."""


def memory(shape: Shape, ranks: int, tokens: int) -> dict[str, float]:
    """Return the bytes of each of so many ranks at their peak, in the backward pass, by what they hold.

    The weights of the best evaluation are kept beside those that learn. With gradient checkpointing, each block keeps
    its input until its gradient takes the place: when the backward pass begins, all inputs are there; when it ends, all
    gradients. The larger one counts, and what one block computes anew. FSDP2 holds whole what computes just now, and
    what is outside of the blocks: weights, gradients, and what is being sent.

    Args:
        tokens: of a rank's micro-batch.
    """
    width = FLOAT * tokens * shape.width
    return {
        "weights, best weights and moments": 4 * FLOAT * shape.parameters / ranks,
        "gradients, or the blocks' inputs": max(FLOAT * shape.parameters / ranks, width * shape.layers),
        "what one block computes": width * WORK,
        "whole weights and gradients": FLOAT * (2 * shape.outside + 3 * shape.block) * (ranks > 1),
    }


def bytes_sent(shape: Shape, ranks: int, micro_batches: int, *, shard: bool) -> float:
    """Return the bytes that each rank sends in a step: two all-gathers and a reduce-scatter, or an all-reduce."""
    part = FLOAT * shape.parameters * (ranks - 1) / ranks
    return part * (2 * micro_batches + 1 if shard else 2)


def seconds_of_step(shape: Shape, tokens: int, flops: float) -> float:
    """Return the seconds of a rank's arithmetic: 8 operations for each weight and token, forwards twice."""
    return 8 * (shape.parameters - shape.outside) * tokens / flops


def main(arguments: list[str]) -> int:
    """Print a plan, or hold the formula against measurements."""
    parser = argparse.ArgumentParser(prog="python -m bench plan", description=__doc__)
    parser.add_argument("--params", type=float, default=7e9, help="parameters of the model")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--tokens", type=float, default=1e9, help="tokens to train on, in all")
    parser.add_argument("--tokens-per-gpu", type=int, default=16_384, help="packed tokens of a GPU in a step")
    parser.add_argument("--micro-batches", type=int, default=1, help="into which these are cut")
    parser.add_argument("--flops", type=float, default=400e12, help="operations a second that one GPU was measured at")
    parser.add_argument("--gigabytes-per-second", type=float, default=50.0, help="that one GPU sends")
    parser.add_argument("--replicate", dest="shard", action="store_false", help="all weights on every GPU")
    parser.add_argument("--check", action="store_true", help="measure on this CPU instead")
    options = parser.parse_args(arguments)
    if options.check:
        return check()
    shape = shape_of(options.params)
    print(f"{shape.parameters:.3g} parameters: {shape.layers} layers, D = {shape.width}")
    micro = options.tokens_per_gpu // options.micro_batches
    held = memory(shape, options.gpus if options.shard else 1, micro)
    for name, size in {**held, "in all, on each GPU": sum(held.values())}.items():
        print(f"{name:34} {size / 1e9:10.1f} GB")
    sent = bytes_sent(shape, options.gpus, options.micro_batches, shard=options.shard)
    computing = seconds_of_step(shape, options.tokens_per_gpu, options.flops)
    sending = sent / options.gigabytes_per_second / 1e9
    steps = math.ceil(options.tokens / options.tokens_per_gpu / options.gpus)
    print(f"{'a step sends':34} {sent / 1e9:10.1f} GB from each GPU, {sending:.2f} s")
    print(f"{'a step computes':34} {computing:10.2f} s; both together take between {max(computing, sending):.2f}")
    print(f"{'':34} and {computing + sending:.2f} s, as far as sending hides behind computing")
    hours = [steps * value / 3600 for value in (max(computing, sending), computing + sending)]
    print(f"{'in all':34} {steps:10,} steps, {hours[0]:.1f} to {hours[1]:.1f} hours")
    return 0


def check() -> int:
    """Print what 1, 2 and 4 processes on this CPU held at their peak in a step, against the formula."""
    print("| tokens | processes | measured, MB | formula, MB | formula / measured |\n|---:|---:|---:|---:|---:|")
    for tokens in (384, 3072):
        for ranks in (1, 2, 4):
            measured, formula = measure(ranks, tokens)
            figures = f"{measured / 1e6:.1f} | {formula / 1e6:.1f} | {formula / measured:.3f}"
            print(f"| {tokens} | {ranks} | {figures} |", flush=True)
    return 0


def measure(ranks: int, tokens: int, *, width: int = 256, layers: int = 16) -> tuple[float, float]:
    """Return the bytes that the first of some processes held at its peak in a step, and those of the formula."""
    import torch.multiprocessing as mp

    from bench.plan_check import take_a_step

    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed goes back to the system at once
    multiprocessing.set_forkserver_preload(["bench.plan_check"])
    with tempfile.TemporaryDirectory() as folder:
        work = ranks, folder, tokens, width, layers
        mp.start_processes(take_a_step, work, nprocs=ranks, start_method="forkserver")
        measured, block, outside = map(int, (Path(folder) / "measured").read_text().split())
    return measured, sum(memory(Shape(layers, width, block, outside), ranks, tokens).values())
