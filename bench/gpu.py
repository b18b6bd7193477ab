"""The checks and the comparison that need a GPU, unattended.

    python -m bench gpu                   on a GPU, in under 8 minutes
    python -m bench gpu --device cpu      a tiny model on the CPU: only to see that every line runs

First the checks: the test suite's CUDA tests; rewards and gradients on the GPU against the CPU's; bfloat16 against
float32; attention by torch.nn.attention.varlen against the tiles; losses under torch.compile; that a training step
makes the host wait for the GPU once, where its figures are read. A check that fails is reported, and what follows still
runs. Then the comparison, at GPT-2's shape (12 layers, D = 768) in bfloat16, on rows as long as dialogues are: minirm's
own Trainer against Hugging Face's GPT-2 with PyTorch's fused attention, whose batches lie padded on the GPU before its
clock starts; what of a step is packing, the host's and the GPU's; and the ways of attention, one layer's forward and
backward pass alone: the kernel that a GPU gets in half precision, the tiles that serve in float32, sized for a CPU, and
coarser ones, since a GPU computes what is padded sooner than it starts another kernel. Results go to
bench/results/gpu.json and gpu.md.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.contenders import MINIRM, TRAINING, MinirmTraining, Work
from bench.flops import GPU_SHAPES, SHAPES, best_matrix_rate, useful_flops
from bench.memory import peak_bytes
from bench.peers import by_step, gpt2_like, padded
from bench.places import out_folder
from bench.speed_report import Aim, Row, markdown
from bench.texts import longest, made_of_noise, sequences
from bench.timing import interleaved, machine, ratio, spread, wait_for_gpu
from minirm.config import ModelConfig, sized
from minirm.losses import all_pairs_loss, centering_penalty, plackett_luce_loss
from minirm.models.attention import segment_attention
from minirm.models.kernels.varlen import Sequences, attend
from minirm.models.reward_model import RewardModel
from minirm.tokens.layout import Layout
from minirm.tokens.packing import Encoded, pack
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.loop import Progress

HUGGING_FACE, HUGGING_FACE_RANDOM = "Hugging Face loop, SDPA, sorted", "Hugging Face loop, SDPA, random batches"
TILES, VARLEN = "tiles, scaled_dot_product_attention", "torch.nn.attention.varlen"
COARSE, FINE = "coarse tiles", "tiles"
COARSE_ALLOWANCE = 1_000_000
"""Of `layout.TILE_ALLOWANCE`: at D = 768 and 400 TFLOP/s they take the 8 µs in which a few kernels start."""
TINY = ModelConfig(layers=2, width=32, heads=2, vocab_size=300)
SECONDS_FOR_TESTS = 180


T = TypeVar("T")


def with_tiles(call: Callable[[], T]) -> Callable[[], T]:
    """Return the call, in which attention goes through tiles, as in float32."""
    return patch("minirm.models.kernels.choice.attend_to_sequences", lambda attention, layout: None)(call)


def with_coarse_tiles(call: Callable[[], T]) -> Callable[[], T]:
    """Return the call, all batches of which are laid out in fewer, coarser tiles."""
    return patch("minirm.tokens.layout.TILE_ALLOWANCE", COARSE_ALLOWANCE)(call)


def dialogues(count: int, vocab_size: int, most: int = 1000) -> list[Encoded]:
    """Return pairs of random tokens, log-normal in length like hh-harmless: medians 84 (prompt), 32 (response)."""
    rng = np.random.default_rng(0)
    prompts = np.clip(rng.lognormal(np.log(84), 0.8, count), 4, most * 3 // 4).astype(int)
    responses = np.clip(rng.lognormal(np.log(32), 0.85, (count, 2)), 2, most // 4).astype(int)
    return made_of_noise(list(zip(prompts.tolist(), responses.tolist(), strict=True)), vocab_size)


# ── Checks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def cuda_tests(device: str) -> str:
    """The test suite's CUDA tests: losses without synchronisation and inside CUDA graphs, and a policy that learns."""
    if device == "cpu":
        return "skipped without a GPU"
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "tests/test_losses.py", "tests/test_rlhf.py"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=SECONDS_FOR_TESTS
    )
    last = ([line for line in done.stdout.splitlines() if line and not line.startswith("--")] or ["no output"])[-1]
    assert done.returncode == 0, f"{last} {done.stderr[-300:]}"
    return last


def rewards_and_gradients(
    config: ModelConfig, device: str, *, precision: torch.dtype = torch.float32, low: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a seeded model's rewards of some dialogues, and all gradients of a function of them, on the host."""
    torch.manual_seed(0)
    model = RewardModel(config).to(device, precision)
    batch = pack(dialogues(12, config.vocab_size)).to(device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=low):
        rewards = model(batch)
    F.softplus(rewards[:, 1] - rewards[:, 0]).sum().backward()
    return rewards.detach().cpu(), torch.cat([p.grad.flatten() for p in model.parameters()]).cpu()


def same_as_on_the_cpu(device: str) -> str:
    """Rewards and gradients in float32 and float64, for both styles, against the CPU's."""
    said = []
    for style in ("gpt2", "llama"):
        config = ModelConfig(layers=3, width=64, heads=4, vocab_size=300, style=style)
        for precision, bound in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            here = rewards_and_gradients(config, device, precision=precision)
            there = rewards_and_gradients(config, "cpu", precision=precision)
            apart = max(_apart(a, b) for a, b in zip(here, there, strict=True))
            assert apart < bound, f"{style} {precision}: {apart:.2g} apart, bound {bound:g}"
            said.append(f"{style} {str(precision).removeprefix('torch.')} {apart:.1g}")
    return "relative distance " + ", ".join(said)


def bfloat16_is_near(device: str) -> str:
    """Rewards and gradients in bfloat16 against float32, by relative distance."""
    config = ModelConfig(layers=3, width=64, heads=4, vocab_size=300)
    exact, low = rewards_and_gradients(config, device), rewards_and_gradients(config, device, low=True)
    rewards, gradients = (_apart(a, b) for a, b in zip(low, exact, strict=True))
    assert rewards < 0.03 and gradients < 0.1, f"rewards {rewards:.2g} apart, gradients {gradients:.2g}"
    return f"rewards {rewards:.1g} apart (bound 0.03), gradients {gradients:.1g} (bound 0.1)"


def _apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def varlen_is_the_same(device: str) -> str:
    """Attention by torch.nn.attention.varlen (without a GPU: by its loop) against the tiles, by relative distance."""
    on_gpu = device == "cuda"
    call, layout = attention_calls(dialogues(12, 300), 64, 16, device, torch.bfloat16 if on_gpu else torch.float64)
    found = {name: attend() for name, attend in call.items()}
    apart = max(_apart(a.float(), b.float()) for a, b in zip(found[VARLEN], found[TILES], strict=True))
    bound = 0.02 if on_gpu else 1e-6
    assert apart < bound, f"{apart:.2g} apart over {len(layout.paths)} segments, bound {bound:g}"
    return f"{apart:.1g} apart over {len(layout.paths)} segments (bound {bound:g})"


def attention_calls(
    encoded: Sequence[Encoded], width: int, head_width: int, device: str, dtype: torch.dtype
) -> tuple[dict[str, Callable[[], tuple[Tensor, ...]]], Layout]:
    """Return both ways of one layer's attention over a batch, each a call for result and gradients, and the layout."""
    batch = pack(encoded)
    layout, generator = batch.layout.to(device), torch.Generator(device).manual_seed(0)
    assert layout.everywhere.tiles  # made now, as fine or coarse as the caller wants them
    options = {"device": device, "dtype": dtype, "generator": generator}
    projected, gradient = (torch.randn((len(batch.tokens), part * width), **options) for part in (3, 1))
    projected.requires_grad_()
    sequences, widths = Sequences.of(layout), [width] * 3

    def of(attend: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def call() -> tuple[Tensor, ...]:
            result = attend()
            return result.detach(), *torch.autograd.grad(result, projected, gradient)

        return call

    return {
        TILES: of(lambda: segment_attention(*projected.split(widths, dim=-1), layout.everywhere, head_width)),
        VARLEN: of(lambda: attend(projected, sequences, widths, head_width)),
    }, layout


def losses_compile(device: str) -> str:
    """Losses as one compiled graph, against eager mode."""
    torch.manual_seed(0)
    scores, mask = torch.rand(64, 9, device=device), torch.ones(64, 9, dtype=torch.bool, device=device)
    rewards = torch.randn(64, 9, device=device)
    calls = {
        "all_pairs_loss": lambda r: all_pairs_loss(r, scores, mask),
        "plackett_luce_loss": lambda r: plackett_luce_loss(r, scores, mask),
        "centering_penalty": lambda r: centering_penalty(r, mask),
    }
    for name, loss in calls.items():
        compiled = torch.compile(loss, fullgraph=True)
        found, expected = (_value_and_gradient(f, rewards) for f in (compiled, loss))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    return ", ".join(calls)


def _value_and_gradient(loss: Callable[[Tensor], Tensor], rewards: Tensor) -> tuple[Tensor, Tensor]:
    leaf = rewards.clone().requires_grad_()
    losses = loss(leaf)
    losses.sum().backward()
    return losses.detach(), leaf.grad


def waits_once_in_a_step(device: str) -> str:
    """Training steps under `torch.cuda.set_sync_debug_mode`: the host may wait once, to read a step's figures."""
    if device == "cpu":
        return "skipped without a GPU"
    work = Work(dialogues(32, TINY.vocab_size), Tokenizer.train([]), TINY, 8, device=device)
    train = MinirmTraining(work)
    train()  # kernels are loaded, the optimizer has its state
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            train.epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in found if "synchroniz" in str(w.message))
    steps = train.trainer.steps
    assert sum(places.values()) <= steps, f"{sum(places.values()) / steps:.1f} a step, at {dict(places.most_common(6))}"
    return f"{sum(places.values())} in {steps} steps, at {dict(places)}"


CHECKS = (cuda_tests, same_as_on_the_cpu, bfloat16_is_near, varlen_is_the_same, losses_compile, waits_once_in_a_step)


@dataclass(frozen=True)
class Checked:
    """What a check found."""

    what: str
    said: str
    passed: bool


def run_checks(device: str) -> list[Checked]:
    """Run all checks; one that fails, in whatever way, does not stop the others."""
    results = []
    for check in CHECKS:
        began, what = time.perf_counter(), check.__doc__.splitlines()[0]
        try:
            found = Checked(what, check(device), True)
        except Exception as error:  # unattended: whatever went wrong is part of the report
            found = Checked(what, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", False)
        print(f"{'ok' if found.passed else 'FAILED':6} {what} {found.said} ({time.perf_counter() - began:.0f} s)")
        results.append(found)
    return results


# ── The comparison ────────────────────────────────────────────────────────────────────────────────────────────────────


def hugging_face_epoch(work: Work, batches: Sequence[Sequence[Encoded]]) -> Callable[[], float]:
    """Return a call that trains Hugging Face's GPT-2 on padded batches that lie on the device, and its seconds."""
    model = gpt2_like(work.model, work.tokenizer.pad_id).to(work.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.config.learning_rate, betas=work.config.betas, fused=True)
    ready = []
    for batch in batches:
        both = [sequences(item) for item in batch]
        rows = [rows[0] for rows in both] + [rows[1] for rows in both]
        ready.append(padded(rows, work.tokenizer.pad_id).to(work.device))

    def train() -> float:
        wait_for_gpu()
        began = time.perf_counter()
        for ids in ready:
            with torch.autocast(work.device, dtype=torch.bfloat16, enabled=work.config.precision == "bfloat16"):
                rewards = model(input_ids=ids).logits[:, 0]
            better, worse = rewards.float().chunk(2)
            (-F.logsigmoid(better - worse).mean()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), work.config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait_for_gpu()
        return time.perf_counter() - began

    return train


def compare(work: Work, rounds: int) -> list[Row]:
    """Return rates, ratios, peak memory and the useful share of the matrix rate."""
    by_length, size = sorted(work.encoded, key=longest), work.per_step
    mixed = [work.encoded[n] for n in np.random.default_rng(0).permutation(len(work.encoded))]
    calls = {
        MINIRM: MinirmTraining(work),
        f"{MINIRM}, compiled": MinirmTraining(replace(work, config=replace(work.config, compile=True))),
        f"{MINIRM}, {FINE}": with_tiles(MinirmTraining(work)),
        f"{MINIRM}, {COARSE}": with_coarse_tiles(with_tiles(MinirmTraining(work))),
        HUGGING_FACE: hugging_face_epoch(work, list(by_step(by_length, size))),
        HUGGING_FACE_RANDOM: hugging_face_epoch(work, list(by_step(mixed, size))),
    }
    shapes = GPU_SHAPES if work.device == "cuda" else SHAPES

    def seconds_per_flop() -> float:
        return 1 / best_matrix_rate(getattr(torch, work.config.precision), work.device, shapes=shapes)

    seconds = interleaved({**calls, "products": seconds_per_flop}, rounds, warm_ups=2, own_clock=True)
    setting = f"{work.model.layers} layers, D = {work.model.width}, {size} pairs a step, {work.config.precision}"
    rows = []
    for name, call in calls.items():
        times = None if name == MINIRM else ratio(seconds[name], seconds[MINIRM])
        aim = Aim(3) if name == HUGGING_FACE else None
        pairs = spread([len(work.encoded) / s for s in seconds[name]])
        rows.append(Row(setting, name, pairs, "pairs/s", times, aim))
        rows.append(Row(setting, name, spread([peak_bytes(call, work.device) / 1e9]), "GB at the peak"))
    useful = useful_flops(work.model, work.encoded)
    fastest = [1 / s for s in seconds["products"]]
    rows.append(Row(setting, "fastest matrix product", spread([r / 1e12 for r in fastest]), "TFLOP/s"))
    for name in (name for name in calls if name.startswith(MINIRM)):
        share = ratio([useful / s for s in seconds[name]], fastest)
        rows.append(Row(setting, f"{name}: useful share of the matrix rate", share, "", aim=Aim(0.4)))
    return rows


def compare_attention(work: Work, rounds: int) -> list[Row]:
    """Return the time of one layer's attention over a step's tokens, forward and backward, in both ways."""
    dtype = torch.bfloat16 if work.device == "cuda" else torch.float32
    middle = (len(work.encoded) - work.per_step) // 2
    model, step = work.model, sorted(work.encoded, key=longest)[middle:][: work.per_step]
    of_step = partial(attention_calls, step, model.width, model.head_width, work.device, dtype)
    calls = of_step()[0] | {COARSE: with_coarse_tiles(of_step)()[0][TILES]}
    seconds = interleaved(calls, rounds, warm_ups=2, at_least_seconds=0.1)
    rows, setting = [], f"attention of a layer, {work.per_step} pairs, D = {model.width}"
    for name, taken in seconds.items():
        times = None if name == TILES else ratio(seconds[TILES], taken)
        rows.append(Row(setting, name, spread([1e3 * s for s in taken]), "ms", times, relation="× as fast as tiles"))
    return rows


def parts_of_a_step(work: Work, rounds: int) -> list[Row]:
    """Return what of a training step's time is packing, what the host's, and what the GPU's kernels take alone."""
    training = MinirmTraining(work)
    plan = training.stream.plan(0)
    packed = [training.stream.packed(numbers) for numbers in plan]

    def steps() -> float:
        training.trainer.progress = Progress()
        began = time.perf_counter()
        for batch in packed:
            training.trainer.step([batch])
        wait_for_gpu()
        return time.perf_counter() - began

    def packing() -> float:
        began = time.perf_counter()
        assert all(training.stream.packed(numbers) for numbers in plan)
        return time.perf_counter() - began

    calls = {"a step": training, "… its batch packed before": steps, "packing alone": packing}
    seconds = interleaved(calls, rounds, own_clock=True)
    if work.device == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            steps()
        seconds["its kernels on the GPU"] = [
            sum(e.self_device_time_total for e in seen.key_averages() if not e.is_user_annotation) / 1e6
        ]
    setting = f"parts of a step, {work.per_step} pairs"
    return [Row(setting, name, spread([1e3 * s / len(plan) for s in taken]), "ms") for name, taken in seconds.items()]


def main(argv: list[str]) -> int:
    """Run the checks and the comparison; exit status 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: tiny, to see that it runs")
    parser.add_argument("--per-step", type=int, default=64, help="pairs in an optimizer step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="bench/results; with --device cpu a new folder for temporary files")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench: there is no GPU here; --device cpu runs every line at a tiny size", file=sys.stderr)
        return 2
    facts, began, on_gpu = machine(), time.perf_counter(), options.device == "cuda"
    checked = run_checks(options.device)
    model, steps, per_step = (sized("gpt2"), 8, options.per_step) if on_gpu else (TINY, 2, 4)
    work = Work(
        dialogues(steps * per_step, model.vocab_size), Tokenizer.train([]), model, per_step, device=options.device
    )
    rounds = options.rounds if on_gpu else 2
    low = replace(work, config=replace(TRAINING, precision="bfloat16"))
    rows = compare(low, rounds)
    try:
        rows += parts_of_a_step(low, rounds) + compare_attention(work, rounds)
    except Exception as error:  # a check has said why already; the comparison stands
        print(
            f"parts of a step and attention are left out: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
    print(*rows, sep="\n")
    command = " ".join(["python -m bench gpu", *argv])
    section = {"command": command, "machine": facts, "seconds": time.perf_counter() - began}
    section |= {"checks": list(map(asdict, checked)), "rows": list(map(asdict, rows))}
    out = out_folder(options.out, whole=on_gpu)
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(section, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(as_markdown(section, checked), encoding="utf-8")
    return 0 if all(found.passed for found in checked) else 1


def as_markdown(section: dict, checked: Sequence[Checked]) -> str:
    """Return checks and comparison as Markdown."""
    lines = ["## Checks", ""]
    lines += [f"- {found.what} {'' if found.passed else '**FAILED**: '}{found.said}" for found in checked]
    return markdown({"gpu": section}, {"gpu": "On a GPU"}, pictured=False) + "\n" + "\n".join(lines) + "\n"
