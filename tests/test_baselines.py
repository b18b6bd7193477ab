"""The baselines that need no neural network, on small made comparisons and on the real ones where they are."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench.baselines import (
    PAIRS_PER_COMPARISON,
    TfidfReward,
    WriterReward,
    chrf_rewards,
    first_user_turn,
    group_folds,
    length_rewards,
    overlap_rewards,
)
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.evaluation.pairs import pair_table
from minirm.files.records import read_comparisons

HARMLESS = Path(__file__).parents[2] / "shared" / "data" / "hh-harmless" / "pairs.jsonl.gz"


def pair(chosen: str, rejected: str, prompt: str = "Well?", **fields) -> Comparison:
    return Comparison((Turn("user", prompt),), (chosen, rejected), (1.0, 0.0), **fields)


POLITE = [pair(f"thank you for number {i}", f"go away number {i}") for i in range(20)]


def accuracy(comparisons: list[Comparison], rewards: list[list[float]]) -> float:
    difference = pair_table(comparisons, rewards).reward_difference
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def test_the_longer_response_gets_the_higher_reward():
    assert length_rewards([pair("four", "to"), pair("", "é")]) == [[4.0, 2.0], [0.0, 1.0]]


def test_overlap_is_the_f1_of_the_words_that_prompt_and_response_share():
    [rewards] = overlap_rewards([pair("the cat the mat", "The dog!", prompt="the cat sat")])
    assert rewards == pytest.approx([2 * 2 / (3 + 4), 2 * 1 / (3 + 2)])  # "the" of the prompt counts once


def test_chrf_is_the_mean_of_the_f_scores_of_character_n_grams():
    """By hand: prompt "ab c" has a, b, c / ab, bc / abc, "abd" a, b, d / ab, bd / abd; F₂ = 5·shared/(4·P + R)."""
    [rewards] = chrf_rewards([pair("abd", "xyz", prompt="ab c")], longest=3)
    assert rewards == pytest.approx([(5 * 2 / 15 + 5 * 1 / 10 + 0) / 3, 0.0])
    [[whole, _]] = chrf_rewards([pair("much alike", "no", prompt="much alike")])
    assert whole == pytest.approx(1.0)


def test_a_ridge_learns_from_scores_within_their_comparison_alone():
    pytest.importorskip("sklearn")
    rows = [Comparison((), ("good word", "bad word"), (base + 1.0, float(base))) for base in range(50)]
    [[good, bad, neither]] = (
        TfidfReward().fit_scores(rows).rewards([Comparison((), ("good", "bad", "else"), (0.0, 0.0, 0.0))])
    )
    assert good == pytest.approx(-bad) and 0.3 < good < 0.7 and neither == 0.0


def test_the_oracle_learns_who_writes_better_and_what_length_adds():
    pytest.importorskip("sklearn")
    pairs = [pair("same", "text"), pair("text", "same"), pair("a longer one", "short")] * 10
    writers = [["good", "bad"], ["good", "bad"], ["good", "good"]] * 10
    oracle = WriterReward().fit(pairs, writers)
    first, second = oracle.rewards([pair("one", "two"), pair("a long answer", "no")], [["bad", "good"], ["x", "x"]])
    assert first[0] < first[1] and second[0] > second[1]


def test_words_of_better_responses_are_learned():
    pytest.importorskip("sklearn")
    model = TfidfReward().fit(POLITE)
    assert accuracy(POLITE, model.rewards(POLITE)) == 1.0
    (good, bad), (unknown, empty) = model.rewards([pair("thank you", "go away"), pair("unheard", "")])
    assert good > 0 > bad
    assert unknown == empty == 0.0  # no known word, no reward: the regression has no intercept


def test_exchanging_all_responses_turns_the_rewards_round():
    pytest.importorskip("sklearn")
    exchanged = [pair(row.responses[1], row.responses[0]) for row in POLITE]
    ours, theirs = (np.array(TfidfReward().fit(rows).rewards(POLITE)) for rows in (POLITE, exchanged))
    assert ours == pytest.approx(-theirs, abs=1e-3)


def test_log_length_is_one_more_feature():
    pytest.importorskip("sklearn")
    rows = [pair("a" * n + " b c", "a" * n) for n in range(1, 30)]
    model = TfidfReward(use_log_length=True).fit(rows)
    ((long, short),) = model.rewards([pair("zzzzzzzzzzzz", "zz")])
    assert long > short  # neither word is known


def test_a_ranking_teaches_by_a_limited_number_of_its_pairs():
    pytest.importorskip("sklearn")
    texts = [f"word{i} {'good ' * i}" for i in range(12)]  # 66 pairs
    row = Comparison((), tuple(texts), tuple(float(i) for i in range(12)))
    assert PAIRS_PER_COMPARISON < 66
    rewards = TfidfReward().fit([row, row]).rewards([row, POLITE[0]])
    assert [len(part) for part in rewards] == [12, 2]
    assert accuracy([row], rewards[:1]) > 0.9


def test_ties_alone_teach_nothing():
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match="1 comparisons, none with two different scores"):
        TfidfReward().fit([Comparison((), ("a", "b"), (1.0, 1.0))])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)  # importing it now fails
    with pytest.raises(InputError, match=r"needs scikit-learn: pip install 'minirm\[peers\]'"):
        TfidfReward()


def test_a_group_never_stands_on_both_sides_of_a_fold():
    rows = [pair("a", "b", prompt=str(i % 7)) for i in range(50)]
    folds = group_folds(rows, 3, first_user_turn)
    assert sorted(i for _, test in folds for i in test) == list(range(50))
    for train, test in folds:
        assert sorted(train + test) == list(range(50))
        assert not {first_user_turn(rows[i]) for i in train} & {first_user_turn(rows[i]) for i in test}
        assert 14 <= len(test) <= 22  # 50 in groups of 7 and 8


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_rows():
    rows = [pair("a", "b", prompt=str(i)) for i in range(20)]

    def prompts_of_tests(rows, seed):
        return [
            {first_user_turn(rows[i]) for i in test} for _, test in group_folds(rows, 4, first_user_turn, seed=seed)
        ]

    assert prompts_of_tests(rows, 0) == prompts_of_tests(rows[::-1], 0)
    assert prompts_of_tests(rows, 0) != prompts_of_tests(rows, 1)


def test_folds_must_be_fewer_than_the_groups():
    with pytest.raises(InputError, match="folds=3 must be at least 2 and at most the number of groups, 1"):
        group_folds([pair("a", "b")] * 5, 3, first_user_turn)
    with pytest.raises(InputError, match="folds=1 must be"):
        group_folds(POLITE, 1, first_user_turn)


def test_the_first_user_turn_is_found_behind_a_system_turn():
    assert first_user_turn(Comparison((Turn("system", "s"), Turn("user", "u")), ("a",), (0.0,))) == "u"
    assert first_user_turn(Comparison((), ("a",), (0.0,))) == ""


@pytest.mark.skipif(not HARMLESS.exists(), reason="the shared data are not here")
def test_on_human_judgements_words_say_something_and_length_nothing_good():
    pytest.importorskip("sklearn")
    rows = list(read_comparisons([HARMLESS]))
    assert accuracy(rows, length_rewards(rows)) == pytest.approx(0.450, abs=0.005)
    rewards: list[list[float]] = [[]] * len(rows)
    for train, test in group_folds(rows, 5, first_user_turn):
        model = TfidfReward().fit([rows[i] for i in train])
        for i, row in zip(test, model.rewards([rows[i] for i in test]), strict=True):
            rewards[i] = row
    assert 0.59 < accuracy(rows, rewards) < 0.63
