"""Files → the distinct prompts in them: of records that training accepts, and of records that hold a prompt alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from minirm.errors import InputError
from minirm.files.fields import Names, Record, parse_fields, unfold
from minirm.files.prompts import read_prompt
from minirm.files.reading import find_files, read_file
from minirm.files.records import parse_record
from minirm.files.shapes import recognise
from minirm.policies.sampling import Dialogue


def read_prompts(paths: Sequence[Path]) -> list[Dialogue]:
    """Return the prompts in the order in which they come, each once.

    Raises:
        InputError: a record holds no prompt; the message names where it stands.
    """
    names = parse_fields((), ignore_judgements=True)
    records = (raw for path in find_files(paths) for whole in read_file(path) for raw in unfold(whole))
    return list(dict.fromkeys(prompt for raw in records for prompt in _prompts(raw.fields, raw.place, names)))


def _prompts(fields: dict, place: str, names: Names) -> Iterator[Dialogue]:
    try:
        record = Record(fields, names)
        try:
            format = recognise(record)
        except InputError:
            if record.value("prompt") is None:
                raise InputError("must hold a prompt, or be a record that training accepts") from None
            yield read_prompt(record, [])[0]
        else:
            yield from (one.prompt for one in parse_record(record, format, place).comparisons)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
