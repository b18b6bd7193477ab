"""A small part of `python -m bench damage` and `python -m bench kills`: nothing is silent, and kills change nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "trials", "row"),
    [("kills", "4", "| otherwise | 0 | 0 |"), ("damage", "24", "| silent | 0 | 0 |")],
)
def test_damage_is_never_silent_and_a_killed_run_ends_as_if_it_had_not_been(tmp_path, name, trials, row):
    command = [sys.executable, "-m", "bench", name, "--trials", trials, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert row in (tmp_path / f"{name}.md").read_text()
