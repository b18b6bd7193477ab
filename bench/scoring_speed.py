"""The section of the speed bench that scores: from texts to a list of floats."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import torch

from bench.contenders import MINIRM, SORTED
from bench.peers import (
    fast_tokenizer,
    hugging_face_twin,
    loop_scoring,
    pipeline_scoring,
    score_in_batches,
    whole_texts,
)
from bench.speed_report import Aim, Row
from bench.speed_setup import HH, TOLERANCE, Settings
from bench.texts import Corpus, made_of_noise, sequences
from bench.timing import interleaved, ratio, spread
from minirm.config import PackingConfig
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.scoring import score_comparisons, score_encoded
from minirm.models.reward_model import RewardModel

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
"""Tried for the peers; each then runs at its best."""


def scoring(settings: Settings) -> list[Row]:
    """Rewards per second, from texts."""
    corpus = settings.corpus(HH)
    corpus = corpus.spread(2 * settings.steps, settings.per_step)
    torch.manual_seed(0)
    model = RewardModel(settings.model).eval()
    best = [replace(row, responses=row.responses[:1], scores=row.scores[:1]) for row in corpus.comparisons]
    rows = score_texts("one response of each prompt", corpus, best, model, settings.rounds, Aim(1.4))
    rows += score_texts("both responses of each pair", corpus, corpus.comparisons, model, settings.rounds, Aim(2))
    return rows + score_many(model, corpus.tokenizer.pad_id, settings.rounds)


def score_texts(
    what: str, corpus: Corpus, comparisons: list[Comparison], model: RewardModel, rounds: int, aim: Aim
) -> list[Row]:
    """Return the rates at which minirm, the pipeline and a padded, sorted loop score the same texts."""
    tokenizer, twin = fast_tokenizer(corpus.tokenizer), hugging_face_twin(model, corpus.tokenizer.pad_id).eval()
    texts = [text for comparison in comparisons for text in whole_texts(comparison)]
    packing = PackingConfig(max_tokens=model.config.max_positions)
    peers = {
        "transformers pipeline": pipeline_scoring(twin, tokenizer, texts),
        SORTED: loop_scoring(twin, tokenizer, texts),
    }
    calls: dict[str, Callable[[], object]] = {
        MINIRM: lambda: list(chain(*score_comparisons(model, corpus.tokenizer, packing, comparisons)))
    }
    for name, score in peers.items():
        size = best_size(score)
        calls[f"{name}, batches of {size}"] = partial(score, size)
    check_rewards(what, calls)
    seconds = interleaved(calls, rounds)
    aims = {name: aim for name in calls if name.startswith("transformers")}
    return rates(f"{corpus.name}, {what}, float32", seconds, len(texts), "responses/s", aims)


def score_many(model: RewardModel, pad_id: int, rounds: int) -> list[Row]:
    """Return the rates of scoring 16 responses to one prompt, in tokens already, one prompt a call."""
    rng = np.random.default_rng(0)
    lengths = [(300, rng.integers(20, 101, 16).tolist()) for _ in range(8)]
    prompts = made_of_noise(lengths, model.config.vocab_size)
    twin, packing = hugging_face_twin(model, pad_id).eval(), PackingConfig(max_tokens=model.config.max_positions)

    def loop(batch_size: int) -> list[float]:
        return [reward for item in prompts for reward in score_in_batches(twin, sequences(item), batch_size)]

    size = best_size(loop)
    name = f"{SORTED}, batches of {size}"
    calls = {
        MINIRM: lambda: [reward for item in prompts for reward in score_encoded(model, packing, [item])[0]],
        name: partial(loop, size),
    }
    check_rewards("16 responses", calls)
    setting = "16 responses of 20 to 100 tokens to one prompt of 300, float32"
    return rates(setting, interleaved(calls, rounds), 16 * len(prompts), "responses/s", {name: Aim(4.5)})


def best_size(score: Callable[[int], object]) -> int:
    """Return the batch size at which a call is fastest: the better of two passes each."""
    calls = {size: partial(score, size) for size in BATCH_SIZES}
    seconds = interleaved(calls, 2)
    return min(seconds, key=lambda size: min(seconds[size]))


def check_rewards(what: str, calls: dict[str, Callable[[], list[float]]]) -> None:
    """Raise InputError unless all calls return the same rewards."""
    (_, ours), *others = ((name, np.array(call())) for name, call in calls.items())
    for name, theirs in others:
        apart = np.abs(ours - theirs).max()
        if not apart <= TOLERANCE:
            raise InputError(f"{what}: rewards by {name} differ by {apart:.2g} from minirm's; no times are compared")


def rates(
    setting: str, seconds: dict[str, list[float]], cases: int, unit: str, aims: dict[str, Aim] | None = None
) -> list[Row]:
    """Return the rows of calls of which minirm's is one."""
    return [
        Row(
            setting,
            name,
            spread([cases / s for s in taken]),
            unit,
            None if name == MINIRM else ratio(taken, seconds[MINIRM]),
            (aims or {}).get(name),
        )
        for name, taken in seconds.items()
    ]
