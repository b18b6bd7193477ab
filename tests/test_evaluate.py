"""What an evaluation says of rewards: values worked by hand, naive loops, and what must not change it."""

import json
import math
from dataclasses import replace
from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.evaluation.evaluate import _spearman_within, evaluate
from minirm.evaluation.pairs import RewardLists, flatten, pair_table
from minirm.evaluation.report import as_table
from minirm.files.splits import prompt_key
from minirm.metrics import pearson, spearman

FEW = {"resamples": 200}


def comparison(prompt: str = "", responses=("good", "bad"), scores=(1.0, 0.0), **fields) -> Comparison:
    return Comparison((Turn("user", prompt),) if prompt else (), tuple(responses), tuple(scores), **fields)


FOUR = [
    comparison("a", ("longer one", "short")),
    comparison("b", ("short", "longer one")),
    comparison("c", ("same", "size")),
    comparison("c", ("longer one", "short")),
]
FOUR_REWARDS = [[2.0, 1.0], [3.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]  # right, right, a tie, wrong


# ── Values worked by hand ─────────────────────────────────────────────────────────────────────────────────────────────


def test_equal_rewards_count_one_half():
    evaluation = evaluate(FOUR, FOUR_REWARDS, **FEW)
    assert evaluation.accuracy.value == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert (evaluation.comparisons, evaluation.prompts, evaluation.pairs) == (4, 3, 4)
    assert (evaluation.reward_ties, evaluation.length_ties, evaluation.label_ties) == (1, 1, 0)


def test_the_length_baseline_stands_beside_the_accuracy():
    length = evaluate(FOUR, FOUR_REWARDS, **FEW).length
    assert length.longer_wins.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert length.gain.value == pytest.approx(0.0)
    assert (length.better_is_shorter.value, length.better_is_shorter.count) == (1.0, 1)


def test_calibration_is_that_of_the_sigmoid_of_the_difference():
    differences = np.array([1.0, 3.0, 0.0, -1.0])
    probability = 1 / (1 + np.exp(-differences))
    calibration = evaluate(FOUR, FOUR_REWARDS, **FEW).calibration
    assert calibration.nll_nats == pytest.approx(-np.log(probability).mean())
    assert calibration.brier == pytest.approx(((1 - probability) ** 2).mean())
    # confidences σ(1) twice, one of them right; σ(3), right; ½, a tie
    gaps = 2 * abs(probability[0] - 0.5) + (1 - probability[1]) + 0
    assert calibration.ece == pytest.approx(gaps / 4)
    assert sum(part.pairs for part in calibration.bins) == 4


def test_a_constant_reward_knows_nothing():
    evaluation = evaluate(FOUR, [[5.0, 5.0]] * 4, **FEW)
    assert evaluation.accuracy.value == 0.5
    assert evaluation.calibration.nll_nats == pytest.approx(math.log(2))
    assert evaluation.calibration.brier == pytest.approx(0.25)
    assert evaluation.length.correlation is None
    assert evaluation.length.correlation_within is None
    assert evaluation.calibration.temperature is None
    assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["calibration"]["temperature"] is None
    table = {row.name: row for row in as_table(evaluation)}
    assert table["temperature"][1:] == ("–", "", "undefined: no pair has two different rewards")


def test_a_ranking_is_measured_whole():
    ranking = comparison("a", ("x", "y", "z"), (3.0, 2.0, 1.0))
    other = comparison("b", ("x", "y", "z"), (1.0, 1.0, 0.0))
    evaluation = evaluate([ranking, other], [[2.0, 3.0, 1.0], [0.0, 1.0, 2.0]], **FEW)
    assert evaluation.pairs == 5
    assert evaluation.label_ties == 1
    assert evaluation.accuracy.value == pytest.approx(2 / 5)
    tau_b = (-2) / math.sqrt(2 * 3)  # of the second: two pairs in opposite order, one tied in score
    assert evaluation.ranking.kendall_tau.value == pytest.approx((1 / 3 + tau_b) / 2)
    assert evaluation.ranking.best_of_k.value == 0.0
    assert evaluation.ranking.best_of_k.chance == pytest.approx((1 / 3 + 2 / 3) / 2)


def test_pairs_have_no_ranking():
    assert evaluate(FOUR, FOUR_REWARDS, **FEW).ranking is None


def test_rewards_that_follow_length_are_found_out_overall_and_within_prompts():
    rows = [comparison("a", ("1", "22", "333"), (1.0, 2.0, 3.0)), comparison("b", ("4444", "55555"), (1.0, 2.0))]
    rewards = [[1.0, 2.0, 3.0], [-4.0, -3.0]]  # within a prompt with length, between prompts against it
    length = evaluate(rows, rewards, **FEW).length
    assert length.correlation == pytest.approx(spearman([1, 2, 3, -4, -3], [1, 2, 3, 4, 5]))
    assert (length.correlation_within.value, length.correlation_within.count) == (pytest.approx(1), 2)


def test_swapped_prompts_are_measured_only_when_given():
    assert evaluate(FOUR, FOUR_REWARDS, **FEW).swapped is None
    blind = evaluate(FOUR, FOUR_REWARDS, swapped_rewards=FOUR_REWARDS, **FEW)
    assert blind.swapped == blind.accuracy


def test_leaked_prompts_are_counted_and_measured_apart():
    evaluation = evaluate(FOUR, FOUR_REWARDS, training_prompts={prompt_key(FOUR[0]), prompt_key(FOUR[2])}, **FEW)
    assert evaluation.leakage.prompts == 2  # "a" and "c"; "c" has two comparisons
    assert (evaluation.leakage.leaked.value, evaluation.leakage.leaked.count) == (pytest.approx(1.5 / 3), 3)
    assert (evaluation.leakage.clean.value, evaluation.leakage.clean.count) == (1.0, 1)


def test_without_leakage_all_is_clean():
    leakage = evaluate(FOUR, FOUR_REWARDS, training_prompts=[b"elsewhere"], **FEW).leakage
    assert (leakage.prompts, leakage.leaked, leakage.clean.count) == (0, None, 4)
    assert evaluate(FOUR, FOUR_REWARDS, **FEW).leakage is None


@pytest.mark.parametrize("blank", ["", " \n"])
def test_an_empty_prompt_is_not_shared_and_leaks_by_its_responses(blank):
    rows = [comparison(blank, ("good", f"bad {n}")) for n in range(4)]
    known = {prompt_key(row) for row in rows[:2]}
    evaluation = evaluate(rows, [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2, training_prompts=known, **FEW)
    leakage = evaluation.leakage
    assert (evaluation.prompts, leakage.prompts) == (4, 2)
    assert (leakage.leaked.value, leakage.clean.value) == (1.0, 0.0)


def test_each_subset_has_its_accuracy():
    rows = [replace(row, subset=name) for row, name in zip(FOUR, ("chat", "chat", "safety", ""), strict=True)]
    subsets = evaluate(rows, FOUR_REWARDS, **FEW).subsets
    assert {name: (part.value, part.count) for name, part in subsets.items()} == {"chat": (1.0, 2), "safety": (0.5, 1)}


def test_a_label_that_is_probably_false_is_turned_round():
    soft = comparison("a", ("x", "y"), probability=0.2)
    turned = comparison("a", ("y", "x"), probability=0.8)
    assert pair_table([soft], [[1.0, 3.0]]).reward_difference.tolist() == [2.0]
    ours, theirs = evaluate([soft], [[1.0, 3.0]], **FEW), evaluate([turned], [[3.0, 1.0]], **FEW)
    assert ours.accuracy == theirs.accuracy
    assert ours.calibration.nll_nats == pytest.approx(0.8 * math.log1p(math.exp(-2)) + 0.2 * math.log1p(math.exp(2)))
    assert ours.calibration.ece == pytest.approx(abs(1 / (1 + math.exp(-2)) - 0.8))


def test_a_label_that_is_as_probably_false_as_true_is_a_tie():
    evaluation = evaluate([*FOUR, comparison("d", probability=0.5)], [*FOUR_REWARDS, [1.0, 0.0]], **FEW)
    assert (evaluation.pairs, evaluation.label_ties) == (4, 1)


# ── Intervals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pairs_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.integers(0, 2, 40), 25)  # the 25 pairs of a prompt stand or fall together
    rewards = [[float(value), 0.5] for value in right]
    shared = evaluate([comparison(f"{i // 25}") for i in range(1000)], rewards, resamples=1000).accuracy
    apart = evaluate([comparison(f"{i}") for i in range(1000)], rewards, resamples=1000).accuracy
    assert shared.value == apart.value
    assert (shared.high - shared.low) / (apart.high - apart.low) == pytest.approx(5, rel=0.15)  # √25


def test_a_perfect_score_on_few_prompts_is_not_sure():
    rows = [comparison(str(i)) for i in range(5)]
    accuracy = evaluate(rows, [[1.0, 0.0]] * 5).accuracy
    assert (accuracy.value, accuracy.high) == (1.0, 1.0)
    # 0.478: five right of five is not yet better than chance
    assert accuracy.low == pytest.approx(0.025 ** (1 / 5), abs=0.02)
    assert not accuracy.is_resolved
    wrong = evaluate(rows, [[0.0, 1.0]] * 5).accuracy
    assert (wrong.low, wrong.high) == (0.0, pytest.approx(1 - accuracy.low, abs=0.02))


def test_one_prompt_gives_no_interval():
    evaluation = evaluate([comparison("a", ("x", "y", "z"), (3.0, 2.0, 1.0))], [[2.0, 3.0, 1.0]], **FEW)
    assert (evaluation.accuracy.low, evaluation.accuracy.high) == (None, None)
    assert not evaluation.accuracy.is_resolved


# ── Against naive loops ───────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def rated(draw: st.DrawFn) -> tuple[list[Comparison], list[list[float]]]:
    """Draw 1 to 6 comparisons over three prompts, K from 1 to 5, with ties in score, in reward and in length."""
    rows, rewards = [], []
    for _ in range(draw(st.integers(1, 6))):
        k = draw(st.integers(1, 5))
        small = st.lists(st.integers(0, 3), min_size=k, max_size=k)
        scores, lengths = draw(small), draw(small)
        rows.append(comparison(draw(st.sampled_from("abc")), ["x" * n for n in lengths], map(float, scores)))
        rewards.append([float(value) for value in draw(small)])
    return rows, rewards


def naive_pairs(rows, rewards):
    """Yield (prompt, reward difference, length difference) of better and worse, and None for a tie."""
    for row, reward in zip(rows, rewards, strict=True):
        for i, j in combinations(range(len(row.scores)), 2):
            if row.scores[i] == row.scores[j]:
                yield None
                continue
            better, worse = (i, j) if row.scores[i] > row.scores[j] else (j, i)
            length = len(row.responses[better]) - len(row.responses[worse])
            yield row.prompt[0].text, reward[better] - reward[worse], length


def naive_accuracy(differences) -> float:
    return sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences) / len(differences)


def naive_correlation_within(rows, rewards) -> list[float]:
    correlations = []
    for prompt in "abc":
        chosen = [i for i, row in enumerate(rows) if row.prompt[0].text == prompt]
        reward = [value for i in chosen for value in rewards[i]]
        length = [len(text) for i in chosen for text in rows[i].responses]
        if len(set(reward)) > 1 and len(set(length)) > 1:
            correlations.append(spearman(reward, length))
    return correlations


@settings(max_examples=150)
@given(rated())
def test_every_count_and_share_is_that_of_a_plain_loop(data):
    rows, rewards = data
    naive = list(naive_pairs(rows, rewards))
    pairs = [pair for pair in naive if pair is not None]
    if not pairs:
        with pytest.raises(InputError, match="none with two different scores"):
            evaluate(rows, rewards)
        return
    evaluation = evaluate(rows, rewards, resamples=20)
    assert (evaluation.pairs, evaluation.label_ties) == (len(pairs), naive.count(None))
    assert evaluation.accuracy.value == pytest.approx(naive_accuracy([pair[1] for pair in pairs]))
    assert evaluation.length.longer_wins.value == pytest.approx(naive_accuracy([pair[2] for pair in pairs]))
    shorter = [pair[1] for pair in pairs if pair[2] < 0]
    measured = evaluation.length.better_is_shorter
    assert (measured.value if measured else None) == (pytest.approx(naive_accuracy(shorter)) if shorter else None)
    within = naive_correlation_within(rows, rewards)
    measured = evaluation.length.correlation_within
    assert (measured.value if measured else None) == (pytest.approx(np.mean(within)) if within else None)


@settings(max_examples=60)
@given(rated(), st.integers(1, 3))
def test_rewards_are_related_to_lengths_a_few_prompts_at_a_time_as_all_at_once(data, at_once):
    rows, rewards = data
    with patch("minirm.evaluation.evaluate.PROMPTS_AT_ONCE", at_once):
        within = np.concatenate([*_spearman_within(flatten(rows, rewards))])
    assert sorted(within) == pytest.approx(sorted(naive_correlation_within(rows, rewards)))


@settings(max_examples=50)
@given(rated(), st.integers(0, 100))
def test_a_shift_of_the_rewards_of_a_prompt_changes_nothing_but_their_relation_to_length(data, shift):
    rows, rewards = data
    shifted = [[value + shift for value in row] for row in rewards]
    first, second = pair_table(rows, rewards), pair_table(rows, shifted)
    assert np.array_equal(first.reward_difference, second.reward_difference)


@given(st.lists(st.lists(st.floats(-9, 9), max_size=4), max_size=6))
def test_lists_of_rewards_are_read_as_they_were_added(rows):
    kept = RewardLists()
    kept.extend(rows[:2])
    kept.extend(rows[2:])
    assert list(kept) == rows and len(kept) == len(rows)
    assert [kept[n - len(rows)] for n in range(len(rows))] == rows
    with pytest.raises(IndexError):
        kept[len(rows)]


def test_the_pair_table_names_each_pair():
    rows = [comparison("a", ("x", "yy", "zzzz"), (1.0, 3.0, 1.0)), comparison("b")]
    table = pair_table(rows, [[0.0, 5.0, 1.0], [1.0, 2.0]])
    assert table.comparison.tolist() == [0, 0, 1]
    assert list(zip(table.better.tolist(), table.worse.tolist(), strict=True)) == [(1, 0), (1, 2), (0, 1)]
    assert table.reward_difference.tolist() == [5.0, 4.0, -1.0]
    assert table.length_difference.tolist() == [1, -2, 1]
    assert len(set(table.prompt[:2])) == 1 and table.prompt[2] != table.prompt[0]


def test_sixty_four_responses_give_all_their_pairs():
    scores = np.random.default_rng(0).permutation(64).astype(float)
    row = comparison("a", [str(i) for i in range(64)], scores)
    evaluation = evaluate([row, comparison("b")], [scores.tolist(), [1.0, 0.0]], **FEW)
    assert (evaluation.pairs, evaluation.accuracy.value) == (2017, 1.0)
    assert evaluation.ranking.kendall_tau.value == 1.0


# ── Errors, JSON and the table ────────────────────────────────────────────────────────────────────────────────────────


def test_a_reward_that_is_no_number_is_named_by_its_source():
    rows = [FOUR[0], replace(FOUR[1], source="pairs.jsonl:2")]
    with pytest.raises(ValueError, match=r"pairs\.jsonl:2: reward of response 1 is nan, it must be a finite number"):
        evaluate(rows, [[1.0, 0.0], [1.0, math.nan]])
    with pytest.raises(ValueError, match=r"pairs\.jsonl:2: reward of response 0 is inf"):
        evaluate(rows, [[1.0, 0.0], [math.inf, 0.0]])


def test_rewards_must_match_the_comparisons():
    with pytest.raises(ValueError, match="3 lists of rewards for 4 comparisons"):
        evaluate(FOUR, FOUR_REWARDS[:3])
    with pytest.raises(ValueError, match="comparison 3: 1 rewards for 2 responses"):
        evaluate(FOUR, [*FOUR_REWARDS[:3], [1.0]])


def test_nothing_to_evaluate_is_said():
    with pytest.raises(InputError, match="0 comparisons, none with two different scores"):
        evaluate([], [])
    with pytest.raises(InputError, match="1 comparisons, none with two different scores"):
        evaluate([comparison("a", scores=(1.0, 1.0))], [[1.0, 0.0]])


def test_rewards_of_ten_thousand_stay_finite():
    evaluation = evaluate(FOUR, [[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4], [1e4, -1e4]], **FEW)
    assert evaluation.calibration.nll_nats == pytest.approx(2e4 / 4)
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_an_evaluation_is_json():
    rows = [*FOUR, comparison("e", ("x", "y", "z"), (3.0, 2.0, 1.0), subset="chat")]
    rewards = [*FOUR_REWARDS, [1.0, 2.0, 0.0]]
    evaluation = evaluate(rows, rewards, swapped_rewards=rewards, training_prompts=set(), seed=7, **FEW)
    read = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert read["accuracy"]["value"] == evaluation.accuracy.value
    assert read["seed"] == 7
    assert read == json.loads(json.dumps(evaluate(rows, rewards, swapped_rewards=rewards, training_prompts=set(),
                                                  seed=7, **FEW).to_json()))  # fmt: skip


def test_the_table_says_what_is_not_resolved_and_what_was_not_measured():
    rows = {row.name: row for row in as_table(evaluate(FOUR, FOUR_REWARDS, **FEW))}
    assert rows["accuracy"].value == "0.625"
    assert rows["accuracy"].explanation.endswith("too few prompts for an interval")
    many = [comparison(str(i)) for i in range(5)]
    enough = {row.name: row for row in as_table(evaluate(many, [[n % 2, (n + 1) % 2] for n in range(5)], **FEW))}
    assert enough["accuracy"].explanation.endswith("not resolved from chance (0.5)")
    assert enough["gain over longer wins"].explanation.endswith("not resolved from 0")
    assert rows["prompts swapped"].explanation == "not measured"
    assert rows["leaked prompts"].explanation.startswith("not measured")
    assert rows["equal rewards"].value == "1"


def test_the_table_does_not_call_a_clear_result_unresolved():
    rows = [comparison(str(i), ("long text", "text")) for i in range(30)]
    table = {row.name: row for row in as_table(evaluate(rows, [[1.0, 0.0]] * 30, training_prompts=set(), **FEW))}
    assert "not resolved" not in table["accuracy"].explanation
    assert table["better is shorter"].value == "–"
    assert table["leaked prompts"].value == "0"


def test_ranks_within_groups_correlate_as_pearson_of_ranks():
    row = comparison("a", ("x", "xxxx", "xx"), (1.0, 2.0, 3.0))
    measured = evaluate([row], [[1.0, 2.0, 3.0]], **FEW).length.correlation_within.value
    assert measured == pytest.approx(pearson([1, 2, 3], [1, 3, 2]))
