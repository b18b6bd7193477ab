"""Texts in, rewards out: what every scorer answers to, and the one that reads a trained run."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from minirm.config import PackingConfig
from minirm.data.comparison import Comparison, RawRecord, Turn
from minirm.errors import InputError, field_error
from minirm.evaluation.evaluate import Evaluation, evaluate
from minirm.evaluation.pairs import RewardLists
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
from minirm.files.records import check_asked, parse_record
from minirm.files.shapes import recognise
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, pack, tokenize, truncate
from minirm.tokens.stream import cut_into_batches
from minirm.training.parallel import Ranks

Prompt = str | Sequence[dict] | None
RECORDS_AT_ONCE = 256
"""Records that `score_records` reads before it yields their rewards."""
COMPARISONS_AT_ONCE = 8192
"""Comparisons that are held in memory while they are scored; those of like length go together, and of one prompt."""
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

    def score_records(
        self, records: Iterable[RawRecord | None], *, fields: Sequence[str] = (), normalise: bool = False
    ) -> Iterator[dict]:
        """Yield each record with "reward" added, or "rewards" where it has several responses; in order, as they come.

        A record holds "response" or "responses", with or without "prompt", or is one that training accepts. A "reward"
        that came with it stays; the new one is then "minirm_reward". A None among the records says that the next one is
        not there yet: those before it are scored at once.

        Args:
            fields: what fields are called: "prompt=question".
        Raises:
            InputError: a record is none of these; the message names where it stands.
        """
        names, asked = parse_fields(fields, ignore_judgements=True), set[str]()
        for some in _in_batches(records):
            parsed = [_read_record(record, names, asked) for record in some]
            everything = [comparison for comparisons, _ in parsed for comparison in comparisons]
            rewards = iter(self.score_comparisons(everything, normalise=normalise))
            for record, (comparisons, is_single) in zip(some, parsed, strict=True):
                values = [value for _ in comparisons for value in next(rewards)]
                name = "reward" if is_single else "rewards"
                name = f"minirm_{name}" if name in record.fields else name
                yield {**record.fields, name: values[0] if is_single else values}

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
            texts = [completion_text(output, f"completions[{n}]") for n, output in enumerate(outputs)]
            return self.score(list(prompts), texts)
        if samples is None:
            raise InputError("reward_fn needs samples, or prompts with outputs (trlx) or completions (TRL)")
        singles = [_parse_sample(one) if self.reads_prompts else _unjudged((), [one]) for one in samples]
        return [reward for (reward,) in self.score_comparisons(singles)]


@dataclass(frozen=True)
class LoadedRun:
    """What scoring needs of a run."""

    model: RewardModel
    tokenizer: AnyTokenizer
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
        return [values for some in _at_once(comparisons) for values in self._score(some, normalise)]

    def _score(self, comparisons: Sequence[Comparison], normalise: bool) -> list[list[float]]:
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
        mean, spread = (run.reward_mean, run.reward_std) if normalise else (0.0, 1.0)
        if mean is None:
            raise InputError("normalise: this model does not say how its rewards lay on a validation split")
        return [
            [(reward - mean) / spread for reward in islice(rewards[comparison.prompt], len(comparison.responses))]
            for comparison in comparisons
        ]

    def evaluate(
        self, comparisons: Sequence[Comparison], *, dropped: Mapping[str, int] | None = None, seed: int = 0
    ) -> tuple[RewardLists, Evaluation]:
        """Return the rewards of comparisons and how well they order them, also behind the prompts of others.

        Args:
            dropped: what `minirm.files.survey.usable` left out of the comparisons; reported if given.
            seed: of the intervals' resamples.
        """
        known, cut = self.run.training_prompts, Counter()
        rewards, swapped = RewardLists(), RewardLists()
        for some in _at_once(comparisons):
            before = self.cut.copy()
            rewards.extend(self.score_comparisons(some))
            cut.update({name: count - before[name] for name, count in self.cut.items()})
            swapped.extend(self.score_comparisons(swap_prompts(some)))
        evaluation = evaluate(
            comparisons,
            rewards,
            swapped_rewards=swapped,
            training_prompts=None if known is None else frozenset(map(bytes, known)),
            cut=dict(cut),
            dropped=dropped,
            seed=seed,
        )
        return rewards, evaluation


def _at_once(comparisons: Iterable[Comparison]) -> Iterator[list[Comparison]]:
    """Yield the comparisons, as many at a time as are scored together."""
    rest = iter(comparisons)
    while some := list(islice(rest, COMPARISONS_AT_ONCE)):
        yield some


def _unjudged(prompt: tuple[Turn, ...], responses: Sequence[str], source: str = "") -> Comparison:
    return Comparison(prompt, tuple(responses), (0.0,) * len(responses), source=source)


def _in_batches(records: Iterable[RawRecord | None]) -> Iterator[list[RawRecord]]:
    """Yield as many records as are there, up to `RECORDS_AT_ONCE`; None says that the next one is not there yet."""
    some: list[RawRecord] = []
    for record in records:
        if record is not None:
            some.append(record)
        if some and (record is None or len(some) == RECORDS_AT_ONCE):
            yield some
            some = []
    if some:
        yield some


def _read_record(raw: RawRecord, names: Names, asked: set[str]) -> tuple[list[Comparison], bool]:
    """Return the prompts and the responses of a record to score, and whether a field for a single response holds it.

    Args:
        asked: the formats of those records before that had a prompt; is added to.
    """
    try:
        record = Record(raw.fields, names)
        format = recognise(record)
        comparisons = parse_record(record, format, raw.place).comparisons
        check_asked(record, comparisons, format in asked)
        asked |= {format} if "prompt" in record.read.values() else set()
        return comparisons, format == "response"
    except InputError as error:
        raise InputError(f"{raw.place}: {error}") from None


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
    advance: Advance | None = None,
) -> list[list[float]]:
    """Return the rewards of each comparison's responses; one beyond `max_tokens` is truncated, never left out.

    Args:
        cut: to which is added how many responses were read behind a prompt cut from its left ("prompts"), and how many
            were themselves cut before their end ("responses").
        advance: is told of each batch, when it is scored, how many responses it held.
    """
    whole = (replace(comparison, steps=None, step_labels=None) for comparison in comparisons)  # not read step by step
    return score_encoded(model, packing, list(tokenize(whole, tokenizer)), cut, advance)


@torch.inference_mode()
def score_encoded(
    model: RewardModel,
    packing: PackingConfig,
    encoded: Sequence[Encoded],
    cut: Counter[str] | None = None,
    advance: Advance | None = None,
) -> list[list[float]]:
    """Return the rewards of encoded comparisons; see `score_comparisons`. At most `tokens_per_batch` go together.

    Processes that score together all ask for the same; each computes its share of the batches, and all learn all
    rewards. With a sharded model, all compute all: a forward pass is then made together.
    """
    model.eval()
    ranks, together = Ranks(), isinstance(model, FSDPModule)
    cut, both_ways = Counter() if cut is None else cut, model.config.bidirectional
    device, most = model.head.weight.device, packing.tokens_per_batch
    first = np.cumsum([0, *(len(item.responses) for item in encoded)])  # of each comparison's rewards
    rewards = np.zeros(first[-1])
    pieces = [(n, *piece) for n, item in enumerate(encoded) for piece in _pieces(item, packing, cut, both_ways)]
    lengths = [piece.tokens for _, _, piece in pieces]
    batches = cut_into_batches(lengths, min(most, TOKENS_AT_ONCE) if device.type == "cpu" else most)
    for number, batch in enumerate(batches):
        items = [pieces[i][2] for i in batch]
        if together or number % ranks.count == ranks.rank:
            packed = pack(items, share_prompt=packing.share_prompt, bidirectional=both_ways)
            for i, values in zip(batch, model(packed.to(device)).tolist(), strict=True):
                n, numbers, _ = pieces[i]
                for k, reward in zip(numbers, values, strict=False):  # behind the last response are pads
                    rewards[first[n] + k] = reward
        if advance is not None:
            advance(sum(len(item.responses) for item in items))
    everything = rewards.tolist() if together else ranks.sum(torch.from_numpy(rewards))
    return [everything[start:end] for start, end in pairwise(first)]


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
