"""A prompt stands on one side of a split, the same side in every process."""

import pytest

from minirm.dialogue import Turn
from minirm.records import Comparison
from minirm.splits import draw_validation, is_validation, prompt_key


def about(prompt, *responses):
    return Comparison((Turn("user", prompt),) if prompt else (), responses or ("a", "b"), (1.0, 0.0))


PROMPTS = [about(f"Question {i}?") for i in range(2000)]


def test_the_key_is_that_of_the_prompt_alone():
    assert prompt_key(about("Why?", "a", "b")) == prompt_key(about("Why?", "c", "d"))
    assert prompt_key(about("Why?")) != prompt_key(about("Why? "))
    two_turns = Comparison((Turn("user", "a"), Turn("user", "b")), ("x", "y"), (1.0, 0.0))
    assert prompt_key(two_turns) != prompt_key(about("a"))


def test_without_a_prompt_the_responses_are_the_key_in_any_order():
    assert prompt_key(about("", "a", "b")) == prompt_key(about("", "b", "a"))
    assert prompt_key(about("", "a", "b")) != prompt_key(about("", "a", "c"))


def test_a_prompt_of_white_space_is_none():
    assert prompt_key(about(" \n", "a", "b")) == prompt_key(about("", "a", "b"))


def test_a_split_is_the_same_in_every_process():
    assert prompt_key(PROMPTS[0]).hex() == "43833332b1269401d97658b2595aced5"
    assert [i for i in range(40) if is_validation(PROMPTS[i], 0.1, seed=0)] == [4, 28, 29, 32, 33, 35]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_is_the_expected_share_of_prompts(share):
    found = sum(is_validation(row, share, seed=3) for row in PROMPTS) / len(PROMPTS)
    assert found == pytest.approx(share, abs=0.035)  # three standard deviations at most


def test_another_seed_draws_another_split():
    first, second = ([is_validation(row, 0.5, seed) for row in PROMPTS] for seed in (0, -1))
    assert 0.4 < sum(a == b for a, b in zip(first, second, strict=True)) / len(PROMPTS) < 0.6


def test_a_larger_share_keeps_the_prompts_of_a_smaller_one():
    assert all(is_validation(row, 0.3, 0) for row in PROMPTS if is_validation(row, 0.2, 0))


@pytest.mark.parametrize(("share", "expected"), [(0.1, 200), (1e-9, 1), (1 - 1e-9, 1999)])
def test_a_drawn_share_is_rounded_but_leaves_neither_side_empty(share, expected):
    keys = [prompt_key(row) for row in PROMPTS]
    drawn = draw_validation(keys, share, seed=5)
    assert len(drawn) == expected
    assert drawn == draw_validation(keys[::-1], share, seed=5) <= set(keys)
