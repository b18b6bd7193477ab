"""Prepared data: the same by any number of processes and shards, once for many runs, and gone on with."""

import itertools
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minirm.cli.main import main
from minirm.errors import InputError
from minirm.files.disk import remove_folder
from minirm.files.kept import Kept
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key
from minirm.runs import encode as encoding
from minirm.runs import prepare as preparing
from minirm.runs.job import train_run
from minirm.runs.journal import Observer
from minirm.runs.prepare import prepare
from minirm.runs.words import WordTokenizer, cuts_at_spaces
from minirm.tokens.stream import TokenStore
from minirm.tokens.tokenizer import Tokenizer
from tests.conftest import kind_and_rude, write_lines
from tests.test_run import REWARD, StopAt, a_config

OWN = Tokenizer.train(["a word and another, it's 12 words\n\n or a line", "größe 日本 …"] * 2)


@given(st.text(alphabet=" \n\t\r\x0b\x1c\x85\xa0\u2003\u3000'sabé日1²_-.!\U0001f600", max_size=40))
@example("it's  \u3000\n\nb a\x1c b\x85 c ")
def test_a_text_has_the_tokens_of_its_words(text):
    assert WordTokenizer(OWN).encode([text, "a b"]) == OWN.encode([text, "a b"])


def test_only_what_cuts_at_spaces_is_read_word_by_word():
    assert cuts_at_spaces(OWN) and not cuts_at_spaces(WordTokenizer(OWN)) and not cuts_at_spaces(object())
    other = Tokenizer.train(["a"])
    other.bpe.pre_tokenizer = None
    assert not cuts_at_spaces(other)


def test_what_is_kept_is_read_in_any_order(tmp_path):
    rows = list(read_comparisons([write_lines(tmp_path / "pairs.jsonl", kind_and_rude(9))]))
    kept = Kept.write(iter(rows), tmp_path / "kept")
    assert list(kept) == rows and len(kept) == 9 and kept[4] == rows[4] and kept[-1] == rows[-1]
    assert list(kept[2:8:3]) == rows[2:8:3] and list(kept[5:][::-1]) == rows[5:][::-1]


def columns(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def pairs(tmp_path):
    rows = kind_and_rude(60)
    rows[7]["rejected"] = rows[7]["chosen"]
    return write_lines(tmp_path / "pairs.jsonl", rows)


@pytest.mark.parametrize("processes", [1, 3])
def test_shards_and_processes_change_nothing(pairs, tmp_path, monkeypatch, processes):
    whole = prepare(a_config(pairs), tmp_path / "whole")
    monkeypatch.setattr(encoding, "SHARD", 700)
    monkeypatch.setattr(encoding, "processors", lambda: processes)
    seen = []
    cut = prepare(a_config(pairs), tmp_path / "cut", progress=lambda *told: seen.append(told))
    assert seen[-1][0] == "encoding" and seen[-1][1] == seen[-1][2] > 5
    assert cut.data == whole.data and list(cut.validation) == list(whole.validation)
    assert columns(tmp_path / "cut") == columns(tmp_path / "whole")


def test_a_folder_is_removed_though_somebody_still_writes_into_it(tmp_path):
    folder, until = tmp_path / "folder", time.monotonic() + 0.3

    def write() -> None:
        for n in itertools.takewhile(lambda _: time.monotonic() < until, itertools.count()):
            with suppress(OSError):
                (folder / f"{n}").mkdir(parents=True)

    writer = threading.Thread(target=write)
    writer.start()
    while time.monotonic() < until:
        remove_folder(folder)
    writer.join()
    remove_folder(folder)
    assert not folder.exists()


SLOW = """
import os, sys, time
from pathlib import Path
from minirm.runs import encode
encode.processors = lambda: 2
say_and_wait = lambda *_: (print(os.getpid(), flush=True), time.sleep(60))
list(encode._in_processes(say_and_wait, [("training", None, Path(sys.argv[1]) / str(n)) for n in range(2)]))
"""


def test_processes_end_with_the_one_that_was_killed(tmp_path):
    """They would wait for work for ever, or write and clear away beside a run that goes on."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, tmp_path], stdout=subprocess.PIPE, text=True)
    at_work = [process.stdout.readline() for _ in range(2)]
    process.kill()
    assert len(set(at_work)) == 2 and process.communicate(timeout=30) == ("", None)  # their end of the pipe is closed


def test_the_keys_of_the_training_part_are_kept_in_order(tmp_path):
    pairs = write_lines(tmp_path / "pairs.jsonl", kind_and_rude(60))
    prepared = prepare(a_config(pairs), tmp_path / "work")
    rows = {prompt_key(one) for one in read_comparisons([pairs])} - {prompt_key(one) for one in prepared.validation}
    assert [bytes(key) for key in prepared.training_prompts] == sorted(rows)


def cached(file: Path, cache: Path):
    config = a_config(file)
    return replace(config, data=replace(config.data, cache=cache))


class Noting(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def forbidden(*_, **__):
    raise AssertionError("prepared again")


def test_a_cache_is_filled_once_and_runs_end_as_without_it(pairs, tmp_path, monkeypatch, capsys):
    cache, first, second = tmp_path / "cache", Noting(), Noting()
    assert train_run(a_config(pairs), tmp_path / "without", Observer()) is not None
    assert train_run(cached(pairs, cache), tmp_path / "first", first) is not None
    monkeypatch.setattr(preparing, "_make", forbidden)
    assert train_run(cached(pairs, cache), tmp_path / "second", second) is not None
    (folder,) = cache.iterdir()
    assert f"data: prepared before, in {folder}" in second.notes and not any("before" in note for note in first.notes)
    weights = {(tmp_path / name / "model.safetensors").read_bytes() for name in ("without", "first", "second")}
    assert len(weights) == 1
    assert main(["data", "--cache", str(cache)]) == 0
    assert folder.name in capsys.readouterr().out


def test_a_changed_file_is_said_and_prepared_anew(pairs, tmp_path):
    cache = tmp_path / "cache"
    prepare(cached(pairs, cache), tmp_path / "first")
    write_lines(pairs, kind_and_rude(61))
    notes = []
    assert prepare(cached(pairs, cache), tmp_path / "second", note=notes.append).data["summary"]["comparisons"] == 61
    assert len(notes) == 1 and notes[0].startswith(f"{pairs}: changed since {cache}/")
    assert len(list(cache.iterdir())) == 2


def test_what_other_code_prepared_is_not_taken_for_this_ones(pairs, tmp_path, monkeypatch):
    """A run that other code began goes on with what it began with, and is refused once that is gone."""
    cache = tmp_path / "cache"
    assert train_run(cached(pairs, cache), tmp_path / "run", StopAt(REWARD, 2)) is None
    shutil.copytree(tmp_path / "run", tmp_path / "other run")
    (before,) = cache.iterdir()
    monkeypatch.setattr("minirm.runs.cache.digest_of_code", lambda: "other")
    assert train_run(cached(pairs, cache), tmp_path / "run", Observer()) is not None
    assert list(cache.iterdir()) == [before]
    prepare(cached(pairs, cache), tmp_path / "anew")
    assert len(list(cache.iterdir())) == 2
    shutil.rmtree(before)
    with pytest.raises(InputError, match=f"{before}: the prepared data is gone, and other code had prepared it"):
        train_run(cached(pairs, cache), tmp_path / "other run", Observer())


def test_what_was_stopped_while_it_was_prepared_goes_on(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 700)
    monkeypatch.setattr(encoding, "processors", lambda: 1)
    cache, whole = tmp_path / "cache", prepare(a_config(pairs), tmp_path / "whole")

    def stop(what, done, total):
        if what == "encoding" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(cached(pairs, cache), tmp_path / "first", progress=stop)
    monkeypatch.setattr(preparing, "read_comparisons", forbidden)
    told = []
    prepared = prepare(cached(pairs, cache), tmp_path / "second", progress=lambda *one: told.append(one))
    assert [what for what, _, _ in told if what != "encoding"] == [] and told[0][1] == 5
    assert prepared.data["counts"] == whole.data["counts"]
    (folder,) = cache.iterdir()
    assert columns(folder / "tokens") == columns(tmp_path / "whole" / "tokens")
    assert not (folder / "read").exists() and not (folder / ".lock").exists()


def test_a_run_goes_on_though_its_cache_was_cleared_and_a_damaged_one_is_refused(pairs, tmp_path):
    cache = tmp_path / "cache"
    assert train_run(cached(pairs, cache), tmp_path / "run", StopAt(REWARD, 2)) is None
    (folder,) = cache.iterdir()
    path = folder / "tokens" / "training reward" / "tokens"
    np.memmap(path, np.int32, "r+")[0] += 1
    with pytest.raises(InputError, match=f"{path}: is damaged: .*; without {folder} the data is prepared anew"):
        train_run(cached(pairs, cache), tmp_path / "run", Observer())
    folder.rename(tmp_path / "elsewhere")
    assert train_run(cached(pairs, cache), tmp_path / "run", Observer()) is not None
    assert len(TokenStore(folder / "tokens" / "training reward")) > 0
