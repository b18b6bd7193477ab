"""Comparisons on disk, and the order in which training meets them."""

import threading
import time
from dataclasses import replace
from itertools import count, islice
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minirm.config import PackingConfig
from minirm.runs.encode import preferred
from minirm.tokens import stream
from minirm.tokens.packing import Encoded, pack
from minirm.tokens.steps import Steps
from minirm.tokens.stream import Stream, TokenStore, ahead
from tests.strategies import encoded_batches


def of_lengths(lengths: list[int], responses: int = 2) -> list[Encoded]:
    """Return comparisons of so many tokens each; the first token is the number of the row."""
    comparisons = []
    for row, length in enumerate(lengths):
        texts = np.array_split(np.arange(length, dtype=np.int32), responses + 1)
        texts[0][0] = row
        comparisons.append(Encoded(texts[0], tuple(texts[1:]), tuple(map(float, range(responses)))))
    return comparisons


def with_steps(item: Encoded) -> Encoded:
    """Return the comparison with as many labelled steps to each response as it has tokens, up to three."""
    ends = [np.arange(len(text))[-3:] for text in item.responses]
    return replace(item, steps=tuple(Steps(of_one, of_one % 2 / 1.0) for of_one in ends))


@pytest.fixture
def lengths() -> list[int]:
    return np.random.default_rng(0).integers(6, 120, size=2500).tolist()  # more than two windows


@pytest.fixture
def store(tmp_path, lengths) -> TokenStore:
    return TokenStore.write(of_lengths(lengths), tmp_path / "store")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=encoded_batches(), dials=st.tuples(*[st.floats(0, 1e6)] * 3))
def test_what_is_stored_is_read_back_with_margin_weight_and_probability(tmp_path, batch, dials):
    batch = [replace(batch[0], margin=dials[0], weight=dials[1], probability=dials[2]), *batch[1:]]
    store = TokenStore.write(batch, tmp_path / "store")
    assert len(store) == len(batch)
    for row, item in enumerate(batch):
        read = store[row]
        for text, expected in zip((read.prompt, *read.responses), (item.prompt, *item.responses), strict=True):
            assert text.dtype == np.int32 and np.array_equal(text, expected)
        assert (read.scores, read.margin) == (item.scores, item.margin)
        assert (read.weight, read.probability) == (item.weight, item.probability)
    assert store.lengths().tolist() == [item.tokens for item in batch]
    for shared in (True, False):
        packed = [len(pack([item], share_prompt=shared).tokens) for item in batch]
        assert store.lengths(share_prompt=shared).tolist() == packed


def test_steps_are_stored_with_those_rows_that_have_them(tmp_path):
    plain = of_lengths([9, 12, 30])
    rows = [plain[0], with_steps(plain[1]), with_steps(plain[2])]
    store = TokenStore.write(rows, tmp_path / "store")
    assert store[0].steps is None
    for row in (1, 2):
        for read, written in zip(store[row].steps, rows[row].steps, strict=True):
            assert read.ends.tolist() == written.ends.tolist() and read.labels.tolist() == written.labels.tolist()
        assert [text.tolist() for text in store[row].responses] == [text.tolist() for text in rows[row].responses]
    assert preferred(store[1]).steps is None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(encoded_batches(), st.integers(1, 3))
def test_a_store_is_the_same_however_many_comparisons_are_written_at_once(tmp_path, batch, at_once):
    items = [with_steps(item) if n % 2 else item for n, item in enumerate(batch * 2)]
    TokenStore.write(items, tmp_path / "whole")
    with patch.object(stream, "WRITTEN_AT_ONCE", at_once):
        TokenStore.write(items, tmp_path / "parts")
    for name in TokenStore.COLUMNS:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_store_is_a_memory_map_and_may_be_empty(store, tmp_path):
    columns = (column for column in vars(store).values() if len(column))  # an empty file can't be mapped
    assert all(isinstance(column.base, np.memmap) or isinstance(column, np.memmap) for column in columns)
    empty = TokenStore.write([], tmp_path / "empty")
    assert len(empty) == 0 and empty.lengths().tolist() == [] and Stream(empty, PackingConfig()).plan(0) == []


@pytest.mark.parametrize("column", TokenStore.COLUMNS)
@pytest.mark.parametrize("rows", [1, 2500])
def test_a_full_disk_is_an_error_that_names_the_store(tmp_path, lengths, column, rows):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / column).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as full:
        TokenStore.write(map(with_steps, of_lengths(lengths[:rows])), tmp_path / "store")
    assert full.value.filename == str(tmp_path / "store")


def test_the_preferred_response_is_the_first_of_the_highest_score():
    [item] = of_lengths([12], responses=3)
    chosen = preferred(replace(item, scores=(1.0, 2.0, 2.0), weight=3.0))
    assert chosen.scores == (2.0,) and chosen.responses[0] is item.responses[1] and chosen.weight == 3.0


def test_the_preferred_response_is_the_lowest_where_the_label_is_more_probably_false():
    [item] = of_lengths([12], responses=3)
    chosen = preferred(replace(item, scores=(1.0, 2.0, 0.0), probability=0.2))
    assert chosen.scores == (0.0,) and chosen.responses[0] is item.responses[2]
    assert preferred(replace(item, scores=(1.0, 2.0, 0.0), probability=0.5)).scores == (2.0,)


def as_lists(plan: list[np.ndarray]) -> list[list[int]]:
    return [rows.tolist() for rows in plan]


def test_a_plan_is_the_same_for_the_same_seed_and_epoch_and_no_other(store):
    plan = as_lists(Stream(store, PackingConfig(), seed=3).plan(1))
    assert plan == as_lists(Stream(store, PackingConfig(), seed=3).plan(1))
    assert plan != as_lists(Stream(store, PackingConfig(), seed=3).plan(2))
    assert plan != as_lists(Stream(store, PackingConfig(), seed=4).plan(1))


@pytest.mark.parametrize("epoch", [0, 5, None])
@pytest.mark.parametrize("share_prompt", [True, False])
def test_every_row_is_met_once_and_the_budget_is_held(store, epoch, share_prompt):
    packing = PackingConfig(tokens_per_batch=100, comparisons_per_batch=7, share_prompt=share_prompt)
    plan = Stream(store, packing).plan(epoch)
    assert sorted(row for rows in plan for row in rows) == list(range(len(store)))
    tokens = store.lengths(share_prompt=share_prompt)
    assert max(len(rows) for rows in plan) == 7
    assert all(len(rows) == 1 or tokens[rows].sum() <= 100 for rows in plan)
    assert any(len(rows) == 1 and tokens[rows].sum() > 100 for rows in plan)  # a longer row has a batch of its own


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 150, 400, 10**9])
def test_a_step_is_dealt_to_ranks_by_tokens_in_as_many_micro_batches_each(store, share_prompt, ranks, most):
    stream = Stream(store, PackingConfig(tokens_per_batch=1000, share_prompt=share_prompt))
    tokens = store.lengths(share_prompt=share_prompt)
    for numbers in stream.plan(0):
        shares = stream.deal(numbers, ranks, most)
        assert len(shares) == ranks and len({len(share) for share in shares}) == 1
        assert sorted(np.concatenate([part for share in shares for part in share])) == sorted(numbers)
        loads = [sum(tokens[part].sum() for part in share) for share in shares]
        assert max(loads) - min(loads) <= tokens[numbers].max()
        for load, share in zip(loads, shares, strict=True):
            sizes = [tokens[part].sum() for part in share if len(part)]
            assert len(sizes) <= -(-load // most)
            assert all(size <= most + tokens[numbers].max() for size in sizes)


def test_a_packed_batch_has_the_tokens_that_the_plan_counted(store):
    for share_prompt in (True, False):
        stream = Stream(store, PackingConfig(tokens_per_batch=400, share_prompt=share_prompt))
        rows = stream.plan(0)[0]
        assert len(stream.packed(rows).tokens) == store.lengths(share_prompt=share_prompt)[rows].sum() <= 400


def test_like_lengths_lie_together_in_shuffled_batches(store, lengths):
    plan = Stream(store, PackingConfig(tokens_per_batch=1000)).plan(0)
    lengths = np.array(lengths)
    spread = np.mean([np.ptp(lengths[rows]) for rows in plan])
    unsorted = np.mean([np.ptp(lengths[start : start + 16]) for start in range(0, len(lengths), 16)])
    assert spread < 0.1 * unsorted
    mean_lengths = [lengths[rows].mean() for rows in plan]
    assert abs(np.corrcoef(mean_lengths, np.arange(len(plan)))[0, 1]) < 0.3  # short and long batches come mixed


def test_the_order_for_evaluation_is_by_length(store, lengths):
    order = np.concatenate(Stream(store, PackingConfig()).plan(None))
    assert np.array(lengths)[order].tolist() == sorted(lengths)


def test_batches_may_be_entered_anywhere(store):
    stream = Stream(store, PackingConfig(tokens_per_batch=500))
    plan = stream.plan(2)[:12]
    everything, rest = list(stream.batches(plan)), list(stream.batches(plan[9:]))
    assert [batch.numbers for batch in everything] == [tuple(rows) for rows in as_lists(plan)]
    for batch, expected in zip(rest, everything[9:], strict=True):
        assert batch.numbers == expected.numbers and torch.equal(batch.tokens, expected.tokens)


def test_ahead_yields_all_in_order_and_passes_on_an_error_in_its_place():
    def broken():
        yield from range(3)
        raise OSError("the disk is gone")

    items = ahead(broken())
    assert list(islice(items, 3)) == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert list(ahead(iter(range(100)))) == list(range(100))


def test_ahead_works_no_further_than_its_depth_and_ends_its_thread():
    before, made = set(threading.enumerate()), []
    items = ahead((made.append(n) or n for n in count()), depth=2)
    assert next(items) == 0
    [worker] = set(threading.enumerate()) - before
    time.sleep(0.3)
    assert len(made) <= 5  # one is taken, two lie ready, one waits for a place
    items.close()
    worker.join(timeout=60)
    assert not worker.is_alive()
