"""What is wrong gets one line that names the place, the value and the rule; status 2; and nothing is half-written."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from minirm.cli.main import main
from minirm.cli.watcher import Watcher
from minirm.files.disk import write_tensors
from tests.conftest import QUICK, STAGES, kind_and_rude, last_state, sealed, write_lines

GOOD = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})


@pytest.fixture
def train(tmp_path, refused):
    """Train on a file into a new folder, expect a refusal, and see that no folder was made."""

    def run(data: Path | str, *more: object) -> str:
        said = refused("train", "--data", data, "--out", tmp_path / "out", *QUICK, *STAGES, *more)
        assert not (tmp_path / "out").exists()
        return said

    return run


BROKEN_FILES = {
    "empty": (b"", ": empty: a data file holds at least one record"),
    "half a line": (b'{"prompt": "a", "cho', ":21: not valid JSON: Unterminated string starting, found '\"cho'"),
    "missing field": (b'{"prompt": "a", "chosen": "b"}', ':21: field "rejected": missing'),
    "wrong type": (b'{"chosen": 3, "rejected": "c"}', ':21: field "chosen": 3: must be text'),
    "null": (b'{"chosen": null, "rejected": "c"}', ':21: field "chosen": null: must be text'),
    "NUL byte": (b'{"chosen": "\0", "rejected": "c"}', ":21: holds a NUL byte: must be text"),
    "NUL escape": (
        b'{"chosen": "\\u0000", "rejected": "c"}',
        ":21: field \"chosen\": '\\x00': must be text without NUL",
    ),
    "half a pair": (
        b'{"chosen": "\\ud800", "rejected": "c"}',
        ":21: field \"chosen\": '\\ud800': must be Unicode text",
    ),
    "one megabyte": (b'{"chosen": "' + b"word " * 200_000 + b' "rejected": "c"}', ":21: not valid JSON: Expecting ','"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_data_file_is_refused(tmp_path, train, name):
    content, message = BROKEN_FILES[name]
    path = tmp_path / "data.jsonl"
    path.write_bytes((GOOD + "\n").encode() * 20 + content if content else b"")
    assert train(path).startswith(f"{path}{message}")


def test_a_missing_file_and_a_folder_without_data_are_refused(tmp_path, train):
    (tmp_path / "folder").mkdir()
    assert train(tmp_path / "gone.jsonl") == f"{tmp_path}/gone.jsonl: no such file or folder"
    assert train(tmp_path / "folder").startswith(f"{tmp_path}/folder: folder without data: expected a file ending in")


def test_data_without_anything_to_learn_is_refused(tmp_path, train):
    tied = [{"prompt": str(n), "responses": [{"text": t, "score": 1} for t in "ab"]} for n in range(5)]
    same = [{**pair, "prompt": "always this"} for pair in kind_and_rude(5)]
    path = write_lines(tmp_path / "tied.jsonl", tied)
    assert train(path) == f"{path}: no two responses differ in score: nothing to learn from"
    path = write_lines(tmp_path / "same.jsonl", same)
    assert train(path) == f"{path}: one distinct prompt only: two are needed to keep one for validation"


OPTIONS = {
    "--validation-share 0": "validation_share=0.0 must be above 0",
    "--validation-share 100": "validation_share=100.0 must be below 100",
    "--vocab-size 261": "vocab_size=261 must be at least 262 (256 bytes and 6 special tokens)",
    "--vocab-size 99999": "vocab_size=99999 is more than these texts can give; they give at most ",
    "--heads 3": "width=128 must be a multiple of heads=3",
    "--layers 0": "layers=0 must be at least 1",
    "--mlp-width -4": "mlp_width=-4 must be at least 1",
    "--dropout 1": "dropout=1.0 must be below 1",
    "--max-tokens 3": "max_tokens=3 must be at least 4",
    "--format csv": 'format "csv": unknown: must be one of tree, ',
    "--reward.learning-rate -1": "learning_rate=-1.0 must be above 0",
    "--reward.learning-rate inf": "learning_rate=inf must be at most 1e+30",
    "--reward.epochs inf": "epochs=inf must be at most 1000000",
    "--reward.epochs nan": "epochs=nan must be at least 0",
    "--reward.betas 0.9 1": "betas=(0.9, 1.0) must be below 1",
    "--language-model.seed -1": "seed=-1 must be at least 0",
    "--reward.seed 9223372036854775808": "seed=9223372036854775808 must be at most 9223372036854775807",
    "--reward.epochs 1e308": "epochs=1e+308 must be at most 1000000",
    "--language-model.epochs 1e308": "epochs=1e+308 must be at most 1000000",
    "--reward.evaluate-every 1e308": "evaluate_every=1e+308 must be at most 1000000000",
    "--reward.tie-width 1e300 --reward.loss rao_kupper": "tie_width=1e+300 must be at most 1000000",
    "--vocab-size 1000000000000": "vocab_size=1000000000000 must be at most 1000000",
    "--max-tokens 100000000000": "max_tokens=100000000000 must be at most 10000000",
    "--mlp-width 1000000000000": "mlp_width=1000000000000 must be at most 1000000",
    "--layers 1000000000000": "layers=1000000000000 must be at most 1000",
    "--lora.rank 100000000000000000000": "rank=100000000000000000000 must be at most 1000000",
    "--data more.jsonl": "--data is given twice: name all its files behind one --data",
    "--data=more.jsonl": "--data is given twice: name all its files behind one --data",
    "--validation=a.jsonl --validation b.jsonl": "--validation is given twice: name all its files behind one",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_wrong_value_of_an_option_is_refused_in_one_line(pairs_file, train, option):
    assert OPTIONS[option] in train(pairs_file, *option.split())


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["train"], ["train", "--out", "x", "--data", "y", "--size", "huge"]]
)
def test_arguments_that_are_no_command_end_with_status_2_and_an_explanation(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "help" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, pairs_file, trained, refused):
    is_file, below_file = pairs_file, pairs_file / "below"
    for command in (["train", "--data", pairs_file], ["demo"], ["eval", trained, "--data", pairs_file]):
        assert refused(*command, "--out", is_file) == f"{is_file}: can't be a folder: {is_file} is a file"
        assert refused(*command, "--out", below_file) == f"{below_file}: can't be a folder: {is_file} is a file"
    for command in (["score", trained, "--response", "a"], ["tokenizer", "--data", pairs_file]):
        assert refused(*command, "--out", tmp_path) == f"{tmp_path}: is a folder; name a file"
    assert refused("train", "--data", pairs_file, "--out", pairs_file.parent).startswith(f"{pairs_file.parent}: is not")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path, pairs_file, refused):
    tmp_path.chmod(0o500)
    assert "no permission to write" in refused("train", "--data", pairs_file, "--out", tmp_path / "out")


def test_an_evaluation_does_not_overwrite_a_run(trained, pairs_file, refused):
    before = (trained / "metrics.json").read_bytes()
    said = refused("eval", trained, "--data", pairs_file, "--out", trained)
    assert said == f"{trained}: is a run folder, whose own report would be lost; name another folder"
    assert (trained / "metrics.json").read_bytes() == before


def test_an_evaluation_overwrites_nothing_but_an_earlier_one(trained, pairs_file, refused, tmp_path):
    out = tmp_path / "out"
    command = ["eval", str(trained), "--data", str(pairs_file), "--out", str(out)]
    out.mkdir()
    assert main(command) == main(command) == 0
    for name, text in (("metrics.json", '{"as trained": {"accuracy": 1, "calibration": 1}}'), ("report.html", "mine")):
        (out / "metrics.json").unlink()
        (out / name).write_text(text)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert refused(*command) == f"{out}: is not empty and holds no earlier evaluation; name another folder"
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_evaluation_without_strict_pairs_is_refused(tmp_path, trained, refused):
    path = write_lines(tmp_path / "tied.jsonl", [{"prompt": "p", "responses": [{"text": t, "score": 1} for t in "ab"]}])
    said = refused("eval", trained, "--data", path, "--out", tmp_path / "out")
    assert said == f"{path}: no two responses differ in score: nothing to evaluate"
    assert not (tmp_path / "out").exists()


# A run folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "metrics.json", "training_prompts.bin"])
def test_a_run_folder_that_lacks_a_file_is_refused(broken, refused, name):
    (broken / name).unlink()
    assert (
        refused("score", sealed(broken), "--response", "a") == f"{broken / name}: file is missing from the run folder"
    )


def test_a_run_folder_without_tokenizer_or_no_run_folder_is_refused(broken, pairs_file, refused):
    (broken / "tokenizer.json").unlink()
    assert refused("score", sealed(broken), "--response", "a") == f"{broken}/tokenizer.json: no such file"
    assert refused("score", broken / "gone", "--response", "a") == f"{broken}/gone: no such run folder"
    assert refused("score", pairs_file, "--response", "a") == f"{pairs_file}: is a file, not a run folder"


def test_scoring_needs_neither_the_log_nor_the_report(broken, capsys):
    for name in ("log.jsonl", "report.html", "data.json"):
        (broken / name).unlink()
    assert main(["score", str(broken), "--response", "a"]) == 0


CONFIGS = {
    "model.speed=1": "model: unknown field 'speed'",
    "model.width='128'": "model: field 'width': '128': must be a whole number",
    "model.layers=True": "model: field 'layers': true: must be a whole number",
    "model.dropout=None": "model: field 'dropout': null: must be a number",
    "model.backbone='x'": "model: field 'backbone': 'x': must be one of transformer, torch_decoder, gru, lstm",
    "model.heads=3": "model: width=128 must be a multiple of heads=3",
    "model.norm_eps=float('nan')": "model: field 'norm_eps': nan: must be above 0",
    "model=[1]": "model: a list of 1: must be a JSON object",
    "packing.max_tokens=65": "packing: max_tokens=65 must not exceed the model's max_positions=64",
    "packing.tokens_per_batch=0": "packing: field 'tokens_per_batch': 0: must be at least 1",
    "format=1": '"format": 1: must be 2: a run of before has no checksums: train it anew',
    "format=3": '"format": 3: must be 2',
}


@pytest.mark.parametrize("change", CONFIGS)
def test_a_wrong_configuration_is_refused(broken, refused, change):
    values = json.loads((broken / "config.json").read_text())
    path, value = change.split("=", 1)
    *parents, key = path.split(".")
    within = values[parents[0]] if parents else values
    within[key] = eval(value)
    (broken / "config.json").write_text(json.dumps(values))
    assert refused("score", sealed(broken), "--response", "a").endswith(CONFIGS[change])


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff", "[" * 100_000])
def test_a_configuration_that_is_no_json_object_is_refused(broken, refused, content):
    (broken / "config.json").write_text(content, encoding="latin-1")
    assert refused("score", sealed(broken), "--response", "a").startswith(f"{broken}/config.json: ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 256, r"has shape (128,), the model has (256,)"),
        ("layers", 3, "tensor 'backbone.blocks.2.attention.out.bias' is missing"),
        ("layers", 1, "belongs to no part of the model that config.json describes"),
        ("vocab_size", 300, "the model knows 300 tokens, 0 to 299"),
    ],
)
def test_a_configuration_that_does_not_fit_the_other_files_is_refused(broken, refused, field, value, message):
    values = json.loads((broken / "config.json").read_text())
    values["model"][field] = value
    (broken / "config.json").write_text(json.dumps(values))
    assert message in refused("score", sealed(broken), "--response", "a")


def _pickled(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _not_finite(path: Path) -> None:
    tensors = load_file(path)
    tensors["head.weight"][0] = float("nan")
    save_file(tensors, path)


def _whole_numbers(path: Path) -> None:
    save_file({name: tensor.int() for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickled, "not a whole safetensors file"),
        (_truncated, "not a whole safetensors file"),
        (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
        (_not_finite, "tensor 'head.weight' holds something else than finite floating-point numbers"),
        (_whole_numbers, "holds something else than finite floating-point numbers"),
    ],
)
def test_damaged_weights_are_refused(broken, trained, refused, damage, message):
    path = broken / "model.safetensors"
    path.unlink()
    path.write_bytes((trained / "model.safetensors").read_bytes())
    damage(path)
    said = refused("score", sealed(broken), "--response", "a")
    assert said.startswith(f"{path}: ") and message in said


def test_a_damaged_tokenizer_is_refused(broken, refused):
    path = broken / "tokenizer.json"
    whole = json.loads(path.read_text())
    path.write_text("{")
    assert refused("score", sealed(broken), "--response", "a").startswith(
        f"{path}: not a tokenizer file (EOF while parsing"
    )
    size = len(whole["model"]["vocab"])
    whole["model"]["vocab"]["zzzz"] = 5000
    path.write_text(json.dumps(whole))
    rule = f"the model knows {size} tokens, 0 to {size - 1}"
    assert refused("score", sealed(broken), "--response", "a") == f"{path}: holds token id 5000: {rule}"
    path.write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    assert refused("score", sealed(broken), "--response", "a").endswith(
        "special token '<|pad|>' is missing from its vocabulary"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "normalisation: null: must be a JSON object"),
        ('{"normalisation": {"split": "v", "mean": 1.0}}', "normalisation: field 'std' is missing"),
        ('{"normalisation": {"split": "v", "mean": "x", "std": 1.0}}', "field 'mean': 'x': must be a number"),
        ('{"normalisation": {"split": "v", "mean": 0, "std": 0}}', "field 'std': 0: must be above 0"),
        ('{"normalisation": {"split": "v", "mean": NaN, "std": 1}}', "field 'mean': nan: must be at least -1e+30"),
    ],
)
def test_a_damaged_normalisation_is_refused_and_never_guessed(broken, refused, content, message):
    (broken / "metrics.json").write_text(content)
    said = refused("score", sealed(broken), "--response", "a", "--normalise")
    assert said.startswith(f"{broken}/metrics.json: ") and message in said


def test_prompt_keys_that_are_not_whole_are_refused(broken, refused):
    path = broken / "training_prompts.bin"
    path.write_bytes(path.read_bytes()[:-3])
    said = f"{path}: {path.stat().st_size} bytes: must be a multiple of 16, the bytes of a prompt's key"
    assert refused("score", sealed(broken), "--response", "a") == said


@pytest.mark.parametrize("name", ["training_prompts.bin", "log.jsonl", "report.html", "checksums.txt"])
@pytest.mark.parametrize("command", ["score", "eval", "export", "train"])
def test_a_run_of_which_one_bit_changed_is_refused_by_every_command(broken, pairs_file, refused, command, name):
    damage(broken / name, at=100)
    out = ["--out", broken.parent / "out"]
    more = {"score": ["--response", "a"], "eval": ["--data", pairs_file], "export": out}
    more["train"] = ["--data", pairs_file, *out]
    arguments = ["--from", broken] if command == "train" else [broken]
    assert refused(command, *arguments, *more[command]).startswith(f"{broken / name}: is damaged: it is not as it was")
    assert not (broken.parent / "out").exists()


def damage(path: Path, at: int) -> None:
    """Flip a bit of a file, which may be linked from elsewhere."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.unlink()
    path.write_bytes(content)


# Scoring

LINES = {
    b'{"prompt": "a"}': "found keys 'prompt': no accepted format: a record holds prompt with",
    b'{"response": null}': 'field "response": null: must be text',
    b'{"responses": []}': 'field "responses": an empty list: must be a list with at least one item',
    b'{"responses": ["a", 3]}': 'field "responses[1]": 3: must be text',
    b"[1]": "record a list of 1: must be a JSON object",
    b'{"prompt": 3, "response": "a"}': 'field "prompt": 3: must be text or a list of messages',
    b'{"prompt": [{"role": "x"}], "response": "a"}': "field \"prompt[0].role\": 'x': must be one of system, developer",
    b'{"prompt": "p", "question": "q", "response": "a"}': 'field "question": \'q\': stands beside "prompt"',
    b'{"ask": "p", "responses": ["a"]}': "field \"ask\": 'p': no prompt is read, and this may be it: --fields pro",
    b'{"prompt": "a", "response": "\\ud800"}': "must be Unicode text, without half a surrogate pair",
    b'{"prompt": "a", "resp': "not valid JSON: ",
    b'{"prompt": "\xff", "response": "a"}': "must be UTF-8 text",
    b'{"prompt": "\0", "response": "a"}': "holds a NUL byte: must be text",
}


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_to_score_is_refused_with_its_place_and_nothing_is_written(tmp_path, trained, refused, line):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(b'{"response": "fine"}\n\n' + line + b"\n")
    said = refused("score", trained, "--file", path, "--out", out)
    assert said.startswith(f"{path}:3: ") and LINES[line] in said
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl"]


def test_score_says_what_it_needs(trained, refused):
    needed = "score needs either --response, with or without --prompt, or --file"
    assert refused("score", trained) == refused("score", trained, "--prompt", "a") == needed
    assert refused("score", trained, "--response", "a", "--file", "-") == needed
    assert refused("score", trained, "--prompt", "a", "--file", "-").startswith("--prompt goes with --response")
    for twice in (["--file", "a.jsonl", "--file=b.jsonl"], ["--prompt=a", "--response", "b", "--prompt=c"]):
        option = twice[0].partition("=")[0]
        assert refused("score", trained, *twice) == f"{option} is given twice: it takes one value"
    assert refused("score", trained, "--response", "\ud800").startswith("field \"responses[0]\": '\\ud800': must be Un")
    assert refused("score", trained, "--file", "gone.jsonl") == "gone.jsonl: cannot be read: No such file or directory"


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_a_closed_stream_that_is_needed_is_refused(trained, pairs_file, refused, monkeypatch, name):
    commands = {"stdin": [["score", trained, "--file", "-"]]}
    commands["stdout"] = [["score", trained, "--file", pairs_file], ["data", pairs_file]]
    monkeypatch.setattr(sys, name, None)
    for command in commands[name]:
        assert refused(*command).startswith(f"{name}: is closed; must be open to be ")


def test_what_needs_no_output_works_with_a_closed_one(trained, pairs_file, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["score", str(trained), "--file", str(pairs_file), "--out", str(tmp_path / "out.jsonl")]) == 0
    assert main(["tokenizer", "--data", str(pairs_file), "--out", str(tmp_path / "t.json")]) == 0
    with pytest.raises(SystemExit, match="2"):
        main(["fly"])


@pytest.mark.parametrize("is_open", [False, True])
def test_what_nobody_can_be_told_is_refused_all_the_same(monkeypatch, is_open):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stderr", os.fdopen(writing, "w") if is_open else None)
    assert main(["data", "gone.csv"]) == 2


# Going on


@pytest.fixture(scope="module")
def left(tmp_path_factory, pairs_file) -> Path:
    """A run that was stopped a step after the first evaluation of its reward stage; tests must leave it as it is."""
    folder, looks = tmp_path_factory.mktemp("runs") / "left", iter(range(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watcher, "should_stop", lambda self: vars(self).update(stopped=next(looks) > 11) or self.stopped)
        command = ["train", "--data", pairs_file, "--out", folder, *QUICK, *STAGES]
        assert main([str(word) for word in command]) == 130
    assert [path.name for path in sorted((folder / "states").iterdir())] == ["000002", "000003"]
    return folder


@pytest.fixture
def stopped(left, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(left, tmp_path / "stopped"))


def test_a_run_that_cannot_be_resumed_says_why(tmp_path, trained, pairs_file, refused):
    assert refused("resume", trained) == f"{trained}: this run is finished: there is nothing to go on with"
    assert refused("resume", tmp_path / "gone") == f"{tmp_path}/gone: no such run folder"
    assert refused("resume", pairs_file) == f"{pairs_file}: is a file, not a run folder"
    assert refused("resume", tmp_path) == f"{tmp_path}: no run has begun here; begin one with: minirm train"


@pytest.mark.parametrize("name", ["training.safetensors", "progress.json", "checksums.txt"])
def test_a_damaged_state_is_said_and_the_one_before_ends_as_the_whole_run_did(stopped, trained, capsys, name):
    damage(stopped / "states" / "000003" / name, at=20)
    assert main(["resume", str(stopped)]) == 0
    said = f"{stopped}/states/000003/{name}: is damaged: it is not as it was written"
    assert said in capsys.readouterr().out and "state before" not in (stopped / "log.jsonl").read_text()
    assert (stopped / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_a_run_without_any_whole_state_or_of_another_beginning_is_refused(stopped, refused):
    for number in ("000002", "000003"):
        damage(stopped / "states" / number / "training.safetensors", at=20)
    assert refused("resume", stopped).endswith(f"; without {stopped / 'states'} the run begins anew")
    damage(stopped / "begun" / "tokens" / "training reward" / "tokens", at=20)
    assert refused("resume", stopped).startswith(f"{stopped}/begun/tokens/training reward/tokens: is damaged: it is")


def _place(**changed: object) -> Callable[[Path], None]:
    def change(state: Path) -> None:
        path = state.with_name("progress.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


def _renamed(name: str, other: str) -> Callable[[Path], None]:
    def change(state: Path) -> None:
        tensors = load_file(state)
        save_file({other: tensors.pop(name), **tensors}, state)

    return change


STATES = {
    "field 'step': -1: must be of a run of 10 steps": _place(step=-1),
    "field 'step': 99: must be of a run of 10 steps": _place(step=99),
    "field 'epoch': 9: must be of a run of 10 steps": _place(epoch=9),
    "field 'step': '3': must be a whole number": _place(step="3"),
    "its state is of stage=lm, which the run does not have": _place(stage="lm"),
    "tensor 'best.head.weight' is missing": _renamed("best.head.weight", "best.heae.weight"),
    "tensor 'optimizer.0.exp_avf' belongs to no part": _renamed("optimizer.0.exp_avg", "optimizer.0.exp_avf"),
    "tensor 'optimizer.0.exp_avg' is missing": _renamed("optimizer.0.exp_avg", "optimizer.p.exp_avg"),
}


@pytest.mark.parametrize("said", STATES)
def test_a_state_that_no_run_saves_is_refused_though_its_checksums_are_right(stopped, refused, said):
    state = last_state(stopped)
    STATES[said](state)
    sealed(state.parent)
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    assert said in refused("resume", stopped)
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}


def test_data_and_tokenizer_name_what_is_wrong(tmp_path, pairs_file, refused):
    assert refused("data") == "data needs at least one file or folder, or --cache"
    assert refused("data", tmp_path / "gone.csv") == f"{tmp_path}/gone.csv: no such file or folder"
    assert refused("data", pairs_file, "--other", "a.csv", "--other", "b.csv").startswith("--other is given twice")
    for command in ("eval", "tokenizer"):
        assert refused(command, "--data=a.csv", "--data=b.csv").startswith("--data is given twice")
    said = refused("tokenizer", "--data", pairs_file, "--out", tmp_path / "t.json", "--vocab-size", "9999")
    assert said.startswith("vocab_size=9999 is more than these texts can give; they give at most ")
    said = refused("tokenizer", "--data", pairs_file, "--out", tmp_path / "t.json", "--vocab-size", 10**12)
    assert said == "vocab_size=1000000000000 must be at most 1000000"
    assert not (tmp_path / "t.json").exists()


# A full disk


@pytest.fixture
def full_disk():
    """Let what is written under a name beside its place land on a device that is always full."""

    def fill(path: Path) -> Path:
        path.with_name(f".{path.name}.{os.getpid()}").symlink_to("/dev/full")
        return path

    return fill


def test_a_full_disk_is_refused_by_the_name_of_the_file_that_has_no_room(
    tmp_path, trained, pairs_file, refused, full_disk
):
    tokenizer, scores = full_disk(tmp_path / "tokenizer.json"), full_disk(tmp_path / "scores.jsonl")
    assert refused("tokenizer", "--data", pairs_file, "--out", tokenizer) == f"{tokenizer}: No space left on device"
    said = refused("score", trained, "--file", pairs_file, "--out", scores)
    assert said == f"{scores}: No space left on device" and not list(tmp_path.iterdir())


@pytest.fixture
def no_room_for_weights(monkeypatch):
    def save_file(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("minirm.files.disk.save_file", save_file)


def test_weights_that_find_no_room_are_refused_by_their_name(tmp_path, no_room_for_weights):
    with pytest.raises(OSError, match="No space left on device") as full:
        write_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(3)})
    assert full.value.filename == str(tmp_path / "model.safetensors") and not list(tmp_path.iterdir())


def test_an_export_that_finds_no_room_leaves_nothing(tmp_path, trained, refused, no_room_for_weights):
    out = tmp_path / "exported"
    assert refused("export", trained, "--out", out) == f"{out}: No space left on device"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["score", "data"])
def test_a_full_standard_output_is_refused_by_its_name(trained, pairs_file, refused, monkeypatch, command):
    arguments = {"score": [trained, "--file", pairs_file], "data": [pairs_file]}[command]
    with contextlib.suppress(OSError), open("/dev/full", "w") as stream:  # closing it tries once more
        monkeypatch.setattr(sys, "stdout", stream)
        said = refused(command, *arguments)
    assert said == "standard output: No space left on device"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), None])
def test_too_little_memory_is_said_in_one_line(tmp_path, pairs_file, refused, monkeypatch, error):
    def run(*_: object, **__: object) -> None:
        if error is not None:
            raise error
        torch.empty(2**50)  # PyTorch's own words for it

    monkeypatch.setattr("minirm.cli.train.train_run", run)
    said = refused("train", "--data", pairs_file, "--out", tmp_path / "out")
    assert said.startswith("not enough memory: take a smaller model")


def test_any_other_error_of_pytorch_keeps_its_traceback(tmp_path, pairs_file, monkeypatch):
    def run(*_: object, **__: object) -> None:
        torch.ones(2) @ torch.ones(3)

    monkeypatch.setattr("minirm.cli.train.train_run", run)
    with pytest.raises(RuntimeError, match="size"):
        main(["train", "--data", str(pairs_file), "--out", str(tmp_path / "out")])
