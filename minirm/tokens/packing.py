"""Comparisons → token ids → packed batches, in which a prompt stands once and nothing is padded.

tokens     p0 p1 p2 | a0 a1 a2 | b0 b1 | q0 q1 | c0 …      the next comparison follows without a gap
segment     0  0  0 |  1  1  1 |  2  2 |  3  3 |  4 …
parent       none   |    0     |   0   | none  |  3 …      the segment that each one continues
position    0  1  2 |  3  4  5 |  3  4 |  0  1 |  2 …      on its path: its own tokens, behind those of its ancestors
read                        ^       ^

A token sees its path up to itself. `layout.py` has the general rule.
A response with labels for its steps is read at the last token of each step, and counts as that many responses.
An encoder, which sees both ways, gets sequences of a prompt and a response instead.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minirm.config import PackingConfig
from minirm.config_rules import require
from minirm.data.comparison import Comparison
from minirm.tokens.layout import Layout, lay_out, lay_out_sequences
from minirm.tokens.steps import Steps, find_steps, steps_left
from minirm.tokens.tokenizer import ComparisonTokenizer

TOKENIZE_AT_ONCE = 256
"""Comparisons handed to the tokenizer together."""


@dataclass(frozen=True)
class Encoded:
    """A comparison in tokens."""

    prompt: np.ndarray  # (P,) int32, at least the token that opens the response
    responses: tuple[np.ndarray, ...]  # K of (R,) int32, each ending with `ending` tokens that are never cut
    scores: tuple[float, ...]
    margin: float = 0.0
    weight: float = 1.0
    probability: float = 1.0
    learned: np.ndarray | None = None  # (P,) bool, what of the prompt a language model learns; None: all of it
    ending: int = 1  # tokens of a response's end: the end token and what a template writes after it; of use to `fit`
    steps: tuple[Steps, ...] | None = None  # K, or None where responses are judged as a whole

    @property
    def tokens(self) -> int:
        """Tokens that it takes when it is packed."""
        return len(self.prompt) + sum(map(len, self.responses))


class Labels(NamedTuple):
    """What kinds of labels a comparison or a batch holds; known on the host, so that nothing waits to find out."""

    margins: bool  # some margin is not 0
    uncertain: bool  # some probability is below 1
    graded: bool  # some probability is neither 0, ½ nor 1
    grades: int | None  # one more than the highest score, where scores are 0, 1, 2, …; else None
    steps: bool  # steps are labelled, not responses


def labels_of(batch: Iterable[Encoded | Comparison]) -> Labels:
    """Return what labels some comparisons hold together."""
    margins = uncertain = graded = steps = False
    grades: int | None = 1
    for item in batch:
        margins |= item.margin != 0
        uncertain |= item.probability < 1
        graded |= item.probability not in (0, 0.5, 1)
        steps |= item.steps is not None
        whole = grades is not None and all(score >= 0 and score == int(score) for score in item.scores)
        grades = max(grades, 1 + int(max(item.scores))) if whole else None
    return Labels(margins, uncertain, graded, grades, steps)


DIALS = ("margin", "weight", "probability")
"""What else a comparison says of itself, a number each."""


@dataclass(frozen=True)
class PackedBatch:
    """B comparisons of at most K responses, N in all, over M tokens."""

    tokens: Tensor  # (M,) int64
    layout: Layout
    slots: Tensor  # (N,) where each response's reward stands in a flat (B·K,)
    order: Tensor  # (B, K) float32, 0 for the lowest score of a comparison, 1 for the next …; 0 where no response is
    scores: Tensor  # (B, K) float64, as they were given, or the labels of steps; 0 where no response is
    mask: Tensor  # (B, K) bool, True is a response
    margin: Tensor  # (B,)
    weight: Tensor  # (B,)
    probability: Tensor  # (B,)
    sources: Tensor  # (targets,) tokens that predict another …
    targets: Tensor  # (targets,) … and the ids that they predict: a prompt's end predicts the start of each response
    owners: Tensor  # (targets,) the comparison, of 0 to B − 1, of each
    labels: Labels
    numbers: tuple[int, ...]  # which comparisons these are, by their numbers in the store

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the batch with its tensors on `device`; from pinned memory, without waiting for them to arrive."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def ready(self) -> "PackedBatch":
        """Return the batch in memory from which a GPU can fetch it by itself; where there is none, its tiles made."""
        if torch.cuda.is_available():
            return self._mapped(Tensor.pin_memory)
        _ = self.layout.everywhere
        return self

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "PackedBatch":
        tensors = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        changed = {name: change(tensor) for name, tensor in tensors.items()}
        return replace(self, layout=self.layout.mapped(change), **changed)


def tokenize(
    comparisons: Iterable[Comparison], tokenizer: ComparisonTokenizer, *, by_assistant: bool = False
) -> Iterator[Encoded]:
    """Yield comparisons in tokens, read a few ahead.

    Args:
        by_assistant: of a prompt, what an assistant wrote is `learned`; it may take time to find that out.
    """
    comparisons = iter(comparisons)
    while batch := list(islice(comparisons, TOKENIZE_AT_ONCE)):
        encoded = tokenizer.encode_comparisons(batch, by_assistant=by_assistant)
        for comparison, (prompt, responses, learned, ending) in zip(batch, encoded, strict=True):
            prompt, *responses = (np.array(ids, dtype=np.int32) for ids in (prompt, *responses))
            learned, dials = np.array(learned, dtype=bool), attrgetter(*DIALS)(comparison)
            steps = None if comparison.steps is None else find_steps(comparison, len(prompt), responses, tokenizer)
            yield Encoded(prompt, tuple(responses), comparison.scores, *dials, learned, ending, steps)


def truncate(encoded: Encoded, max_tokens: int, *, keep_first: bool = False) -> Encoded:
    """Return the comparison within `max_tokens`: prompt cut from its left, then responses before their end token.

    Args:
        keep_first: cut the prompt after its first token, at which an encoder is read.
    Raises:
        InputError: `max_tokens` has no room for what ends a response.
    """
    first = int(keep_first and len(encoded.prompt) > 1)
    room, ending = max_tokens - first - 1, encoded.ending  # the prompt keeps at least the token that opens the response
    least = max_tokens - room + ending
    require(room >= ending, f"max_tokens={max_tokens} must be at least {least}: a response's end is {ending} of them")
    responses = tuple(r if len(r) <= room else np.r_[r[: room - ending], r[-ending:]] for r in encoded.responses)
    length = len(encoded.prompt)
    left_out = max(0, length + max(map(len, responses)) - max_tokens)
    kept = np.r_[:first, first + left_out : length]
    learned = None if encoded.learned is None else encoded.learned[kept]
    steps = encoded.steps and tuple(map(steps_left, encoded.steps, encoded.responses, responses))
    return replace(encoded, prompt=encoded.prompt[kept], responses=responses, learned=learned, steps=steps)


def fit(
    encoded: Iterable[Encoded],
    packing: PackingConfig,
    counts: Counter[str],
    *,
    keep_first: bool = False,
    keep_incomparable: bool = False,
) -> Iterator[Encoded]:
    """Yield comparisons of which none is longer than `packing.max_tokens`.

    Args:
        counts: to which is added, by name, what is cut, merged or left out.
        keep_first: cut a prompt after its first token, at which an encoder is read.
        keep_incomparable: yield also what has nothing left to compare; a language model can learn it.
    """
    for item in encoded:
        longest = max(map(len, item.responses))
        if len(item.prompt) + longest > packing.max_tokens:
            if packing.when_longer == "drop":
                counts["dropped: longer than max_tokens"] += 1
                continue
            length = len(item.prompt)
            item = truncate(item, packing.max_tokens, keep_first=keep_first)
            counts["cut: prompt from its left"] += len(item.prompt) < length
            counts["cut: response before its end token"] += max(map(len, item.responses)) < longest
            if item.steps is not None and not any(len(steps.ends) for steps in item.steps) and not keep_incomparable:
                counts["dropped: no whole step left after the cut"] += 1
                continue
        merged = merge_repeated(item)
        repeated = len(item.responses) - len(merged.responses)
        counts["merged: responses of the same tokens"] += repeated
        if repeated and len(set(merged.scores)) == 1 and not keep_incomparable:
            counts["dropped: nothing left to compare, responses of the same tokens"] += 1
        else:
            yield merged


def merge_repeated(encoded: Encoded) -> Encoded:
    """Return the comparison with identical responses made one, with their mean score; not where steps are labelled."""
    if encoded.steps is not None:
        return encoded
    scores: dict[bytes, list[float]] = {}
    for response, score in zip(encoded.responses, encoded.scores, strict=True):
        scores.setdefault(response.tobytes(), []).append(score)
    if len(scores) == len(encoded.responses):
        return encoded
    responses = tuple(np.frombuffer(key, dtype=np.int32) for key in scores)
    return replace(encoded, responses=responses, scores=tuple(sum(s) / len(s) for s in scores.values()))


def pack(
    batch: Sequence[Encoded],
    *,
    share_prompt: bool = True,
    bidirectional: bool = False,
    numbers: Sequence[int] | None = None,
) -> PackedBatch:
    """Return a packed batch of comparisons.

    Args:
        batch: B comparisons; steps are labelled in all of them or in none.
        share_prompt: a prompt stands once, before its K responses; False: K sequences, each with the prompt.
        bidirectional: for an encoder: all tokens of a sequence see each other, and its first one is read.
        numbers: of the comparisons in their store, for messages.
    Raises:
        ValueError: prompts are to be shared by what sees both ways, or steps are labelled in some comparisons only.
    """
    labels = labels_of(batch)
    _check(batch, labels, share_prompt, bidirectional)
    segments, parents, learned, owners = _segments(batch, share_prompt)
    lengths = [len(segment) for segment in segments]
    layout = _layout(batch, lengths, parents, labels.steps, bidirectional)
    order, scores, mask = _judgements(batch, labels.steps)
    dials = {name: torch.tensor([getattr(one, name) for one in batch], dtype=torch.float32) for name in DIALS}
    tokens = np.concatenate(segments).astype(np.int64)
    sources, targets, owners = _next_tokens(tokens, lengths, parents, learned, owners)
    return PackedBatch(
        tokens=torch.from_numpy(tokens),
        layout=layout,
        slots=torch.from_numpy(np.flatnonzero(mask)),
        order=torch.from_numpy(order),
        scores=torch.from_numpy(scores),
        mask=torch.from_numpy(mask),
        **dials,
        sources=torch.from_numpy(sources),
        targets=torch.from_numpy(targets),
        owners=torch.from_numpy(owners),
        labels=labels,
        numbers=tuple(range(len(batch)) if numbers is None else map(int, numbers)),
    )


def _check(batch: Sequence[Encoded], labels: Labels, share_prompt: bool, bidirectional: bool) -> None:
    if share_prompt and bidirectional:
        raise ValueError("share_prompt=True must be False where bidirectional=True")
    if labels.steps and (bidirectional or any(encoded.steps is None for encoded in batch)):
        raise ValueError("steps must be labelled in every comparison of a batch or in none, and not for an encoder")


def _layout(
    batch: Sequence[Encoded], lengths: list[int], parents: list[int], by_step: bool, bidirectional: bool
) -> Layout:
    if bidirectional:
        return lay_out_sequences(lengths[::2], lengths[1::2])
    read_segments, before_end = _reads(batch, lengths, parents, by_step)
    return lay_out(lengths, parents, read_segments, before_end=before_end)


def _reads(
    batch: Sequence[Encoded], lengths: list[int], parents: list[int], by_step: bool
) -> tuple[list[int], list[int] | None]:
    """Return the segment of each read, and how many tokens of it lie behind the read; None: none do."""
    responses = [segment for segment, parent in enumerate(parents) if parent >= 0]
    if not by_step:
        return responses, None
    ends = [steps.ends.tolist() for encoded in batch for steps in encoded.steps]
    reads = [segment for segment, of_one in zip(responses, ends, strict=True) for _ in of_one]
    behind = [lengths[segment] - 1 - end for segment, of in zip(responses, ends, strict=True) for end in of]
    return reads, behind


def _judgements(batch: Sequence[Encoded], by_step: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the order of scores, the scores as given, and where there are some, (B, K) each."""
    given = [np.concatenate([steps.labels for steps in one.steps]) if by_step else one.scores for one in batch]
    shape = len(batch), max(map(len, given))
    order, scores, mask = np.zeros(shape, np.float32), np.zeros(shape), np.zeros(shape, bool)
    for b, values in enumerate(given):
        order[b, : len(values)] = np.unique(values, return_inverse=True)[1]  # 0 for the lowest; equal ones alike
        scores[b, : len(values)] = values
        mask[b, : len(values)] = True
    return order, scores, mask


def _segments(batch: Sequence[Encoded], share_prompt: bool) -> tuple[list, list[int], list, list[int]]:
    """Return segments' tokens, parents (−1 for a prompt), which of each a language model learns, and comparisons."""
    segments, parents, learned, owners = [], [], [], []
    for owner, encoded in enumerate(batch):
        for responses in [encoded.responses] if share_prompt else [(response,) for response in encoded.responses]:
            parents += [-1, *[len(segments)] * len(responses)]
            segments += [encoded.prompt, *responses]
            prompt_learned = np.ones(len(encoded.prompt), bool) if encoded.learned is None else encoded.learned
            learned += [prompt_learned, *(np.ones(len(response), bool) for response in responses)]
            owners += [owner] * (1 + len(responses))
    return segments, parents, learned, owners


def _next_tokens(
    tokens: np.ndarray, lengths: list[int], parents: list[int], learned: list[np.ndarray], owners: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which token predicts which id, and whose: the one before it, for a response's first its prompt's last."""
    ends = np.cumsum(lengths)
    before = np.arange(-1, len(tokens) - 1)
    before[ends - lengths] = [ends[parent] - 1 if parent >= 0 else -1 for parent in parents]
    wanted = np.concatenate(learned) & (before >= 0)  # nothing comes before a prompt
    return before[wanted], tokens[wanted], np.repeat(owners, lengths)[wanted]
