"""Files of records → one JSON object (or CSV row) at a time, each with its place; memory stays that of one record."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minirm.errors import InputError, list_names, shorten

SUFFIXES = (".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")
DELIMITERS = ("|", "\t", ";", ",")  # where two split a header alike, the comma is rather prose
NUMBER_COLUMNS = {"margin", "weight", "probability"}  # the only cells of a CSV file that are not text
CHUNK = 1 << 16  # bytes read at a time
WHITE_SPACE = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()


class Row(NamedTuple):
    """One record as it stands in the file."""

    place: str  # "file:line", of its first line; in an array also which record it is
    fields: dict


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
        raise InputError(f"{name_of(path)}: folder without data: expected a file ending in {', '.join(SUFFIXES)}")
    if not os.path.exists(path):
        raise InputError(f"{name_of(path)}: no such file or folder")
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{name_of(path)}: unknown kind of file: the name must end in {', '.join(SUFFIXES)}")
    return [path]


def _files_below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """Yield the data files below a folder, through links too; `above` are the folders that lead to it."""
    above = (*above, os.path.realpath(folder))
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if os.path.realpath(path) in above:
                raise InputError(f"{name_of(path)}: links back to a folder that it lies in: must not run in a circle")
            yield from _files_below(path, above)
        elif path.name.lower().endswith(SUFFIXES):
            if not path.is_file():
                raise InputError(f"{name_of(path)}: must be a file; it is a pipe or a device, or links to nothing")
            yield path


def name_of(path: Path) -> str:
    """Return the path as it can stand in a message of one line."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the records of one file.

    Raises:
        InputError: the file cannot be read, is empty, or is not what its suffix says.
    """
    name, read = name_of(path), read_csv if path.name.lower().removesuffix(".gz").endswith(".csv") else read_json
    number = 0
    try:
        with _open(path) as stream:
            for number, row in enumerate(read(stream, name), 1):  # noqa: B007 the count is used after the loop
                yield row
    except (OSError, EOFError, zlib.error) as error:  # the last two are what a damaged gzip file raises
        raise InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not number:
        raise InputError(f"{name}: empty: a data file holds at least one record")


def _open(path: Path) -> io.BufferedReader:
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.open(path), CHUNK)  # gzip's own readline is Python, and slow
    return open(path, "rb", CHUNK)


def read_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Yield line number and line (with its line break) of UTF-8 text, without the byte order mark."""
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if b"\0" in line:
            raise InputError(f"{name}:{number}: holds a NUL byte: must be text")
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            found = shorten(line[max(error.start - 10, 0) : error.end + 10].decode(errors="replace"))
            raise InputError(f"{name}:{number}: near {found}: must be UTF-8 text") from None


# JSON


def read_json(stream: io.BufferedReader, name: str) -> Iterator[Row]:
    """Yield the objects of a JSON file: one per line, or an array, or the array "instances" of an object."""
    layout = _layout(stream.peek(CHUNK).removeprefix(codecs.BOM_UTF8).decode(errors="ignore").lstrip())
    if layout == "lines" or (layout == "values" and ".jsonl" in name[-10:].lower()):
        yield from read_json_lines(stream, name)
    else:
        yield from _read_document(_Window(stream, name), layout)


def _layout(head: str) -> str:
    """Return how the records lie in a file that begins with `head`: "lines", "array", "instances" or "values"."""
    if head.startswith("["):
        return "array"
    if head.startswith("{") and '"instances"' in head and _has_instances(head):
        return "instances"
    first_line, line_break, _ = head.partition("\n")
    spread_out = head.startswith("{") and line_break and not first_line.rstrip().endswith("}")
    return "values" if spread_out else "lines"


def _has_instances(head: str) -> bool:
    """Return whether the object that `head` begins has a key "instances" with an array, among its first keys."""
    at = 0
    try:
        while head[at] in "{,":
            key, at = DECODER.raw_decode(head, _skip_space(head, at + 1))
            at = _skip_space(head, _skip_space(head, at) + 1)  # past the colon
            if key == "instances":
                return head[at] == "["
            _, at = DECODER.raw_decode(head, at)
            at = _skip_space(head, at)
    except (ValueError, IndexError, RecursionError):  # the head ends here, or is no JSON: the reader will tell
        pass
    return False


def _skip_space(text: str, at: int) -> int:
    return WHITE_SPACE.match(text, at).end()


def read_json_lines(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Yield the object of each line that is not blank."""
    for number, line in read_lines(stream, name):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.isspace():
                continue
            raise _broken_json(f"{name}:{number}", error) from None
        yield _row(f"{name}:{number}", fields)


def _row(place: str, fields: object) -> Row:
    if not isinstance(fields, dict):
        raise InputError(f"{place}: record {shorten(fields)}: must be a JSON object")
    return Row(place, fields)


def _broken_json(place: str, error: Exception) -> InputError:
    if not isinstance(error, json.JSONDecodeError):
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        return InputError(f"{place}: not valid JSON: {reason}")
    found = error.doc[error.pos : error.pos + 100].strip()
    found = shorten(found, 40) if found else "the end"
    return InputError(f"{place}: not valid JSON: {error.msg.removesuffix(' at')}, found {found}")


class _Window:
    """A window that slides along a JSON text, so that no more than one record of it is in memory."""

    def __init__(self, stream: BinaryIO, name: str):
        self.stream, self.name = stream, name
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at, self.line = "", 0, 1

    def place(self, at: int | None = None) -> str:
        return f"{self.name}:{self.line + self.text.count(chr(10), self.at, at) if at else self.line}"

    def next_character(self) -> str:
        """Return the next character that is not white space, without taking it; "" at the end of the file."""
        while True:
            self._move(_skip_space(self.text, self.at))
            if self.at < len(self.text) or not self._read_on():
                return self.text[self.at : self.at + 1]

    def take(self, character: str) -> None:
        """Move past the one character that must come next."""
        if (found := self.next_character()) != character:
            found = shorten(self.text[self.at : self.at + 40]) if found else "the end"
            raise InputError(f"{self.place()}: not valid JSON: expecting {character!r}, found {found}")
        self._move(self.at + 1)

    def take_value(self) -> object:
        """Return the JSON value that comes next, and move past it."""
        self.next_character()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if not (cut_off and self._read_on()):
                    raise _broken_json(self.place(error.pos), error) from None
            except (ValueError, RecursionError) as error:
                raise _broken_json(self.place(), error) from None
            else:
                length = end - self.at
                if end + 2 < len(self.text) or not self._read_on():  # a number at the edge may go on, behind its "e+"
                    self._move(self.at + length)
                    return value

    def _move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def _read_on(self) -> bool:
        """Add the next chunk, as long as what is left over, to it; return whether there was any."""
        left_over = self.text[self.at :]
        chunk = self.stream.read(max(CHUNK, len(left_over)))
        if b"\0" in chunk:
            line = self.line + left_over.count("\n") + chunk[: chunk.index(b"\0")].count(b"\n")
            raise InputError(f"{self.name}:{line}: holds a NUL byte: must be text")
        try:
            self.text, self.at = left_over + self.decode(chunk, final=not chunk), 0
        except UnicodeDecodeError as error:
            line = self.line + left_over.count("\n") + error.object[: error.start].count(b"\n")
            raise InputError(f"{self.name}:{line}: must be UTF-8 text") from None
        return bool(chunk)


def _read_document(window: _Window, layout: str) -> Iterator[Row]:
    if layout == "values":
        while window.next_character():
            place = window.place()
            yield _row(place, window.take_value())
        return
    if layout == "instances":
        window.take("{")
        while window.take_value() != "instances":
            window.take(":")
            window.take_value()
            window.take(",")
        window.take(":")
    yield from _read_array(window)
    if layout == "instances":
        while window.next_character() == ",":
            window.take(",")
            window.next_character()
            place = window.place()
            if window.take_value() == "instances":
                raise InputError(f'{place}: key "instances" stands here again: must be there once')
            window.take(":")
            window.take_value()
        window.take("}")
    if window.next_character():
        raise InputError(f"{window.place()}: not valid JSON: text after the end of the document")


def _read_array(window: _Window) -> Iterator[Row]:
    window.take("[")
    number = 0
    while window.next_character() != "]":
        if number:
            window.take(",")
            window.next_character()
        number += 1
        place = f"{window.place()} (record {number})"
        yield _row(place, window.take_value())
    window.take("]")


# CSV


def read_csv(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Yield the rows of a CSV file as {column: cell}, column names in lower case.

    The delimiter is the one of , | ; tab that splits the header into most columns. With |, the spaces around a cell are
    layout and fall away; otherwise cells stay as they are.
    """
    csv.field_size_limit(1 << 30)  # the module's own limit is 131072 characters a cell
    lines = read_lines(stream, name)
    first = next((line for line in lines if not line[1].isspace()), None)
    if first is None:
        return
    delimiter = _delimiter_of(first[1], f"{name}:{first[0]}")
    table = delimiter == "|"
    rows = _parse_csv(chain([first], lines), name, {"delimiter": delimiter, "skipinitialspace": table})
    columns = [cell.strip().lower() for cell in next(rows, (0, []))[1]]
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        raise InputError(f"{name}:{first[0]}: header names {list_names(repeated)} more than once: columns must differ")
    for number, cells in rows:
        if len(cells) != len(columns):
            found, wanted = f"row of {len(cells)} cells", f"the header names {len(columns)}: {list_names(columns)}"
            raise InputError(f"{name}:{number}: {found}: {wanted}")
        cells = [cell.strip(" ") for cell in cells] if table else cells
        fields = dict(zip(columns, cells, strict=True))
        yield Row(f"{name}:{number}", fields | {c: _number_or_text(fields[c]) for c in NUMBER_COLUMNS & fields.keys()})


def _delimiter_of(header: str, place: str) -> str:
    try:
        return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))
    except csv.Error as error:
        raise _broken_csv(place, error) from None


def _broken_csv(place: str, error: csv.Error) -> InputError:
    reason = "a CR alone: lines must end in LF or CRLF" if "new-line" in str(error) else error
    return InputError(f"{place}: not valid CSV: {reason}")


def _number_or_text(cell: str) -> float | str | None:
    try:
        return float(cell) if cell.strip() else None
    except ValueError:
        return cell  # whoever wants a number there will refuse it


def _parse_csv(lines: Iterator[tuple[int, str]], name: str, dialect: dict) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not blank, and the number of the line on which it begins."""
    begins = 0

    def texts() -> Iterator[str]:
        nonlocal begins
        for number, text in lines:
            begins = begins or number
            yield text

    try:
        for cells in csv.reader(texts(), strict=True, **dialect):
            if len(cells) > 1 or "".join(cells).strip():
                yield begins, cells
            begins = 0
    except csv.Error as error:
        raise _broken_csv(f"{name}:{begins}", error) from None
