"""Comparisons kept in a file → stores of tokens, shard by shard, in as many processes as there are processors."""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from minirm.config import OF_SINGLES, OF_TIES
from minirm.data.comparison import Comparison
from minirm.files.disk import read_json, remove_folder, write_folder_whole, write_json
from minirm.files.kept import Kept
from minirm.files.pretrained import AnyTokenizer
from minirm.files.survey import usable
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD, RunConfig
from minirm.runs.words import WordTokenizer, cuts_at_spaces
from minirm.tokens.packing import Encoded, fit, tokenize
from minirm.tokens.stream import TokenStore

SHARD = 1 << 22
"""Bytes of the comparisons that are encoded together: what one process holds in memory."""
COUNTS = "counts.json"
ADDED_UP = {"segment_ends": "tokens", "comparison_ends": "segment_ends", "steps_until": "step_ends"}
"""Columns that count on from shard to shard, and what they count."""


@dataclass(frozen=True)
class Encoder:
    """Encodes comparisons for each stage of a run."""

    config: RunConfig
    tokenizer: AnyTokenizer

    def __call__(self, part: str, comparisons: Kept, folder: Path) -> None:
        """Write a store for each stage into a folder, and into a file what was cut, merged or dropped."""
        counts = {stage: Counter() for stage in self.config.stages}
        encoded = self._encode(list(comparisons), counts)
        for stage, items in encoded.items():
            if stage == LANGUAGE_MODEL:  # before anything is cut: a response that is not learned needs no room
                items = self._as_texts(items)
            how = {"keep_first": self.config.model.bidirectional, "keep_incomparable": stage == LANGUAGE_MODEL}
            TokenStore.write(fit(items, self.config.packing, counts[stage], **how), folder / stage)
        found = {f"{part}, {stage}: {name}": n for stage, its in counts.items() for name, n in its.items() if n}
        write_json(folder / COUNTS, found)

    def _encode(self, comparisons: list[Comparison], counts: dict[str, Counter[str]]) -> dict[str, list[Encoded]]:
        """Return what each stage can learn from, in tokens; what is the same for both is encoded once."""
        by_assistant = LANGUAGE_MODEL in self.config.stages and self.config.only_assistant
        encoded = list(tokenize(comparisons, self.tokenizer, by_assistant=by_assistant))
        found = {LANGUAGE_MODEL: encoded} if LANGUAGE_MODEL in self.config.stages else {}
        if REWARD in self.config.stages:
            known = {id(one): item for one, item in zip(comparisons, encoded, strict=True)}
            learned = list(usable_by(self.config, comparisons, counts[REWARD]))
            anew = [one for one in learned if id(one) not in known]
            known |= {id(one): item for one, item in zip(anew, tokenize(anew, self.tokenizer), strict=True)}
            found[REWARD] = [known[id(one)] for one in learned]
        return found

    def _as_texts(self, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield what a language model is to learn of comparisons."""
        for item in encoded:
            chosen = preferred(item) if self.config.data.language_model_responses == "preferred" else item
            learned = chosen.learned if self.config.only_assistant else None
            if not self.config.model.predicts_prompts:
                learned = np.zeros(len(chosen.prompt), dtype=bool)
            yield replace(chosen, learned=learned, steps=None)


def usable_by(config: RunConfig, comparisons: Iterable[Comparison], counts: Counter[str]) -> Iterator[Comparison]:
    """Yield what the reward stage can learn from, and count what it can't."""
    loss = config.reward.loss
    return usable(comparisons, counts, keep_ties=loss in OF_TIES, keep_singles=loss in OF_SINGLES)


def encode(
    config: RunConfig,
    tokenizer: AnyTokenizer,
    parts: dict[str, Kept],
    folder: Path,
    progress: Callable[[str, int, int], object],
) -> Counter[str]:
    """Write a store for each part and stage into a folder, named "training reward", and return what was left out.

    Shards that an earlier process left there whole are not encoded again.
    """
    words = WordTokenizer(tokenizer) if cuts_at_spaces(tokenizer) else tokenizer
    shards = folder / "shards"
    work = [
        (part, comparisons, shards / f"{part} {number:06}")
        for part, kept in parts.items()
        for number, comparisons in enumerate(cut_by_bytes(kept, SHARD))
    ]
    todo = [shard for shard in work if not shard[2].is_dir()]
    shards.mkdir(parents=True, exist_ok=True)
    for done, _ in enumerate(_in_processes(Encoder(config, words), todo), len(work) - len(todo) + 1):
        progress("encoding", done, len(work))
    counts: Counter[str] = Counter()
    for part in parts:
        those = [path for name, _, path in work if name == part]
        for path in those:
            counts.update(read_json(path / COUNTS))
        for stage in config.stages:
            join([path / stage for path in those], folder / f"{part} {stage}")
    remove_folder(shards)
    return counts


def cut_by_bytes(kept: Kept, size: int) -> Iterator[Kept]:
    """Yield the comparisons, about so many bytes at a time."""
    numbers = np.asarray(kept.numbers)
    sizes = kept.ends[numbers] - np.where(numbers > 0, kept.ends[numbers - 1], 0) if len(numbers) else numbers
    piece = (np.cumsum(sizes) - 1) // size
    bounds = np.flatnonzero(np.diff(piece, prepend=-1, append=-1))
    return (kept[start:stop] for start, stop in pairwise(bounds.tolist()))


def join(folders: list[Path], target: Path) -> None:
    """Put stores one behind the other."""
    target.mkdir(parents=True)
    before: Counter[str] = Counter()
    for name in TokenStore.COLUMNS:
        (target / name).touch()
    for folder in folders:
        store = {name: np.fromfile(folder / name, dtype) for name, dtype in TokenStore.COLUMNS.items()}
        for name, values in store.items():
            values = values + before[ADDED_UP[name]] if name in ADDED_UP else values
            with (target / name).open("ab") as file:
                file.write(values.tobytes())
        before.update({name: len(values) for name, values in store.items()})


def _in_processes(encoder: Encoder, todo: list[tuple[str, Kept, Path]]) -> Iterator[None]:
    """Encode shards, and yield whenever one is done."""
    count = min(len(todo), processors())
    if count < 2 or not hasattr(os, "fork"):
        yield from (_encode_shard(encoder, *shard) for shard in todo)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it warns of every child that begins later
    context = multiprocessing.get_context("fork")  # what they need is there already, and they compute nothing in torch
    with ProcessPoolExecutor(count, context, _begin, (encoder, todo)) as pool:
        try:
            yield from pool.map(_work, range(len(todo)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(encoder: Encoder, todo: list[tuple[str, Kept, Path]]) -> None:
    global _JOB
    _JOB = encoder, todo
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads stayed behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for these
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end as soon as the one that began it is gone, killed too: it waits for work that never comes."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(number: int) -> None:
    encoder, todo = _JOB
    _encode_shard(encoder, *todo[number])


def _encode_shard(encoder: Encoder, part: str, comparisons: Kept, folder: Path) -> None:
    write_folder_whole(folder, lambda path: encoder(part, comparisons, path))


def preferred(encoded: Encoded) -> Encoded:
    """Return the comparison with its best response alone: what a language model learns from.

    The worst one, where the order of the scores is more probably false than true.
    """
    best_of = max if encoded.probability >= 0.5 else min
    best = best_of(range(len(encoded.scores)), key=encoded.scores.__getitem__)
    return replace(encoded, responses=(encoded.responses[best],), scores=(encoded.scores[best],), steps=None)
