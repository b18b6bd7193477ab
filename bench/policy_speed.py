"""The section of the speed bench on policies: writing responses, and whole iterations of learning from a reward."""

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel, PrinterCallback

from bench.contenders import MINIRM
from bench.gpt2 import gpt2_config
from bench.peers import Stopwatch, copy_backbone, fast_tokenizer, prompt_text
from bench.scoring_speed import rates
from bench.speed_report import Aim, Row
from bench.speed_setup import HH, Settings
from bench.timing import interleaved
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.models.language_model import LanguageModel
from minirm.policies.grpo import GRPO
from minirm.policies.ppo import PPO
from minirm.policies.rloo import RLOO
from minirm.policies.sampling import Dialogue, Reward
from minirm.policies.trainer import Method, PolicyConfig, PolicyTrainer
from minirm.tokens.tokenizer import Tokenizer

SAMPLES = 8
"""K, where several responses are written to a prompt."""
RATE = 1e-6
"""So low that the weights, and with them the lengths, stay what they are."""
KL_WEIGHT = 0.05


def policy(settings: Settings) -> list[Row]:
    """Tokens written per second, and responses written and learned from, on the same random weights."""
    corpus = settings.corpus(HH)
    prompts = [one for one, item in zip(corpus.comparisons, corpus.encoded, strict=True) if len(item.prompt) <= 256]
    prompts = prompts[: 2 * settings.per_step]
    torch.manual_seed(0)
    model = LanguageModel(settings.model).eval()
    tokens = 16 * settings.steps
    rows = write_tokens(model, corpus.tokenizer, prompts, 1, tokens, settings.rounds, Aim(2))
    rows += write_tokens(
        model, corpus.tokenizer, prompts[: len(prompts) // 4], SAMPLES, tokens, settings.rounds, Aim(4)
    )
    return rows + iterations(model, corpus.tokenizer, prompts[: len(prompts) // 4], tokens, settings.fewer_rounds)


def write_tokens(
    model: LanguageModel, tokenizer: Tokenizer, prompts: list[Comparison], k: int, tokens: int, rounds: int, aim: Aim
) -> list[Row]:
    """Return the rates at which minirm and transformers write k responses of so many tokens to each prompt."""
    twin = causal_twin(model, tokenizer.pad_id)
    ids = tokenizer.encode_prompts([one.prompt for one in prompts])
    longest = max(map(len, ids))
    padded = torch.tensor([[tokenizer.pad_id] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])

    def ours(temperature: float = 1.0) -> list[list[int]]:
        repeated = [row for row in ids for _ in range(k)]
        return model.generate(repeated, max_new_tokens=tokens, end_id=-1, temperature=temperature)

    @torch.no_grad()
    def theirs(**how: object) -> list[list[int]]:
        how = how or {"do_sample": True, "top_k": 0, "num_return_sequences": k}
        limits = {"max_new_tokens": tokens, "min_new_tokens": tokens, "use_cache": True}
        return twin.generate(padded, attention_mask=mask, **limits, **how)[:, longest:].tolist()

    if ours(0.0)[::k] != theirs(do_sample=False):
        raise InputError("transformers' generate writes other tokens than minirm's; no times are compared")
    name = "transformers generate"
    setting = f"{len(prompts)} prompts, {k} of {tokens} tokens to each, float32"
    seconds = interleaved({MINIRM: ours, name: theirs}, rounds)
    return rates(setting, seconds, len(prompts) * k * tokens, "tokens/s", {name: aim})


def iterations(
    model: LanguageModel, tokenizer: Tokenizer, prompts: list[Comparison], tokens: int, rounds: int
) -> list[Row]:
    """Return the rates of whole iterations: responses written, judged, and learned from in four optimizer steps."""
    drawn: list[Dialogue] = []

    def length(answered: Sequence[Dialogue], texts: Sequence[str]) -> list[int]:
        drawn[:] = answered[::SAMPLES]
        return list(map(len, texts))

    minirm_seconds(model, tokenizer, prompts, tokens, RLOO(), length)  # draws with replacement, always the same
    with tempfile.TemporaryDirectory() as folder:
        causal_twin(model, tokenizer.pad_id).save_pretrained(folder)
        texts = same_prompts(drawn, tokenizer)
        calls: dict[str, Callable[[], float]] = {
            f"{MINIRM}, {method.name}": lambda m=method: minirm_seconds(model, tokenizer, prompts, tokens, m, length)
            for method in (RLOO(), GRPO(), PPO())
        }
        for name in ("RLOO", "GRPO"):
            calls[f"TRL {name}Trainer"] = lambda n=name: trl_seconds(Path(folder), tokenizer, texts, tokens, n)
        seconds = interleaved(calls, rounds, own_clock=True)
    setting = f"iterations of {len(prompts)} prompts, {SAMPLES} of {tokens} tokens to each, float32"
    seconds[MINIRM] = seconds.pop(f"{MINIRM}, RLOO")
    aims = {name: Aim(2) for name in seconds if name.startswith("TRL")}
    rows = rates(setting, seconds, len(prompts) * SAMPLES, "responses/s", aims)
    return sorted(rows, key=lambda row: row.name != MINIRM)


def same_prompts(prompts: Sequence[Dialogue], tokenizer: Tokenizer) -> list[str]:
    """Return prompts as texts which TRL's tokenizer reads as minirm's reads the prompts.

    Raises:
        InputError: it reads one of them as other tokens.
    """
    texts = [prompt_text(one) for one in prompts]
    if fast_tokenizer(tokenizer)(texts)["input_ids"] != tokenizer.encode_prompts(prompts):
        raise InputError("TRL's tokenizer reads other prompts than minirm's; no times are compared")
    return texts


def causal_twin(model: LanguageModel, pad_id: int) -> GPT2LMHeadModel:
    """Return Hugging Face's GPT-2 with the weights of minirm's language model."""
    twin = GPT2LMHeadModel(gpt2_config(replace(model.config, dropout=0.0), pad_token_id=pad_id))
    copy_backbone(model.backbone, twin.transformer)
    return twin.eval()


def minirm_seconds(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Comparison],
    tokens: int,
    method: Method,
    reward: Reward,
) -> float:
    """Return the seconds of one iteration, the model's weights left as they were."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    many = len(prompts) * SAMPLES
    config = PolicyConfig(
        iterations=1,
        prompts_per_iteration=len(prompts),
        samples_per_prompt=SAMPLES,
        epochs=1,
        batch=many // 4,
        learning_rate=RATE,
        kl_weight=KL_WEIGHT,
        max_new_tokens=tokens,
    )
    dialogues = [one.prompt for one in prompts]
    trainer = PolicyTrainer(model, tokenizer, dialogues, reward, config, method)
    began = time.perf_counter()
    list(trainer.run())
    seconds = time.perf_counter() - began
    model.load_state_dict(weights)
    return seconds


def trl_seconds(folder: Path, tokenizer: Tokenizer, texts: list[str], tokens: int, name: str) -> float:
    """Return the seconds that TRL's trainer takes for one iteration: its own generation, sampler and loop."""
    import trl  # a heavy import that only this peer needs
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings(action="ignore"):
        options = getattr(trl, f"{name}Config")(
            output_dir=out,
            per_device_train_batch_size=len(texts) * SAMPLES // 4,
            gradient_accumulation_steps=1,
            steps_per_generation=4,
            num_generations=SAMPLES,
            max_steps=4,
            max_completion_length=tokens,
            beta=KL_WEIGHT,
            learning_rate=RATE,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = getattr(trl, f"{name}Trainer")(
            str(folder),
            lambda completions, **_: [float(len(text)) for text in completions],
            options,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=fast_tokenizer(tokenizer),
        )
        trainer.add_callback(watch)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.seconds
