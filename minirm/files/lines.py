"""A file, compressed or not → its bytes, and its lines of text, within stated limits."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minirm.errors import InputError, printable, shorten

MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd"}
"""What files of texts may be compressed with, and how these begin, whatever they are called."""
LARGEST_RECORD = 1 << 24  # bytes of a line, or characters of a cell
LARGEST_DOCUMENT = 1 << 28  # bytes of a JSON file that is no JSON Lines, and so is in memory as a whole
LARGEST_EXPANSION = 250  # times the compressed file, beyond the size of a document
CHUNK = 1 << 16  # bytes read at a time


class Row(NamedTuple):
    """One record as it stands in the file."""

    place: str  # "file:line", of its first line, or "file (record 3)"
    fields: dict


def name_of(path: Path) -> str:
    """Return the path as it can stand in a message of one line."""
    return printable(str(path)).replace("\n", "\\n")


def open_expanded(path: Path, named: str) -> io.BufferedReader:
    """Return the content of a file, expanded if it begins as a compressed one does."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{name_of(path)}: must be a file; it is a folder, a pipe or a device")
    plain = open(path, "rb", CHUNK)  # noqa: SIM115 closed by who reads it
    compression = compression_of(plain.peek(8))
    if named and named != compression:
        plain.close()
        raise InputError(
            f"{name_of(path)}: must be compressed as {named} says; it is {compression or 'not compressed'}"
        )
    if not compression:
        return plain
    limit = max(LARGEST_DOCUMENT, LARGEST_EXPANSION * os.path.getsize(path))
    stream = io.BufferedReader(_Expanded(_expand(plain, compression, path), limit, name_of(path)), CHUNK)
    if within := compression_of(stream.peek(8)):
        raise InputError(f"{name_of(path)}: holds {within[1:]} within {compression[1:]}: must be compressed once")
    return stream


def compression_of(head: bytes) -> str:
    """Return the suffix that goes with how a file begins; "" for none."""
    return next((suffix for suffix, magic in MAGIC.items() if head.startswith(magic)), "")


def _expand(stream: BinaryIO, compression: str, path: Path) -> BinaryIO:
    if compression == ".zst":
        try:
            import zstandard
        except ImportError:
            raise InputError(f"{name_of(path)}: needs zstandard: pip install 'minirm[data]'") from None
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(stream, read_across_frames=True)
    return {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[compression](stream)


class _Expanded(io.RawIOBase):
    """What a compressed file holds, up to a limit."""

    def __init__(self, stream: BinaryIO, limit: int, name: str):
        self.stream, self.limit, self.left, self.name = stream, limit, limit, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            read = self.stream.read(len(buffer))
        except Exception as error:
            if isinstance(error, OSError | EOFError | zlib.error | lzma.LZMAError):
                raise
            raise OSError(str(error)) from None  # zstandard's own
        self.left -= len(read)
        if self.left < 0:
            raise InputError(f"{self.name}: expands to more than {self.limit:,} bytes: must be less than that")
        buffer[: len(read)] = read
        return len(read)


def read_lines(stream: BinaryIO, name: str, number: int = 1) -> Iterator[tuple[int, str]]:
    """Yield line number, from `number` on, and line (with its break) of UTF-8 text, without the byte order mark."""
    for n, line in enumerate(iter(lambda: stream.readline(LARGEST_RECORD + 1), b""), number):
        yield n, decode(line, name, n)


def decode(data: bytes, name: str, number: int = 1, limit: int = LARGEST_RECORD) -> str:
    """Return what begins at the line of this number as text, which must be UTF-8 and within the limit."""
    if len(data) > limit:
        what = "line" if limit == LARGEST_RECORD else "JSON document"
        rule = "must be shorter" if what == "line" else "must be smaller; JSON Lines (.jsonl) may be of any size"
        raise InputError(f"{name}:{number}: a {what} of more than {limit:,} bytes: {rule}")
    if number == 1:
        data = data.removeprefix(codecs.BOM_UTF8)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in (data[:1], data[1:2]):
            raise InputError(f"{name}:1: is UTF-16: must be UTF-8 text")
    if (nul := data.find(b"\0")) >= 0:
        line = number + data.count(b"\n", 0, nul)
        raise InputError(f"{name}:{line}: holds a NUL byte: must be text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        found = shorten(data[max(error.start - 10, 0) : error.end + 10].decode(errors="replace"))
        line = number + data.count(b"\n", 0, error.start)
        raise InputError(f"{name}:{line}: near {found}: must be UTF-8 text") from None
