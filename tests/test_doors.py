"""What data, train, eval and score say of a file: what was read, what was not; no control character, no NaN."""

import gzip
import io
import json
import shutil
import subprocess
import sys
import threading

import pytest

from minirm.cli.main import main
from minirm.data.comparison import Comparison
from minirm.files.printable import printable
from minirm.files.survey import describe
from tests.conftest import QUICK, STAGES, kind_and_rude, write_lines

LONG = "a text of many words that nobody reads, and that is longer than forty characters"


@pytest.fixture
def said(capsys):
    def run(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr()

    return run


def rows_of(table):
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]


def test_data_lists_for_each_file_what_was_read_as_what_and_what_was_left_unread(tmp_path, said):
    first = write_lines(tmp_path / "a.jsonl", [{"question": "Q?", "chosen": "a", "rejected": "b", "why": LONG}] * 3)
    second = write_lines(tmp_path / "b.jsonl", [{"prompt": "Q?", "response": "a", "label": True}])
    printed = said("data", first, second).out
    rows = rows_of(printed[printed.index(f"{first}: 3 records") :])
    assert rows == [
        ["chosen", "chosen", "3"],
        ["question", "prompt", "3"],
        ["rejected", "rejected", "3"],
        ["why", "— (left unread)", "3"],
        ["label", "label", "1"],
        ["prompt", "prompt", "1"],
        ["response", "response", "1"],
    ]


def test_train_and_eval_say_in_one_line_which_long_texts_were_left_unread(tmp_path, said, trained):
    records = [{**record, "why": LONG, "n": 1} for record in kind_and_rude(20)]
    path = write_lines(tmp_path / "x.jsonl", records)
    rule = 'left unread, though long texts or judgements stand there: "why" (20 records); see minirm data'
    assert said("eval", trained, "--data", path).err.splitlines()[0] == f"minirm: {rule}"
    assert said("train", "--data", path, "--out", tmp_path / "run", *QUICK, *STAGES).out.count(rule) == 1
    assert "left unread" not in "".join(said("eval", trained, "--data", path, "--fields", "unread=n", "unread=why"))


@pytest.mark.parametrize("command", ["data", "eval", "score", "tokenizer", "train"])
def test_fields_say_what_is_what_in_every_command_that_reads_records(tmp_path, said, trained, refused, command):
    pairs = [{"ask": r["prompt"], "a": r["chosen"], "b": r["rejected"]} for r in kind_and_rude(20)]
    path = write_lines(tmp_path / "x.jsonl", pairs)
    before = {
        "data": ["data", path],
        "score": ["score", trained, "--file", path],
        "eval": ["eval", trained, "--data", path],
        "tokenizer": ["tokenizer", "--data", path, "--out", tmp_path / "t.json"],
    }
    arguments = before.get(command) or ["train", "--data", path, "--out", tmp_path / "run", *QUICK, *STAGES]
    assert "no accepted format" in refused(*arguments)
    said(*arguments, "--fields", "prompt=ask", "chosen=a", "rejected=b")


def test_a_data_folder_may_hold_the_runs_made_from_it(tmp_path, said, trained):
    write_lines(tmp_path / "x.jsonl", kind_and_rude(20))
    before = said("data", tmp_path).out
    shutil.copytree(trained, tmp_path / "run")
    for _ in range(2):
        said("eval", trained, "--data", tmp_path, "--out", tmp_path / "out")
    assert said("data", tmp_path).out == before


# The terminal


EVIL = "\x1b[2J\x9b31m\u202e\u2066\x07"


def test_control_characters_are_shown_as_json_spells_them_and_other_text_as_it_is():
    assert printable(EVIL) == "\\u001b[2J\\u009b31m\\u202e\\u2066\\u0007"
    assert json.loads(f'"{printable(EVIL)}"') == EVIL
    text = "é 日本 👩‍🚀 \t\n­"
    assert printable(text) == text


def test_no_control_character_of_names_and_texts_reaches_the_terminal(tmp_path, said, trained, refused):
    records = [{**record, "subset": EVIL, EVIL: 1} for record in kind_and_rude(6)]
    path = write_lines(tmp_path / f"{EVIL}.jsonl", records)
    written = [*said("data", path), *said("eval", trained, "--data", path), *said("score", trained, "--file", path)]
    written.append(refused("data", tmp_path / f"gone{EVIL}.jsonl"))
    for text in written:
        assert not set(text) & set(EVIL.replace("[2J", "").replace("31m", ""))
    scored = [json.loads(line) for line in written[4].splitlines()]
    assert [{k: v for k, v in row.items() if k != "rewards"} for row in scored] == records


# Scoring


def test_a_reward_that_came_is_kept_and_what_is_no_number_becomes_null(tmp_path, said, trained):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "Q", "response": "a", "reward": 3, "deep": [{"p": NaN}], "q": -1e999}\n')
    printed = said("score", trained, "--file", path).out
    row = json.loads(printed, parse_constant=lambda name: pytest.fail(name))
    reward = row.pop("minirm_reward")
    assert row == {"prompt": "Q", "response": "a", "reward": 3, "deep": [{"p": None}], "q": None}
    assert isinstance(reward, float)


@pytest.mark.parametrize(
    "record",
    [
        {"query": "Q", "response": "a"},
        {"instruction": "Q", "responses": ["a", "b"]},
        {"question": "Q", "chosen": "a", "rejected": "b"},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 1},
        {"prompt": "Q", "responses": ["a", "b"], "chosen": 1, "rejected": 0, "weight": "heavy"},
        {"prompt": "Q", "completion": "a", "label": "no label", "score": "none"},
    ],
)
def test_a_line_to_score_is_read_like_a_record_of_training_and_needs_no_judgement(tmp_path, said, trained, record):
    row = json.loads(said("score", trained, "--file", write_lines(tmp_path / "x.jsonl", [record])).out)
    rewards = row["rewards"] if "rewards" in row else [row["reward"]]
    plain = write_lines(tmp_path / "y.jsonl", [{"prompt": "Q", "responses": ["a", "b"][: len(rewards)]}])
    assert rewards == pytest.approx(json.loads(said("score", trained, "--file", plain).out)["rewards"], abs=1e-5)


def test_a_line_to_score_that_lost_its_prompt_is_refused_and_a_compressed_pipe_is_named(trained, refused, monkeypatch):
    lines = b'{"prompt": "Q", "response": "a"}\n{"response": "b"}\n'
    for given, rule in (
        (lines, "stdin:2: field \"prompt\": missing, though records before have one; found keys 'response'"),
        (gzip.compress(lines), "stdin:1: is compressed: must be UTF-8 text"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert refused("score", trained, "--file", "-") == rule


def test_each_line_of_a_pipe_is_answered_before_the_next_one_comes(trained):
    command = [sys.executable, "-m", "minirm", "score", str(trained), "--file", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asked:
        guard = threading.Timer(60, asked.kill)  # an answer that does not come must not be waited for
        guard.start()
        for n in range(3):
            asked.stdin.write(json.dumps({"prompt": f"Q{n}", "response": "a"}) + "\n")
            asked.stdin.flush()
            assert json.loads(asked.stdout.readline())["prompt"] == f"Q{n}"
        asked.stdin.close()
        assert asked.wait() == 0
        guard.cancel()


def test_a_summary_of_many_responses_counts_pairs_without_looking_at_each():
    many = Comparison((), tuple(map(str, range(1000))), tuple(float(n // 2) for n in range(1000)))
    summary = describe([many, many])
    assert (summary.pairs, summary.tied_pairs) == (2 * (999 * 500 - 500), 2 * 500)
    assert summary.conflicting_pairs == 0
