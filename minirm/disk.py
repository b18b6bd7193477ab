"""Writing a file or a folder whole or not at all, and alone."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from minirm.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


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


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, until the end: nobody else who asks for it gets in meanwhile.

    The system keeps the lock, and frees it however the process ends. Where it has none (Windows, some network disks),
    nobody is kept out. Folders that were made for this and stayed empty are removed.

    Raises:
        InputError: another one holds it.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    held = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if held is not None:
            _lock(held, folder)
        yield
    finally:
        if held is not None:
            os.close(held)
        with contextlib.suppress(OSError):  # not empty
            for path in new:
                path.rmdir()


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another command of minirm is at work in it; wait for its end") from None
    except OSError:  # a disk without locks
        pass
