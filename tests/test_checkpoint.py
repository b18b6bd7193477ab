"""A run on disk: whole files or none, no pickle, everything in the folder, and the same rewards when it comes back."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import minirm
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.errors import InputError
from minirm.files.disk import check_file, check_folder, read_json, read_tensors, write_json, write_tensors, write_whole
from minirm.runs.config_json import config_from_json, to_json
from minirm.runs.job import read_config
from minirm.runs.run_config import DataConfig
from minirm.runs.run_folder import load_run
from tests.conftest import sealed

TEXTS = ["Gladly, here is answer 3.", "No, go away 3.", "", "Ω \U0001f600"]


def test_a_run_that_was_moved_scores_exactly_as_before(trained, tmp_path):
    before = minirm.load(trained).score("Question 3?", TEXTS)
    for name in (
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "metrics.json",
        "training_prompts.bin",
        "checksums.txt",
    ):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        shutil.copy(trained / name, tmp_path / "elsewhere" / name)
    assert minirm.load(tmp_path / "elsewhere").score("Question 3?", TEXTS) == before


def test_a_run_folder_holds_what_it_says_and_no_pickle(trained):
    names = {path.relative_to(trained).parts[0] for path in trained.rglob("*") if path.is_file()}
    assert names == {
        "checksums.txt", "config.json", "data.json", "log.jsonl", "metrics.json", "model.safetensors", "report.html",
        "tensorboard", "tokenizer.json", "training_prompts.bin",
    }  # fmt: skip
    assert not any(path.is_symlink() for path in trained.rglob("*"))
    pickle, zipped = b"\x80", b"PK"  # what torch.save and pickle files begin with
    assert not any(path.read_bytes().startswith((pickle, zipped)) for path in trained.rglob("*") if path.is_file())
    data = json.loads((trained / "data.json").read_text())
    assert data["summary"]["comparisons"] == 40 and data["summary"]["pairs"] == 40


def test_the_configuration_comes_back_as_it_was(trained, pairs_file):
    config = read_config(trained)
    assert config.data.data == (pairs_file,) and config.reward.epochs == 2.0 and config.packing.max_tokens == 64
    assert to_json(config).items() <= read_json(trained / "config.json").items()


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(backbone="gru", kv_heads=2, dropout=0.5),
        TrainConfig(betas=(0.5, 0.25), optimizer="lion", compile=True),
        PackingConfig(comparisons_per_batch=3, share_prompt=False),
    ],
)
def test_a_configuration_written_as_json_is_read_as_the_same(config):
    assert config_from_json(type(config), json.loads(json.dumps(to_json(config))), "x") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betas": [0.9]}, "x: field 'betas': a list of 1: must be a list of 2"),
        ({"compile": 1}, "x: field 'compile': 1: must be true or false"),
        ({"epochs": "2"}, "x: field 'epochs': '2': must be a number"),
        ({"optimizer": "adamw2"}, "x: field 'optimizer': 'adamw2': must be one of adamw, adam, sgd, lion"),
        ("text", "x: 'text': must be a JSON object"),
    ],
)
def test_a_configuration_of_wrong_types_is_refused(values, message):
    with pytest.raises(InputError) as caught:
        config_from_json(TrainConfig, values, "x")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            TrainConfig,
            {"loss": "bradley_terry"},
            "loss='bradley_terry' must be one of all_pairs, noise_corrected, probit",
        ),
        (TrainConfig, {"optimizer": None}, "optimizer=null must be one of adamw, adam, sgd, lion"),
        (ModelConfig, {"style": "GPT2"}, "style='GPT2' must be one of gpt2, llama, prefix, bert"),
        (PackingConfig, {"when_longer": 3}, "when_longer=3 must be one of truncate, drop"),
        (DataConfig, {"data": (Path("a"),), "language_model_tokens": "user"}, "language_model_tokens='user' must be"),
    ],
)
def test_a_choice_that_is_none_is_refused_in_python_too(kind, values, message):
    with pytest.raises(InputError) as caught:
        kind(**values)
    assert str(caught.value).startswith(message)
    assert DataConfig((Path("a"),)).language_model_tokens is None  # where an annotation allows it


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("norm_eps", 10**400, f"1{'0' * 58}…: must be a finite number"),
        ("layers", 10**12, "1000000000000: must be at most 1000"),
        ("vocab_size", 10**30, f"1{'0' * 30}: must be at most 1000000"),
        ("width", 10**12, "1000000000000: must be at most 100000"),
        ("kv_heads", 10**400, f"1{'0' * 58}…: must be at most 100000"),
    ],
)
def test_a_run_of_an_absurd_size_is_refused_before_it_is_built(broken, refused, field, value, rule):
    path = broken / "config.json"
    values = json.loads(path.read_text())
    values["model"][field] = value
    path.write_text(json.dumps(values))
    assert refused("score", sealed(broken), "--response", "a") == f"{path}: model: field '{field}': {rule}"


def test_weights_are_held_against_the_configuration_before_they_take_memory(broken, refused):
    path = broken / "config.json"
    values = json.loads(path.read_text())
    values["model"] |= {"width": 100_000, "heads": 4}  # 40 GB a matrix
    path.write_text(json.dumps(values))
    said = refused("score", sealed(broken), "--response", "a")
    assert said.startswith(f"{broken / 'model.safetensors'}: tensor ") and "100000" in said


def test_checksums_are_those_of_sha256sum(trained):
    head, *lines = (trained / "checksums.txt").read_text().splitlines()
    assert head.startswith("# ")
    for line in lines:
        digest, name = line.split("  ", 1)
        assert hashlib.sha256((trained / name).read_bytes()).hexdigest() == digest
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert files == {line.split("  ", 1)[1] for line in lines} | {"checksums.txt"}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": "é"})

    def fail(unfinished):
        unfinished.write_text("half")
        raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError):
        write_whole(path, fail)
    assert read_json(path) == {"a": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_tensors_come_back_bit_for_bit_with_their_types(tmp_path):
    tensors = {"a": torch.randn(3, 2).T, "b": torch.tensor(True), "c": torch.randn(2).bfloat16()}
    write_tensors(tmp_path / "t.safetensors", tensors)
    write_json(tmp_path / "t.json", {})
    assert (tmp_path / "t.safetensors").stat().st_mode == (tmp_path / "t.json").stat().st_mode
    for name, tensor in read_tensors(tmp_path / "t.safetensors").items():
        assert tensor.dtype == tensors[name].dtype and torch.equal(tensor, tensors[name])


def test_a_folder_is_checked_without_being_made(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"can't be a folder: .* is a file"):
        check_folder(tmp_path / "a" / "b")


def test_weights_in_another_precision_are_taken_over(broken, trained):
    path = broken / "model.safetensors"
    write_tensors(path, {name: tensor.double() for name, tensor in read_tensors(path).items()})
    sealed(broken)
    assert minirm.load(broken).score(None, TEXTS[:1]) == minirm.load(trained).score(None, TEXTS[:1])
    assert next(load_run(broken).model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("there", [True, False])
def test_writing_to_a_link_leaves_the_link_and_writes_what_it_points_to(tmp_path, there):
    target, link = tmp_path / "elsewhere" / "x.json", tmp_path / "link.json"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to("elsewhere/x.json")
    check_file(link)
    write_json(link, {"a": 1})
    assert link.is_symlink() and read_json(target) == {"a": 1}
    assert list(target.parent.iterdir()) == [target]


def test_writing_to_a_pipe_or_a_device_goes_into_it(tmp_path):
    pipe, null = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    null.symlink_to(os.devnull)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (pipe, null):
        check_file(path)
        write_json(path, {"a": 1})
    assert json.loads(os.read(reader, 100)) == {"a": 1} and pipe.is_fifo() and null.is_char_device()
    os.close(reader)
