"""Who sees whom, read off the tiles, is what the definition says by a naive loop; no token is forgotten or repeated."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.tokens.layout import TILE_ALLOWANCE, Layout, lay_out, lay_out_sequences
from tests.oracles import seen_by_tiles

Segments = tuple[list[int], list[int], list[int]]  # lengths, parents, reads


@st.composite
def forests(draw: st.DrawFn, before: int = 0, most_tokens: int = 6) -> Segments:
    """Draw 1 to 9 segments, each continuing nothing or any segment before it."""
    count = draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(1, most_tokens), min_size=count, max_size=count))
    parents = [draw(st.integers(-1, before + s - 1)) for s in range(count)]
    reads = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    return lengths, parents, reads


def seen_by_definition(lengths: Sequence[int], parents: Sequence[int]) -> list[set[int]]:
    """Return for each token which tokens it sees: j ≤ i in its own segment, and all of the segments it continues."""
    segment = [s for s, length in enumerate(lengths) for _ in range(length)]
    lineage: list[set[int]] = []
    for parent in parents:
        lineage.append(lineage[parent] | {parent} if parent >= 0 else set())
    tokens = range(len(segment))
    return [
        {j for j in tokens if segment[j] in lineage[segment[i]] or (segment[j] == segment[i] and j <= i)}
        for i in tokens
    ]


def check_sees(layout: Layout, expected: list[set[int]]) -> None:
    """Compare with what each token of the layout should see, itself being the last."""
    found = seen_by_tiles(layout.everywhere)
    assert len(found) == len(expected)
    for keys, wanted in zip(found, expected, strict=True):
        assert set(keys) == wanted and len(keys) == len(wanted)  # each once
    at_reads = seen_by_tiles(layout.at_reads)
    assert [set(keys) for keys in at_reads] == [expected[token] for token in layout.reads.tolist()]
    assert layout.positions.tolist() == [len(wanted) - 1 for wanted in expected]


@settings(max_examples=100)
@given(forest=forests())
def test_a_token_sees_its_path_and_itself_and_nothing_else(forest):
    lengths, parents, reads = forest
    layout = lay_out(lengths, parents, reads)
    check_sees(layout, seen_by_definition(lengths, parents))
    ends = np.cumsum(lengths) - 1
    assert layout.reads.tolist() == ends[reads].tolist()
    assert layout.types.tolist() == [
        int(parent >= 0) for parent, n in zip(parents, lengths, strict=True) for _ in range(n)
    ]
    assert layout.tokens_so_far == sum(lengths)


@settings(max_examples=60)
@given(parts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9))
def test_both_ways_a_token_sees_its_whole_row_and_nothing_else(parts):
    layout = lay_out_sequences(*zip(*parts, strict=True))
    rows = [row for row, (prompt, response) in enumerate(parts) for _ in range(prompt + response)]
    row_of = {row: {token for token, its in enumerate(rows) if its == row} for row in range(len(parts))}
    for tiles, asking in ((layout.everywhere, rows), (layout.at_reads, range(len(parts)))):
        found = seen_by_tiles(tiles)
        assert [set(keys) for keys in found] == [row_of[row] for row in asking]
        assert all(len(keys) == len(set(keys)) for keys in found)  # each once
    assert layout.reads.tolist() == [min(row_of[row]) for row in range(len(parts))]
    assert layout.positions.tolist() == [place for p, r in parts for place in range(p + r)]
    assert layout.types.tolist() == [kind for p, r in parts for kind in [0] * p + [1] * r]
    assert layout.tokens_so_far == len(rows)


@settings(max_examples=60)
@given(data=st.data())
def test_segments_may_continue_what_earlier_layouts_hold(data):
    lengths, parents, reads = data.draw(forests())
    layout = lay_out(lengths, parents, reads)
    for _ in range(2):
        before = sum(lengths)
        more, their_parents, reads = data.draw(forests(before=len(lengths)))
        layout = lay_out(more, their_parents, reads, layout)
        lengths, parents = lengths + more, parents + their_parents
        expected = seen_by_definition(lengths, parents)
        assert layout.tokens_so_far == sum(lengths) and len(layout.paths) == len(lengths)
        check_sees(layout, expected[before:])


@settings(max_examples=60)
@given(forest=forests(most_tokens=400))
def test_tiles_waste_no_more_than_they_may(forest):
    lengths, parents, reads = forest
    layout = lay_out(lengths, parents, reads)
    for tiles, is_read in ((layout.everywhere, False), (layout.at_reads, True)):
        for tile in tiles.tiles:
            ends = tile.visible[:, -1]  # keys of each segment
            sizes = [1 if is_read else len(set(row.tolist())) for row in tile.queries]
            needed = sum(size * int(end) for size, end in zip(sizes, ends, strict=True))
            held = tile.queries.shape[0] * tile.queries.shape[1] * tile.keys.shape[1]
            assert held <= needed + TILE_ALLOWANCE


def test_segments_of_very_different_length_lie_in_tiles_of_their_own():
    layout = lay_out([1000, 3, 1000, 2], [-1] * 4, [0])
    shapes = [tuple(tile.queries.shape) for tile in layout.everywhere.tiles]
    assert shapes == [(2, 3), (2, 1000)]


def test_the_triangle_is_the_mask_only_where_nothing_stands_before():
    prompts = lay_out([3, 4], [-1, -1], [0, 1]).everywhere
    responses = lay_out([3, 4, 4], [-1, 0, 0], [1, 2]).everywhere
    assert all(tile.causal and tile.mask() is None for tile in prompts.tiles)
    assert [tile.mask() is None for tile in responses.tiles] == [tile.causal for tile in responses.tiles]
    assert not all(tile.causal for tile in responses.tiles)


def test_a_segment_that_alone_continues_another_asks_together_with_it():
    chain, fork = lay_out([3, 4, 2], [-1, 0, 1], [2]).everywhere, lay_out([3, 4, 2], [-1, 0, 0], [1, 2]).everywhere
    assert [tuple(tile.queries.shape) for tile in chain.tiles] == [(1, 9)] and chain.tiles[0].causal
    assert sum(tile.queries.shape[0] for tile in fork.tiles) == 3


@settings(max_examples=100)
@given(forest=forests())
def test_levels_hold_every_token_once_and_parents_before_children(forest):
    lengths, parents, reads = forest
    layout = lay_out(lengths, parents, reads)
    order = torch.cat([level.tokens for level in layout.levels])
    assert sorted(order.tolist()) == list(range(sum(lengths)))
    assert order[layout.slots_in_levels].tolist() == list(range(sum(lengths)))
    starts = np.cumsum(lengths) - lengths
    computed = {-1}
    for level in layout.levels:
        firsts = level.tokens[: level.steps[0]].tolist()
        members = [starts.tolist().index(first) for first in firsts]
        sizes = [lengths[s] for s in members]
        assert sizes == sorted(sizes, reverse=True)
        assert level.steps.tolist() == [sum(size > step for size in sizes) for step in range(sizes[0])]
        assert level.segments.tolist() == members and level.lengths.tolist() == sizes
        assert level.parents.tolist() == [parents[s] for s in members]
        assert set(level.parents.tolist()) <= computed
        computed |= set(members)
    assert computed == set(range(-1, len(lengths)))


@settings(max_examples=30)
@given(data=st.data())
def test_levels_count_segments_over_past_and_new_ones(data):
    lengths, parents, reads = data.draw(forests())
    past = lay_out(lengths, parents, reads)
    more, their_parents, reads = data.draw(forests(before=len(lengths)))
    layout = lay_out(more, their_parents, reads, past)
    segments = [s for level in layout.levels for s in level.segments.tolist()]
    assert sorted(segments) == list(range(len(lengths), len(lengths) + len(more)))
    parents = [p for level in layout.levels for p in level.parents.tolist()]
    assert parents == [their_parents[s - len(lengths)] for s in segments]
    types = [int(parent >= 0) for parent, length in zip(their_parents, more, strict=True) for _ in range(length)]
    assert layout.types.tolist() == types  # what continues something from before is a response


def test_moving_a_layout_moves_every_tensor_but_the_steps_that_the_host_reads():
    assert lay_out_sequences([2], [3]).to("meta").types.is_meta
    moved = lay_out([3, 2, 4], [-1, 0, 0], [1, 2]).to("meta")
    tiles = (*moved.everywhere.tiles, *moved.at_reads.tiles)
    tensors = [moved.positions, moved.reads, moved.slots_in_levels, moved.everywhere.slots, moved.at_reads.slots]
    tensors += [tensor for tile in tiles for tensor in (tile.queries, tile.keys, tile.visible)]
    tensors += [t for lv in moved.levels for t in (lv.tokens, lv.segments, lv.parents, lv.lengths)]
    assert all(tensor.is_meta for tensor in tensors)
    assert not any(level.steps.is_meta for level in moved.levels)


@pytest.mark.parametrize("count", [1, 300])
def test_many_segments_of_one_token_are_one_tile(count):
    layout = lay_out([5] + [1] * count, [-1] + [0] * count, range(1, count + 1))
    assert len(layout.at_reads.tiles) == 1 and layout.at_reads.tiles[0].queries.shape == (count, 1)
