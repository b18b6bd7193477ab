"""Who sees whom: the shape of a batch without padding.

A batch is a flat list of M tokens, cut into *segments*. A segment continues another one, its parent; its *path* is its
tokens behind those of its ancestors. A token sees its path up to itself:

    prompt p0 p1 p2 ─┬─ response a0 a1 a2        a1 sees p0 p1 p2 a0 a1
                     └─ response b0 b1           b1 sees p0 p1 p2 b0 b1, and nothing of a

Everything that works on one token at a time (embedding, norms, projections, MLP, head) runs over the M tokens and never
meets a pad. Only attention needs rectangles. They are called *tiles* here: segments of like length side by side, padded
to the longest of the tile. A segment that continues a *past* layout gives generation and reuse of a prompt for free.

An encoder sees both ways, so that a prompt's tokens depend on the response, and can't be shared:
`lay_out_sequences` gives each response a sequence of its own, behind its own prompt.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

TILE_ALLOWANCE = 10_000
"""Entries, a query and a key each, that a tile may hold beyond those needed: starting a kernel costs about as much."""


@dataclass(frozen=True)
class Tile:
    """n segments of like length, as a rectangle for attention."""

    queries: Tensor  # (n, R) tokens (`everywhere`) or numbers of reads (`at_reads`); padding repeats the last
    keys: Tensor  # (n, S) the tokens seen, those of past layouts counted first; padding repeats the last
    visible: Tensor  # (n, R) how many keys, from the left, a query sees; (n, 1) where all of a sequence see the same
    causal: bool  # nothing is seen before the first query: a triangle is the mask, and hides padded keys too

    def mask(self) -> Tensor | None:
        """Return (n, 1, R or 1, S), True where a query sees a key; None when the triangle says it."""
        if self.causal:
            return None
        column = torch.arange(self.keys.shape[1], device=self.keys.device)
        return (column < self.visible[..., None])[:, None]


@dataclass(frozen=True)
class Tiles:
    """All tokens, or only the reads, as queries: grouped into tiles."""

    tiles: tuple[Tile, ...]
    slots: Tensor  # (queries,) where the result of each query lies when the tiles are laid end to end


@dataclass(frozen=True)
class Level:
    """Segments whose parents are all computed: what a recurrent network can run side by side."""

    tokens: Tensor  # (m,) which, step by step: first tokens of all segments (longest first), then second ones, …
    steps: Tensor  # (R,) on the host: how many segments reach each step
    segments: Tensor  # (n,) which segments these are, counted over past and new ones, longest first
    parents: Tensor  # (n,) the segment that each one continues, counted likewise; −1 for none
    lengths: Tensor  # (n,) tokens of each segment


@dataclass(frozen=True)
class Layout:
    """A batch's segments, ready for attention (`everywhere`, `at_reads`) and for recurrence (`levels`)."""

    positions: Tensor  # (M,) how far along its path each token lies, from 0
    types: Tensor  # (M,) 0 in a prompt, 1 in a response
    reads: Tensor  # (N,) the tokens at which the result is read
    at_reads: Tiles  # only the N read tokens are queries
    paths: tuple[np.ndarray, ...]  # the tokens of each segment's path; past segments and tokens are counted first
    tokens_so_far: int  # past tokens and M
    lengths: tuple[int, ...]  # tokens of each new segment
    parents: tuple[int, ...] = ()  # the segment that each new one continues, −1: none; (): nothing can continue one
    both_ways: bool = False  # a token also sees what follows it in its segment

    @cached_property
    def everywhere(self) -> Tiles:
        """Every token is a query; made when they are first asked for, since not every kernel wants tiles."""
        count, ends, device = len(self.lengths), np.cumsum(self.lengths), self.positions.device
        queries, keys = list(map(np.arange, ends - self.lengths, ends)), list(self.paths[-count:])
        if not self.both_ways:
            queries, keys = _joined(queries, keys, [p + count - len(self.paths) for p in self.parents])  # < 0: not new
        return _mapped(_tile(queries, keys, both_ways=self.both_ways), lambda x: x.to(device, non_blocking=True))

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The segments level by level, for recurrence; made when they are first asked for."""
        device = self.positions.device
        return tuple(_mapped(level, lambda x: x.to(device, non_blocking=True)) for level in _levels(self))

    @cached_property
    def slots_in_levels(self) -> Tensor:
        """(M,) where each token lies when the levels are laid end to end."""
        return torch.cat([level.tokens for level in self.levels]).argsort()

    def to(self, device: torch.device | str) -> "Layout":
        """Return the same layout with its tensors on `device`."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        """Return the same layout with its tensors changed, and those of its tiles and levels that are made already."""
        changed = _mapped(self, change)
        for name in {"everywhere", "levels", "slots_in_levels"} & vars(self).keys():
            vars(changed)[name] = _mapped(vars(self)[name], change)
        return changed


def lay_out(
    lengths: Sequence[int],
    parents: Sequence[int],
    read_segments: Sequence[int],
    past: Layout | None = None,
    *,
    before_end: Sequence[int] | None = None,
) -> Layout:
    """Return the layout of segments that lie end to end.

    Args:
        lengths: tokens of each segment, at least 1.
        parents: the segment that each one continues, counted over past and new ones; −1 for none.
        read_segments: N segments, counted over the new ones, whose last tokens are read.
        past: what earlier calls computed, for segments that continue it.
        before_end: how many tokens before its segment's last one each read lies; None: none.
    """
    paths = list(past.paths) if past else []
    old, first_token = len(paths), (past.tokens_so_far if past else 0)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    spans = list(map(np.arange, starts[:-1], starts[1:]))
    for span, parent in zip(spans, parents, strict=True):
        own = first_token + span
        paths.append(np.concatenate([paths[parent], own]) if parent >= 0 else own)
    new = paths[old:]
    back = [0] * len(read_segments) if before_end is None else before_end
    seen = [new[segment][: len(new[segment]) - unseen] for segment, unseen in zip(read_segments, back, strict=True)]
    return Layout(
        positions=_tensor([np.arange(len(path))[-len(span) :] for path, span in zip(new, spans, strict=True)]),
        types=torch.from_numpy(np.repeat([int(parent >= 0) for parent in parents], lengths)),
        reads=torch.from_numpy(starts[1:][list(read_segments)] - 1 - np.array(back, dtype=np.int64)),
        at_reads=_tile([np.array([n]) for n in range(len(read_segments))], seen),
        paths=tuple(paths),
        tokens_so_far=first_token + int(starts[-1]),
        lengths=tuple(lengths),
        parents=tuple(parents),
    )


def _joined(
    spans: list[np.ndarray], paths: list[np.ndarray], parents: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return queries and keys; an only child takes its parent's queries over: one causal triangle serves both."""
    children, queries = Counter(parents), dict(enumerate(spans))  # by segment
    for segment, parent in enumerate(parents):
        if children[parent] == 1 and parent in queries:
            queries[segment] = np.concatenate([queries.pop(parent), queries[segment]])
    return list(queries.values()), [paths[segment] for segment in queries]


def lay_out_sequences(prompts: Sequence[int], responses: Sequence[int]) -> Layout:
    """Return the layout of sequences that lie end to end: a prompt and a response whose tokens all see each other.

    A sequence is read at its first token. Nothing can continue it, and no recurrent network can run it.

    Args:
        prompts, responses: tokens of each sequence's prompt and response, at least 1 each.
    """
    lengths = np.stack([prompts, responses], axis=1)  # (N, 2)
    starts = np.concatenate([[0], np.cumsum(lengths.sum(1))])
    wholes = np.split(np.arange(starts[-1]), starts[1:-1])
    return Layout(
        positions=_tensor([whole - whole[0] for whole in wholes]),
        types=torch.from_numpy(np.tile([0, 1], len(wholes)).repeat(lengths.ravel())),
        reads=torch.from_numpy(starts[:-1]),
        at_reads=_tile([np.array([n]) for n in range(len(wholes))], wholes, both_ways=True),
        paths=tuple(wholes),
        tokens_so_far=int(starts[-1]),
        lengths=tuple(map(len, wholes)),
        both_ways=True,
    )


def see_both_ways(layout: Layout) -> Layout:
    """Return a prefix encoder's: a token sees its path and all of its own segment, a prompt's nothing of a response."""
    return replace(layout, both_ways=True)


def _tile(queries: list[np.ndarray], keys: list[np.ndarray], *, both_ways: bool = False) -> Tiles:
    """Put segments of like length into rectangles; those that need a mask apart from those that do without.

    Args:
        queries: of each segment, which queries are its own.
        keys: of each segment, the tokens that it sees. Its queries are the last of them, each seeing up to itself.
        both_ways: every query sees all of `keys`, of which it may be any.
    """
    # In this order those that see nothing before their queries come first, and of either those with fewer queries.
    sizes = [(len(q) < len(k), len(q), len(k)) for q, k in zip(queries, keys, strict=True)]
    groups, needed, longest, with_mask = [[]], 0, 0, min(sizes)[0]
    for s in sorted(range(len(queries)), key=sizes.__getitem__):
        masked, asking, seen = sizes[s]
        held = (len(groups[-1]) + 1) * asking * max(longest, seen)  # no earlier one of the group asks more
        if masked != with_mask or held > needed + asking * seen + TILE_ALLOWANCE:
            groups.append([])
            needed, longest, with_mask = 0, 0, masked
        groups[-1].append(s)
        needed, longest = needed + asking * seen, max(longest, seen)
    tiles = tuple(_rectangle([queries[s] for s in group], [keys[s] for s in group], both_ways) for group in groups)
    slots, offset = np.empty(sum(map(len, queries)), dtype=np.int64), 0
    for group in groups:
        for s in group:
            slots[queries[s]] = offset + np.arange(len(queries[s]))
            offset += len(queries[group[-1]])  # the longest of its group
    return Tiles(tiles, torch.from_numpy(slots))


def _rectangle(queries: list[np.ndarray], keys: list[np.ndarray], both_ways: bool) -> Tile:
    sizes = np.array([[len(q), len(k)] for q, k in zip(queries, keys, strict=True)])
    r, s = map(np.arange, sizes.max(0))
    before = sizes[:, 1] - sizes[:, 0]  # keys that precede the first query
    visible = sizes[:, 1:] if both_ways else np.minimum(before[:, None] + r + 1, sizes[:, 1:])
    return Tile(
        queries=torch.from_numpy(np.stack([q[np.minimum(r, len(q) - 1)] for q in queries])),
        keys=torch.from_numpy(np.stack([k[np.minimum(s, len(k) - 1)] for k in keys])),
        visible=torch.from_numpy(visible),
        causal=not both_ways and not before.any(),
    )


def _levels(layout: Layout) -> Iterator[Level]:
    """Yield new segments grouped by how many other new ones they continue."""
    lengths, parents, old = np.array(layout.lengths), layout.parents, len(layout.paths) - len(layout.lengths)
    starts = lengths.cumsum() - lengths
    depth: list[int] = []
    for parent in parents:
        depth.append(depth[parent - old] + 1 if parent >= old else 0)
    for d in range(max(depth, default=-1) + 1):
        members = np.array(sorted((s for s in range(len(lengths)) if depth[s] == d), key=lambda s: -lengths[s]))
        sizes = lengths[members]
        steps = (sizes[None] > np.arange(sizes[0])[:, None]).sum(1)  # (R,)
        order = np.concatenate([starts[members[:size]] + step for step, size in enumerate(steps)])
        arrays = (order, steps, old + members, np.array(parents)[members], sizes)
        yield Level(*map(torch.from_numpy, arrays))


def _tensor(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _mapped(value: object, change: Callable[[Tensor], Tensor], name: str = "") -> object:
    """Change the tensors of a tree of dataclasses and tuples, but for `Level.steps`, which stay on the host."""
    if isinstance(value, Tensor):
        return value if name == "steps" else change(value)
    if isinstance(value, tuple) and value and not isinstance(value[0], int | np.ndarray):
        return tuple(_mapped(item, change) for item in value)
    if isinstance(value, Tile | Tiles | Level | Layout):
        changed = {f.name: _mapped(getattr(value, f.name), change, f.name) for f in fields(value)}
        return type(value)(**changed)
    return value
