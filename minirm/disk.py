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
    """Let `write` fill a folder on the same disk, then put it in the place of `folder`, which must be free or empty.

    An empty folder stays and takes in what was written: it may be where the user stands, or where a disk is mounted.
    """
    place = Path(os.path.realpath(folder))  # "." has no name, and a link stays
    stays = place.is_dir()
    unfinished = (place if stays else place.parent) / f".{place.name}.{os.getpid()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(folder, unfinished):
            unfinished.mkdir()
            write(unfinished)
            moves = [(path, place / path.name) for path in unfinished.iterdir()] if stays else [(unfinished, place)]
            for source, target in moves:
                os.replace(source, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
