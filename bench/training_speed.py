"""Sections of the speed bench that train: races, the limit, memory, what each idea gives, the loader, growth."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from bench.contenders import (
    ALL,
    ALONE,
    BATCHED_PAIRS,
    BY_KERNEL,
    BY_PYTORCH,
    EACH_PAIR,
    MINIRM,
    MINIRM_CHECKPOINTING,
    MINIRM_WHOLE,
    NO_PADDING_ALONE,
    RANDOM,
    SORTED,
    SORTED_SMALL,
    TOGETHER,
    TRAINING,
    TRL,
    TRL_SMALL,
    TRL_WITHOUT,
    WITH_KEYS,
    InItsOwnProcess,
    MinirmTraining,
    Work,
    contender,
    peak_of_training,
)
from bench.flops import best_matrix_rate, flops_of_rows, useful_flops
from bench.memory import in_fresh_process, peak_bytes
from bench.profile import time_by_kind
from bench.speed_report import Aim, Row
from bench.speed_setup import BF16, FP32, HH, PAIRS, RANKINGS, Settings
from bench.texts import made_of_noise, sequences
from bench.timing import Spread, interleaved, ratio, spread
from minirm.cli.memory import keep_freed_memory
from minirm.config import ModelConfig
from minirm.data.comparison import Comparison
from minirm.files.records import read_comparisons
from minirm.tokens.packing import tokenize

# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def race(
    setting: str,
    work: Work,
    entrants: Sequence[tuple[str, str]],
    rounds: int,
    *,
    unit: str = "pairs/s",
    per_comparison: int = 1,
    aims: dict[tuple[str, str], Aim] | None = None,
    all_keep_memory: bool = False,
) -> list[Row]:
    """Return a row for each entrant (name, precision): its rate, and how many times as fast minirm is.

    Everyone has a process of its own, and as it comes: minirm's keeps its freed memory, as its command line does.

    Args:
        setting: what stands above the rows.
        work: what everyone trains on.
        entrants: minirm among them in each precision.
        rounds: passes of each.
        unit: of the rate.
        per_comparison: how many of the unit a comparison counts.
        aims: at least how many times as fast minirm is to be.
        all_keep_memory: the others keep their freed memory too.
    """
    with ExitStack() as open_until_then:
        calls = {}
        for name, precision in entrants:
            keeps = all_keep_memory or name.startswith(MINIRM)
            process = InItsOwnProcess(name, work.at(precision), keeps_memory=keeps)
            calls[name, precision] = open_until_then.enter_context(process)
        seconds = interleaved(calls, rounds, warm_ups=0, own_clock=True)
    cases, rows = len(work.encoded) * per_comparison, []
    for (name, precision), taken in seconds.items():
        rate = spread([cases / s for s in taken])
        times = None if name == MINIRM else ratio(taken, seconds[MINIRM, precision])
        rows.append(Row(f"{setting}, {precision}", name, rate, unit, times, (aims or {}).get((name, precision))))
    return rows


def training(settings: Settings) -> list[Row]:
    """Pairs per second of whole training steps."""
    long_prompts, short_prompts = settings.corpus(HH), settings.corpus(PAIRS)
    others = (SORTED, RANDOM, SORTED_SMALL, TRL, TRL_WITHOUT, TRL_SMALL, ALONE)
    entrants = [(name, FP32) for name in (MINIRM, MINIRM_WHOLE, *others)]
    aims = {(TRL, FP32): Aim(7), (TRL, BF16): Aim(4.5), (SORTED, FP32): Aim(2.2)}
    rows = race(long_prompts.name, settings.work(long_prompts), entrants, settings.rounds, aims=aims)
    if BF16 in settings.precisions:
        entrants = [(name, BF16) for name in (MINIRM, SORTED, TRL, TRL_WITHOUT)]
        rows += race(long_prompts.name, settings.long_work(long_prompts), entrants, settings.fewer_rounds, aims=aims)
    fewer = [(name, FP32) for name in (MINIRM, SORTED, RANDOM, TRL)]
    half = settings.work(short_prompts, per_step=settings.per_step // 2, steps=2)
    return rows + race(f"{short_prompts.name}, {half.per_step} pairs a step", half, fewer, settings.fewer_rounds)


def kept(settings: Settings) -> list[Row]:
    """The same where the others keep their freed memory too, as anybody can have it."""
    corpus, rows = settings.corpus(HH), []
    for precision in settings.precisions:
        work = settings.work(corpus) if precision == FP32 else settings.long_work(corpus)
        entrants = [(name, precision) for name in (MINIRM, SORTED, SORTED_SMALL, TRL, TRL_SMALL)]
        rows += race(corpus.name, work, entrants, settings.fewer_rounds, all_keep_memory=True)
    return rows + nine_responses(settings, (MINIRM, EACH_PAIR), all_keep_memory=True)[0]


def ranking(settings: Settings) -> list[Row]:
    """Nine responses to a prompt, against their 36 pairs."""
    aims = {(EACH_PAIR, FP32): Aim(18)}
    rows, work = nine_responses(settings, (MINIRM, EACH_PAIR, BATCHED_PAIRS, TOGETHER), aims=aims)
    separate = [len(row) for item in work.encoded for row in sequences(item) for _ in range(8)]  # each is in 8 pairs
    needed = flops_of_rows(work.model, separate) / useful_flops(work.model, work.encoded)
    return [*rows, Row(rows[0].setting, "arithmetic of the 36 pairs, unpadded, over minirm's", spread([needed]), "×")]


def recurrent(settings: Settings) -> list[Row]:
    """GRU and LSTM, written out, against PyTorch's own over the same packed steps; memory kept by both."""
    corpus, rows = settings.corpus(HH), []
    for backbone in ("gru", "lstm"):
        work = settings.work(corpus, steps=2)
        work = replace(work, model=replace(work.model, backbone=backbone))
        entrants = [(name, FP32) for name in (MINIRM, BY_PYTORCH)]
        rows += race(f"{corpus.name}, {backbone}", work, entrants, settings.fewer_rounds)
    return rows


def read(settings: Settings) -> list[Row]:
    """The fused read without keys and values, against the fused read that makes them; memory kept by both."""
    corpus, entrants = settings.corpus(HH), (MINIRM, WITH_KEYS)
    work, rows = settings.work(corpus, steps=2), []
    for layers in (1, 2, 4):
        shallow = replace(work, model=replace(work.model, layers=layers))
        named = [(name, FP32) for name in entrants]
        rows += race(f"{corpus.name}, layers = {layers}", shallow, named, settings.rounds)
    return rows + nine_responses(settings, entrants)[0]


def strips(settings: Settings) -> list[Row]:
    """Attention in strips, against attention by PyTorch's kernel; memory kept by both."""
    rows, entrants = [], (MINIRM, BY_KERNEL)
    for name, per_step in ((HH, settings.per_step), (PAIRS, settings.per_step // 2)):
        corpus = settings.corpus(name)
        work = settings.work(corpus, per_step=per_step, steps=2)
        rows += race(corpus.name, work, [(entrant, FP32) for entrant in entrants], settings.rounds)
    return rows + nine_responses(settings, entrants)[0]


def nine_responses(settings: Settings, entrants: Sequence[str], **options: object) -> tuple[list[Row], Work]:
    """Return the rows of a race over comparisons of nine responses, in float32, and what was trained on."""
    corpus = settings.corpus(RANKINGS, responses=9)
    work, setting = settings.work(corpus, per_step=2, steps=2), f"{corpus.name}, K = 9, 2 prompts a step"
    named, rounds = [(name, FP32) for name in entrants], settings.fewer_rounds
    return race(setting, work, named, rounds, unit="pairs/s", per_comparison=36, **options), work


# ── How far from the limit ────────────────────────────────────────────────────────────────────────────────────────────


def arithmetic(settings: Settings) -> list[Row]:
    """Useful arithmetic over the best rate of matrix products, freed memory kept, and what takes the rest."""
    return in_fresh_process(_arithmetic_with_memory_kept, settings, torch.get_num_threads())


def _arithmetic_with_memory_kept(settings: Settings, threads: int) -> list[Row]:
    torch.set_num_threads(threads)
    keep_freed_memory()
    corpus, rows = settings.corpus(HH), []
    for config, aim, precision in (
        (settings.model, Aim(0.6), FP32),
        (settings.wide, Aim(0.72), FP32),
        (settings.model, None, BF16),
    ):
        if precision not in settings.precisions:
            continue
        work = replace(settings.work(corpus, steps=2), model=config).at(precision)
        dtype, flops = getattr(torch, precision), useful_flops(config, work.encoded)
        calls = {MINIRM: MinirmTraining(work), "products": lambda dtype=dtype: 1 / best_matrix_rate(dtype)}
        seconds = interleaved(calls, settings.rounds, own_clock=True)
        setting = f"D = {config.width}, {config.layers} layers, {precision}"
        useful, fastest = ([flops / s for s in seconds[MINIRM]], [1 / s for s in seconds["products"]])
        rows.append(Row(setting, "minirm, useful", spread([rate / 1e9 for rate in useful]), "GFLOP/s"))
        rows.append(Row(setting, "fastest matrix product", spread([rate / 1e9 for rate in fastest]), "GFLOP/s"))
        rows.append(Row(setting, "useful share of it", ratio(useful, fastest), "", aim=aim))
        outside = useful_flops(config, work.encoded, attention=False) / flops
        rows += held_by(setting, calls[MINIRM], rows[-1].value, outside)
    return rows


def held_by(setting: str, train: MinirmTraining, share: Spread, outside_attention: float) -> list[Row]:
    """Return what holds the rest: the share of time of each kind of operation, and what products alone would reach.

    Args:
        share: useful arithmetic over the fastest product.
        outside_attention: the part of the useful arithmetic that is not inside attention's kernels.
    """
    shares = time_by_kind(train.epoch)
    rows = [Row(setting, f"time in {kind}", spread([part]), "") for kind, part in shares.items()]
    alone = Spread(*(outside_attention * bound / shares["matrix products"] for bound in share))
    return [*rows, Row(setting, "the products' own share: useful arithmetic in them, over their time alone", alone, "")]


def memory(settings: Settings) -> list[Row]:
    """Peak memory of a training pass above the model and its optimizer, each in a fresh process."""
    work = settings.work(settings.corpus(HH), steps=2)
    peaks = {
        name: in_fresh_process(peak_of_training, name, work, torch.get_num_threads())
        for name in (MINIRM, MINIRM_WHOLE, MINIRM_CHECKPOINTING, SORTED, TRL, TRL_WITHOUT, TRL_SMALL)
    }
    rows = []
    for field, setting in (
        ("allocated_bytes", "by PyTorch's allocator, float32"),
        ("resident_bytes", "by the process's resident memory, float32"),
    ):
        ours = getattr(peaks[MINIRM], field)
        for name, peak in peaks.items():
            size = getattr(peak, field)
            part = None if name == MINIRM else spread([ours / size])
            aim = Aim(0.5, at_least=False) if (name, field) == (TRL, "allocated_bytes") else None
            rows.append(Row(setting, name, spread([size / 1e6]), "MB", part, aim, "minirm's share of it"))
    return rows


# ── What each idea gives ──────────────────────────────────────────────────────────────────────────────────────────────


ON_ITS_OWN = {
    "no padding": (NO_PADDING_ALONE, FP32, False),
    "no padding, sorted": (replace(NO_PADDING_ALONE, sort=True), FP32, False),
    "no padding, prompts shared": (replace(NO_PADDING_ALONE, share=True), FP32, False),
    "no padding, fused read": (replace(NO_PADDING_ALONE, fuse=True), FP32, False),
    "no padding, bfloat16": (NO_PADDING_ALONE, BF16, False),
    "no padding, compiled": (NO_PADDING_ALONE, FP32, True),
    "all but sorted": (replace(ALL, sort=False), FP32, False),
    "all but prompts shared": (replace(ALL, share=False), FP32, False),
    "all but fused read": (replace(ALL, fuse=False), FP32, False),
    "sorted, prompts shared, fused read": (ALL, FP32, False),
    "… and compiled": (ALL, FP32, True),
    "… and bfloat16": (ALL, BF16, False),
    "… and both": (ALL, BF16, True),
}


def ideas(settings: Settings) -> list[Row]:
    """What each idea gives alone and together, on long and on short prompts; bfloat16 on batches met before."""
    rows = []
    for name, what, part in ((HH, "long prompts", 2), (PAIRS, "short prompts", 4)):
        corpus = settings.corpus(name)
        work = settings.work(corpus, per_step=max(2, settings.per_step // part), steps=4)
        calls = {f"{kind}, {precision}": contender(kind, work.at(precision)) for kind, precision in
                 ((RANDOM, FP32), (SORTED, FP32), (RANDOM, BF16)) if precision in settings.precisions}  # fmt: skip
        for variant, (switches, precision, compiled) in ON_ITS_OWN.items():
            config = replace(TRAINING, precision=precision, compile=compiled)
            if precision in settings.precisions:
                calls[variant] = MinirmTraining(replace(work, config=config), switches)
        seconds = interleaved(calls, settings.fewer_rounds, own_clock=True)
        start = seconds[f"{RANDOM}, {FP32}"]
        setting = f"{corpus.name} ({what}), {work.per_step} pairs a step"
        for variant, taken in seconds.items():
            value = spread([len(work.encoded) / s for s in taken])
            rows.append(Row(setting, variant, value, "pairs/s", ratio(start, taken), None, "× the first row"))
    return rows


# ── The loader ────────────────────────────────────────────────────────────────────────────────────────────────────────


def loader(settings: Settings) -> list[Row]:
    """Tokens per second of each stage before training, and how long training waits for them."""
    corpus = settings.corpus(HH)
    work = settings.work(corpus, steps=4 * settings.steps)
    tokens = sum(item.tokens for item in corpus.encoded)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "comparisons.jsonl"
        file.write_text("".join(json.dumps(as_record(row)) + "\n" for row in corpus.comparisons), encoding="utf-8")
        train = MinirmTraining(work)
        plan = train.stream.plan(0)
        calls = {
            "reading": lambda: list(read_comparisons([file])),
            "tokenizing": lambda: list(tokenize(corpus.comparisons, corpus.tokenizer)),
            "packing": lambda: [train.stream.packed(rows) for rows in plan],
        }
        seconds = interleaved(calls, settings.rounds)
    worked_on = {"reading": tokens, "tokenizing": tokens, "packing": work.tokens}
    rows = [Row(corpus.name, n, spread([worked_on[n] / s for s in t]), "tokens/s") for n, t in seconds.items()]
    shares, taken = [], []
    for _ in range(1 + settings.rounds):
        train.stream.waits.clear()
        taken.append(train())
        shares.append(sum(train.stream.waits) / taken[-1])
    rows.append(Row(corpus.name, "training", spread([work.tokens / s for s in taken[1:]]), "tokens/s"))
    return [*rows, Row(corpus.name, "share of training spent waiting for a batch", spread(shares[1:]), "")]


def as_record(comparison: Comparison) -> dict:
    """Return a comparison as a line of a file."""
    turns = [{"role": turn.role, "content": turn.text} for turn in comparison.prompt]
    return {"prompt": turns, "chosen": comparison.responses[0], "rejected": comparison.responses[1]}


# ── Growth ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def growth(settings: Settings) -> list[Row]:
    """Time and memory of one training step as T, K, D and L grow."""
    tokenizer, rows = settings.corpus(HH).tokenizer, []
    for letter, size, config, shapes in growing_shapes(settings):
        work = Work(made_of_noise(shapes, config.vocab_size), tokenizer, config, len(shapes))
        calls = {name: contender(name, work) for name in (MINIRM, TOGETHER)}
        seconds = interleaved(calls, settings.rounds, own_clock=True)
        for name, call in calls.items():
            times = None if name == MINIRM else ratio(seconds[name], seconds[MINIRM])
            rows.append(Row(f"{letter} = {size}", name, spread([1e3 * s for s in seconds[name]]), "ms", times))
            rows.append(Row(f"{letter} = {size}", name, spread([peak_bytes(call) / 1e6]), "MB"))
    return rows


def growing_shapes(settings: Settings) -> Iterator[tuple[str, int, ModelConfig, list[tuple[int, list[int]]]]]:
    """Yield letter, size, model, and the lengths of prompts and responses in the step."""
    model, base = settings.model, [(256, [128, 128])] * 2
    for T in settings.growing["T"]:
        yield "T", T, replace(model, max_positions=T), [(T - 128, [128, 128])]
    for K in settings.growing["K"]:
        yield "K", K, model, [(256, [64] * K)]
    for D in settings.growing["D"]:
        yield "D", D, replace(model, width=D), base
    for L in settings.growing["L"]:
        yield "L", L, replace(model, layers=L), base
