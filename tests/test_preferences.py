"""The bench of real preferences: pairs that share a response as one comparison."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import preferences
from bench.judgements import Judged, JudgementSet
from bench.preferences import (
    BESIDE,
    LONGER,
    MODEL,
    WITH_LENGTH,
    WORDS,
    Measured,
    added,
    around_shared_response,
    scored_once,
    who_wrote,
)
from bench.recipes.common import Setting
from minirm.data.comparison import Comparison, Turn
from minirm.files.records import read_comparisons
from tests.test_judgements import record, write
from tests.test_pretrained import bert_folder


def a_pair(prompt: str, better: str, worse: str) -> Comparison:
    return Comparison((Turn("user", prompt),), (better, worse), (1.0, 0.0))


def test_the_shared_response_stands_between_what_beat_it_and_what_it_beat():
    pairs = [a_pair("p", "a", "reference"), a_pair("p", "reference", "b"), a_pair("p", "c", "reference")]
    [merged] = around_shared_response([*pairs, pairs[0]])
    scores = dict(zip(merged.responses, merged.scores, strict=True))
    assert scores == {"reference": 0.5, "a": 1.0, "b": 0.0, "c": 1.0}
    assert merged.prompt == pairs[0].prompt


def test_pairs_that_share_no_response_stay():
    alone = [a_pair("p", "a", "b"), a_pair("q", "a", "b"), a_pair("p", "c", "d")]
    assert Counter(around_shared_response(alone)) == Counter(alone)


@given(st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("abcdef"), st.booleans()), min_size=2))
def test_no_judgement_is_turned_round_and_none_is_lost(judged):
    verdicts = {(prompt, other): wins for prompt, other, wins in judged}
    pairs = [
        a_pair(prompt, other, "reference") if wins else a_pair(prompt, "reference", other)
        for (prompt, other), wins in verdicts.items()
    ]
    found = set()
    for row in around_shared_response(pairs):
        scores = dict(zip(row.responses, row.scores, strict=True))
        [turn] = row.prompt
        found |= {(turn.text, o, s > scores["reference"]) for o, s in scores.items() if o != "reference"}
    assert found == {(prompt, other, wins) for (prompt, other), wins in verdicts.items()}


def test_who_wrote_a_response_is_read_beside_the_pairs(tmp_path):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_model": "A", "rejected_model": "B"},
        {"prompt": "q", "chosen": "b", "rejected": "a", "chosen_model": "C", "rejected_model": "A"},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert who_wrote(file, list(read_comparisons([file]))) == [["A", "B"], ["C", "A"]]


def test_a_response_in_many_pairs_is_scored_once():
    asked = []

    def score(rows):
        asked.extend((row.prompt[0].text, text) for row in rows for text in row.responses)
        return [[float(len(text)) for text in row.responses] for row in rows]

    pairs = [a_pair("p", "aa", "b"), a_pair("p", "ccc", "aa"), a_pair("q", "aa", "dddd")]
    assert scored_once(score, pairs) == [[2, 1], [3, 2], [2, 4]]
    assert sorted(asked) == [("p", "aa"), ("p", "b"), ("p", "ccc"), ("q", "aa"), ("q", "dddd")]


def test_added_rewards_count_alike_whatever_their_size():
    small, large = [[0.0, 1.0], [1.0, 0.0]], [[100.0, 900.0], [900.0, 100.0]]
    assert np.ravel(added(small, large)).tolist() == pytest.approx([-2, 2, 2, -2])
    assert np.ravel(added(small, [[5.0, 4.0], [4.0, 5.0]])).tolist() == pytest.approx([0, 0, 0, 0])


def test_the_table_is_over_groups_and_seeds_and_compares_with_the_strongest_baseline():
    rows = [Comparison((), ("a", "bb", "ccc"), (1.0, 1.05, 2.0)) for _ in range(6)]
    measured = Measured(JudgementSet("topic", least_difference=0.5))  # a and bb are too close to be told apart
    right, wrong = [[0.0, 0.0, 1.0]] * 6, [[1.0, 1.0, 0.0]] * 6
    rewards = {LONGER: [right], WORDS: [wrong], WITH_LENGTH: [[[2.0, 0.0, 1.0]] * 6], MODEL: [right, wrong]}
    measured.add(Judged(rows, ["x", "x", "x", "y", "y", "z"]), rewards)
    found = measured.figures()
    assert (measured.pairs, measured.groups, measured.strongest) == (12, 3, LONGER)
    assert {name: float(of["accuracy"].whole.mean()) for name, of in found.items()} == {
        LONGER: 1.0, WORDS: 0.0, WITH_LENGTH: 0.5, MODEL: 0.5, "minirm, seeds together": 0.5, BESIDE: 0.5
    }  # fmt: skip
    assert found[MODEL][f"minus {LONGER}"].whole.tolist() == [0.0, -1.0]  # seed by seed
    assert found[MODEL]["accuracy"].without.shape == (3, 2)  # without each topic


def test_a_set_is_measured_with_adapters_of_a_pretrained_folder(tmp_path, monkeypatch, capsys):
    """What trains and scores is replaced, since it takes seconds: a response's length is its reward."""
    pytest.importorskip("sklearn")
    asked = []
    monkeypatch.setattr(Setting, "trained", lambda self, config, name: asked.append(config) or tmp_path)
    monkeypatch.setattr(Setting, "scored", lambda self, run, rows: [[*map(len, row.responses)] for row in rows])
    write(tmp_path / "ukpconvarg1-strict", [record(n, f"topic {n % 6}", "better") for n in range(48)])
    places = ["--data", str(tmp_path), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    command = ["ukpconvarg1-strict", "--from", str(bert_folder(tmp_path / "bert")), "--epochs", "2", "--folds", "1"]
    assert preferences.main([*command, *places]) == 0
    [config] = asked
    assert config.lora is not None and not config.packing.share_prompt and config.reward.epochs == 2
    page = (tmp_path / "out" / "ukpconvarg1-strict-bert.md").read_text()
    assert "16 test pairs in 2 groups (topic and side)" in page
    assert "| minirm | 1.000 [1.000, 1.000] |" in page and "1.000 [1.000, 1.000]" in capsys.readouterr().out
