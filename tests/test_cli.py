"""The command line as a user meets it."""

import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

import minirm
from minirm.cli.commands import COMMANDS
from minirm.cli.main import main
from minirm.cli.watcher import Watcher
from minirm.tokens.tokenizer import Tokenizer
from minirm.training.loop import Step
from tests.conftest import QUICK, STAGES, kind_and_rude, write_lines

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def said(capsys):
    """Run the command line, expect success, and return what it printed; on the side it may say what it cut."""

    def run(*arguments: object, status: int = 0) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        output = capsys.readouterr()
        assert status or all(line.startswith("minirm: cut to ") for line in output.err.splitlines())
        return output.out

    return run


def typed_in(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


# Help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_every_command_and_explains_every_option(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and "dummy" not in text
    assert all(name in text for name in ([] if command else COMMANDS))
    assert "Args:" not in text and "(B," not in text


# Scoring


def test_score_prints_one_reward_a_line(trained, said):
    printed = said("score", trained, "--prompt", "Question 1?", "--response", "Gladly.", "--response=-No.")
    expected = minirm.load(trained).score("Question 1?", ["Gladly.", "-No."])
    assert printed == "".join(f"{reward:.6f}\n" for reward in expected)


def test_score_normalises_on_demand(trained, said):
    [expected] = minirm.load(trained).score(None, ["Gladly."], normalise=True)
    assert said("score", trained, "--response", "Gladly.", "--normalise") == f"{expected:.6f}\n"


def test_score_reads_a_pipe_and_writes_a_pipe(trained, said, monkeypatch):
    lines = [{"id": 1, "prompt": "Größe?", "response": "日本"}, {"id": 2, "responses": ["a", "b"], "x": None}]
    typed_in(monkeypatch, "\ufeff" + "\n\n".join(json.dumps(line) for line in lines))
    scored = [json.loads(line) for line in said("score", trained, "--file", "-").splitlines()]
    assert [{k: v for k, v in row.items() if "reward" not in k} for row in scored] == lines
    assert isinstance(scored[0]["reward"], float) and len(scored[1]["rewards"]) == 2


def test_an_empty_pipe_gives_an_empty_pipe(trained, said, monkeypatch):
    typed_in(monkeypatch, "")
    assert said("score", trained, "--file", "-") == ""


def test_score_writes_a_file_of_the_same_lines(trained, said, tmp_path):
    out = tmp_path / "new" / "out.jsonl"
    printed = said("score", trained, "--file", DATA / "ranking.csv")
    assert said("score", trained, "--file", DATA / "ranking.csv", "--out", out) == ""
    assert out.read_text(encoding="utf-8") == printed
    assert all(len(json.loads(line)["rewards"]) == 3 for line in printed.splitlines())


@pytest.mark.parametrize("to_file", [False, True])
def test_score_says_at_the_end_what_it_cut_and_standard_output_stays_json(trained, capsys, tmp_path, to_file):
    lines = [
        {"prompt": "why " * 99, "responses": ["yes", "no"]},
        {"prompt": "why?", "response": "yes " * 99},
        {"prompt": "", "response": "no"},
    ]
    path, out = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    capsys.readouterr()
    assert main(["score", str(trained), "--file", str(path), *(["--out", str(out)] if to_file else [])]) == 0
    printed, told = capsys.readouterr()
    assert told == "minirm: cut to max_tokens=64: prompt from its left: 3; response before its end token: 1\n"
    assert len([json.loads(line) for line in (out.read_text() if to_file else printed).splitlines()]) == 3


def test_eval_says_what_it_cut_in_its_table_and_its_figures(trained, said, tmp_path):
    cut = [{"prompt": f"{n}?", "chosen": "yes " * 99 + "yes", "rejected": "yes " * 99 + "no"} for n in range(6)]
    files = {"cut": write_lines(tmp_path / "cut.jsonl", cut), "whole": tmp_path / "whole.jsonl"}
    write_lines(files["whole"], kind_and_rude(6))
    table = {name: said("eval", trained, "--data", path, "--out", tmp_path / name) for name, path in files.items()}
    counts = {name: json.loads((tmp_path / name / "metrics.json").read_text())["cut"] for name in files}
    assert counts == {"cut": {"prompts": 12, "responses": 12}, "whole": {"prompts": 0, "responses": 0}}
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in table["cut"].splitlines()]
    assert {("cut prompts", "12"), ("cut responses", "12"), ("equal rewards", "6")} <= set(map(tuple, rows))
    assert "cut prompts" not in table["whole"] and "cut responses" not in table["whole"]


def test_half_a_surrogate_pair_in_another_field_comes_back_as_it_was(trained, said, tmp_path):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"response": "a", "note": "\\ud800 é"}\n')
    said("score", trained, "--file", path, "--out", out)
    [record] = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert record["note"] == "\ud800 é"
    said("score", trained, "--file", path)


def unread() -> TextIO:
    """Return a pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("command", [("score", "{run}", "--file", "{file}"), ("data", "{file}")], ids=["score", "data"])
def test_a_reader_that_has_read_enough_ends_the_command_quietly(trained, monkeypatch, capfd, tmp_path, command):
    path = write_lines(tmp_path / "in.jsonl", [{"prompt": "p", "response": "a" * 90}] * 2000)
    with unread() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main([word.format(run=trained, file=path) for word in command]) == 141
    assert capfd.readouterr().err == ""


# Data, tokenizer, evaluation


def test_data_tells_what_a_file_holds_and_shares_with_another(pairs_file, said, tmp_path):
    other = write_lines(tmp_path / "other.jsonl", kind_and_rude(3))
    printed = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in table_lines(said, pairs_file, other)}
    assert printed["comparisons"] == printed["pairs"] == printed["prompts"] == "40"
    assert printed["responses per comparison"] == "2: 40" and printed["shared prompts"] == "3"


def table_lines(said, file: Path, other: Path) -> list[str]:
    return [line for line in said("data", file, "--other", other).splitlines() if line.count("│") == 3]


def test_data_reads_every_sample_of_the_project_and_a_whole_folder(said):
    assert "comparisons" in said("data", DATA)


def test_tokenizer_writes_a_file(pairs_file, said, tmp_path):
    out = tmp_path / "t.json"
    assert said("tokenizer", "--data", pairs_file, "--out", out, "--vocab-size", 280) == f"{out}: 280 tokens\n"
    assert Tokenizer.load(out).vocab_size == 280


def test_eval_prints_a_table_and_writes_figures_and_a_page(trained, pairs_file, said, tmp_path):
    assert "accuracy" in (printed := said("eval", trained, "--data", pairs_file, "--out", tmp_path / "out"))
    assert printed.endswith(f"report: {tmp_path / 'out' / 'report.html'}\n")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["comparisons"] == 40 and figures["accuracy"]["value"] > 0.9
    assert "<html" in (tmp_path / "out" / "report.html").read_text()


def test_eval_reports_prompts_it_was_trained_on(trained, pairs_file, said, tmp_path):
    fresh = write_lines(
        tmp_path / "fresh.jsonl", [{**pair, "prompt": "new " + pair["prompt"]} for pair in kind_and_rude(9)]
    )
    said("eval", trained, "--data", pairs_file, "--out", tmp_path / "a")
    said("eval", trained, "--data", fresh, "--out", tmp_path / "b")
    leaked = [json.loads((tmp_path / name / "metrics.json").read_text())["leakage"] for name in "ab"]
    assert (leaked[0]["prompts"], leaked[1]["prompts"]) == (36, 0)  # 4 of 40 were kept for validation


def test_text_that_looks_like_markup_is_shown_as_it_is(trained, pairs_file, said, tmp_path):
    path = tmp_path / "[red]:smile:.jsonl"
    path.write_bytes(pairs_file.read_bytes())
    assert "[red]:smile:" in said("eval", trained, "--data", path, "--out", tmp_path / "[blue]")
    assert (tmp_path / "[blue]").is_dir()


# Training


def test_a_small_ranking_file_trains_and_says_how_to_learn_more_from_it(said, tmp_path):
    large = ["--comparisons-per-batch", 64, "--language-model.epochs", 2, "--reward.epochs", 2]
    printed = said("train", "--data", DATA / "ranking.csv", "--out", tmp_path / "run", "--size", "tiny", *large)
    assert "language model: 2 steps in all are few to learn from: smaller batches (--comparisons-per-batch)" in printed
    assert "reward: 2 steps in all" in printed and printed.endswith(f"run: {tmp_path / 'run'}\n")
    assert max(map(len, printed.splitlines()[:4])) > 80  # lines in a pipe are not broken


def test_a_megabyte_on_one_line_is_read_and_cut(said, tmp_path):
    long = {"prompt": "word " * 200_000, "chosen": "Gladly.", "rejected": "No."}
    path = write_lines(
        tmp_path / "data.jsonl", [*kind_and_rude(10), long, {**long, "prompt": "p", "chosen": "a " * 9000}]
    )
    said("train", "--data", path, "--out", tmp_path / "run", *QUICK, "--language-model.epochs", 0, "--reward.epochs", 1)
    counts = json.loads((tmp_path / "run" / "data.json").read_text())["counts"]
    assert sum(counts[name] for name in counts if name.endswith("cut: prompt from its left")) == 2


def test_two_runs_of_the_same_seed_are_the_same_run(trained, pairs_file, said, tmp_path):
    said("train", "--data", pairs_file, "--out", tmp_path / "run", *QUICK, *STAGES)
    for name in ("model.safetensors", "tokenizer.json", "training_prompts.bin", "metrics.json", "data.json"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes(), name


@pytest.mark.parametrize(
    ("stage", "signals"),
    [
        ("language model", [signal.SIGINT]),
        ("reward", [signal.SIGINT]),
        ("reward", [signal.SIGTERM, signal.SIGTERM]),  # as `timeout` sends it
    ],
)
def test_a_signal_saves_and_resume_ends_where_the_whole_run_ended(
    trained, pairs_file, said, tmp_path, monkeypatch, stage, signals
):
    folder, watched = tmp_path / "a run", Watcher.event

    def interrupt(self, at, event):
        watched(self, at, event)
        if at == stage and isinstance(event, Step) and event.step == 2:
            for number in signals:
                signal.raise_signal(number)

    monkeypatch.setattr(Watcher, "event", interrupt)
    printed = said("train", "--data", pairs_file, "--out", folder, *QUICK, *STAGES, status=130)
    assert printed.endswith(f"stopped and saved; go on with: minirm resume '{folder}'\n")
    assert not (folder / "metrics.json").exists()
    monkeypatch.setattr(Watcher, "event", watched)
    said("resume", folder)
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_training_goes_on_when_nobody_reads_what_it_prints(trained, pairs_file, monkeypatch, capfd, tmp_path):
    with unread() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        command = ["train", "--data", str(pairs_file), "--out", str(tmp_path / "run"), *QUICK, *STAGES]
        assert main(command) == 141
    assert capfd.readouterr().err == ""
    for name in ("model.safetensors", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


def test_a_run_stopped_at_once_before_its_first_save_is_resumed_from_its_beginning(
    trained, pairs_file, said, tmp_path, monkeypatch
):
    folder, watched = tmp_path / "run", Watcher.event

    def interrupt(self, at, event):
        if event.step == 2:
            raise KeyboardInterrupt
        watched(self, at, event)

    monkeypatch.setattr(Watcher, "event", interrupt)
    said("train", "--data", pairs_file, "--out", folder, *QUICK, *STAGES, status=130)
    assert not (folder / "states").exists()
    monkeypatch.setattr(Watcher, "event", watched)
    said("resume", folder)
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    lines, whole = (len((run / "log.jsonl").read_text().splitlines()) for run in (folder, trained))
    assert lines == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_stops_at_once_and_leaves_nothing(pairs_file, said, tmp_path, monkeypatch, number):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr("minirm.runs.prepare.describe", lambda *_: signal.raise_signal(number))
    before = signal.getsignal(number)  # a shell that runs the tests in the background ignores Ctrl-C
    said("train", "--data", pairs_file, "--out", tmp_path / "run", *QUICK, status=130)
    assert not (tmp_path / "run").exists() and not list(temporary.iterdir())
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [("score", "--file"), ("eval", "--data")], ids=["score", "eval"])
def test_a_signal_ends_what_has_nothing_to_save_and_leaves_nothing(
    trained, pairs_file, tmp_path, monkeypatch, capsys, command, number
):
    monkeypatch.setattr("minirm.evaluation.scoring.score_encoded", lambda *_: signal.raise_signal(number))
    name, files = command
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main([name, str(trained), files, str(pairs_file), "--out", str(tmp_path / "out")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr() == ("", "minirm: stopped\n") and not list(tmp_path.iterdir())


def a_step(step: int, steps: int) -> Step:
    return Step(step, steps, 0.5, 0.75, 1.0, 1e-3, cases=8, comparisons=8, tokens=400, seconds=0.5)


def test_a_narrow_terminal_shows_bar_time_left_and_speed():
    screen = io.StringIO()
    watcher = Watcher(Console(file=screen, force_terminal=True, width=80, legacy_windows=False, _environ={}))
    with watcher:
        watcher.begin("reward", 0, 100)
        watcher.event("reward", a_step(50, 100))
    text = screen.getvalue()
    for shown in ("50/100", "━", "left", "loss 0.500, accuracy 0.750, 16 pairs/s, 800 tokens/s"):
        assert shown in text, shown


def test_a_pipe_gets_ten_whole_lines_a_stage_without_escapes():
    written = io.StringIO()
    with Watcher(Console(file=written, width=40)) as watcher:
        watcher.begin("language model", 0, 100)
        for step in range(1, 101):
            watcher.event("language model", a_step(step, 100))
    lines = written.getvalue().splitlines()
    assert len(lines) == 10 and "\x1b" not in written.getvalue()
    speed = "16 targets/s, 800 tokens/s"
    assert lines[0] == f"language model, step 10/100: loss 0.500, p(next token) 0.750, {speed}, about 45 s left"
