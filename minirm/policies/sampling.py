"""Responses of a language model to prompts, as the tokens that it chose and as texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from minirm.config_rules import require
from minirm.data.comparison import Turn
from minirm.errors import InputError, shorten
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.tokens.packing import Encoded

Dialogue = tuple[Turn, ...]
Reward = Callable[[Sequence[Dialogue], Sequence[str]], Sequence[float]]
"""Prompts and as many responses → a number for each."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One response to one prompt."""

    prompt: Dialogue
    response: str
    prompt_ids: np.ndarray  # (P,) int32
    ids: np.ndarray  # (R,) int32, the end token among them if the model chose it
    has_end: bool
    """Whether the model chose to end it; else it was stopped."""


def sample(
    language_model: LanguageModel,
    tokenizer: AnyTokenizer,
    prompts: Sequence[Dialogue],
    *,
    max_new_tokens: int,
    seed: int,
    part: int = 0,
    temperature: float = 1.0,
) -> list[Sample]:
    """Return one response to each prompt, drawn token by token.

    Args:
        prompts: any number; one that stands there several times is computed once and gets as many responses.
        max_new_tokens: where a response without an end is stopped.
        seed: of the draws.
        part: of the seed's draws; two seeds, and two parts of one, draw independently.
        temperature: divides the logits; 0 always takes the most probable token.
    """
    language_model.eval()
    encoded = tokenizer.encode_prompts(prompts)
    limits = {"max_new_tokens": max_new_tokens, "end_id": tokenizer.end_id}
    words = [seed % 2**32, part, seed >> 32]  # of 32 bits each: no other seed and part have the same
    stream = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    written = language_model.generate(encoded, **limits, temperature=temperature, seed=stream)
    samples = []
    for prompt, prompt_ids, ids in zip(prompts, encoded, written, strict=True):
        has_end = len(ids) < max_new_tokens
        chosen = [*ids, tokenizer.end_id] if has_end else ids
        response = tokenizer.decode(ids).replace("\0", "\ufffd")  # a byte's token may write NUL; no reward reads it
        samples.append(Sample(prompt, response, np.array(prompt_ids, np.int32), np.array(chosen, np.int32), has_end))
    return samples


def rewards_of(reward: Reward, prompts: Sequence[Dialogue], responses: Sequence[str]) -> list[float]:
    """Return the reward of each response.

    Raises:
        InputError: they are not one number each, from −1e30 to 1e30.
    """
    found = reward(prompts, responses)
    try:
        rewards = [float(one) for one in found]
    except (TypeError, ValueError):
        raise InputError(f"the reward gave {shorten(found)}: must be a number for each response") from None
    many = f"the reward gave {len(rewards)} for {len(responses)} responses: must be a number for each"
    require(len(rewards) == len(responses), many)
    for value, text in zip(rewards, responses, strict=True):
        require(abs(value) <= 1e30, f"the reward gave {value} for {shorten(text)}: must be from -1e30 to 1e30")
    return rewards


def encode(samples: Sequence[Sample]) -> list[Encoded]:
    """Return samples in tokens, of which a language model learns the responses alone.

    Samples of one prompt that stand side by side are K segments behind one parent: the prompt is computed once for all.
    """
    encoded = []
    for _, group in groupby(samples, lambda one: one.prompt_ids.tobytes()):
        same = list(group)
        unlearned = np.zeros(len(same[0].prompt_ids), dtype=bool)
        responses = tuple(one.ids for one in same)
        encoded.append(Encoded(same[0].prompt_ids, responses, (0.0,) * len(same), learned=unlearned))
    return encoded
