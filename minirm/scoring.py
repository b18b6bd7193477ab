"""A trained run as a function: texts in, rewards out, encoded exactly as in training."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch

from minirm.checkpoint import LoadedRun, load_run
from minirm.config import PackingConfig
from minirm.dialogue import LEAD_IN, Turn, parse_prompt, parse_response
from minirm.errors import InputError
from minirm.packing import Encoded, pack, tokenize, truncate
from minirm.records import Comparison
from minirm.reward_model import RewardModel
from minirm.tokenizer import Tokenizer

Prompt = str | Sequence[dict] | None


class RewardScorer:
    """Scores responses with a reward model. Responses to the same prompt share its computation."""

    def __init__(self, run: LoadedRun) -> None:
        self.run = run

    def score(
        self, prompts: Sequence[Prompt] | str, responses: Sequence[str], *, normalise: bool = False
    ) -> list[float]:
        """Return one reward per response, in order.

        Args:
            prompts: one per response: text, a list of messages, or None; a single text serves all responses.
            responses: texts, without an end token.
            normalise: subtract the mean and divide by the spread that the rewards had on the run's validation part.
        Raises:
            InputError: the numbers of prompts and responses differ, or one of them is no text.
        """
        prompts = [prompts] * len(responses) if isinstance(prompts, str) else list(prompts)
        if len(prompts) != len(responses):
            raise InputError(f"prompts ({len(prompts)}) and responses ({len(responses)}) must be equally many")
        grouped: dict[tuple[Turn, ...], list[int]] = {}
        texts = [
            parse_response(r, p, f"responses[{n}]") for n, (p, r) in enumerate(zip(prompts, responses, strict=True))
        ]
        for n, prompt in enumerate(prompts):
            grouped.setdefault(parse_prompt(prompt, f"prompts[{n}]"), []).append(n)
        comparisons = [
            Comparison(turns, tuple(texts[n] for n in numbers), (0.0,) * len(numbers))
            for turns, numbers in grouped.items()
        ]
        rewards = [0.0] * len(responses)
        for numbers, scored in zip(grouped.values(), self.score_comparisons(comparisons), strict=True):
            for n, reward in zip(numbers, scored, strict=True):
                rewards[n] = (reward - self.run.reward_mean) / self.run.reward_std if normalise else reward
        return rewards

    def score_comparisons(self, comparisons: Sequence[Comparison]) -> list[list[float]]:
        """Return the rewards of each comparison's responses."""
        return score_comparisons(self.run.model, self.run.tokenizer, self.run.packing, comparisons)

    def reward_fn(
        self,
        samples: Sequence[str] | None = None,
        prompts: Sequence[Prompt] | None = None,
        outputs: Sequence[str] | None = None,
        completions: Sequence | None = None,
        **kwargs: object,
    ) -> list[float]:
        """Return rewards as trlx (`samples`, `prompts`, `outputs`) and TRL (`prompts`, `completions`) ask for them.

        A sample alone is a dialogue whose last "\\n\\nAssistant:" opens the response, or a response without a prompt.
        """
        outputs = outputs if outputs is not None else completions
        if prompts is not None and outputs is not None:
            return self.score(list(prompts), [_last_text(output) for output in outputs])
        if samples is None:
            raise InputError("reward_fn needs samples, or prompts with outputs (trlx) or completions (TRL)")
        split = [_parse_sample(sample) for sample in samples]
        scored = self.score_comparisons([Comparison(prompt, (response,), (0.0,)) for prompt, response in split])
        return [rewards[0] for rewards in scored]


def _parse_sample(sample: str) -> tuple[tuple[Turn, ...], str]:
    """Split a whole dialogue before its last response."""
    if LEAD_IN not in sample:
        return (), parse_response(sample, None, "sample")
    end = sample.rindex(LEAD_IN) + len(LEAD_IN)
    prompt, response = sample[:end], sample[end:]
    return parse_prompt(prompt, "sample"), parse_response(response, prompt, "sample")


def _last_text(output: object) -> str:
    """Return a completion's text; TRL hands over conversations as lists of messages."""
    return output[-1]["content"] if isinstance(output, list) else output


def score_comparisons(
    model: RewardModel, tokenizer: Tokenizer, packing: PackingConfig, comparisons: Sequence[Comparison]
) -> list[list[float]]:
    """Return the rewards of each comparison's responses; one beyond `max_tokens` is truncated, never left out."""
    encoded = [truncate(item, packing.max_tokens) for item in tokenize(comparisons, tokenizer)]
    return score_encoded(model, packing, encoded)


@torch.inference_mode()
def score_encoded(model: RewardModel, packing: PackingConfig, encoded: Sequence[Encoded]) -> list[list[float]]:
    """Return the rewards of encoded comparisons, in order, at most `tokens_per_batch` tokens at a time."""
    model.eval()
    device = model.head.weight.device
    rewards: list[list[float]] = [[] for _ in encoded]
    for rows, batch in _batches(encoded, packing.tokens_per_batch):
        scored = model(pack(batch, share_prompt=packing.share_prompt).to(device)).tolist()
        for row, item, values in zip(rows, batch, scored, strict=True):
            rewards[row] += values[: len(item.responses)]
    return rewards


def _batches(encoded: Sequence[Encoded], budget: int) -> Iterator[tuple[list[int], list[Encoded]]]:
    """Yield comparisons of like length together; one that exceeds the budget alone is split among its responses."""
    rows: list[int] = []
    batch: list[Encoded] = []
    tokens = 0
    for row in sorted(range(len(encoded)), key=lambda n: encoded[n].tokens):
        for part in _parts(encoded[row], budget):
            if batch and tokens + part.tokens > budget:
                yield rows, batch
                rows, batch, tokens = [], [], 0
            rows.append(row)
            batch.append(part)
            tokens += part.tokens
    if batch:
        yield rows, batch


def _parts(encoded: Encoded, budget: int) -> Iterator[Encoded]:
    """Yield a comparison in parts within the budget, each behind the prompt; one response at least in each."""
    start = 0
    while start < len(encoded.responses):
        tokens, stop = len(encoded.prompt), start
        while stop < len(encoded.responses) and (stop == start or tokens + len(encoded.responses[stop]) <= budget):
            tokens += len(encoded.responses[stop])
            stop += 1
        yield Encoded(encoded.prompt, encoded.responses[start:stop], encoded.scores[start:stop])
        start = stop


def swap_prompts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons, each behind the prompt of the next one that has another; unchanged if all share one."""
    swapped = []
    for n, comparison in enumerate(comparisons):
        later = islice(cycle(comparisons), n + 1, n + len(comparisons))
        prompt = next((other.prompt for other in later if other.prompt != comparison.prompt), comparison.prompt)
        swapped.append(replace(comparison, prompt=prompt))
    return swapped


def load(run_folder: str | Path, device: str | None = None) -> RewardScorer:
    """Return the scorer of a run folder, which holds all that it needs.

    Args:
        run_folder: what `minirm train` wrote.
        device: where to compute; None takes a GPU where there is one.
    Raises:
        InputError: the folder lacks a file, or a file does not fit the others.
    """
    return RewardScorer(load_run(run_folder, device or ("cuda" if torch.cuda.is_available() else "cpu")))
