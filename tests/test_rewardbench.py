"""RewardBench's files in and out: accuracy per subset and the scores behind it."""

import json
from pathlib import Path

import pytest

import minirm
from minirm.cli.main import main
from minirm.data.records import Comparison, read_comparisons
from minirm.evaluation.rewardbench import write_results

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
    scores = json.loads((tmp_path / "out" / "rewardbench_scores.json").read_text())
    first = minirm.load(trained).score_comparisons(rows[:1])[0]
    assert scores["id"] == [json.loads(line)["id"] for file in files for line in Path(file).read_text().splitlines()]
    assert abs(scores["scores_chosen"][0] - first[0]) + abs(scores["scores_rejected"][0] - first[1]) < 1e-4


def test_a_file_without_subsets_is_not_rewardbenchs(trained, pairs_file, refused):
    said = refused("eval", trained, "--data", pairs_file, "--format", "rewardbench")
    assert 'field "subset": missing: format rewardbench needs it' in said
