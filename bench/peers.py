"""What people would use instead: Hugging Face's GPT-2 in plain loops, TRL's RewardTrainer, transformers' pipeline.

All read the token ids that minirm reads, and can hold the weights that minirm holds. GPT-2 stands in as the one model
that all of them know, in the shape of minirm's default.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer as BPETokenizer
from torch import Tensor, nn
from transformers import (
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)

from bench.gpt2 import gpt2_config
from bench.texts import longest, sequences
from minirm.config import ModelConfig, TrainConfig
from minirm.data.comparison import Comparison, Turn
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded
from minirm.tokens.tokenizer import END, PAD, Tokenizer

transformers.logging.set_verbosity_error()
logging.getLogger("accelerate").setLevel(logging.ERROR)


# ── The model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def gpt2_like(config: ModelConfig, pad_id: int) -> GPT2ForSequenceClassification:
    """Return Hugging Face's GPT-2 reward model in the shape of a configuration, without dropout."""
    plain = replace(config, dropout=0.0)
    return GPT2ForSequenceClassification(gpt2_config(plain, num_labels=1, pad_token_id=pad_id, use_cache=False))


@torch.no_grad()
def hugging_face_twin(model: RewardModel, pad_id: int) -> GPT2ForSequenceClassification:
    """Return Hugging Face's GPT-2 reward model with the weights of minirm's."""
    twin = gpt2_like(model.config, pad_id)
    copy_backbone(model.backbone, twin.transformer)
    twin.score.weight.copy_(model.head.weight)
    return twin


@torch.no_grad()
def copy_backbone(backbone: nn.Module, body: nn.Module) -> None:
    """Give Hugging Face's GPT-2 the weights of minirm's backbone."""
    body.wte.weight.copy_(backbone.embedding.weight)
    body.wpe.weight.copy_(backbone.positions.weight)
    _copy(backbone.norm, body.ln_f)
    for block, layer in zip(backbone.blocks, body.h, strict=True):
        _copy(block.attention_norm, layer.ln_1)
        _copy(block.attention.qkv, layer.attn.c_attn, transposed=True)
        _copy(block.attention.out, layer.attn.c_proj, transposed=True)
        _copy(block.mlp_norm, layer.ln_2)
        _copy(block.mlp.up, layer.mlp.c_fc, transposed=True)
        _copy(block.mlp.down, layer.mlp.c_proj, transposed=True)


def _copy(source: nn.Module, target: nn.Module, *, transposed: bool = False) -> None:
    """Copy weight and bias; GPT-2's `Conv1D` holds its weight as (in, out), `Linear` as (out, in)."""
    target.weight.copy_(source.weight.T if transposed else source.weight)
    target.bias.copy_(source.bias)


def padded(rows: Sequence[np.ndarray], pad_id: int) -> Tensor:
    """Return ids (n, T) of sequences padded on the right."""
    ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.from_numpy(row)
    return ids


def padded_rewards(model: GPT2ForSequenceClassification, rows: Sequence[np.ndarray]) -> Tensor:
    """Return the rewards (n,) of sequences, in one padded batch.

    Without a mask, which a causal model needs for no pad on the right: attention then computes its triangle alone.
    """
    return model(input_ids=padded(rows, model.config.pad_token_id).to(model.device)).logits[:, 0]


# ── Plain loops ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Pass(NamedTuple):
    """What one forward pass reads, and which pairs it compares."""

    rows: list[np.ndarray]
    """Sequences, each with its prompt."""
    pairs: list[tuple[int, int]]
    """Places of the better and the worse one among the rows."""


Step = list[Pass]
"""What one optimizer step sees."""


def training_loop(
    model: GPT2ForSequenceClassification,
    steps: Callable[[], Sequence[Step]],
    config: TrainConfig,
    *,
    alone: bool = False,
) -> Callable[[], float]:
    """Return a call that trains on all steps and returns the seconds: forward, backward, clipping, AdamW.

    Args:
        model: trained in place.
        steps: gives the steps of one call.
        config: rate, decay, moments, clipping and precision.
        alone: each sequence is computed on its own; False: those of a pass in one padded batch.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    low = config.precision == "bfloat16"

    def rewards(rows: list[np.ndarray]) -> Tensor:
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=low):
            parts = [padded_rewards(model, [row]) for row in rows] if alone else [padded_rewards(model, rows)]
        return torch.cat(parts).float()

    def train() -> float:
        model.train()
        began = time.perf_counter()
        for step in steps():
            count = sum(len(part.pairs) for part in step)
            for part in step:
                better, worse = rewards(part.rows)[torch.tensor(part.pairs).T]
                (-F.logsigmoid(better - worse).sum() / count).backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    return train


def pairs_of(encoded: Encoded) -> list[tuple[int, int]]:
    """Return all pairs of responses whose scores differ, the better one first."""
    scores = encoded.scores
    return [(i, j) for i, j in permutations(range(len(scores)), 2) if scores[i] > scores[j]]


def each_pair(encoded: Sequence[Encoded]) -> list[list[np.ndarray]]:
    """Return the better and the worse sequence of every pair of every comparison."""
    return [[rows[i], rows[j]] for item in encoded for rows in [sequences(item)] for i, j in pairs_of(item)]


def in_passes(pairs: Sequence[list[np.ndarray]], size: int) -> Step:
    """Return the pairs in their order, `size` in a pass."""
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [Pass([row for pair in b for row in pair], [(2 * n, 2 * n + 1) for n in range(len(b))]) for b in batches]


def sorted_steps(encoded: Sequence[Encoded], per_step: int) -> list[Step]:
    """Return one padded batch per step, of pairs of like length."""
    return [[batch] for batch in in_passes(each_pair(sorted(encoded, key=longest)), per_step)]


def random_steps(encoded: Sequence[Encoded], per_step: int, rng: np.random.Generator) -> list[Step]:
    """Return one padded batch per step, of pairs as chance has it."""
    pairs = each_pair(encoded)
    return [[batch] for batch in in_passes([pairs[n] for n in rng.permutation(len(pairs))], per_step)]


def separate_steps(encoded: Sequence[Encoded], per_step: int, at_once: int) -> list[Step]:
    """Return all pairs of `per_step` comparisons per step, by length, `at_once` in a pass; all rows computed anew."""
    return [
        in_passes(sorted(each_pair(items), key=lambda pair: max(map(len, pair))), at_once)
        for items in by_step(encoded, per_step)
    ]


def together_steps(encoded: Sequence[Encoded], per_step: int) -> list[Step]:
    """Return one pass per comparison: each response once, behind its own copy of the prompt, and then all pairs."""
    return [[Pass(sequences(item), pairs_of(item)) for item in items] for items in by_step(encoded, per_step)]


def by_step(encoded: Sequence[Encoded], per_step: int) -> Iterator[Sequence[Encoded]]:
    """Yield the comparisons of each step."""
    yield from (encoded[start : start + per_step] for start in range(0, len(encoded), per_step))


# ── TRL ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Stopwatch(TrainerCallback):
    """Seconds from the beginning of the epoch, before the first batch is fetched, to the end of the last step."""

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seconds = time.perf_counter() - self.began


def trl_epoch(
    build: Callable[[], GPT2ForSequenceClassification],
    encoded: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerFast,
    config: TrainConfig,
    per_step: int,
    *,
    at_once: int,
    checkpointing: bool,
) -> Callable[[], float]:
    """Return a call that trains a fresh model with TRL's RewardTrainer for one epoch and returns its seconds.

    Its own loop, sampler, collator and clipping; nothing is logged or saved; making the trainer is not counted.
    Checkpointing of the gradients is on by TRL's default; the optimizer's settings are those of everyone. The pairs of
    a step go through the model `at_once`, and the gradient accumulates.
    """
    from datasets import Dataset, disable_progress_bars  # heavy imports that only this peer needs
    from trl import RewardConfig, RewardTrainer

    disable_progress_bars()
    better, worse = zip(*each_pair(encoded), strict=True)
    columns = {"chosen_ids": [row.tolist() for row in better], "rejected_ids": [row.tolist() for row in worse]}
    dataset, calls = Dataset.from_dict(columns), iter(range(1_000_000))
    chosen = {
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": -(-per_step // at_once),
        "gradient_checkpointing": checkpointing,
        **_trl_settings(config),
    }

    def train() -> float:
        model, watch = build(), Stopwatch()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
            use_cpu = model.device.type == "cpu"
            options = RewardConfig(output_dir=folder, use_cpu=use_cpu, data_seed=next(calls), **chosen)
            trainer = RewardTrainer(model, options, train_dataset=dataset, processing_class=tokenizer)
            trainer.add_callback(watch)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return watch.seconds

    return train


def _trl_settings(config: TrainConfig) -> dict:
    """Return what TRL calls the settings that everyone has; nothing is logged or saved."""
    return {
        "num_train_epochs": 1,
        "bf16": config.precision == "bfloat16",
        "learning_rate": config.learning_rate,
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.clip,
        "optim": "adamw_torch_fused",
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


# ── Scoring ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def fast_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Return minirm's tokenizer as transformers knows it: special tokens are read where a text spells them."""
    bpe = BPETokenizer.from_str(tokenizer.bpe.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END, model_max_length=1 << 20)


def whole_texts(comparison: Comparison) -> list[str]:
    """Return prompt and response as one text for each response, with the special tokens that minirm puts between."""
    return [f"{prompt_text(comparison.prompt)}{response}{END}" for response in comparison.responses]


def prompt_text(prompt: Sequence[Turn]) -> str:
    """Return what stands before a response in `whole_texts`."""
    turns = (f"<|{turn.role}|>{turn.text}" + (END if turn.role == "assistant" else "") for turn in prompt)
    return "".join([*turns, "<|assistant|>"])


def pipeline_scoring(
    model: GPT2ForSequenceClassification, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> Callable[[int], list[float]]:
    """Return a call that scores the texts with transformers' text-classification pipeline at a batch size."""
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device=model.device)

    def score(batch_size: int) -> list[float]:
        found = pipeline(texts, batch_size=batch_size, function_to_apply="none")
        return [row["score"] for row in found]

    return score


def loop_scoring(
    model: GPT2ForSequenceClassification, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> Callable[[int], list[float]]:
    """Return a call that scores the texts in padded batches of like length."""

    def score(batch_size: int) -> list[float]:
        ids = tokenizer(texts, return_attention_mask=False)["input_ids"]
        return score_in_batches(model, [np.array(row) for row in ids], batch_size)

    return score


@torch.inference_mode()
def score_in_batches(model: GPT2ForSequenceClassification, rows: Sequence[np.ndarray], batch_size: int) -> list[float]:
    """Return the rewards of sequences, computed in padded batches of like length, in the order of `rows`."""
    model.eval()
    rewards = [0.0] * len(rows)
    for numbers in _by_length(rows, batch_size):
        for number, reward in zip(numbers, padded_rewards(model, [rows[n] for n in numbers]).tolist(), strict=True):
            rewards[number] = reward
    return rewards


def _by_length(rows: Sequence[np.ndarray], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    yield from (order[start : start + batch_size] for start in range(0, len(order), batch_size))
