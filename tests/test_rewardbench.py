"""RewardBench's files in and out: accuracy per subset and the scores behind it."""

import json
import math
from pathlib import Path

import pytest

import minirm
from minirm.cli.main import main
from minirm.data.comparison import Comparison
from minirm.errors import InputError
from minirm.evaluation.rewardbench import check_ties, write_results
from minirm.files.records import read_comparisons

DATA = Path(__file__).parent.parent / "data"


def test_a_row_is_right_by_the_part_of_its_winners_that_is_chosen(tmp_path):
    pair, several = (1.0, 0.0), (1.0, 1.0, 0.0)
    rows = [
        Comparison((), ("a", "b"), pair, subset="x", source="f:1"),
        Comparison((), ("a", "b"), pair, subset="x", source="f:2"),
        Comparison((), ("a", "b", "c"), several, subset="y", source="f:3"),
    ]
    write_results(tmp_path, rows, [[2.0, 1.0], [1.0, 1.0], [3.0, 0.0, 3.5]], model="m")
    results = json.loads((tmp_path / "rewardbench.json").read_text())
    assert results == {"model": "m", "model_type": "Seq. Classifier", "x": 0.75, "y": 0.0}
    scores = json.loads((tmp_path / "rewardbench_scores.json").read_text())
    assert scores["id"] == ["f:1", "f:2", "f:3"] and scores["subset"] == ["x", "x", "y"]
    assert scores["results"] == [1.0, 0.5, 0.0]
    assert scores["scores_chosen"] == [2.0, 1.0, [3.0, 0.0]] and scores["scores_rejected"] == [1.0, 1.0, [3.5]]


def ties(own_id: str, chosen: list[float], rejected: list[float]) -> tuple[Comparison, list[float]]:
    rewards, scores = [*chosen, *rejected], (1.0,) * len(chosen) + (0.0,) * len(rejected)
    return Comparison((), tuple(map(str, range(len(rewards)))), scores, subset="Ties", id=own_id), rewards


QUESTIONS = [
    ties("tied:0", [3.0, 1.0], [0.0]),  # spread 2, gap 1
    ties("ref:0", [2.0], [1.0, -5.0]),  # gap 1
    ties("tied:1", [1.0, 1.5, 1.25], [0.25, 0.0]),  # spread 0.5, gap 0.75
    ties("ref:1", [0.0], [1.0]),  # gap −1: wrong
]


def test_ties_are_scored_by_the_formula_of_the_benchmark(tmp_path):
    rows, rewards = zip(*QUESTIONS, strict=True)
    write_results(tmp_path, rows, rewards, model="m")
    # all of tied and half of ref are right; one spread of two is below its gap, none below the lesser of both gaps
    margin = (math.tanh(1 / 2 - 1) + math.tanh(-1 / 0.5 - 1)) / 2
    expected = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0 + 0.01 * margin
    assert json.loads((tmp_path / "rewardbench.json").read_text())["Ties"] == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.5427142, abs=1e-7)
    assert json.loads((tmp_path / "rewardbench_scores.json").read_text())["results"] == [None] * 4


def test_ties_without_a_spread_have_the_whole_margin_or_none(tmp_path):
    rows, rewards = zip(
        ties("tied:0", [1.0, 1.0], [0.0]), ties("ref:0", [1.0], [0.0]),
        ties("tied:1", [1.0, 1.0], [1.0]), ties("ref:1", [1.0], [0.0]), strict=True,
    )  # fmt: skip
    write_results(tmp_path, rows, rewards, model="m")
    score = json.loads((tmp_path / "rewardbench.json").read_text())["Ties"]
    assert score == pytest.approx(0.3 * 0.5 + 0.3 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * 0.5)  # tanh(∞) = 1, and 0/0 counts 0


def test_a_question_that_comes_once_counts_by_its_accuracy_alone(tmp_path):
    [row], [rewards] = zip(ties("tied:0", [2.0, 1.0], [0.0]), strict=True)
    write_results(tmp_path, [row], [rewards], model="m")
    assert json.loads((tmp_path / "rewardbench.json").read_text())["Ties"] == pytest.approx(0.3)


@pytest.mark.parametrize("own_id", ["7", 7, None])
def test_ties_must_say_which_of_a_questions_two_rows_they_are(own_id):
    row, _ = ties(own_id, [1.0], [0.0])
    with pytest.raises(InputError, match=r'field "id": .*: must be "ref:…" or "tied:…"'):
        check_ties([row])


@pytest.mark.parametrize(
    ("own_id", "name"), [(7, 7), ("a/7", "a/7"), ("\ud800", "\ud800"), ("", "f:1"), (None, "f:1"), ([1], "f:1")]
)
def test_a_row_goes_by_its_own_id_where_it_has_one(tmp_path, own_id, name):
    row = Comparison((), ("a", "b"), (1.0, 0.0), subset="x", source="f:1", id=own_id)
    write_results(tmp_path, [row], [[2.0, 1.0]], model="m")
    assert json.loads((tmp_path / "rewardbench_scores.json").read_text())["id"] == [name]


def test_a_run_is_evaluated_on_rewardbench_files(trained, tmp_path, capsys):
    files = [str(DATA / "rewardbench.jsonl"), str(DATA / "rewardbench_2.jsonl")]
    arguments = ["--data", *files, "--format", "rewardbench", "--out", str(tmp_path / "out")]
    assert main(["eval", str(trained), *arguments]) == 0
    table = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "rewardbench.json").read_text())
    rows = list(read_comparisons(files))
    assert results.keys() == {"model", "model_type"} | {row.subset for row in rows}
    assert all(f"subset {row.subset}" in table for row in rows)
    assert f"ties {results['ties']:.3f}" in " ".join(table.split("RewardBench's own scores:")[1].split())
    scores = json.loads((tmp_path / "out" / "rewardbench_scores.json").read_text())
    first = minirm.load(trained).score_comparisons(rows[:1])[0]
    assert scores["id"] == [json.loads(line)["id"] for file in files for line in Path(file).read_text().splitlines()]
    assert abs(scores["scores_chosen"][0] - first[0]) + abs(scores["scores_rejected"][0] - first[1]) < 1e-4


def test_a_file_without_subsets_is_not_rewardbenchs(trained, pairs_file, refused):
    said = refused("eval", trained, "--data", pairs_file, "--format", "rewardbench")
    assert 'field "subset": missing: format rewardbench needs it' in said
