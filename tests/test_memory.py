"""What is freed stays with the process: the same command with and without."""

import platform
import subprocess
import sys

import pytest

RESIDENT = """
from pathlib import Path
import torch
from minirm.cli.memory import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if {keep}:
    keep_freed_memory()
before = resident()
tensor = torch.ones(25_000_000)  # 100 MB, every page touched
del tensor
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is told to keep memory")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_when_asked_and_only_then(keep):
    run = [sys.executable, "-c", RESIDENT.format(keep=keep)]
    kept = int(subprocess.run(run, capture_output=True, check=True, text=True).stdout)
    assert (kept > 90e6) is keep
