"""checksums.txt: the digest of each file of a folder, as `sha256sum` writes and checks it, and of these lines."""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import minirm
from minirm.errors import InputError
from minirm.files.disk import write_text

CHECKSUMS = "checksums.txt"


def digest_of(path: Path, length: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first `length` bytes."""
    with path.open("rb") as file:
        if length is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(file.read(length)).hexdigest()


@cache
def digest_of_code() -> str:
    """Return a digest of minirm's own files: what other code prepared, or computes, is not taken for this one's."""
    digest = hashlib.sha256()
    for path in sorted(Path(minirm.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def seal(folder: Path) -> None:
    """Write the checksums of all files below a folder, but hidden ones and folders with checksums of their own.

    Who finds this file finds a folder that is complete: it is written last.
    """
    lines = "".join(f"{digest_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder))
    write_text(folder / CHECKSUMS, f"{_head(lines)}\n{lines}")


def check_sealed(folder: Path, *, whole: bool = True) -> None:
    """Refuse a folder that holds something else than what was written.

    Args:
        whole: a file that is not there is refused as well; else whoever reads it will miss it.
    Raises:
        InputError: names the file.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise InputError(f"{path}: file is missing from the run folder")
    head, _, lines = path.read_bytes().decode("utf-8", "replace").partition("\n")
    if head != _head(lines):
        raise InputError(f"{path}: is damaged: it is not as it was written")
    for digest, name in (line.split("  ", 1) for line in lines.splitlines()):
        file = folder / name
        if not file.is_file() and whole:
            raise InputError(f"{file}: file is missing from the run folder")
        if file.is_file() and digest_of(file) != digest:
            raise InputError(f"{file}: is damaged: it is not as it was written, says {CHECKSUMS}")


def _head(lines: str) -> str:
    return f"# SHA-256 of the lines below: {hashlib.sha256(lines.encode()).hexdigest()}"


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not (path / CHECKSUMS).is_file():
            yield from _files(path)
        elif path.is_file() and path.name != CHECKSUMS and not path.name.startswith("."):
            yield path
