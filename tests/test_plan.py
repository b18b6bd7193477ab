"""The plan's formulae, by hand; `python -m bench plan --check` holds the one of memory against processes."""

import pytest

from bench.plan import WORK, Shape, bytes_sent, main, memory, seconds_of_step, shape_of

SMALL = Shape(layers=10, width=100, block=1000, outside=500)


def test_memory_is_divided_but_for_what_computes_just_now():
    alone, four = memory(SMALL, 1, tokens=0), memory(SMALL, 4, tokens=0)
    assert sum(alone.values()) == 20 * 10_500
    assert sum(four.values()) == 5 * 10_500 + 4 * (2 * 500 + 3 * 1000)


def test_what_blocks_keep_counts_where_it_is_more_than_the_gradients():
    gradients, inputs = (memory(SMALL, 4, tokens)["gradients, or the blocks' inputs"] for tokens in (1, 50))
    assert gradients == 4 * 10_500 / 4
    assert inputs == 4 * 50 * 100 * 10 > gradients
    assert memory(SMALL, 4, tokens=50)["what one block computes"] == 4 * 50 * 100 * WORK


@pytest.mark.parametrize(("shard", "whole"), [(True, 3), (False, 2)])
def test_each_rank_sends_what_it_does_not_keep(shard, whole):
    assert bytes_sent(SMALL, 4, 1, shard=shard) == whole * 4 * 10_500 * 3 / 4
    assert bytes_sent(SMALL, 1, 1, shard=shard) == 0


def test_a_token_costs_eight_operations_a_weight():
    assert seconds_of_step(SMALL, 10, flops=8e5) == pytest.approx(1.0)


def test_a_plan_is_printed(capsys):
    assert 6.5e9 < shape_of(7e9).parameters < 7.5e9
    assert main(["--params", "7e9", "--gpus", "64", "--tokens", "1e9"]) == 0
    assert "GB" in capsys.readouterr().out
