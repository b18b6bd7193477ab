"""The sets of real judgements: which group a comparison is of, and that no group is on both sides of a split."""

import gzip
import json

import pytest

from bench.judgements import SETS, JudgementSet, merged_by_wins, read_splits
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError


def a_pair(prompt: str, better: str, worse: str) -> Comparison:
    return Comparison((Turn("user", prompt),), (better, worse), (1.0, 0.0))


def write(folder, records, name="pairs.jsonl.gz"):
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / name, "wt") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def record(n: int, topic: str, better: str = "good") -> dict:
    return {"prompt": f"about {topic}", "chosen": f"{better} {n}", "rejected": f"bad {n}", "group": topic}


def test_a_topic_is_tested_on_by_what_never_saw_it(tmp_path):
    records = [record(n, f"topic {n % 7}") for n in range(70)]
    records[3] = record(3, "topic 3", better="bad")  # both sides alike: not usable, and no other row takes its group
    write(tmp_path / "ukpconvarg1-strict", records)
    splits = list(read_splits(tmp_path, "ukpconvarg1-strict"))
    assert len(splits) == 5 and sum(len(test.comparisons) for _, test in splits) == 69
    for training, test in splits:
        assert not set(training.groups) & set(test.groups)
        for part in (training, test):
            assert all(row.prompt[0].text == f"about {g}" for row, g in zip(part.comparisons, part.groups, strict=True))


def test_a_set_with_a_test_file_is_split_as_it_comes(tmp_path):
    rows = [{"prompt": "", "responses": [{"text": f"a{n}", "score": 1.5}, {"text": "b", "score": 1}]} for n in range(3)]
    write(tmp_path / "nycc-k16", [row | {"contest": 660} for row in rows], "train.jsonl.gz")
    write(tmp_path / "nycc-k16", [row | {"contest": 661} for row in rows[:1]], "validation.jsonl.gz")
    [(training, test)] = read_splits(tmp_path, "nycc-k16")
    assert training.groups == [660] * 3 and test.groups == [661]


def test_a_record_without_its_group_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "made", JudgementSet("topic", "group"))
    write(tmp_path / "made", [record(0, "a"), {"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(InputError, match=r"pairs.jsonl.gz:2: group must be there: it names the group"):
        list(read_splits(tmp_path, "made"))


def test_merged_pairs_score_by_the_share_of_pairs_that_a_response_won():
    pairs = [a_pair("p", "a", "b"), a_pair("p", "a", "c"), a_pair("p", "b", "c"), a_pair("q", "x", "y")]
    ranking, other = merged_by_wins(pairs)
    assert dict(zip(ranking.responses, ranking.scores, strict=True)) == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert (other.responses, other.scores) == (("y", "x"), (0.0, 1.0))


def test_many_responses_are_dealt_to_rankings_that_each_span_the_scores():
    chain = [a_pair("p", f"r{i}", f"r{j}") for i in range(10) for j in range(i)]
    rankings = merged_by_wins(chain, most=4)
    assert sorted(text for one in rankings for text in one.responses) == sorted(f"r{i}" for i in range(10))
    assert all(len(one.responses) <= 4 and min(one.scores) < 0.3 and max(one.scores) > 0.7 for one in rankings)
