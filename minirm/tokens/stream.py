"""Encoded comparisons on disk, and the shuffled, sharded, resumable order in which training meets them."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from operator import attrgetter
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from minirm.config import PackingConfig
from minirm.tokens.packing import DIALS, Encoded, PackedBatch, pack
from minirm.tokens.steps import Steps

BUCKET = 1024
"""Comparisons within which like lengths are put together: large enough to sort, small beside what is shuffled."""

WRITTEN_AT_ONCE = 1024
"""Comparisons of a store that are written together."""


class TokenStore:
    """Comparisons in tokens, in files behind a memory map: what is held in memory does not grow with them.

    A comparison is its prompt's segment followed by its responses'. Each column lies end to end; its shape is below.
    """

    COLUMNS: ClassVar = {
        "tokens": np.int32,  # (tokens,)
        "learned": np.bool_,  # (tokens,)
        "segment_ends": np.int64,  # (segments,) tokens up to the end of each
        "scores": np.float64,  # (segments,) 0 for a prompt
        "steps_until": np.int64,  # (segments,) steps up to the end of each; a prompt has none
        "comparison_ends": np.int64,  # (comparisons,) segments up to the end of each
        "dials": np.float64,  # (comparisons·3,) `packing.DIALS` of each
        "step_ends": np.int64,  # (steps,)
        "step_labels": np.float64,  # (steps,)
    }

    def __init__(self, folder: Path) -> None:
        columns = {name: _open_column(folder / name, dtype) for name, dtype in self.COLUMNS.items()}
        self.tokens, self.segment_ends, self.scores = columns["tokens"], columns["segment_ends"], columns["scores"]
        self.comparison_ends, self.dials = columns["comparison_ends"], columns["dials"].reshape(-1, len(DIALS))
        self.learned, self.steps_until = columns["learned"], columns["steps_until"]
        self.step_ends, self.step_labels = columns["step_ends"], columns["step_labels"]

    @classmethod
    def write(cls, encoded: Iterable[Encoded], folder: Path) -> "TokenStore":
        """Write comparisons into a folder as they come, and return the store.

        Raises:
            OSError: the disk is full, or refuses otherwise; it names the file or the folder.
        """
        try:
            cls._write(encoded, folder)
        except OSError as error:
            error.filename = error.filename or str(folder)  # a full disk names no file
            raise
        return cls(folder)

    @classmethod
    def _write(cls, encoded: Iterable[Encoded], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            files = {name: stack.enter_context((folder / name).open("wb")) for name in cls.COLUMNS}

            def put(name: str, values: Iterable) -> None:
                files[name].write(np.asarray(values, dtype=cls.COLUMNS[name]).tobytes())  # tofile hides a full disk

            encoded, tokens, segments, stepped = iter(encoded), 0, 0, 0
            while some := list(islice(encoded, WRITTEN_AT_ONCE)):
                ids = [segment for item in some for segment in (item.prompt, *item.responses)]
                steps = [steps for item in some for steps in (None, *(item.steps or [None] * len(item.responses)))]
                ends = tokens + np.cumsum(list(map(len, ids)))
                until = stepped + np.cumsum([0 if one is None else len(one.ends) for one in steps])
                comparison_ends = segments + np.cumsum([1 + len(item.responses) for item in some])
                tokens, segments, stepped = ends[-1], comparison_ends[-1], until[-1]
                put("tokens", np.concatenate(ids))
                put("learned", np.concatenate([part for item in some for part in _learned(item)]))
                put("segment_ends", ends)
                put("scores", [score for item in some for score in (0.0, *item.scores)])
                put("steps_until", until)
                put("comparison_ends", comparison_ends)
                put("dials", list(map(attrgetter(*DIALS), some)))
                for one in filter(None, steps):
                    put("step_ends", one.ends)
                    put("step_labels", one.labels)

    def __len__(self) -> int:
        return len(self.comparison_ends)

    def __getitem__(self, number: int) -> Encoded:
        first, last = (self.comparison_ends[number - 1] if number else 0), self.comparison_ends[number]
        bounds = [self.segment_ends[first - 1] if first else 0, *self.segment_ends[first:last]]
        prompt, *responses = [np.array(self.tokens[a:b]) for a, b in pairwise(bounds)]
        scores = tuple(self.scores[first + 1 : last].tolist())
        learned = np.array(self.learned[bounds[0] : bounds[1]])
        steps, until = None, self.steps_until[first:last]
        if until[-1] > until[0]:
            spans = [slice(a, b) for a, b in pairwise(until)]
            steps = tuple(Steps(np.array(self.step_ends[s]), np.array(self.step_labels[s])) for s in spans)
        return Encoded(prompt, tuple(responses), scores, *self.dials[number].tolist(), learned, steps=steps)

    def lengths(self, *, share_prompt: bool = True) -> np.ndarray:
        """Return the tokens of each comparison as it is packed, (comparisons,)."""
        if not len(self):
            return np.empty(0, np.int64)
        together = np.diff(self.segment_ends[self.comparison_ends - 1], prepend=0)
        if share_prompt:
            return together
        prompts = np.append(0, self.comparison_ends[:-1])  # (comparisons,) which segments are prompts
        responses = self.comparison_ends - prompts - 1
        return together + (responses - 1) * np.diff(self.segment_ends, prepend=0)[prompts]


def _learned(item: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Return what a language model learns of a prompt's tokens, and of those of its responses: all."""
    of_prompt = np.ones(len(item.prompt), dtype=bool) if item.learned is None else item.learned
    return of_prompt, np.ones(item.tokens - len(item.prompt), dtype=bool)


def _open_column(path: Path, dtype: type) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


@dataclass(frozen=True)
class Stream:
    """Batches from a store: the same for the same seed, epoch and number, wherever one starts."""

    store: TokenStore
    packing: PackingConfig
    seed: int = 0
    bidirectional: bool = False

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each comparison as it is packed, (comparisons,)."""
        return self.store.lengths(share_prompt=self.packing.share_prompt)

    def plan(self, epoch: int | None) -> list[np.ndarray]:
        """Return which comparisons each batch holds, shuffled; epoch None is the order for evaluation, by length."""
        lengths = self.lengths
        rng = np.random.default_rng([self.seed, epoch or 0])
        order = np.argsort(lengths, kind="stable") if epoch is None else rng.permutation(len(lengths))
        batches = []
        for start in range(0, len(order), BUCKET):
            bucket = order[start : start + BUCKET]
            budget, most = self.packing.tokens_per_batch, self.packing.comparisons_per_batch or 0
            batches += [bucket[numbers] for numbers in cut_into_batches(lengths[bucket], budget, most)]
        return batches if epoch is None else [batches[i] for i in rng.permutation(len(batches))]

    def deal(self, numbers: np.ndarray, ranks: int, most_tokens: int) -> list[list[np.ndarray]]:
        """Return each rank's share of some comparisons, of about as many tokens each, cut into as many micro-batches.

        Args:
            numbers: which comparisons; none is divided.
            ranks: how many processes share them; one that gets none, or fewer, has empty micro-batches at the end.
            most_tokens: about how many tokens a micro-batch has at most.
        """
        numbers = numbers[np.argsort(self.lengths[numbers], kind="stable")]
        shares = [numbers] if ranks == 1 else _spread(numbers, self.lengths[numbers], ranks)
        cut = [_divide(share, self.lengths[share], most_tokens) if len(share) else [] for share in shares]
        rounds = max(map(len, cut))
        return [micro_batches + [numbers[:0]] * (rounds - len(micro_batches)) for micro_batches in cut]

    def packed(self, numbers: np.ndarray) -> PackedBatch:
        """Return one batch."""
        batch, share = [self.store[number] for number in numbers], self.packing.share_prompt
        packed = pack(batch, share_prompt=share, bidirectional=self.bidirectional, numbers=numbers.tolist())
        return packed.ready()

    def batches(self, plan: Iterable[np.ndarray]) -> Iterator[PackedBatch | None]:
        """Yield the batches, or micro-batches, of a plan, packed ahead in a thread; None for an empty one."""
        return ahead(self.packed(numbers) if len(numbers) else None for numbers in plan)


def cut_into_batches(
    lengths: Sequence[int] | np.ndarray, tokens_per_batch: int, most: int = 0, *, padded: bool = False
) -> list[np.ndarray]:
    """Return which items each batch holds, given their tokens: those of like length together, shortest first.

    Args:
        tokens_per_batch: tokens that a batch holds at most; an item beyond it is a batch of its own.
        most: items that a batch holds at most; 0: any number.
        padded: count every item of a batch as long as its longest.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    batches, start, tokens = [], 0, 0
    for i, length in enumerate(lengths[order].tolist()):
        tokens = (i - start + 1) * length if padded else tokens + length
        if i > start and (tokens > tokens_per_batch or i - start == most):  # most = 0 is never met
            batches.append(order[start:i])
            start, tokens = i, length
    return [*batches, order[start:]] if len(order) else []


def _divide(numbers: np.ndarray, sizes: np.ndarray, most: int) -> list[np.ndarray]:
    """Cut comparisons into ⌈tokens / most⌉ equal stretches; each belongs where its middle token lies."""
    total = sizes.sum()
    micro_batch = (sizes.cumsum() - sizes / 2) * math.ceil(total / most) // total  # (comparisons,) from 0
    return np.split(numbers, np.flatnonzero(np.diff(micro_batch)) + 1)


def _spread(numbers: np.ndarray, lengths: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Return each rank's comparisons, shortest first: the longest is dealt first, each to whoever has least."""
    shares, loads = [[] for _ in range(ranks)], [0] * ranks
    for number, length in zip(numbers[::-1], lengths[::-1], strict=True):
        rank = loads.index(min(loads))
        shares[rank].append(number)
        loads[rank] += length
    return [np.array(share[::-1], dtype=np.int64) for share in shares]


T = TypeVar("T")


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Yield the items while a thread works on the next `depth` of them."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        under_way = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := under_way.popleft().result()) is not end:
            under_way.append(thread.submit(next, items, end))
            yield item
