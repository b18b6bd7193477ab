"""Texts in, rewards out: what every scorer answers to, and the one that reads a trained run."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from minirm.config import PackingConfig
from minirm.data.dialogue import LEAD_IN, Turn, check_text, has_human_turn, parse_prompt, parse_response
from minirm.data.files import Row
from minirm.data.records import Comparison, parse_record, recognise_format
from minirm.data.splits import prompt_set
from minirm.errors import InputError, field_error
from minirm.evaluation.evaluate import Evaluation, evaluate
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, cut_into_batches, pack, tokenize, truncate
from minirm.tokens.tokenizer import Tokenizer

Prompt = str | Sequence[dict] | None
OTHER_PROMPTS = ("messages", "instruction", "question", "input", "conversation")
"""How other formats name a prompt."""
RECORDS_AT_ONCE = 256
"""Records that `score_records` reads before it yields their rewards."""
TOKENS_AT_ONCE = 2048
"""On a CPU, a batch takes comparisons until their tokens reach this number: what so few need stays in its caches."""

Advance = Callable[[int], object]
"""Is told how many more responses have been scored."""


class Scorer:
    """Scores responses. A kind of scorer says how `score_comparisons` does it; all else follows from that.

    Who wants to follow the work puts a function into `advance`.
    """

    reads_prompts = True
    """Whether the prompt of a response counts."""

    def __init__(self) -> None:
        self.advance: Advance = lambda _responses: None

    def score_comparisons(self, comparisons: Sequence[Comparison], *, normalise: bool = False) -> list[list[float]]:
        """Return the rewards of each comparison's responses."""
        raise NotImplementedError

    def score(
        self, prompts: Sequence[Prompt] | Prompt, responses: Sequence[str], *, normalise: bool = False
    ) -> list[float]:
        """Return one reward per response, in order.

        Args:
            prompts: one per response: text, a list of messages, or None. A single one serves all responses.
            responses: texts, without an end token.
            normalise: subtract the mean and divide by the spread that the rewards had on the run's validation split.
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
            _unjudged(parse_prompt(prompt, f"prompts[{n}]"), [parse_response(text, prompt, name)], name)
            for n, (prompt, text) in enumerate(zip(prompts, responses, strict=True))
            for name in [f"responses[{n}]"]
        ]
        return [reward for (reward,) in self.score_comparisons(singles, normalise=normalise)]

    def score_records(self, records: Iterable[Row], *, normalise: bool = False) -> Iterator[dict]:
        """Yield each record with "reward" added, or "rewards" where it has several responses; in order, as they come.

        A record holds "response" or "responses", with or without "prompt", or is one that training accepts.

        Raises:
            InputError: a record is none of these; the message names where it stands.
        """
        records = iter(records)
        while some := list(islice(records, RECORDS_AT_ONCE)):
            comparisons, singly = zip(*map(_read_row, some), strict=True)
            scored = self.score_comparisons(comparisons, normalise=normalise)
            for record, is_single, rewards in zip(some, singly, scored, strict=True):
                yield {**record.fields, **({"reward": rewards[0]} if is_single else {"rewards": rewards})}

    def reward_fn(
        self,
        samples: Sequence[str] | None = None,
        prompts: Sequence[Prompt] | None = None,
        outputs: Sequence[str] | None = None,
        completions: Sequence | None = None,
        **kwargs: object,
    ) -> list[float]:
        """Return rewards as trlx (`samples`, `prompts`, `outputs`) and TRL (`prompts`, `completions`) ask for them.

        A sample alone is a dialogue whose last "\\n\\nAssistant:" opens the response, or a response without a prompt;
        it is a response as a whole where the prompt does not count.
        """
        outputs = outputs if outputs is not None else completions
        if prompts is not None and outputs is not None and (self.reads_prompts or samples is None):
            return self.score(list(prompts), [last_text(output) for output in outputs])
        if samples is None:
            raise InputError("reward_fn needs samples, or prompts with outputs (trlx) or completions (TRL)")
        singles = [_parse_sample(one) if self.reads_prompts else _unjudged((), [one]) for one in samples]
        return [reward for (reward,) in self.score_comparisons(singles)]


@dataclass(frozen=True)
class LoadedRun:
    """What scoring needs of a run."""

    model: RewardModel
    tokenizer: Tokenizer
    packing: PackingConfig
    reward_mean: float | None
    reward_std: float | None
    """How the rewards lay on the validation split; None where no file says so, as the training's prompts."""
    training_prompts: np.ndarray | None


class RewardScorer(Scorer):
    """Scores responses with a reward model. Responses to the same prompt share its computation.

    What is longer than the run's `max_tokens` is cut, and counted in `cut` as `score_comparisons` below names it.
    """

    def __init__(self, run: LoadedRun) -> None:
        super().__init__()
        self.run = run
        self.cut: Counter[str] = Counter()

    def score_comparisons(self, comparisons: Sequence[Comparison], *, normalise: bool = False) -> list[list[float]]:
        """Return the rewards of each comparison's responses; those with the same prompt share its computation."""
        grouped: dict[tuple[Turn, ...], list[str]] = {}
        for comparison in comparisons:
            grouped.setdefault(comparison.prompt, []).extend(comparison.responses)
        merged = [_unjudged(prompt, texts) for prompt, texts in grouped.items()]
        run = self.run
        scored = score_comparisons(run.model, run.tokenizer, run.packing, merged, self.cut, self.advance)
        if not all(math.isfinite(reward) for values in scored for reward in values):
            raise InputError("a reward is not finite: the numbers of this reward model overflow")
        rewards = {prompt: iter(values) for prompt, values in zip(grouped, scored, strict=True)}
        mean, spread = (run.reward_mean, run.reward_std) if normalise else (0.0, 1.0)
        if mean is None:
            raise InputError("normalise: this model does not say how its rewards lay on a validation split")
        return [
            [(reward - mean) / spread for reward in islice(rewards[comparison.prompt], len(comparison.responses))]
            for comparison in comparisons
        ]

    def evaluate(
        self, comparisons: Sequence[Comparison], *, dropped: Mapping[str, int] | None = None, seed: int = 0
    ) -> tuple[list[list[float]], Evaluation]:
        """Return the rewards of comparisons and how well they order them, also behind the prompts of others.

        Args:
            dropped: what `minirm.data.survey.usable` left out of the comparisons; reported if given.
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


def _unjudged(prompt: tuple[Turn, ...], responses: Sequence[str], source: str = "") -> Comparison:
    return Comparison(prompt, tuple(responses), (0.0,) * len(responses), source=source)


def _read_row(row: Row) -> tuple[Comparison, bool]:
    """Return the prompt and the responses of a record to score, and whether a field for a single response holds it."""
    fields = {"prompt": None, **row.fields}
    several = fields.get("responses")
    texts = {}
    if "response" in fields:
        texts = {"response": fields["response"]}
    elif isinstance(several, list) and several and not isinstance(several[0], dict):
        texts = {f"responses[{k}]": text for k, text in enumerate(several)}
    try:
        if not texts:
            format = recognise_format(fields)
            if format == "completion":
                _check_no_other_prompt(fields)
            return parse_record(fields, format, row.place), format == "completion"
        _check_no_other_prompt(fields)
        prompt = fields["prompt"]
        responses = [parse_response(text, prompt, name) for name, text in texts.items()]
        return _unjudged(parse_prompt(prompt), responses, row.place), "response" in texts
    except InputError as error:
        raise InputError(f"{row.place}: {error}") from None


def _check_no_other_prompt(fields: dict) -> None:
    """Refuse a response whose prompt seems to stand in a field that would not be read."""
    for key in OTHER_PROMPTS:
        if fields["prompt"] is None and fields.get(key):
            raise field_error(key, fields[key], 'beside a response, a prompt must be named "prompt"')


def _parse_sample(sample: str) -> Comparison:
    """Split a whole dialogue before its last response."""
    opening, lead_in, response = check_text(sample, "sample").rpartition(LEAD_IN)
    if not has_human_turn(opening):
        return _unjudged((), [sample])
    prompt = opening + lead_in
    return _unjudged(parse_prompt(prompt, "sample"), [parse_response(response, prompt, "sample")])


def last_text(output: object) -> object:
    """Return a completion's text; TRL hands over conversations as lists of messages."""
    return output[-1].get("content") if isinstance(output, list) and output and isinstance(output[-1], dict) else output


def score_comparisons(
    model: RewardModel,
    tokenizer: Tokenizer,
    packing: PackingConfig,
    comparisons: Sequence[Comparison],
    cut: Counter[str] | None = None,
    advance: Advance | None = None,
) -> list[list[float]]:
    """Return the rewards of each comparison's responses; one beyond `max_tokens` is truncated, never left out.

    Args:
        cut: to which is added how many responses were read behind a prompt cut from its left ("prompts"), and how many
            were themselves cut before their end ("responses").
        advance: is told of each batch, when it is scored, how many responses it held.
    """
    return score_encoded(model, packing, list(tokenize(comparisons, tokenizer)), cut, advance)


@torch.inference_mode()
def score_encoded(
    model: RewardModel,
    packing: PackingConfig,
    encoded: Sequence[Encoded],
    cut: Counter[str] | None = None,
    advance: Advance | None = None,
) -> list[list[float]]:
    """Return the rewards of encoded comparisons; see `score_comparisons`. At most `tokens_per_batch` go together."""
    model.eval()
    cut, both_ways = Counter() if cut is None else cut, model.config.bidirectional
    device, most = model.head.weight.device, packing.tokens_per_batch
    rewards = [[0.0] * len(item.responses) for item in encoded]
    pieces = [(n, *piece) for n, item in enumerate(encoded) for piece in _pieces(item, packing, cut, both_ways)]
    lengths = [piece.tokens for _, _, piece in pieces]
    for batch in cut_into_batches(lengths, min(most, TOKENS_AT_ONCE) if device.type == "cpu" else most):
        items = [pieces[i][2] for i in batch]
        packed = pack(items, share_prompt=packing.share_prompt, bidirectional=both_ways)
        for i, values in zip(batch, model(packed.to(device)).tolist(), strict=True):
            n, numbers, _ = pieces[i]
            for k, reward in zip(numbers, values, strict=False):  # behind the last response are pads
                rewards[n][k] = reward
        if advance is not None:
            advance(sum(len(item.responses) for item in items))
    return rewards


def _pieces(
    encoded: Encoded, packing: PackingConfig, cut: Counter[str], keep_first: bool
) -> Iterator[tuple[list[int], Encoded]]:
    """Yield, by number and in tokens, responses that see the same of the prompt, together within the budget.

    Each is cut as if it stood alone, and counted. So a reward depends on its prompt and response, and never on a longer
    response beside it. Where prompts are not shared, each is yielded alone.
    """
    singles = [replace(encoded, responses=(response,), scores=(0.0,)) for response in encoded.responses]
    alone = [truncate(single, packing.max_tokens, keep_first=keep_first) for single in singles]
    cut["prompts"] += sum(len(one.prompt) < len(encoded.prompt) for one in alone)
    cut["responses"] += sum(
        one.tokens - len(one.prompt) < len(b) for one, b in zip(alone, encoded.responses, strict=True)
    )
    budget = packing.tokens_per_batch if packing.share_prompt else 0
    together: dict[int, tuple[list[int], int]] = {}  # by what is left of the prompt: which, and their tokens
    for k, one in enumerate(alone):
        key = len(one.prompt)
        numbers, tokens = together.pop(key, ([], key))
        tokens += len(one.responses[0])
        if numbers and tokens > budget:
            yield _together(alone, numbers)
            numbers, tokens = [], one.tokens
        together[key] = ([*numbers, k], tokens)
    for numbers, _ in together.values():
        yield _together(alone, numbers)


def _together(alone: Sequence[Encoded], numbers: list[int]) -> tuple[list[int], Encoded]:
    responses = tuple(alone[k].responses[0] for k in numbers)
    return numbers, replace(alone[numbers[0]], responses=responses, scores=(0.0,) * len(numbers))


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
