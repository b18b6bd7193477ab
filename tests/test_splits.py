"""A prompt stands on one side of a split, the same side in every process."""

from itertools import compress

import pytest

from minirm.data.comparison import Comparison, Turn
from minirm.files.splits import prompt_key, validation_mask


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


KEYS = [prompt_key(comparison) for comparison in PROMPTS]


def kept_of(keys: list[bytes], share: float, seed: int) -> set[bytes]:
    return set(compress(keys, validation_mask(keys, share, seed)))


def drawn(share: float, seed: int) -> set[int]:
    kept = kept_of(KEYS, share, seed)
    return {n for n, key in enumerate(KEYS) if key in kept}


def test_a_split_is_the_same_in_every_process():
    assert KEYS[0].hex() == "46f73560b5f7218b31dbe17a3dd7077f"
    assert sorted(drawn(0.004, seed=0)) == [86, 222, 594, 616, 917, 1213, 1489, 1938]


def test_another_seed_draws_another_split():
    first, second = drawn(0.5, 0), drawn(0.5, -1)
    assert 400 < len(first & second) < 600


def test_a_larger_share_keeps_the_prompts_of_a_smaller_one():
    assert drawn(0.2, 0) < drawn(0.3, 0)


@pytest.mark.parametrize(("share", "expected"), [(0.1, 200), (1e-9, 1), (1 - 1e-9, 1999)])
def test_a_drawn_share_is_rounded_but_leaves_neither_side_empty(share, expected):
    kept = kept_of(KEYS, share, seed=5)
    assert len(kept) == expected
    assert kept == kept_of(KEYS[::-1], share, seed=5) <= set(KEYS)
