"""Everyone who trains on the same comparisons, by name: each is a call that returns the seconds of one pass."""

import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from bench.memory import peak_bytes, peak_resident_bytes
from bench.peers import (
    fast_tokenizer,
    gpt2_like,
    random_steps,
    separate_steps,
    sorted_steps,
    together_steps,
    training_loop,
    trl_epoch,
)
from bench.texts import longest
from bench.timing import wait_for_gpu
from minirm.cli.memory import keep_freed_memory
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.models import attention
from minirm.models.attention import Stacked
from minirm.models.kernels.recurrence import by_pytorch
from minirm.models.kernels.rows import take_rows
from minirm.models.reward_model import RewardModel
from minirm.runs.encode import end_with_parent
from minirm.tokens.layout import Layout, Tiles
from minirm.tokens.packing import Encoded, PackedBatch
from minirm.tokens.stream import Stream, TokenStore
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.loop import Progress, Trainer
from minirm.training.objectives import RewardObjective

Call = Callable[[], float]

MINIRM, MINIRM_CHECKPOINTING = "minirm", "minirm, checkpointing"
MINIRM_WHOLE = "minirm, the step at once"
SORTED, RANDOM = "padded loop, sorted", "padded loop, random batches"
TRL, TRL_WITHOUT = "TRL RewardTrainer", "TRL RewardTrainer, no checkpointing"
AT_ONCE = 2
"""Pairs in each of the batches that a step is accumulated from, where a peer has less to pad that way."""
SORTED_SMALL = f"padded loop, sorted, {AT_ONCE} pairs at a time"
TRL_SMALL = f"TRL RewardTrainer, no checkpointing, {AT_ONCE} pairs at a time"
ALONE = "one sequence at a time"
EACH_PAIR, BATCHED_PAIRS = "each pair separately", "pairs, sorted, 16 at a time"
TOGETHER = "padded loop, each response once"
BY_PYTORCH = "minirm, its recurrence by PyTorch's own network"
WITH_KEYS = "minirm, keys and values in the last layer too"
BY_KERNEL = "minirm, attention by PyTorch's kernel"
NO_LIMIT = 1 << 40
TRAINING = TrainConfig(learning_rate=1e-4, schedule="constant", warmup=0.0, weight_decay=0.1, evaluate_every=1e9)


@dataclass(frozen=True)
class Work:
    """What a contender trains on, and how."""

    encoded: list[Encoded]
    tokenizer: Tokenizer
    model: ModelConfig
    per_step: int
    """Comparisons in one optimizer step."""
    config: TrainConfig = TRAINING
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """Tokens of all comparisons, each prompt once."""
        return sum(item.tokens for item in self.encoded)

    def at(self, precision: str) -> "Work":
        """Return the same work in another precision."""
        return replace(self, config=replace(self.config, precision=precision))


# ── minirm ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class WatchedStream(Stream):
    """minirm's stream, with the seconds that training waits for each batch written down."""

    waits: list[float] = field(default_factory=list)

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[PackedBatch]:
        """Yield the batches, packed ahead in a thread of their own."""
        ready = iter(super().batches(plan))
        while True:
            began = time.perf_counter()
            batch = next(ready, None)
            self.waits.append(time.perf_counter() - began)
            if batch is None:
                return
            yield batch


@dataclass(frozen=True)
class UnsortedStream(WatchedStream):
    """Batches as chance has them: the stream without sorting by length."""

    def plan(self, epoch: int | None) -> list[np.ndarray]:
        """Return the rows of each batch."""
        order = np.random.default_rng([self.seed, epoch or 0]).permutation(len(self.store))
        size = self.packing.comparisons_per_batch
        return [order[start : start + size] for start in range(0, len(order), size)]


class ReadLater(nn.Module):
    """A backbone that computes its last layer everywhere and picks the reads from the result: no fused read."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.inner = backbone
        self.gradient_checkpointing = False

    def forward(self, tokens: Tensor, layout: Layout, *, only_reads: bool = False) -> tuple[Tensor, None]:
        """Return the hidden states, at the reads alone with `only_reads`."""
        hidden, _ = self.inner(tokens, layout)
        return (take_rows(hidden, layout.reads) if only_reads else hidden), None


@dataclass(frozen=True)
class Ideas:
    """Which of minirm's ideas are on."""

    sort: bool = True
    """Comparisons of like length together."""
    share: bool = True
    """A prompt once for all its responses."""
    fuse: bool = True
    """Of the last layer only what is read."""


ALL, NO_PADDING_ALONE = Ideas(), Ideas(sort=False, share=False, fuse=False)


class MinirmTraining:
    """minirm's own Trainer over a token store, one epoch a call, the loader working ahead as in any run."""

    def __init__(self, work: Work, ideas: Ideas = ALL) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="minirm-bench-")  # lives as long as the memory map
        store = TokenStore.write(work.encoded, Path(self.folder.name))
        packing = PackingConfig(NO_LIMIT, work.per_step, work.model.max_positions, share_prompt=ideas.share)
        self.stream = (WatchedStream if ideas.sort else UnsortedStream)(store, packing)
        torch.manual_seed(0)
        model = RewardModel(work.model).to(work.device)
        if not ideas.fuse:
            model.backbone = ReadLater(model.backbone)
        self.trainer = Trainer(model, RewardObjective(work.config), self.stream, self.stream, work.config)

    def __call__(self) -> float:
        """Train for one epoch and return its seconds, from before the first batch is asked for to the last step."""
        wait_for_gpu()
        began = time.perf_counter()
        self.epoch()
        wait_for_gpu()
        return time.perf_counter() - began

    def epoch(self) -> None:
        """Train for one epoch."""
        self.trainer.progress = Progress()
        events = self.trainer.run()
        for _ in range(self.trainer.steps):
            next(events)
        events.close()  # before the evaluation that would follow the last step


def recurring_by_pytorch(call: Call) -> Call:
    """Return the call, in which `nn.GRU` or `nn.LSTM` runs each level as a PackedSequence."""
    where = "minirm.models.recurrent"
    inputs_alone = patch(f"{where}.project_inputs", lambda network, x: x)
    return inputs_alone(patch(f"{where}.run_level", by_pytorch)(call))


def making_keys_at_reads(call: Call) -> Call:
    """Return the call, in which the fused read makes keys and values of all tokens, as rotary positions need it to."""
    return patch("minirm.models.attention.attend_to_states", attend_to_keys)(call)


def attend_to_keys(q: Tensor, x: Tensor, tiles: Tiles, qkv: Stacked, head_width: int) -> Tensor:
    """Return what `attend_to_states` returns, by keys and values of all tokens."""
    k, v = qkv.part(x, x.shape[1], qkv.out_features).chunk(2, dim=-1)
    return attention.segment_attention(q, k, v, tiles, head_width)


def attending_by_kernel(call: Call) -> Call:
    """Return the call, in which attention goes through `scaled_dot_product_attention` and not through strips."""
    return patch("minirm.models.kernels.strips.pay", lambda tiles: False)(call)


# ── By name ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def contender(name: str, work: Work) -> Call:
    """Return what trains under a name.

    Everyone has the same comparisons, tokens, shape of model, comparisons per optimizer step, precision and settings
    of AdamW. The call returns the seconds of whole training steps, the making of batches included.
    """
    if name in (MINIRM, MINIRM_CHECKPOINTING):
        config = replace(work.config, gradient_checkpointing=name == MINIRM_CHECKPOINTING)
        return MinirmTraining(replace(work, config=config))
    if name == MINIRM_WHOLE:
        return MinirmTraining(replace(work, config=replace(work.config, micro_batch_tokens=NO_LIMIT)))
    if name == BY_PYTORCH:
        return recurring_by_pytorch(MinirmTraining(work))
    if name == WITH_KEYS:
        return making_keys_at_reads(MinirmTraining(work))
    if name == BY_KERNEL:
        return attending_by_kernel(MinirmTraining(work))
    pad_id = work.tokenizer.pad_id
    if name in (TRL, TRL_WITHOUT, TRL_SMALL):
        return trl_epoch(
            lambda: gpt2_like(work.model, pad_id),
            work.encoded,
            fast_tokenizer(work.tokenizer),
            work.config,
            work.per_step,
            at_once=AT_ONCE if name == TRL_SMALL else work.per_step,
            checkpointing=name == TRL,
        )
    rng, encoded, size = np.random.default_rng(0), work.encoded, work.per_step
    steps = {
        SORTED: lambda: sorted_steps(encoded, size),
        RANDOM: lambda: random_steps(encoded, size, rng),
        SORTED_SMALL: lambda: separate_steps(sorted(encoded, key=longest), size, AT_ONCE),
        ALONE: lambda: separate_steps(encoded, size, 1),
        EACH_PAIR: lambda: separate_steps(encoded, size, 1),
        BATCHED_PAIRS: lambda: separate_steps(encoded, size, 16),
        TOGETHER: lambda: together_steps(encoded, size),
    }
    return training_loop(gpt2_like(work.model, pad_id), steps[name], work.config, alone=name == ALONE)


# ── In a race ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class InItsOwnProcess:
    """A contender in a process of its own, where nobody else's memory lies about; a call is one pass, as everywhere.

    Args:
        keeps_memory: whether the process keeps the memory that it frees, as minirm's command line does.
        threads: how many it computes with; 0: as many as this process.
    """

    def __init__(self, name: str, work: Work, *, keeps_memory: bool, threads: int = 0) -> None:
        self.process = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
        )
        self.process.submit(_make_ready, name, work, threads or torch.get_num_threads(), keeps_memory).result()

    def __call__(self) -> float:
        return self.process.submit(_run).result()

    def __enter__(self) -> "InItsOwnProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.shutdown()


_ready: list[Call] = []  # in such a process, what it is there for


def _make_ready(name: str, work: Work, threads: int, keeps_memory: bool) -> None:
    torch.set_num_threads(threads)
    if keeps_memory:
        keep_freed_memory()
    contender(name, replace(work, encoded=work.encoded[-work.per_step :]))()  # the longest step: warms libraries
    call = contender(name, work)
    _ready.append(meeting_new_shapes(call) if work.config.precision == "bfloat16" else call)


def _run() -> float:
    return _ready[0]()


def meeting_new_shapes(call: Call) -> Call:
    """Return the call, before each of which oneDNN's cache is filled with products that nobody uses.

    It keeps the last 1,024 bfloat16 products that it compiled, one for each shape. A pass that is repeated would find
    its own there; training meets batches that it has not met before.
    """
    weight = torch.ones(8, 8, dtype=torch.bfloat16)

    def forgetful() -> float:
        for rows in range(1, 1200):
            torch.ones(rows, 8, dtype=torch.bfloat16) @ weight
        return call()

    return forgetful


# ── Memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Peak(NamedTuple):
    """The most that a pass held at once, beyond weights and AdamW's two moments; gradients are part of it."""

    resident_bytes: int
    """Growth of the process's resident memory, as the operating system sees it."""
    allocated_bytes: int
    """As PyTorch's allocator counts it: exact, and the same in every run."""


def peak_of_training(name: str, work: Work, threads: int) -> Peak:
    """Return the peak of making a contender and of one pass; to be called in a fresh process."""
    torch.set_num_threads(threads)
    tiny = replace(work, model=replace(work.model, layers=1, width=64), encoded=work.encoded[:2], per_step=2)
    contender(name, tiny)()  # loads what is loaded once: libraries, kernels, threads
    if name.startswith(MINIRM):
        keep_freed_memory()  # as its command line does
    state = 3 * sum(p.nbytes for p in RewardModel(work.model).parameters())  # weights and two moments
    peaks = []
    for measure in (peak_resident_bytes, peak_bytes):  # the resident one first: memory once had is not given back
        gc.collect()
        peaks.append(measure(lambda: contender(name, work)()) - state)
    return Peak(*peaks)
