"""Responses of a language model to prompts, as the tokens that it chose and as texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minirm.data.comparison import Turn
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.tokens.packing import Encoded

Dialogue = tuple[Turn, ...]
Reward = Callable[[Sequence[Dialogue], Sequence[str]], list[float]]
"""Prompts and as many responses → a number for each."""


@dataclass(frozen=True)
class Sample:
    """One response to one prompt."""

    prompt: Dialogue
    response: str
    encoded: Encoded
    """In tokens; the end token is among them if the model chose it. Only the response is `learned`."""


def sample(
    language_model: LanguageModel,
    tokenizer: AnyTokenizer,
    prompts: Sequence[Dialogue],
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
) -> list[Sample]:
    """Return one response to each prompt, drawn token by token.

    Args:
        prompts: any number; one that stands there several times gets as many responses.
        max_new_tokens: where a response without an end is stopped.
        seed: of the draws.
        temperature: divides the logits; 0 always takes the most probable token.
    """
    language_model.eval()
    encoded = tokenizer.encode_prompts(prompts)
    limits = {"max_new_tokens": max_new_tokens, "end_id": tokenizer.end_id}
    written = language_model.generate(encoded, **limits, temperature=temperature, seed=seed)
    samples = []
    for prompt, prompt_ids, ids in zip(prompts, encoded, written, strict=True):
        chosen = ids if len(ids) == max_new_tokens else [*ids, tokenizer.end_id]
        learned = np.zeros(len(prompt_ids), dtype=bool)
        tokens = Encoded(np.array(prompt_ids, np.int32), (np.array(chosen, np.int32),), (0.0,), learned=learned)
        text = tokenizer.decode(ids).replace("\0", "\ufffd")  # no reward reads a NUL, which a byte's token may write
        samples.append(Sample(prompt, text, tokens))
    return samples
