"""The bench of real preferences: pairs that share a response as one comparison."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import preferences
from bench.judgements import Judged, JudgementSet, read_splits
from bench.preferences import curve, language, learning, table
from bench.preferences.command import parser, splits
from bench.preferences.learning import LONGER, WITH_LENGTH, WORDS, Learned, scored_once, who_wrote
from bench.preferences.recipes import REMEDIES, around_shared_response
from bench.preferences.summary import STRONGEST
from bench.preferences.table import MODEL, Measured, added, behind_another, beside_words, together
from bench.recipes.common import Setting
from minirm.config import PackingConfig, sized
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.files.disk import read_tensors
from minirm.files.records import read_comparisons
from minirm.runs.journal import read_log
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


def learned(*rewards: list) -> list[Learned]:
    return [Learned(one, seconds=10.0 * n, memory=1000 * n) for n, one in enumerate(rewards, start=1)]


def test_the_table_is_over_groups_and_seeds_and_compares_with_the_strongest_baseline():
    rows = [Comparison((), ("a", "bb", "ccc"), (1.0, 1.05, 2.0)) for _ in range(6)]
    measured = Measured(JudgementSet("topic", least_difference=0.5))  # a and bb are too close to be told apart
    right, wrong = [[0.0, 0.0, 1.0]] * 6, [[1.0, 1.0, 0.0]] * 6
    plain = {LONGER: right, WORDS: wrong, WITH_LENGTH: [[2.0, 0.0, 1.0]] * 6}
    networks, others = {MODEL: learned(right, wrong), "bert + LoRA": learned(right)}, {"oracle": right}
    measured.add(Judged(rows, ["x", "x", "x", "y", "y", "z"]), plain, networks, others)
    found = measured.figures()
    assert (measured.pairs, measured.groups, measured.strongest) == (12, 3, LONGER)
    assert {name: float(of["accuracy"].whole.mean()) for name, of in found.items()} == {
        LONGER: 1.0, WORDS: 0.0, WITH_LENGTH: 0.5, MODEL: 0.5, together(MODEL): 0.5, beside_words(MODEL): 0.5,
        "bert + LoRA": 1.0, beside_words("bert + LoRA"): 1.0, "oracle": 1.0,
    }  # fmt: skip
    assert found[MODEL][f"minus {LONGER}"].whole.tolist() == [0.0, -1.0]  # seed by seed
    assert found["bert + LoRA"][f"minus {MODEL}"].whole.tolist() == [0.5]  # the mean of the seeds from nothing
    assert found[MODEL]["accuracy"].without.shape == (3, 2)  # without each topic
    assert measured.costs() == {MODEL: (15.0, 2000), "bert + LoRA": (10.0, 1000)}


def test_rewards_behind_other_prompts_are_a_row_of_their_own():
    rows = [Comparison((Turn("user", name),), ("a", "b"), (1.0, 0.0)) for name in "xyz"]
    measured = Measured(JudgementSet("prompt", prompt_decides=True))
    right, wrong = [[1.0, 0.0]] * 3, [[0.0, 1.0]] * 3
    measured.add(
        Judged(rows, [*"xyz"]), {LONGER: wrong, WORDS: wrong, WITH_LENGTH: wrong}, {MODEL: learned(right + wrong)}, {}
    )
    found = measured.figures()
    assert found[MODEL]["accuracy"].whole.tolist() == [1.0]
    assert found[behind_another(MODEL)]["accuracy"].whole.tolist() == [0.0]


def measured_set(tmp_path, monkeypatch, *options: str, name: str = "ukpconvarg1-strict") -> tuple[list, str]:
    """Return the runs that were asked for and the page; a response's length is its reward.

    What trains and scores is replaced, since it takes seconds.
    """
    pytest.importorskip("sklearn")
    asked = []
    monkeypatch.setattr(learning, "_trained", lambda setting, config: asked.append(config) or (tmp_path, 2_000_000))
    monkeypatch.setattr(learning, "read_log", lambda run, stage: [{"kind": "step", "seconds": 3.0}])
    monkeypatch.setattr(Setting, "scored", lambda self, run, rows: [[*map(len, row.responses)] for row in rows])
    write(tmp_path / "ukpconvarg1-strict", [record(n, f"topic {n % 12}", "better") for n in range(96)])
    places = ["--data", str(tmp_path), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert preferences.main([name, *options, *places]) == 0
    return asked, (tmp_path / "out" / f"{'preferences' if name == 'people' else name}.md").read_text()


def test_a_set_is_measured_with_adapters_of_a_pretrained_folder_beside_what_began_with_nothing(tmp_path, monkeypatch):
    bert = str(bert_folder(tmp_path / "bert"))
    asked, page = measured_set(tmp_path, monkeypatch, "--from", bert, "--epochs", "2", "--folds", "1")
    *from_nothing, config = asked
    assert len(from_nothing) == 2 and all(one.lora is None for one in from_nothing)
    assert config.lora is not None and not config.packing.share_prompt and config.reward.epochs == 2
    assert len({one.data.data for one in from_nothing}) == 1
    pairs, rankings = (list(read_comparisons(one.data.data)) for one in (asked[0], config))  # the same texts, merged
    assert len(rankings) < len(pairs)
    assert {text for row in rankings for text in row.responses} == {text for row in pairs for text in row.responses}
    assert "24 test pairs in 3 groups (topic and side)" in page
    assert "| bert + LoRA | 1.000 [1.000, 1.000] |" in page and "| bert + LoRA | 6 | 2 |" in page


def test_a_model_that_is_only_asked_stands_in_the_table_and_is_no_baseline(tmp_path, monkeypatch):
    questions = []

    def opened(folder, question, yes, no):
        questions.append((question, yes, no))
        return SimpleNamespace(score_comparisons=lambda rows: [[*map(len, row.responses)] for row in rows])

    monkeypatch.setattr(learning, "load_zero_shot", opened)
    monkeypatch.setattr(learning, "told_apart", lambda folder: folder.name)
    _, page = measured_set(tmp_path, monkeypatch, "--ask", str(tmp_path / "instructed"), "--folds", "1")
    [([message], *answers)] = questions
    assert answers == ["Yes", "No"]
    assert "{prompt}" in message["content"] and "{response}" in message["content"]
    assert "| instructed, asked | 1.000 [1.000, 1.000] |  |" in page


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--least-difference", "1.5"], "differ by 1.5"),
        (["--precision", "bfloat16"], "--precision"),
        (["--seeds", "0"], "--seeds"),
        (["--most", "0", "9"], "--most"),
        (["--texts", "A"], "--texts"),
        (["--folds", "-1"], "--folds"),
        (["--from", "A/bert", "B/bert"], "called bert too"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_refused(tmp_path, monkeypatch, options, named):
    for parent in "AB":
        (tmp_path / parent).mkdir()
        bert_folder(tmp_path / parent / "bert")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=named):
        measured_set(tmp_path, monkeypatch, *options)


def test_pairs_that_differ_by_little_are_left_out_of_the_test_as_asked(tmp_path, monkeypatch):
    _, page = measured_set(tmp_path, monkeypatch, "--folds", "1", "--least-difference", "1")
    assert "24 test pairs" in page and "Pairs whose scores differ by at least 1." in page


def test_recipes_are_chosen_without_a_look_at_the_test_part(tmp_path):
    """Each inner part's groups, and those that are learned beside them, make up the first split's training part."""
    write(tmp_path / "ukpconvarg1-strict", [record(n, f"topic {n % 12}", "better") for n in range(96)])
    whole, test = next(read_splits(tmp_path, "ukpconvarg1-strict"))
    options = parser().parse_args(["ukpconvarg1-strict", "--inner", "--data", str(tmp_path)])
    inner = list(splits("ukpconvarg1-strict", options))
    assert sorted(group for _, part in inner for group in part.groups) == sorted(whole.groups)
    for training, part in inner:
        assert not {*training.groups} & {*part.groups}
        assert {*training.groups, *part.groups} == {*whole.groups}
        assert not {*whole.groups} & {*test.groups}


def test_all_sets_together_have_a_table_and_each_a_page(tmp_path, monkeypatch):
    """Marks say what is resolved from the strongest without a network; a set that is not there is passed over."""
    bert = str(bert_folder(tmp_path / "bert"))
    write(tmp_path / "ibm-argq-pairs", [record(n, f"topic {n % 12}", "better") for n in range(96)])
    page = measured_set(tmp_path, monkeypatch, "--from", bert, "--folds", "1", name="people")[1]
    header, _, *rows = [line for line in page.splitlines() if line.startswith("|")]
    assert header == "| accuracy | ukpconvarg1-strict | ibm-argq-pairs |"
    assert [row.split("|")[1].strip() for row in rows] == [STRONGEST, MODEL, "bert + LoRA"]
    assert "not resolved" in page and (tmp_path / "out" / "preferences.png").is_file()
    assert (tmp_path / "out" / "ibm-argq-pairs.md").is_file()


def test_every_method_learns_and_is_tested_on_the_same_few_comparisons(tmp_path, monkeypatch):
    asked, page = measured_set(tmp_path, monkeypatch, "--folds", "1", "--most", "40", "10")
    assert "10 test pairs" in page
    files = [path for (path,) in (asked[0].data.data, asked[0].data.validation)]
    assert sum(len(path.read_text().splitlines()) for path in files) == 40


def test_changes_of_a_recipe_are_rows_beside_it_each_of_one_change(tmp_path, monkeypatch):
    asked, page = measured_set(tmp_path, monkeypatch, "--folds", "1", "--seeds", "1", "--remedies")
    assert len(asked) == 1 + len(REMEDIES)
    plain = asked[0]
    for config, name in zip(asked[1:], REMEDIES, strict=True):
        assert f"| {name} |" in page
        parts = [part for part in ("model", "reward", "data") if getattr(config, part) != getattr(plain, part)]
        assert len(parts) == 1, name
    with pytest.raises(InputError, match="--remedies prayer"):
        measured_set(tmp_path, monkeypatch, "--remedies", "prayer")


def test_language_first_reads_as_many_tokens_as_asked_and_its_rows_are_held_against_none(tmp_path, monkeypatch):
    """The runs are real ones, on a few texts; what learns to judge from them is replaced."""
    monkeypatch.setitem(language.MODELS, "tiny", sized("tiny", width=8, heads=1, layers=1, max_positions=512))
    monkeypatch.setattr(language, "PACKING", PackingConfig(tokens_per_batch=64, max_tokens=512))
    (tmp_path / "texts").mkdir()
    words = [f"{a}{b}{c}" for a in "bcdfgklmnpr" for b in "aeiou" for c in ("nd", "st", "rk", "lly", "ng", "mp")]
    rng = np.random.default_rng(0)
    texts = [
        {"prompt": " ".join(rng.choice(words, 12)), "response": " ".join(rng.choice(words, 12))} for _ in range(900)
    ]
    (tmp_path / "texts" / "a.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    monkeypatch.setattr(language, "VOCABULARY", 400)
    asked, page = measured_set(
        tmp_path, monkeypatch, "--language", "tiny:0", "tiny:0.004", "--folds", "1", "--seeds", "1"
    )
    _, nothing, some = asked
    read = [json.loads((config.start / "config.json").read_text())["language_model"] for config in (nothing, some)]
    steps = [read_log(config.start, "language model") for config in (nothing, some)]
    tokens = [sum(entry["tokens"] for entry in log if entry["kind"] == "step") for log in steps]
    assert tokens[0] <= 64 and tokens[1] == pytest.approx(4000, rel=0.1)
    assert read[0]["learning_rate"] < 1e-9
    drawn, learned = (read_tensors(config.start / "model.safetensors") for config in (nothing, some))
    assert not torch.equal(drawn["backbone.embedding.weight"], learned["backbone.embedding.weight"])
    assert "| tiny, 0.004 M tokens first | 1.000 [1.000, 1.000] |" in page and table.WITHOUT in page
    with pytest.raises(InputError, match="--language huge:1"):
        measured_set(tmp_path, monkeypatch, "--language", "huge:1")


def test_what_tokens_gave_on_several_sets_is_one_table_and_a_later_page_counts(tmp_path):
    def page(name: str, gains: dict[str, list[float]]) -> Path:
        figures = {f"{row} M tokens first: {table.WITHOUT}": gain for row, gain in gains.items()}
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"figures": figures | {"tiny, 5 M tokens first: accuracy": [0.6] * 3}}))
        return tmp_path / name

    first = page("one.json", {"tiny, 5": [0.02, 0.01, 0.03], "narrow, 5": [0.0, -0.1, 0.1]})
    pages = [
        first,
        page("two.json", {"tiny, 5": [-0.02, -0.03, -0.01]}),
        page("b/one.json", {"narrow, 5": [0.1, 0.1, 0.1]}),
    ]
    found = curve.page(pages)
    rows = [line for line in found.lines if line.startswith("|")]
    assert rows[0] == "| minus 0 tokens first | one | two |" and "3 of 3 are resolved" in found.lines[0]
    assert rows[2:] == [
        "| 2 layers, D = 64, 5 M tokens | +.100 [+.100, +.100] |  |",
        "| 2 layers, D = 128, 5 M tokens | +.020 [+.010, +.030] | −.020 [−.030, −.010] |",
    ]


@pytest.mark.parametrize(
    "text", [None, "{", "{}", '{"figures": {"tiny, 5 M tokens first: accuracy": [0.6, 0.5, 0.7]}}']
)
def test_what_is_no_page_of_language_first_is_refused_in_one_line(tmp_path, capsys, text):
    if text is not None:
        (tmp_path / "page.json").write_text(text)
    assert curve.main([str(tmp_path / "page.json"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()
