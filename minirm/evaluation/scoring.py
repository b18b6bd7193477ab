"""A trained run as a function: texts in, rewards out, encoded exactly as in training."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch

from minirm.config import PackingConfig
from minirm.data.comparison import Comparison, Turn
from minirm.data.splits import prompt_set
from minirm.errors import InputError, field_error
from minirm.evaluation.evaluate import Evaluation, evaluate
from minirm.files.dialogue import (
    LEAD_IN,
    check_text,
    has_human_turn,
    parse_prompt,
    parse_reply,
    parse_response,
    render_response,
)
from minirm.files.fields import Names, Record, parse_fields
from minirm.files.pretrained import AnyTokenizer
from minirm.files.records import parse_record
from minirm.files.shapes import recognise
from minirm.files.tables import Row
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, pack, tokenize, truncate

Prompt = str | Sequence[dict] | None
ROWS_AT_ONCE = 256
"""Records that `score_rows` reads before it yields their rewards."""
TOKENS_AT_ONCE = 2048
"""On a CPU, a batch takes comparisons until their tokens reach this number: what so few need stays in its caches."""

Advance = Callable[[int], object]
"""Is told how many more responses have been scored."""


def to_nobody(_responses: int) -> None:
    """Let what is told go unheard."""


@dataclass(frozen=True)
class LoadedRun:
    """What scoring needs of a run."""

    model: RewardModel
    tokenizer: AnyTokenizer
    packing: PackingConfig
    reward_mean: float | None
    reward_std: float | None
    """How the rewards lay on the validation part; None where no file says so, as the training's prompts."""
    training_prompts: np.ndarray | None


class RewardScorer:
    """Scores responses with a reward model. Responses to the same prompt share its computation.

    What is longer than the run's `max_tokens` is cut, and counted in `cut` as `score_comparisons` names it; who wants
    to follow the work puts a function into `advance`.
    """

    def __init__(self, run: LoadedRun) -> None:
        self.run = run
        self.cut: Counter[str] = Counter()
        self.advance: Advance = to_nobody

    def score(
        self, prompts: Sequence[Prompt] | Prompt, responses: Sequence[str], *, normalise: bool = False
    ) -> list[float]:
        """Return one reward per response, in order.

        Args:
            prompts: one per response: text, a list of messages, or None. A single one serves all responses.
            responses: texts, without an end token.
            normalise: subtract the mean and divide by the spread that the rewards had on the run's validation part.
        Raises:
            InputError: the numbers of prompts and responses differ, or one of them is no text.
        """
        if isinstance(responses, str):
            raise field_error("responses", responses, "must be a list of texts")
        one = prompts is None or isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], dict))
        prompts = [prompts] * len(responses) if one else list(prompts)
        if len(prompts) != len(responses):
            raise InputError(f"prompts ({len(prompts)}) and responses ({len(responses)}) must be equally many")
        singles = [
            _unjudged(parse_prompt(prompt, f"prompts[{n}]"), [parse_response(response, prompt, f"responses[{n}]")])
            for n, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        return [reward for (reward,) in self.score_comparisons(singles, normalise=normalise)]

    def score_comparisons(self, comparisons: Sequence[Comparison], *, normalise: bool = False) -> list[list[float]]:
        """Return the rewards of each comparison's responses; those with the same prompt share its computation."""
        grouped: dict[tuple[Turn, ...], list[str]] = {}
        sources: dict[tuple[Turn, ...], str] = {}  # of each prompt, where it was read first
        for comparison in comparisons:
            grouped.setdefault(comparison.prompt, []).extend(comparison.responses)
            sources.setdefault(comparison.prompt, comparison.source)
        merged = [_unjudged(prompt, texts, sources[prompt]) for prompt, texts in grouped.items()]
        run = self.run
        scored = score_comparisons(run.model, run.tokenizer, run.packing, merged, self.cut, self.advance)
        if not all(math.isfinite(reward) for values in scored for reward in values):
            raise InputError("a reward is not finite: the numbers of this reward model overflow")
        rewards = {prompt: iter(values) for prompt, values in zip(grouped, scored, strict=True)}
        mean, spread = (self.run.reward_mean, self.run.reward_std) if normalise else (0.0, 1.0)
        if mean is None:
            raise InputError("normalise: this model does not say how its rewards lay on a validation part")
        return [
            [(reward - mean) / spread for reward in islice(rewards[comparison.prompt], len(comparison.responses))]
            for comparison in comparisons
        ]

    def evaluate(
        self, comparisons: Sequence[Comparison], *, dropped: Mapping[str, int] | None = None, seed: int = 0
    ) -> tuple[list[list[float]], Evaluation]:
        """Return the rewards of comparisons and how well they order them, also behind the prompts of others.

        Args:
            dropped: what `minirm.files.survey.usable` left out of the comparisons; reported if given.
            seed: of the intervals' resamples.
        """
        before, known = self.cut.copy(), self.run.training_prompts
        rewards = self.score_comparisons(comparisons)
        cut = {name: count - before[name] for name, count in self.cut.items()}
        evaluation = evaluate(
            comparisons,
            rewards,
            swapped_rewards=self.score_comparisons(swap_prompts(comparisons)),
            training_prompts=None if known is None else prompt_set(known),
            cut=cut,
            dropped=dropped,
            seed=seed,
        )
        return rewards, evaluation

    def score_rows(
        self, rows: Iterable[Row | None], *, fields: Sequence[str] = (), normalise: bool = False
    ) -> Iterator[dict]:
        """Yield each record with "reward" added, or "rewards" where it has several responses; in order, as they come.

        A record holds "response" or "responses", with or without "prompt", or is one that training accepts. A "reward"
        that came with it stays; the new one is then "minirm_reward". A None among the rows says that the next one is
        not there yet: those before it are scored at once.

        Raises:
            InputError: a record is none of these; the message names its place.
        """
        return score_rows(rows, partial(self.score_comparisons, normalise=normalise), fields)

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
            texts = [completion_text(output, f"completions[{n}]") for n, output in enumerate(outputs)]
            return self.score(list(prompts), texts)
        if samples is None:
            raise InputError("reward_fn needs samples, or prompts with outputs (trlx) or completions (TRL)")
        return [reward for (reward,) in self.score_comparisons(list(map(_parse_sample, samples)))]


def _unjudged(prompt: tuple[Turn, ...], responses: Sequence[str], source: str = "") -> Comparison:
    return Comparison(prompt, tuple(responses), (0.0,) * len(responses), source=source)


def score_rows(
    rows: Iterable[Row | None], score: Callable[[Sequence[Comparison]], list[list[float]]], fields: Sequence[str] = ()
) -> Iterator[dict]:
    """Yield each record with its rewards by `score`; see `RewardScorer.score_rows`."""
    names = parse_fields(fields, ignore_judgements=True)
    for batch in _in_batches(rows):
        parsed = [_read_row(row, names) for row in batch]
        rewards = iter(score([comparison for comparisons, _ in parsed for comparison in comparisons]))
        for row, (comparisons, is_single) in zip(batch, parsed, strict=True):
            values = [value for _ in comparisons for value in next(rewards)]
            name = "reward" if is_single else "rewards"
            name = f"minirm_{name}" if name in row.fields else name
            yield {**row.fields, name: values[0] if is_single else values}


def _in_batches(rows: Iterable[Row | None]) -> Iterator[list[Row]]:
    """Yield rows together: as many as are there, up to `ROWS_AT_ONCE`; None says that the next one is not there yet."""
    batch: list[Row] = []
    for row in rows:
        if row is not None:
            batch.append(row)
        if batch and (row is None or len(batch) == ROWS_AT_ONCE):
            yield batch
            batch = []
    if batch:
        yield batch


def _read_row(row: Row, names: Names) -> tuple[list[Comparison], bool]:
    """Return the prompts and the responses of a record to score, and whether a field for a single response holds it."""
    try:
        record = Record(row.fields, names)
        format = recognise(record)
        return parse_record(record, format, row.place).comparisons, format == "response"
    except InputError as error:
        raise InputError(f"{row.place}: {error}") from None


def _parse_sample(sample: str) -> Comparison:
    """Split a whole dialogue before its last response."""
    opening, lead_in, response = check_text(sample, "sample").rpartition(LEAD_IN)
    if not has_human_turn(opening):
        return _unjudged((), [sample])
    prompt = opening + lead_in
    return _unjudged(parse_prompt(prompt, "sample"), [parse_response(response, prompt, "sample")])


def completion_text(output: object, field: str) -> object:
    """Return a completion's text; TRL hands over conversations as lists of messages, of which all are the response."""
    return render_response(parse_reply(output, field)) if isinstance(output, list) else output


def score_comparisons(
    model: RewardModel,
    tokenizer: AnyTokenizer,
    packing: PackingConfig,
    comparisons: Sequence[Comparison],
    cut: Counter[str] | None = None,
    advance: Advance = to_nobody,
) -> list[list[float]]:
    """Return the rewards of each comparison's responses; one beyond `max_tokens` is truncated, never left out.

    Args:
        cut: to which is added how many responses were read behind a prompt cut from its left ("prompts"), and how many
            were themselves cut before their end ("responses").
        advance: is told of each batch, when it is scored, how many responses it held.
    """
    cut = Counter() if cut is None else cut
    rewards = [[0.0] * len(comparison.responses) for comparison in comparisons]
    parts: list[Encoded] = []
    owners: list[tuple[int, list[int]]] = []
    whole = (replace(comparison, steps=None, step_labels=None) for comparison in comparisons)  # not read step by step
    for row, encoded in enumerate(tokenize(whole, tokenizer)):
        for numbers, part in _cut_each(encoded, packing.max_tokens, cut, keep_first=model.config.bidirectional):
            parts.append(part)
            owners.append((row, numbers))
    for (row, numbers), scored in zip(owners, score_encoded(model, packing, parts, advance), strict=True):
        for k, reward in zip(numbers, scored, strict=True):
            rewards[row][k] = reward
    return rewards


def _cut_each(
    encoded: Encoded, max_tokens: int, cut: Counter[str], *, keep_first: bool
) -> Iterator[tuple[list[int], Encoded]]:
    """Yield responses that see the same part of the prompt together, each cut as if it stood alone, and counted.

    So a reward depends on its prompt and response, and never on a longer response beside it.
    """
    singles = (replace(encoded, responses=(response,), scores=(0.0,)) for response in encoded.responses)
    alone = [truncate(single, max_tokens, keep_first=keep_first) for single in singles]
    cut["prompts"] += sum(len(one.prompt) < len(encoded.prompt) for one in alone)
    cut["responses"] += sum(len(a.responses[0]) < len(b) for a, b in zip(alone, encoded.responses, strict=True))
    groups: dict[int, list[int]] = {}
    for k, one in enumerate(alone):
        groups.setdefault(len(one.prompt), []).append(k)
    for numbers in groups.values():
        responses = tuple(alone[k].responses[0] for k in numbers)
        yield numbers, replace(alone[numbers[0]], responses=responses, scores=(0.0,) * len(numbers))


@torch.inference_mode()
def score_encoded(
    model: RewardModel, packing: PackingConfig, encoded: Sequence[Encoded], advance: Advance = to_nobody
) -> list[list[float]]:
    """Return the rewards of encoded comparisons, in order, at most `tokens_per_batch` tokens at a time."""
    model.eval()
    device, budget = model.head.weight.device, packing.tokens_per_batch
    rewards: list[list[float]] = [[] for _ in encoded]
    for rows, batch in _batches(encoded, packing, min(budget, TOKENS_AT_ONCE) if device.type == "cpu" else budget):
        packed = pack(batch, share_prompt=packing.share_prompt, bidirectional=model.config.bidirectional)
        scored = model(packed.to(device)).tolist()
        for row, item, values in zip(rows, batch, scored, strict=True):
            rewards[row] += values[: len(item.responses)]
        advance(sum(len(item.responses) for item in batch))
    return rewards


def _batches(
    encoded: Sequence[Encoded], packing: PackingConfig, most: int
) -> Iterator[tuple[list[int], list[Encoded]]]:
    """Yield comparisons of like length together, `most` tokens or a single one; beyond the budget it is split."""
    budget = packing.tokens_per_batch
    rows: list[int] = []
    batch: list[Encoded] = []
    tokens = 0
    for row in sorted(range(len(encoded)), key=lambda n: encoded[n].tokens):
        for part in _parts(encoded[row], budget if packing.share_prompt else 0):  # 0: each response is a part
            if batch and tokens + part.tokens > most:
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
    prompts = [comparison.prompt for comparison in comparisons]
    others = prompts.copy()  # of each, the next one that is another
    for n in [*reversed(range(len(prompts)))] * 2:  # twice: what the last ones ask for stands at the beginning
        after = (n + 1) % len(prompts)
        others[n] = others[after] if prompts[after] == prompts[n] else prompts[after]
    return [replace(comparison, prompt=prompt) for comparison, prompt in zip(comparisons, others, strict=True)]


def usual_device() -> str:
    """Return "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
