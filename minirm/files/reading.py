"""Files of records → one JSON object or one row of a table at a time, each with its place."""

import codecs
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minirm.errors import InputError, shorten
from minirm.files.lines import (
    CHUNK,
    LARGEST_DOCUMENT,
    LARGEST_RECORD,
    MAGIC,
    Row,
    decode,
    name_of,
    open_expanded,
    read_lines,
)
from minirm.files.tables import read_columns, read_csv

TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
COLUMNS = (".parquet", ".arrow")
ACCEPTED = f"{', '.join(TEXTS)} (each also {', '.join(MAGIC)}), {', '.join(COLUMNS)}"
ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the datasets library writes beside data: in a folder, no data."""
RUN_FILES = ("config.json", "report.html")
"""A folder below a folder of data that holds one of these is a run, a checkpoint or an evaluation: it is left out."""


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


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the records of one file.

    Raises:
        InputError: the file cannot be read, is empty, or is not what its suffix says.
    """
    name, (kind, compression) = name_of(path), _suffixes(path) or (".jsonl", "")
    readers: dict[str, Callable] = {
        **dict.fromkeys((".csv", ".tsv"), read_csv), **dict.fromkeys(COLUMNS, read_columns)
    }  # fmt: skip
    number = 0
    try:
        with open_expanded(path, compression) as stream:
            for number, row in enumerate(readers.get(kind, read_json)(stream, name), 1):  # noqa: B007 used after it
                yield row
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # the last are what a damaged file raises
        raise InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not number:
        raise InputError(f"{name}: empty: a data file holds at least one record")


# JSON


def read_json(stream: io.BufferedReader, name: str) -> Iterator[Row]:
    """Yield the objects of a JSON file: one per line, or of an array, or of an object around it, or spread out."""
    is_array = stream.peek(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    if not is_array and not name.lower().endswith((".json", *(f".json{suffix}" for suffix in MAGIC))):
        yield from read_json_lines(read_lines(stream, name), name)
        return
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


def read_json_lines(lines: Iterable[tuple[int, str]], name: str) -> Iterator[Row]:
    """Yield the object of each line that is not blank."""
    for number, line in lines:
        if line and not line.isspace():
            place = f"{name}:{number}"
            yield _row(place, _parse(DECODER.decode, place, line.strip()))


def read_pipe(stream: io.BufferedReader, name: str) -> Iterator[Row | None]:
    """Yield the objects of JSON Lines as they come, and None whenever the next line is not there yet."""
    number, left = 1, b""
    while len(left) <= LARGEST_RECORD and (chunk := stream.read1(CHUNK)):
        *lines, left = (left + chunk).split(b"\n")
        yield from read_json_lines(((n, decode(line, name, n)) for n, line in enumerate(lines, number)), name)
        yield None
        number += len(lines)
    yield from read_json_lines(((n, decode(left, name, n)) for n in [number]), name)


def _read_document(content: bytes, name: str) -> Iterator[Row]:
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
    yield from (_row(place, value) for place, value in values if held is None)
    yield from (_row(f"{name} (record {number})", value) for number, value in enumerate(held or (), 1))


def _records_within(value: object) -> list | None:
    """Return the records of an array, or of an object around one; None for what is a record itself."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else None
    if value and all(key.isdigit() and isinstance(record, dict) for key, record in value.items()):  # pandas, by index
        return list(value.values())
    records = next((value[key] for key in ("instances", "data") if isinstance(value.get(key), list)), None)
    names = value.get("columns")
    if records and isinstance(names, list) and all(isinstance(r, list) and len(r) == len(names) for r in records):
        return [dict(zip(names, record, strict=True)) for record in records]  # pandas, split
    return records


def _row(place: str, fields: object) -> Row:
    if not isinstance(fields, dict):
        raise InputError(f"{place}: record {shorten(fields)}: must be a JSON object")
    return Row(place, fields)


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
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    except json.JSONDecodeError as error:
        name, _, line = place.rpartition(":")
        found = text[error.pos : error.pos + 100].strip()
        found = shorten(found, 40) if found else "the end"
        line = int(line) + text.count("\n", at[0] if at else 0, error.pos)
        raise InputError(f"{name}:{line}: not valid JSON: {error.msg.removesuffix(' at')}, found {found}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        raise InputError(f"{place}: not valid JSON: {reason}") from None
