"""Files of records → one JSON object or one row of a table at a time, each with its place."""

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from minirm.data.comparison import RawRecord
from minirm.errors import InputError, shorten
from minirm.files.printable import printable
from minirm.files.tables import LARGEST_RECORD, read_columns, read_csv

TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
COLUMNS = (".parquet", ".arrow")
MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd"}
"""What files of texts may be compressed with, and how these begin, whatever they are called."""
ACCEPTED = f"{', '.join(TEXTS)} (each also {', '.join(MAGIC)}), {', '.join(COLUMNS)}"
ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the datasets library writes beside data: in a folder, no data."""
RUN_FILES = ("config.json", "report.html")
"""A folder below a folder of data that holds one of these is a run or a pretrained folder, and left out."""
OTHERS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, b"\0\0\0"),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "compressed": tuple(MAGIC.values()),
    "a zip archive": (b"PK\3\4",),
    "Parquet": (b"PAR1",),
    "a pointer of Git LFS, without the data": (b"version https://git-lfs.",),
}
"""How files begin that are no text of records."""
HEADS = tuple(head for heads in OTHERS.values() for head in heads)
LARGEST_DOCUMENT = 1 << 28  # bytes of a JSON file that is no JSON Lines, and so is in memory as a whole
LARGEST_EXPANSION = 250  # times the compressed file, beyond the size of a document
CHUNK = 1 << 16  # bytes read at a time


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the data files that the paths name, folders replaced by the files below them in sorted order.

    Raises:
        InputError: a path does not exist or has no accepted suffix, or a folder holds no data, or a link to nothing.
        OSError: a folder can't be read.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    if not paths:
        raise InputError("no data: name at least one file or folder")
    return [file for path in paths for file in _files_of(Path(path))]


def _files_of(path: Path) -> list[Path]:
    if os.path.isdir(path):
        if files := sorted(_files_below(path, ())):
            return files
        raise InputError(f"{name_of(path)}: folder without data: expected a file ending in {ACCEPTED}")
    if not os.path.exists(path):
        raise InputError(f"{name_of(path)}: no such file or folder")
    if not _suffixes(path):
        raise InputError(f"{name_of(path)}: unknown kind of file: the name must end in {ACCEPTED}")
    return [path]


def _files_below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """Yield the data files below a folder, through links too; `above` are the folders that lead to it."""
    if above and any((folder / name).exists() for name in RUN_FILES):
        return
    above = (*above, os.path.realpath(folder))
    _check_splits(folder)
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in ABOUT_DATA:
            continue
        if path.is_dir():
            if os.path.realpath(path) in above:
                raise InputError(f"{name_of(path)}: links back to a folder that it lies in: must not run in a circle")
            yield from _files_below(path, above)
        elif _suffixes(path):
            if not path.is_file():
                raise InputError(f"{name_of(path)}: must be a file; it is a pipe or a device, or links to nothing")
            yield path


def _check_splits(folder: Path) -> None:
    """Refuse a folder of `DatasetDict.save_to_disk` with several splits: training would read the test split as well."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        if len(splits) > 1:
            raise InputError(f"{name_of(folder)}: holds the splits {', '.join(splits)}: name the folder of one of them")


def _suffixes(path: Path) -> tuple[str, str] | None:
    """Return what a file holds and what compresses it, by its name: (".jsonl", ".gz"); None for what is no data."""
    name = path.name.lower()
    compression = next((suffix for suffix in MAGIC if name.endswith(suffix)), "")
    kinds = TEXTS if compression else TEXTS + COLUMNS
    kind = next((suffix for suffix in kinds if name.endswith(suffix + compression)), None)
    return None if kind is None else (kind, compression)


def name_of(path: Path) -> str:
    """Return the path as it can stand in a message of one line."""
    name = str(path)
    return name if name.isprintable() else printable(name).replace("\n", "\\n")


def names_of(paths: Iterable[Path]) -> str:
    """Return paths for a message: `a.jsonl, b.jsonl`."""
    return ", ".join(map(name_of, paths))


def read_file(path: Path) -> Iterator[RawRecord]:
    """Yield the records of one file.

    Raises:
        InputError: the file cannot be read, is empty, or is not what its suffix says.
    """
    name, (kind, compression) = name_of(path), _suffixes(path) or (".jsonl", "")
    number = 0
    try:
        with _open(path, compression) as stream:
            if kind in (".csv", ".tsv"):
                records = read_csv(read_lines(stream, name), name)
            else:
                records = (read_columns if kind in COLUMNS else read_json)(stream, name)
            for number, record in enumerate(records, 1):  # noqa: B007 used after the loop
                yield record
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # the last are what a damaged file raises
        raise InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not number:
        raise InputError(f"{name}: empty: a data file holds at least one record")


def _open(path: Path, named: str) -> io.BufferedReader:
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
    data = data.removeprefix(codecs.BOM_UTF8) if number == 1 else data
    with contextlib.suppress(UnicodeDecodeError):
        if len(data) <= limit and b"\0" not in data and not (number == 1 and data.startswith(HEADS)):
            return data.decode()
    raise InputError(_why_no_text(data, name, number, limit))


def _why_no_text(data: bytes, name: str, number: int, limit: int) -> str:
    if len(data) > limit:
        what = "line" if limit == LARGEST_RECORD else "JSON document"
        rule = "must be shorter" if what == "line" else "must be smaller; JSON Lines (.jsonl) may be of any size"
        return f"{name}:{number}: a {what} of more than {limit:,} bytes: {rule}"
    other = next((kind for kind, heads in OTHERS.items() if data.startswith(heads)), "") if number == 1 else ""
    if other or (number == 1 and b"\0" in data[:2]):
        return f"{name}:1: is {other or 'UTF-16'}: must be UTF-8 text"
    if (nul := data.find(b"\0")) >= 0:
        line = number + data.count(b"\n", 0, nul)
        return f"{name}:{line}: holds a NUL byte: must be text"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        found = shorten(data[max(error.start - 10, 0) : error.end + 10].decode(errors="replace"))
        line = number + data.count(b"\n", 0, error.start)
        return f"{name}:{line}: near {found}: must be UTF-8 text"


# JSON


def read_json(stream: io.BufferedReader, name: str) -> Iterator[RawRecord]:
    """Yield the objects of a JSON file: one per line, or of an array, or of an object around it, or spread out."""
    is_array = stream.peek(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    if not is_array and not name.lower().endswith((".json", *(f".json{suffix}" for suffix in MAGIC))):
        yield from read_json_lines(read_lines(stream, name), name)
    else:
        yield from _read_json_document(stream, name, is_array)


def _read_json_document(stream: io.BufferedReader, name: str, is_array: bool) -> Iterator[RawRecord]:
    first = stream.readline(LARGEST_DOCUMENT)
    while first.isspace() and (more := stream.readline(LARGEST_DOCUMENT)):
        first += more
    if not is_array and _is_object(first) and stream.peek(CHUNK).strip():
        begin = first.count(b"\n")
        yield from read_json_lines([(begin, decode(first, name, limit=LARGEST_DOCUMENT))], name)
        yield from read_json_lines(read_lines(stream, name, begin + 1), name)
    else:
        rest = [first]
        while sum(map(len, rest)) <= LARGEST_DOCUMENT and (chunk := stream.read(CHUNK)):
            rest.append(chunk)
        yield from _read_document(b"".join(rest), name)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.removeprefix(codecs.BOM_UTF8)), dict)
    except (ValueError, RecursionError):
        return False


def read_json_lines(lines: Iterable[tuple[int, str]], name: str) -> Iterator[RawRecord]:
    """Yield the object of each line that is not blank."""
    for number, line in lines:
        if line and not line.isspace():
            place = f"{name}:{number}"
            yield _raw(place, _parse(DECODER.decode, place, line.strip()))


def read_pipe(stream: io.BufferedReader, name: str) -> Iterator[RawRecord | None]:
    """Yield the objects of JSON Lines as they come, and None whenever the next line is not there yet."""
    number, left = 1, b""
    while len(left) <= LARGEST_RECORD and (chunk := stream.read1(CHUNK)):
        *lines, left = (left + chunk).split(b"\n")
        yield from read_json_lines(((n, decode(line, name, n)) for n, line in enumerate(lines, number)), name)
        yield None
        number += len(lines)
    yield from read_json_lines(((n, decode(left, name, n)) for n in [number]), name)


def _read_document(content: bytes, name: str) -> Iterator[RawRecord]:
    """Yield the records of a JSON text: those of one array, or one object behind the other."""
    text = decode(content, name, limit=LARGEST_DOCUMENT)
    values, at, line, counted = [], SPACE.match(text).end(), 1, 0
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        place = f"{name}:{line}"
        value, at = _parse(DECODER.raw_decode, place, text, at)
        values.append((place, value))
        at = SPACE.match(text, at).end()
    held = _records_within(values[0][1]) if len(values) == 1 else None
    yield from (_raw(place, value) for place, value in values if held is None)
    yield from (_raw(f"{name} (record {number})", value) for number, value in enumerate(held or (), 1))


def _records_within(value: object) -> list | None:
    """Return the records of an array, or of an object around one; None for what is a record itself."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else None
    return next((value[key] for key in ("instances", "data") if isinstance(value.get(key), list)), None)


def _raw(place: str, fields: object) -> RawRecord:
    if not isinstance(fields, dict):
        raise InputError(f"{place}: record {shorten(fields)}: must be a JSON object")
    return RawRecord(place, fields)


def _object(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(
            f"key {next(name for name in names if names.count(name) > 1)!r} stands there twice: must be there once"
        )
    return fields


DECODER = json.JSONDecoder(object_pairs_hook=_object)
SPACE = re.compile(r"[ \t\r\n]*")


def _parse(parse: Callable, place: str, text: str, *at: int) -> Any:
    """Return what the decoder's function returns."""
    try:
        return parse(text, *at)
    except (ValueError, RecursionError) as error:
        raise InputError(_why_no_json(error, place, text, *at)) from None


def _why_no_json(error: Exception, place: str, text: str, *at: int) -> str:
    if isinstance(error, InputError):
        return f"{place}: {error}"
    if isinstance(error, json.JSONDecodeError):
        name, _, line = place.rpartition(":")
        found = text[error.pos : error.pos + 100].strip()
        found = shorten(found, 40) if found else "the end"
        line = int(line) + text.count("\n", at[0] if at else 0, error.pos)
        return f"{name}:{line}: not valid JSON: {error.msg.removesuffix(' at')}, found {found}"
    reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
    return f"{place}: not valid JSON: {reason}"
