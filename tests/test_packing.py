"""Comparisons to tokens to packed batches: what is cut, merged and dropped, and what each token has to predict."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.config import PackingConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, fit, merge_repeated, pack, tokenize, truncate
from minirm.tokens.tokenizer import Tokenizer
from tests.oracles import rewards_one_by_one
from tests.strategies import ARCHITECTURES, encoded_batches, randomised

END, OPEN = 99, 98
"""The end token, and the role token that opens a response."""
DROPPED, CUT_PROMPT, CUT_RESPONSE, MERGED, NOTHING_LEFT = (
    "dropped: longer than max_tokens",
    "cut: prompt from its left",
    "cut: response before its end token",
    "merged: responses of the same tokens",
    "dropped: nothing left to compare, responses of the same tokens",
)


def text(ids: list[int], last: int) -> np.ndarray:
    return np.array([*ids, last], dtype=np.int32)


def example(prompt: list[int], *responses: list[int], scores: tuple[float, ...] | None = None) -> Encoded:
    """Return a comparison whose prompt ends with OPEN and whose responses end with END."""
    scores = scores or tuple(float(-k) for k in range(len(responses)))
    return Encoded(text(prompt, OPEN), tuple(text(r, END) for r in responses), scores)


def fitted(item: Encoded, max_tokens: int, when_longer: str = "truncate") -> tuple[list[Encoded], dict[str, int]]:
    counts: Counter[str] = Counter()
    kept = list(fit([item], PackingConfig(max_tokens=max_tokens, when_longer=when_longer), counts))
    return kept, {name: count for name, count in counts.items() if count}


def test_a_long_prompt_loses_its_left():
    [cut], counts = fitted(example([1, 2, 3, 4, 5], [6, 7], [8]), max_tokens=6)
    assert cut.prompt.tolist() == [4, 5, OPEN]
    assert [r.tolist() for r in cut.responses] == [[6, 7, END], [8, END]]
    assert counts == {CUT_PROMPT: 1}


def test_a_long_response_loses_what_stands_before_its_end_token():
    [cut], counts = fitted(example([1, 2], [3, 4, 5, 6, 7], [8]), max_tokens=4)
    assert cut.prompt.tolist() == [OPEN]
    assert [r.tolist() for r in cut.responses] == [[3, 4, END], [8, END]]
    assert counts == {CUT_PROMPT: 1, CUT_RESPONSE: 1}


def test_the_token_at_which_an_encoder_is_read_is_never_cut():
    item = example([1, 2, 3, 4, 5], [6, 7], [8])
    cut = truncate(item, 6, keep_first=True)
    assert cut.prompt.tolist() == [1, 5, OPEN] and [len(r) for r in cut.responses] == [3, 2]
    cut = truncate(example([1, 2], [3, 4, 5, 6, 7]), 4, keep_first=True)
    assert cut.prompt.tolist() == [1, OPEN] and cut.responses[0].tolist() == [3, END]
    cut = truncate(example([], [3, 4, 5, 6, 7]), 4, keep_first=True)
    assert cut.prompt.tolist() == [OPEN] and cut.responses[0].tolist() == [3, 4, END]
    counts: Counter[str] = Counter()
    assert len(list(fit([item], PackingConfig(max_tokens=6), counts, keep_first=True))) == counts[CUT_PROMPT] == 1


@given(
    prompt=st.lists(st.integers(0, 9), max_size=12),
    responses=st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=4),
    max_tokens=st.integers(4, 20),
)
def test_a_cut_keeps_the_opening_token_and_the_end_and_fits_as_tightly_as_it_can(prompt, responses, max_tokens):
    item = example(prompt, *responses)
    cut = truncate(item, max_tokens)
    longest = max(map(len, item.responses))
    assert len(cut.prompt) + max(map(len, cut.responses)) == min(max_tokens, len(item.prompt) + longest)
    assert cut.prompt[-1] == OPEN and np.array_equal(cut.prompt, item.prompt[-len(cut.prompt) :])
    for short, whole in zip(cut.responses, item.responses, strict=True):
        assert short[-1] == END and np.array_equal(short[:-1], whole[: len(short) - 1])
        assert len(short) == min(len(whole), max_tokens - 1)


def test_an_ending_of_several_tokens_is_never_cut():
    item = replace(example([1, 2, 3], list(range(20)), [4, 5]), ending=2)
    for keep_first in (False, True):
        cut = truncate(item, 10, keep_first=keep_first)
        assert len(cut.prompt) + max(map(len, cut.responses)) == 10
        assert cut.responses[0].tolist() == [*item.responses[0][: 7 - keep_first], *item.responses[0][-2:]]
        assert cut.responses[1].tolist() == item.responses[1].tolist()
    [kept], _ = fitted(item, max_tokens=10)
    assert kept.responses[0][-2:].tolist() == item.responses[0][-2:].tolist()


def test_a_limit_without_room_for_the_ending_is_refused():
    item = replace(example([1], [2, 3, 4]), ending=4)
    assert truncate(item, 5).responses[0].tolist() == [2, 3, 4, END]
    with pytest.raises(InputError, match="max_tokens=4 must be at least 5: a response's end is 4 of them"):
        truncate(item, 4)


def test_what_fits_exactly_is_left_as_it_is():
    item = example([1, 2], [3], [4])
    for when_longer in ("truncate", "drop"):
        assert fitted(item, 5, when_longer) == ([item], {})


def test_drop_leaves_out_what_is_longer_and_counts_it():
    assert fitted(example([1, 2, 3], [4], [5]), 5, "drop") == ([], {DROPPED: 1})


def test_a_pair_that_is_identical_after_the_cut_is_dropped_and_counted():
    kept, counts = fitted(example([1], [3, 4, 5, 6], [3, 4, 5, 7]), max_tokens=4)
    assert kept == []
    assert counts == {CUT_PROMPT: 1, CUT_RESPONSE: 1, MERGED: 1, NOTHING_LEFT: 1}


def test_responses_that_are_identical_after_the_cut_become_one_with_their_mean_score():
    item = example([1], [3, 4, 5, 6], [8], [3, 4, 5, 7], scores=(3.0, 0.0, 2.0))
    [kept], counts = fitted(item, max_tokens=4)
    assert [r.tolist() for r in kept.responses] == [[3, 4, END], [8, END]] and kept.scores == (2.5, 0.0)
    assert counts[MERGED] == 1 and NOTHING_LEFT not in counts


def test_a_ranking_whose_scores_the_merging_made_equal_is_dropped_and_counted():
    kept, counts = fitted(example([1], [3, 4, 5, 6], [8], [3, 4, 5, 7], scores=(2.0, 1.0, 0.0)), max_tokens=4)
    assert kept == [] and counts[MERGED] == counts[NOTHING_LEFT] == 1


def test_a_tie_that_was_one_before_the_cut_stays():
    [kept], counts = fitted(example([1, 2, 3], [4, 5], [6], scores=(1.0, 1.0)), max_tokens=5)
    assert kept.scores == (1.0, 1.0) and counts == {CUT_PROMPT: 1}


def test_a_single_response_beyond_the_limit_is_cut_and_stays():
    [kept], counts = fitted(example([1, 2, 3], [4, 5, 6]), max_tokens=5)
    assert len(kept.responses) == 1 and counts == {CUT_PROMPT: 1}


def test_merging_leaves_different_responses_alone():
    item = example([1], [2], [3], [2, 2])
    merged = merge_repeated(item)
    assert merged.scores == item.scores and len(merged.responses) == 3


@pytest.mark.parametrize("K", [1, 2, 3, 17, 64])
def test_from_one_to_sixty_four_responses_are_scored_as_each_alone(K):
    rng = np.random.default_rng(K)
    texts = [rng.integers(0, 23, size=rng.integers(1, 5)).astype(np.int32) for _ in range(K + 1)]
    batch = [Encoded(texts[0], tuple(texts[1:]), tuple(rng.permutation(K).astype(float).tolist()))]
    model = randomised(RewardModel(ARCHITECTURES["gru"]))
    packed = pack(batch)
    assert packed.order.shape == packed.mask.shape == (1, K) and packed.mask.all()
    assert len(packed.tokens) == batch[0].tokens  # the prompt stands once, and nothing is padded
    torch.testing.assert_close(model(packed)[0], rewards_one_by_one(model, batch)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "low, high", [(16777216.0, 16777217.0), (1700000000.1, 1700000000.9), (1e300, 2e300), (0, 5e-324)]
)
def test_scores_closer_together_than_float32_can_tell_keep_their_order_and_their_ties(low, high):
    item = example([1], [2], [3], [4], scores=(high, low, high))
    assert pack([item]).order.tolist() == [[1, 0, 1]]


def test_unequal_k_is_masked_and_masked_places_hold_no_reward():
    batch = [example([1], [2], [3], [4]), example([5], [6]), example([7], [8], [9])]
    packed = pack(batch, numbers=[30, 10, 20])
    assert packed.mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert packed.order.tolist() == [[2, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert packed.slots.tolist() == [0, 1, 2, 3, 6, 7] and packed.numbers == (30, 10, 20)
    model = RewardModel(ARCHITECTURES["lstm"])
    packed.tokens.clamp_(max=22)
    assert (model(packed)[~packed.mask] == 0).all() and (model(packed)[packed.mask] != 0).all()


def test_an_empty_prompt_and_an_empty_response_still_have_a_token():
    tokenizer = Tokenizer.train(["some text"])
    [item] = tokenize([Comparison((), ("", "some"), (0.0, 1.0))], tokenizer)
    assert item.prompt.tolist() == [tokenizer.special["<|assistant|>"]]
    assert item.responses[0].tolist() == [tokenizer.end_id]
    packed = pack([item])
    assert packed.tokens[packed.layout.reads].tolist() == [tokenizer.end_id] * 2
    assert packed.targets[0] == tokenizer.end_id and packed.sources[0] == 0  # the opening token predicts the end


def test_tokenizing_carries_scores_margin_weight_and_probability_in_any_number():
    tokenizer = Tokenizer.train(["some text"])
    rows = [
        Comparison((Turn("user", f"text {n}"),), ("some",) * (1 + n % 3), (1.0,) * (1 + n % 3), n, n + 1, n / 600)
        for n in range(600)  # more than are tokenized at once
    ]
    items = list(tokenize(iter(rows), tokenizer))
    assert [(len(i.responses), i.scores, i.margin, i.weight, i.probability) for i in items] == [
        (len(r.responses), r.scores, r.margin, r.weight, r.probability) for r in rows
    ]
    assert items[599].prompt.tolist() == tokenizer.encode_prompts([rows[599].prompt])[0]


def naive_next_tokens(batch: list[Encoded], share_prompt: bool) -> Counter:
    """Return (how many tokens precede, what they are, the next token) of everything that is to be predicted."""
    found: Counter = Counter()
    for item in batch:
        for k, response in enumerate(item.responses):
            sequence = [*item.prompt.tolist(), *response.tolist()]
            first = 1 if k == 0 or not share_prompt else len(item.prompt)  # a shared prompt is predicted once
            for i in range(first, len(sequence)):
                found[(i, tuple(sequence[:i]), sequence[i])] += 1
    return found


@settings(max_examples=50)
@given(batch=encoded_batches(), share_prompt=st.booleans())
def test_targets_are_found_by_segment_as_a_loop_over_sequences_finds_them(batch, share_prompt):
    packed = pack(batch, share_prompt=share_prompt)
    paths = packed.layout.paths
    found: Counter = Counter()
    for source, target in zip(packed.sources.tolist(), packed.targets.tolist(), strict=True):
        path = next(p for p in paths if source in p)
        before = path[: int(np.flatnonzero(path == source)[0]) + 1]
        found[(len(before), tuple(packed.tokens[before].tolist()), target)] += 1
    assert found == naive_next_tokens(batch, share_prompt)
