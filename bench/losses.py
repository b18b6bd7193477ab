"""Time and memory of the losses, forward and backward, against other ways to write them.

    python -m bench losses                 about two minutes
    python -m bench losses --quick         small sizes and few rounds, to see that it runs
    python -m bench losses --device cuda
    python -m bench losses --atlas         the picture of all losses and their slopes alone
    python -m bench losses --coverage      how often intervals hold the truth; about ten minutes

The others are: the one line that TRL has for a pair (K = 2), a Python loop over pairs, a loop over pairs of places for
the whole batch at once, a broadcast over (B, K, K) without care for what the backward pass keeps, and a Python loop
over the places of a Plackett–Luce ranking. "Move the bytes" is a copy of as many bytes as a loss has to read and write:
rewards, scores, mask and gradient; no loss can be faster.

On a CPU everything runs on one thread: PyTorch splits some of these small operations over threads and not others, and
on a busy machine the wait for the second thread would be what is measured.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from bench import coverage
from bench.atlas import atlas
from bench.memory import peak_bytes
from bench.places import out_folder
from bench.timing import Spread, interleaved, machine, ratio, spread
from minirm.losses import all_pairs_loss, bradley_terry_loss, plackett_luce_loss
from minirm.metrics import bootstrap_interval

BLOCK = 64
MOST_LOOPED_PAIRS = 3_000  # a Python loop does 10,000 to 30,000 a second

PAIR, TRL = "bradley_terry_loss", "as TRL writes it"
WHOLE, BLOCKS = "all_pairs_loss", f"all_pairs_loss, block={BLOCK}"
PAIR_LOOP, COLUMN_LOOP = "loop over pairs", "loop over pairs of places"
BROADCAST, BYTES = "broadcast without care", "move the bytes"
PLACES, PLACE_LOOP = "plackett_luce_loss", "Plackett–Luce by loop"

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
SIZES = [
    *((B, 2, dtype) for B in (16, 256, 4096, 65536) for dtype in (FLOAT32, BFLOAT16)),
    *((64, K, FLOAT32) for K in (2, 4, 9, 16, 64, 128, 256, 512)),
    *((4096, 9, dtype) for dtype in (FLOAT32, BFLOAT16)),
]
QUICK_SIZES = [(16, 2, FLOAT32), (64, 2, FLOAT32), (64, 4, BFLOAT16), (64, 9, FLOAT32), (64, 128, FLOAT32)]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#9aa0ac"
STYLES = {
    WHOLE: {"color": BLUE, "marker": "o"},
    BLOCKS: {"color": BLUE, "marker": "s", "linestyle": "--"},
    PLACES: {"color": GREEN, "marker": "o"},
    BROADCAST: {"color": ORANGE, "marker": "^"},
    COLUMN_LOOP: {"color": ORANGE, "marker": "v", "linestyle": ":"},
    PAIR_LOOP: {"color": ORANGE, "marker": "x", "linestyle": "--"},
    PLACE_LOOP: {"color": GREEN, "marker": "x", "linestyle": "--"},
    BYTES: {"color": GREY, "marker": "."},
}
"""Blue and green are minirm's, the others are not, except that green crosses are what the green line replaces."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One function on one size."""

    name: str
    B: int
    K: int
    dtype: str
    seconds: Spread
    peak_bytes: int | None
    """The most that was allocated at once beyond the inputs; None: not measured, for a long loop."""
    against: str
    """The function of minirm that does the same."""
    ratio: Spread
    """How many times as long as that one."""


# ── The others ────────────────────────────────────────────────────────────────────────────────────────────────────────


def trl_formula(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(chosen - rejected).mean()


def loop_over_pairs(rewards: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    losses = []
    for row, score, real in zip(rewards, scores.tolist(), mask.tolist(), strict=True):
        row = row.unbind()
        pairs = [(i, j) if score[i] > score[j] else (j, i) for i, j in combinations(range(len(row)), 2)
                 if real[i] and real[j] and score[i] != score[j]]  # fmt: skip
        if pairs:
            losses.append(sum(-F.logsigmoid(row[i] - row[j]) for i, j in pairs) / len(pairs))
    return sum(losses) / len(rewards)


def loop_over_columns(rewards: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    total, count = 0.0, 0
    for i, j in combinations(range(rewards.shape[1]), 2):
        sign = (scores[:, i] - scores[:, j]).sign() * (mask[:, i] & mask[:, j])
        total = total - F.logsigmoid((rewards[:, i] - rewards[:, j]) * sign) * sign.abs()
        count = count + sign.abs()
    return (total / count.clamp(min=1)).mean()


def broadcast(rewards: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    difference = rewards.unsqueeze(2) - rewards.unsqueeze(1)
    wins = (scores.unsqueeze(2) > scores.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1)
    losses = torch.where(wins, -torch.log(torch.sigmoid(difference)), 0.0)
    return (losses.sum((1, 2)) / wins.sum((1, 2)).clamp(min=1)).mean()


def loop_over_places(rewards: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    total = 0.0
    for row, score, real in zip(rewards, scores, mask, strict=True):
        ranked = row[real][score[real].argsort(descending=True)]
        for place in range(len(ranked)):
            total = total + ranked[place:].logsumexp(0) - ranked[place]
    return total / len(rewards)


# ── The measurement ───────────────────────────────────────────────────────────────────────────────────────────────────


def measure(B: int, K: int, dtype: torch.dtype, device: str, rounds: int) -> list[Row]:
    """Return a row for each way to compute the losses of B prompts with K responses."""
    rows = []
    for group in groups(B, K, dtype, device):
        ours = next(iter(group))
        is_slow = any(name in group for name in (PAIR_LOOP, PLACE_LOOP)) and B * K**2 > 100_000  # seconds a call
        seconds = interleaved(group, 3 if is_slow else rounds, at_least_seconds=0.02)
        for name, call in group.items():
            peak = None if is_slow and "loop" in name else peak_bytes(call, device)
            times = ratio(seconds[name], seconds[ours])
            rows.append(Row(name, B, K, str(dtype).removeprefix("torch."), spread(seconds[name]), peak, ours, times))
    return rows


def groups(B: int, K: int, dtype: torch.dtype, device: str) -> list[dict[str, Call]]:
    """Return the calls that compute the same thing, each group led by minirm's own."""
    torch.manual_seed(0)
    rewards = torch.randn(B, K, dtype=dtype, device=device)
    scores = torch.rand(B, K, device=device).argsort(1).float()  # all different: the loop over places knows no ties
    mask = torch.ones(B, K, dtype=torch.bool, device=device)
    row = partial(with_backward, inputs=(rewards.requires_grad_(), scores, mask), leaves=1)
    is_looped = B * K * (K - 1) // 2 <= MOST_LOOPED_PAIRS or (B, K, dtype) == (4096, 9, FLOAT32)  # the one aimed at
    in_blocks = partial(all_pairs_loss, block=BLOCK)
    all_pairs = {BLOCKS: row(in_blocks), WHOLE: row(all_pairs_loss)} if K > BLOCK else {WHOLE: row(all_pairs_loss)}
    all_pairs |= {BROADCAST: row(broadcast), BYTES: copy_of_as_many_bytes(rewards, scores, mask)}
    if K <= 16:
        all_pairs[COLUMN_LOOP] = row(loop_over_columns)
    if is_looped:
        all_pairs[PAIR_LOOP] = row(loop_over_pairs)
    rankings = {PLACES: row(plackett_luce_loss)} | ({PLACE_LOOP: row(loop_over_places)} if is_looped else {})
    found = [all_pairs, rankings]
    if K == 2:
        chosen, rejected = (column.detach().clone().requires_grad_() for column in rewards.unbind(1))
        pair = partial(with_backward, inputs=(chosen, rejected), leaves=2)
        found.append({PAIR: pair(bradley_terry_loss), TRL: pair(trl_formula)})
    if device == "cuda":  # eager mode is bound by launches there
        all_pairs[f"{WHOLE}, compiled"] = row(torch.compile(all_pairs_loss))
    return found


def with_backward(loss: Callable[..., Tensor], *, inputs: tuple[Tensor, ...], leaves: int) -> Call:
    """Return a call that computes the mean loss and its gradient in the first `leaves` inputs."""

    def call() -> None:
        torch.autograd.grad(loss(*inputs).mean(), inputs[:leaves])

    return call


def copy_of_as_many_bytes(rewards: Tensor, scores: Tensor, mask: Tensor) -> Call:
    """Return a copy that reads and writes as many bytes as a loss at least has to: the inputs and the gradient."""
    moved = 2 * rewards.nbytes + scores.nbytes + mask.nbytes
    return torch.zeros(moved // 2, dtype=torch.uint8, device=rewards.device).clone


# ── The report ────────────────────────────────────────────────────────────────────────────────────────────────────────


def targets(rows: list[Row]) -> list[str]:
    """Return a sentence for each figure that was aimed at."""
    by_key = {(row.name, row.B, row.K, row.dtype): row for row in rows}
    sentences = []
    pairs = sorted((row for row in rows if row.name == TRL and row.dtype == "float32"), key=lambda row: row.B)
    for row in pairs:
        sentences.append(f"K=2, B={row.B}: {1 / row.ratio.median:.2f} × TRL's formula (aim: at most 1.2)")
    if loop := by_key.get((PAIR_LOOP, 4096, 9, "float32")):
        sentences.append(f"K=9, B=4096: the loop over pairs takes {loop.ratio.median:,.0f} × (aim: at least 50)")
    if wide := by_key.get((BROADCAST, 64, 512, "float32")):
        share = by_key[BLOCKS, 64, 512, "float32"].peak_bytes / wide.peak_bytes
        sentences.append(f"K=512, B=64: blocks need {share:.3f} of the broadcast's peak memory (aim: at most 0.25)")
    return sentences


def bootstrap_sentence(rounds: int) -> str:
    """Return how long an interval takes that resamples 10,000 prompts 10,000 times."""
    values = np.random.default_rng(0).integers(0, 2, 10_000).astype(float)
    seconds = interleaved({"bootstrap": lambda: bootstrap_interval(values)}, rounds)["bootstrap"]
    return f"bootstrap of 10,000 resamples of 10,000 prompts: {np.median(seconds):.2f} s (aim: below 1)"


def markdown(rows: list[Row], aims: list[str], facts: dict, command: str) -> str:
    """Return the tables."""
    measured_on = ", ".join(f"{name}: {value}" for name, value in facts.items())
    lines = ["# Time and memory of the losses", "", f"`{command}` on {measured_on}.", ""]
    lines += ["Forward and backward. Time is the median over rounds; × is the median ratio to minirm's own time (bold)"]
    lines += ["in a round, with its quartiles, above 1 where minirm is faster; memory is the most allocated at once."]
    lines += [""]
    lines += [f"- {sentence}" for sentence in aims]
    lines += ["", "![time and memory](losses.png)", "", "![each loss and its slope](losses-atlas.png)", ""]
    lines += ["| B | K | dtype | | time | × | peak memory |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        memory = "–" if row.peak_bytes is None else as_size(row.peak_bytes)
        times = "1" if row.name == row.against else f"{row.ratio.median:.3g} ({row.ratio.low:.3g}–{row.ratio.high:.3g})"
        name = f"**{row.name}**" if row.name == row.against else row.name
        seconds = as_time(row.seconds.median)
        lines.append(f"| {row.B} | {row.K} | {row.dtype} | {name} | {seconds} | {times} | {memory} |")
    return "\n".join(lines) + "\n"


def as_time(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.1f} ms"


def as_size(size_bytes: int) -> str:
    return f"{size_bytes / 1e3:,.1f} kB" if size_bytes < 1e6 else f"{size_bytes / 1e6:,.1f} MB"


def picture(rows: list[Row], B: int) -> Figure:
    """Return time and memory over K at B prompts, and below them the pair against TRL's formula over B."""
    figure = Figure(figsize=(6.4, 10.2), layout="constrained")
    time_axes, memory_axes, pair_axes = figure.subplots(3)
    rows = [row for row in rows if row.dtype == "float32"]
    for name, style in STYLES.items():
        line = sorted((row for row in rows if row.name == name and row.B == B), key=lambda row: row.K)
        time_axes.plot([row.K for row in line], [row.seconds.median * 1e3 for row in line], label=name, **style)
        known = [row for row in line if row.peak_bytes]
        memory_axes.plot([row.K for row in known], [row.peak_bytes / 1e6 for row in known], label=name, **style)
    for axes, unit in ((time_axes, "time, ms"), (memory_axes, "peak memory, MB")):
        ticks = sorted({row.K for row in rows if row.B == B})
        axes.set(xscale="log", yscale="log", ylabel=unit, xlabel=f"K responses to each of {B} prompts")
        axes.set_xticks(ticks, [str(K) for K in ticks])
        axes.minorticks_off()
    time_axes.legend(fontsize=8, ncols=2, loc="upper left", frameon=False)
    time_axes.set_ylim(top=time_axes.get_ylim()[1] * 60)  # room for the legend
    pairs = sorted((row for row in rows if row.name == TRL), key=lambda row: row.B)
    middle = [1 / row.ratio.median for row in pairs]
    below = [m - 1 / row.ratio.high for m, row in zip(middle, pairs, strict=True)]
    above = [1 / row.ratio.low - m for m, row in zip(middle, pairs, strict=True)]
    pair_axes.errorbar([row.B for row in pairs], middle, [below, above], color=BLUE, marker="o", capsize=4)
    pair_axes.axhline(1, color="#697080", linewidth=1)
    pair_axes.axhline(1.2, color=ORANGE, linestyle="--", linewidth=1, label="aim: at most 1.2")
    pair_axes.set(xscale="log", xlabel="B pairs", ylabel=f"time of {PAIR}\n/ time of TRL's formula", ylim=(0, 1.5))
    pair_axes.set_xticks([row.B for row in pairs], [f"{row.B:,}" for row in pairs])
    pair_axes.minorticks_off()
    pair_axes.legend(frameon=False, loc="lower right")
    return figure


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench losses", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--atlas", action="store_true", help="draw the atlas of losses and measure nothing")
    parser.add_argument("--coverage", action="store_true", help="simulate how often intervals hold the truth instead")
    parser.add_argument("--out", type=Path, help="bench/results; with --quick a new folder for temporary files")
    options = parser.parse_args(argv)
    out = out_folder(options.out, whole=not options.quick)
    command = " ".join(["python -m bench losses", *argv])
    if options.coverage:
        return coverage.main(out, command, **({"draws": 20, "resamples": 100} if options.quick else {}))
    out.mkdir(parents=True, exist_ok=True)
    atlas().savefig(out / "losses-atlas.png", dpi=110)
    if options.atlas:
        return None
    if options.device == "cpu":
        torch.set_num_threads(1)
    facts, rows = machine(), []
    rounds = 3 if options.quick else options.rounds
    for B, K, dtype in QUICK_SIZES if options.quick else SIZES:
        print(f"B={B} K={K} {dtype}", flush=True)
        rows += measure(B, K, dtype, options.device, rounds)
    aims = [*targets(rows), bootstrap_sentence(rounds)]
    print(*aims, sep="\n")
    name = "losses" if options.device == "cpu" else f"losses_{options.device}"
    record = {"command": command, "machine": facts, "targets": aims, "rows": [asdict(row) for row in rows]}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (out / f"{name}.md").write_text(markdown(rows, aims, facts, command).replace("(losses.png", f"({name}.png"))
    picture(rows, B=64).savefig(out / f"{name}.png", dpi=150)
    return None
