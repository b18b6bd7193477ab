"""One step of a training, measured: what `bench.plan` is held against."""

import os
from pathlib import Path

import numpy as np
import torch
import torch._dynamo
import torch.distributed as dist

from bench.memory import peak_resident_bytes
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded
from minirm.tokens.stream import Stream, TokenStore
from minirm.training.loop import Evaluated, Step, Trainer
from minirm.training.objectives import RewardObjective


def take_a_step(rank: int, ranks: int, folder: str, tokens: int, width: int, layers: int) -> None:
    """Take steps in one of some processes, and let the first one write down what it held."""
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    draw = np.random.default_rng(0)
    prompt, first, second = (draw.integers(4, 1000, tokens // 3).astype(np.int32) for _ in range(3))
    items = [Encoded(prompt, (first, second), (1.0, 0.0))] * ranks * 2
    store = TokenStore.write(items, Path(folder) / str(rank))
    packing = PackingConfig(max_tokens=4096, tokens_per_batch=4096 * ranks, comparisons_per_batch=ranks)
    stream = Stream(store, packing)
    config = TrainConfig(shard=True, epochs=3.0, gradient_checkpointing=True, micro_batch_tokens=tokens)
    counted: list[int] = []

    def train(width: int, layers: int) -> None:
        model = RewardModel(ModelConfig(vocab_size=1000, width=width, layers=layers, heads=4, max_positions=4096))
        block = sum(weight.numel() for weight in model.backbone.blocks[0].parameters())
        everything = sum(weight.numel() for weight in model.parameters())
        counted[:] = [block, everything - layers * block]
        trainer = Trainer(model, RewardObjective(config), stream, stream, config)
        happened = [type(one) for one, _ in zip(trainer.run(), range(4), strict=False)]
        if happened != [Step, Step, Evaluated, Step]:  # in the last one moments and the best weights are there
            raise RuntimeError(f"not what is to be measured: {happened}")

    train(64, 1)  # what PyTorch loads and keeps at the first time
    peak = peak_resident_bytes(lambda: train(width, layers))
    if rank == 0:
        (Path(folder) / "measured").write_text(f"{peak} {counted[0]} {counted[1]}")
    if ranks > 1:
        dist.barrier()
    os._exit(0)
