"""One tiny trained run for all tests that need one: made once, in seconds, by the command line itself."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported; see minirm/__main__.py

import hypothesis
import pytest
import torch

from minirm.cli.main import main
from minirm.evaluation.report import Picture
from minirm.runs.checksums import seal
from minirm.runs.claim import STATES
from minirm.runs.state import TENSORS

hypothesis.settings.register_profile("minirm", deadline=None)  # a test says what is right, not how fast: see bench/
hypothesis.settings.load_profile("minirm")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # one core for each process that runs tests

QUICK = ["--size", "tiny", "--max-tokens", "64", "--comparisons-per-batch", "8"]
STAGES = ["--language-model.epochs", "1", "--reward.epochs", "2"]


LOOK_AT_PICTURES = ("test_architectures", "test_cli", "test_overoptimisation", "test_report")
"""How the names of the files begin whose tests look at pages, or go the whole way that a user goes."""


@pytest.fixture(autouse=True)
def _pictures(request, monkeypatch) -> None:
    """Draw a run's pictures only where they are looked at: they take two thirds of a little run's time."""
    if not request.path.name.startswith(LOOK_AT_PICTURES):
        monkeypatch.setattr(Picture, "base64", property(lambda _: ""))


def write_lines(path: Path, records: list) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def kind_and_rude(count: int) -> list[dict]:
    """Return pairs of which a tiny model can learn which one is better."""
    return [
        {"prompt": f"Question {n}?", "chosen": f"Gladly, here is answer {n}.", "rejected": f"No, go away {n}."}
        for n in range(count)
    ]


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", kind_and_rude(40))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, pairs_file) -> Path:
    """A run folder; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", str(pairs_file), "--out", str(folder), *QUICK, *STAGES]) == 0
    return folder


@pytest.fixture
def broken(trained, tmp_path) -> Path:
    """A copy of the run folder, to be damaged; its files are links where that is enough."""
    return Path(shutil.copytree(trained, tmp_path / "broken", copy_function=_copy))


def _copy(source: str, target: str) -> None:
    if source.endswith((".json", ".bin", ".txt")):
        shutil.copy(source, target)
    else:
        os.link(source, target)


def sealed(folder: Path) -> Path:
    """Return a folder that was changed, with the checksums of what it holds now."""
    seal(folder)
    return folder


def last_state(folder: Path) -> Path:
    """Return the tensors of the last state that a run saved."""
    return max((folder / STATES).iterdir()) / TENSORS


@pytest.fixture
def refused(capsys):
    """Run the command line, expect status 2, and return the one line that it says."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("minirm: ") and said.endswith("\n") and said.count("\n") == 1
        assert len(said) < 600
        return said.removeprefix("minirm: ").rstrip("\n")

    return run
