"""Processes that train together must be of one version, one configuration and one folder; who is not is named."""

import socket
from pathlib import Path

import torch

from minirm.errors import InputError
from minirm.runs.checksums import CHECKSUMS, digest_of, digest_of_code
from minirm.runs.claim import flat
from minirm.runs.config_json import to_json
from minirm.runs.prepare import minirm_version
from minirm.runs.run_config import RunConfig
from minirm.runs.together import together


def check_alike(config: RunConfig) -> None:
    """Refuse processes of another version or configuration than the first; all of them must ask.

    Raises:
        InputError: names the process, its machine and what it has.
    """
    versions = {"minirm": minirm_version(), "code of minirm": digest_of_code(), "torch": torch.__version__}
    _compare(versions | flat(to_json(config)))


def check_same_folder(folder: Path) -> None:
    """Refuse processes that find other prepared data in a folder than the first; all of them must ask.

    Raises:
        InputError: names the process, its machine and what it finds.
    """
    path = folder / CHECKSUMS
    _compare({"prepared data": digest_of(path) if path.is_file() else f"none in {folder}, which all must share"})


def _compare(mine: dict) -> None:
    told = together(lambda: (socket.gethostname(), mine))
    _, first = told[0]
    for rank, (host, theirs) in enumerate(told):
        for name in first | theirs:
            if theirs.get(name) != first.get(name):
                who, rule = f"process {rank} on {host}", f"must be {first.get(name)}, as process 0 has it"
                raise InputError(f"{who}: {name}: {theirs.get(name)}: {rule}")
