"""Tables → rows: CSV in text, Parquet and Arrow in columns (extra `data`)."""

import csv
import io
from collections.abc import Iterator
from itertools import chain

from minirm.data.comparison import RawRecord
from minirm.errors import InputError, list_names

LARGEST_RECORD = 1 << 24  # bytes of a line or a row, or characters of a cell
DELIMITERS = ("|", "\t", ";", ",")  # where two split a header alike, the comma is rather prose


class Cell(str):
    """A cell of a table in text, in which a number is text as well, and nothing an empty text."""

    __slots__ = ()


def read_csv(lines: Iterator[tuple[int, str]], name: str) -> Iterator[RawRecord]:
    """Yield the rows of a CSV file, given its lines, as {column: cell}, column names in lower case.

    The delimiter is the one of , | ; tab that splits the header into most columns. With |, the spaces around a cell are
    layout and fall away; otherwise cells stay as they are.
    """
    csv.field_size_limit(LARGEST_RECORD)  # the module's own limit is 131072 characters a cell
    first = next((line for line in lines if not line[1].isspace()), None)
    if first is None:
        return
    is_tsv = ".tsv" in name[-8:].lower()
    delimiter = "\t" if is_tsv else _delimiter_of(first[1], f"{name}:{first[0]}")
    table = delimiter == "|"
    rows = _parse_csv(chain([first], lines), first[0], name, {"delimiter": delimiter, "skipinitialspace": table})
    columns = [cell.strip().lower() for cell in next(rows, (0, []))[1]]
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        raise InputError(f"{name}:{first[0]}: header names {list_names(repeated)} more than once: columns must differ")
    for number, cells in rows:
        if len(cells) != len(columns):
            found, wanted = f"row of {len(cells)} cells", f"the header names {len(columns)}: {list_names(columns)}"
            raise InputError(f"{name}:{number}: {found}: {wanted}")
        cells = [Cell(cell.strip(" ") if table else cell) for cell in cells]
        yield RawRecord(f"{name}:{number}", dict(zip(columns, cells, strict=True)))


def _delimiter_of(header: str, place: str) -> str:
    try:
        return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))
    except csv.Error as error:
        raise _broken_csv(place, error) from None


def _broken_csv(place: str, error: csv.Error) -> InputError:
    reason = "a CR alone: lines must end in LF or CRLF" if "new-line" in str(error) else error
    return InputError(f"{place}: not valid CSV: {reason}")


def _parse_csv(
    lines: Iterator[tuple[int, str]], first: int, name: str, dialect: dict
) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not blank, and the number of the line on which it begins."""
    reader = csv.reader((text for _, text in lines), strict=True, **dialect)
    begins = first
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                yield begins, cells
            begins = first + reader.line_num
    except csv.Error as error:
        raise _broken_csv(f"{name}:{begins}", error) from None


def read_columns(stream: io.BufferedReader, name: str) -> Iterator[RawRecord]:
    """Yield the rows of a Parquet file, or of an Arrow file or stream, as the datasets library saves them."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise InputError(f"{name}: needs pyarrow: pip install 'minirm[data]'") from None
    number = 0
    try:
        if stream.peek(4).startswith(b"PAR1"):
            batches = parquet.ParquetFile(stream).iter_batches(batch_size=64)
        elif stream.peek(6).startswith(b"ARROW1"):
            file = ipc.open_file(stream)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            batches = ipc.open_stream(stream)
        for batch in batches:
            if batch.nbytes > LARGEST_RECORD * batch.num_rows:
                raise InputError(f"{name} (record {number + 1}): more than {LARGEST_RECORD:,} bytes: must be smaller")
            for i in range(batch.num_rows):
                number += 1
                yield RawRecord(f"{name} (record {number})", batch.slice(i, 1).to_pylist()[0])
    except (pyarrow.ArrowException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: cannot be read: {str(error).splitlines()[0]}") from None
