"""Writing a file or a folder whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path | str, unfinished: Path | None = None) -> Iterator[None]:
    """Let the OSError of a full disk, which names no file, name `path`; and so one that names what is unfinished."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(unfinished) in str(error.filename)):
            error.filename = str(path)
        raise


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place: a reader sees the old or the new one, whole.

    Of a link, what it points to is written. A device or a pipe, whose place nothing can take, is written into.
    """
    if path.exists() and not path.is_file():
        with naming(path):
            write(path)
        return
    path = follow(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path, unfinished):
            write(unfinished)
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def follow(path: Path) -> Path:
    """Return what a link points to, whether it is there or not; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_folder_whole(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder beside `folder`, then put it in its place, which must be free or an empty folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with naming(folder, unfinished):
            unfinished.mkdir()
            write(unfinished)
            os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
