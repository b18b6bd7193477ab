"""What low-rank adapters save: memory and time of a training step against full training.

    python -m bench lora                 a few minutes
    python -m bench lora --quick         the smallest size and few rounds, to see that it runs
    python -m bench lora --device cuda

A step is the forward pass, the loss of 16 pairs, the backward pass and AdamW, in float32. Prompts have 128 tokens and
responses 64, drawn at random: neither memory nor time depends on which they are. The memory of a step is the most that
is allocated at once beyond weights and optimizer; a run keeps what was learned.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bench.losses import as_size, as_time
from bench.memory import peak_bytes
from bench.places import out_folder
from bench.timing import Spread, interleaved, machine, ratio, spread
from minirm.config import SIZES, LoraConfig, TrainConfig, sized
from minirm.losses import all_pairs_loss
from minirm.models.lora import add_adapters
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, PackedBatch, pack
from minirm.training.optimizers import build_optimizer, trained_weights

FULL = "all weights"
WAYS = {
    FULL: None,
    "r=8, query and value": LoraConfig(rank=8),
    "r=8, every matrix": LoraConfig(rank=8, matrices=("query", "key", "value", "output", "up", "down")),
    "r=64, every matrix": LoraConfig(rank=64, matrices=("query", "key", "value", "output", "up", "down")),
}
PAIRS, PROMPT_TOKENS, RESPONSE_TOKENS = 16, 128, 64


@dataclass(frozen=True)
class Row:
    """One way to train a model of one size."""

    size: str
    way: str
    weights: int
    learned: int
    optimizer_bytes: int
    step_bytes: int
    kept_bytes: int
    seconds: Spread
    against_full: Spread


def a_batch(vocabulary: int) -> PackedBatch:
    """Return pairs of random tokens."""
    rng = np.random.default_rng(0)

    def text(length: int) -> np.ndarray:
        return rng.integers(0, vocabulary, length).astype(np.int32)

    pair = RESPONSE_TOKENS, RESPONSE_TOKENS
    return pack([Encoded(text(PROMPT_TOKENS), tuple(map(text, pair)), (1.0, 0.0)) for _ in range(PAIRS)])


def measure(size: str, device: str, rounds: int) -> list[Row]:
    """Return a row for each way to train a model of the size."""
    batch, steps, models, optimizers = None, {}, {}, {}
    for way, lora in WAYS.items():
        torch.manual_seed(0)
        model = RewardModel(sized(size)).to(device)
        if lora is not None:
            add_adapters(model.backbone, lora)
        batch = batch or a_batch(model.config.vocab_size).to(device)
        models[way], optimizers[way] = model, build_optimizer(model, TrainConfig())
        steps[way] = training_step(model, optimizers[way], batch)
    seconds = interleaved(steps, rounds)
    rows = []
    for way, model in models.items():
        learned = list(trained_weights(model).values())
        held = [t for state in optimizers[way].state.values() for t in state.values()]
        rows.append(
            Row(
                size,
                way,
                weights=sum(p.numel() for p in model.parameters()),
                learned=sum(p.numel() for p in learned),
                optimizer_bytes=sum(t.nbytes for t in held),
                step_bytes=peak_bytes(steps[way], device),
                kept_bytes=sum(p.nbytes for p in learned),
                seconds=spread(seconds[way]),
                against_full=ratio(seconds[way], seconds[FULL]),
            )
        )
    return rows


def training_step(model: RewardModel, optimizer: torch.optim.Optimizer, batch: PackedBatch) -> Callable[[], None]:
    """Return a call that takes one step."""

    def step() -> None:
        all_pairs_loss(model(batch), batch.order, batch.mask).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def markdown(rows: list[Row], facts: dict, command: str) -> str:
    """Return the table."""
    measured_on = ", ".join(f"{name}: {value}" for name, value in facts.items())
    lines = ["# Low-rank adapters against full training", "", f"`{command}` on {measured_on}.", ""]
    lines += [
        f"{PAIRS} pairs a step, prompts of {PROMPT_TOKENS} tokens, responses of {RESPONSE_TOKENS}, float32, AdamW."
    ]
    lines += ["Time is the median over rounds; × is the median ratio to full training in a round, with its quartiles,"]
    lines += [
        "below 1 where adapters are faster. Memory of a step: the most allocated beyond weights and optimizer.",
        "",
    ]
    lines += ["| size | learns | weights that learn | of | optimizer | a step's memory | kept | time | × |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|---|"]
    for row in rows:
        sizes = (as_size(n) for n in (row.optimizer_bytes, row.step_bytes, row.kept_bytes))
        times = f"{row.against_full.median:.2f} ({row.against_full.low:.2f}–{row.against_full.high:.2f})"
        cells = [row.size, row.way, f"{row.learned:,}", f"{row.weights:,}", *sizes, as_time(row.seconds.median), times]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m bench lora", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small", "medium"], choices=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="the smallest size and few rounds")
    parser.add_argument("--out", type=Path, help="bench/results; with --quick a new folder for temporary files")
    options = parser.parse_args(argv)
    out = out_folder(options.out, whole=not options.quick)
    facts, rows = machine(), []
    for size in ["tiny"] if options.quick else options.sizes:
        rows += measure(size, options.device, 3 if options.quick else options.rounds)
    command = " ".join(["python -m bench lora", *argv])
    text = markdown(rows, facts, command)
    print(text)
    name = "lora" if options.device == "cpu" else f"lora_{options.device}"
    out.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "machine": facts, "rows": [asdict(row) for row in rows]}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (out / f"{name}.md").write_text(text)
