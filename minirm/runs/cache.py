"""Prepared data, once for many runs: a folder of it for each choice of files, tokenizer, template and packing."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minirm.errors import InputError
from minirm.files.disk import LOCK, alone_in, read_json
from minirm.runs.checksums import check_sealed, digest_of_code, seal
from minirm.runs.config_json import to_json
from minirm.runs.run_config import REWARD, RunConfig
from minirm.runs.run_folder import DATA, Start, model_digest

UNFINISHED = ".part"
"""How the name of a folder ends while it is being made, or where that was stopped: it goes on from there."""


@dataclass(frozen=True)
class Entry:
    """One folder of a cache."""

    folder: Path
    files: dict[str, str]
    """Path → digest, as they were; empty where the folder is not finished."""
    bytes: int
    days: float
    """Since it was finished, or worked on."""

    @property
    def is_finished(self) -> bool:
        """Whether runs can read it."""
        return not self.folder.name.endswith(UNFINISHED)


def entries(cache: Path) -> Iterator[Entry]:
    """Yield what a cache holds, the latest first."""
    folders = [path for path in cache.iterdir() if path.is_dir()] if cache.is_dir() else []
    for folder in sorted(folders, key=lambda path: -path.stat().st_mtime):
        files = read_json(folder / DATA)["files"] if (folder / DATA).is_file() else {}
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        yield Entry(folder, files, size, (time.time() - folder.stat().st_mtime) / 86400)


def key_of(config: RunConfig, files: dict[str, str], start: Start | None) -> str:
    """Return what is the same for runs that would prepare the same, and only for them."""
    values = to_json(config)
    data = {name: value for name, value in values["data"].items() if name != "cache"}
    reward = {name: values["reward"][name] for name in ("loss", "grades")} if REWARD in config.stages else None
    model = config.model
    inputs = {
        "code": digest_of_code(),
        "files": files,
        "data": data,
        "packing": [config.packing.max_tokens, config.packing.when_longer],
        "stages": config.stages,
        "only assistant": config.only_assistant,
        "reward": reward,
        "model": [model.bidirectional, model.predicts_prompts],
        "split": config.seed,
        "start": None if start is None else model_digest(start.folder),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def prepared_once(
    cache: Path, key: str, files: dict[str, str], make: Callable[[Path], object], note: Callable[[str], object]
) -> Path:
    """Return the folder of a key in a cache, made where it is not there; what was begun and stopped is gone on with.

    Args:
        files: path → digest; where another folder holds one of them as it was before, that is said.
        make: prepares the data into the folder it is given.
    Raises:
        InputError: another process is making it, or what is there is damaged.
    """
    folder, unfinished = cache / key, cache / f"{key}{UNFINISHED}"
    if folder.is_dir():
        try:
            check_sealed(folder)
        except InputError as error:
            raise InputError(f"{error}; without {folder} the data is prepared anew") from None
        note(f"data: prepared before, in {folder}")
        return folder
    for entry in entries(cache):
        changed = [name for name in files.keys() & entry.files.keys() if files[name] != entry.files[name]]
        if changed:
            note(f"{', '.join(sorted(changed))}: changed since {entry.folder} was prepared; preparing it anew")
            break
    with alone_in(unfinished):
        make(unfinished)
        seal(unfinished)
        (unfinished / LOCK).unlink()
        os.replace(unfinished, folder)
    return folder
