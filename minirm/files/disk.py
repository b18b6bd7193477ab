"""Writing a file or a folder whole or not at all, and alone."""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minirm.errors import InputError, shorten

LOCK = ".lock"
"""Lies in a folder while a process holds it, and where one was killed."""


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
            _sync(unfinished)
            os.replace(unfinished, path)
            _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all; half a surrogate pair as JSON spells it."""
    write_whole(path, lambda p: p.write_text(text, encoding="utf-8", errors="backslashreplace"))


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk itself, where no power cut can take it."""
    if os.name == "nt" or not (path.is_file() or path.is_dir()):
        return
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)


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
            for path in (*unfinished.rglob("*"), unfinished):
                _sync(path)
            moves = [(path, place / path.name) for path in unfinished.iterdir()] if stays else [(unfinished, place)]
            for source, target in moves:
                os.replace(source, target)
            _sync(place.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder, though a process whose parent was killed may write into it until it has noticed."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)
    shutil.rmtree(folder)  # says what hinders it


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, until the end: nobody else who asks for it gets in meanwhile.

    The system keeps the lock, and frees it however the process ends. Folders that were made for this and stayed empty
    are removed.

    Raises:
        InputError: another one holds it.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: another command of minirm is at work in it; wait for its end") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # not empty
            for path in new:
                path.rmdir()


def check_free(folder: Path, besides: Collection[str] = (LOCK,)) -> None:
    """Refuse a folder that holds anything, besides files of these names.

    Raises:
        InputError: it does.
    """
    if folder.is_dir() and {path.name for path in folder.iterdir()} - set(besides):
        raise InputError(f"{folder}: is not empty; name another folder")


def check_folder(folder: Path) -> None:
    """Refuse a folder that can't be made or written into, before any work goes into what it is to hold.

    Raises:
        InputError: a file stands in its place, or the folder does not let itself be written.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"{folder}: can't be a folder: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: can't be written: no permission to write into {nearest}")


def check_file(path: Path) -> None:
    """Refuse a file that can't be written, before any work goes into what it is to hold.

    Raises:
        InputError: it is a folder, or stands where nothing can be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if not path.exists() or path.is_file():
        check_folder(follow(path).parent)
    elif not os.access(path, os.W_OK):
        raise InputError(f"{path}: can't be written: no permission to write into it")


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all; half a surrogate pair as JSON spells it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """Return the JSON object in a file.

    Raises:
        InputError: the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: file is missing from the run folder") from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: {shorten(value)}: must be a JSON object")
    return value


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda p: save_tensors(plain, p))


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors into a safetensors file.

    Raises:
        OSError: the disk is full, or refuses otherwise; the library has an error of its own for that.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata)
        path.chmod(mode)  # the library puts a file of its own there, which nobody else may read
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file.

    Raises:
        InputError: the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: file is missing from the run folder")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({str(error).splitlines()[0]})") from None


def load_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a model, every one of them and nothing else.

    Raises:
        InputError: a tensor is missing, of another shape, not finite, or belongs to nothing; nothing was copied then.
    """
    check_tensors(tensors, model.state_dict(), path, any_precision=True)
    model.load_state_dict(tensors)


def check_tensors(
    tensors: dict[str, Tensor], wanted: dict[str, Tensor], path: Path, *, any_precision: bool = False
) -> None:
    """Refuse tensors that are not of the names, shapes and types that are wanted, or not finite.

    Raises:
        InputError: says which.
    """
    check_fit(tensors, wanted, path, any_precision=any_precision)
    check_finite(tensors, path)


def check_fit(
    tensors: dict[str, Tensor], wanted: dict[str, Tensor], path: Path, *, any_precision: bool = False
) -> None:
    """Refuse tensors, whose numbers are not looked at, of other names, shapes or types than are wanted.

    Raises:
        InputError: says which.
    """
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{path}: tensor {name!r} is missing")
        if name not in wanted:
            raise InputError(f"{path}: tensor {name!r} belongs to no part of the model that config.json describes")
        tensor, like = tensors[name], wanted[name]
        if tensor.shape != like.shape:
            raise InputError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}, the model has {tuple(like.shape)}"
            )
        if not any_precision and tensor.dtype != like.dtype:
            raise InputError(f"{path}: tensor {name!r} is of {tensor.dtype}: must be of {like.dtype}")
        if not tensor.is_floating_point():
            raise InputError(f"{path}: tensor {name!r} holds something else than finite floating-point numbers")


def check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse a tensor that holds a number that is not finite.

    Raises:
        InputError: says which.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: tensor {name!r} holds something else than finite floating-point numbers")
