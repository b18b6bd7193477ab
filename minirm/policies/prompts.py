"""Files → the distinct prompts in them: of records that training accepts, and of records that hold a prompt alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from minirm.data.dialogue import parse_prompt
from minirm.data.files import find_files, read_rows
from minirm.data.records import parse_record, recognise_format
from minirm.errors import InputError
from minirm.policies.sampling import Dialogue


def read_prompts(paths: Sequence[Path]) -> list[Dialogue]:
    """Return the prompts in the order in which they come, each once.

    Raises:
        InputError: a record holds no prompt; the message names where it stands.
    """
    return list(dict.fromkeys(_prompts(paths)))


def _prompts(paths: Sequence[Path]) -> Iterator[Dialogue]:
    for path in find_files(paths):
        for place, fields in read_rows(path):
            try:
                format = recognise_format(fields)
            except InputError:
                if fields.get("prompt") is None:
                    raise InputError(f"{place}: must hold a prompt, or be a record that training accepts") from None
                try:
                    yield parse_prompt(fields["prompt"])
                except InputError as error:
                    raise InputError(f"{place}: {error}") from None
            else:
                yield parse_record(fields, format, place).prompt
