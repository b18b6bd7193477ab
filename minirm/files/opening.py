"""transformers' own tokenizer for a folder, opened with limits, and whatever it raises in one line."""

import contextlib
import os
import string
from collections.abc import Iterator
from pathlib import Path

from minirm.errors import InputError
from minirm.files.guarded import Guarded
from minirm.tokens.tokenizer import FILE

SECONDS, MEGABYTES = 15.0, 2048
"""To open a tokenizer and try it: one of 256,000 tokens takes a few seconds and hundreds of MB."""
SAMPLE = [string.printable, "a" * 64 + "!", " " * 64 + ".", "1" * 64 + ",", "Größe, 日本, \U0001f600."]
"""Texts that a tokenizer is tried on."""


def open_theirs(folder: Path) -> object:
    """Return transformers' tokenizer for a folder, with what draws lots in it turned off.

    Raises:
        InputError: transformers is not installed, can't open it, or takes too long or too much memory over it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it warns of every child that begins later
    try:
        from transformers import AutoTokenizer, logging
    except ImportError:
        raise InputError(f"{folder}: a pretrained folder needs transformers: pip install minirm[hf]") from None

    def open_it(texts: list[str]) -> object:
        """Return the tokenizer, or what it says against its files or the texts."""
        try:
            with naming(f"{folder}: its tokenizer"):
                theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                return theirs if not texts else theirs(texts) and None
        except InputError as error:
            return error

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        refused = Guarded(open_it, f"{folder}: its tokenizer", MEGABYTES)(SAMPLE, SECONDS)
        theirs = refused or open_it([])
    finally:
        logging.set_verbosity(before)
    if isinstance(theirs, InputError):
        raise theirs
    own_files = {FILE, *type(theirs).vocab_files_names.values()} - {"tokenizer_config.json"}
    if not any((folder / name).is_file() for name in own_files):  # transformers makes an empty one up
        raise InputError(f"{folder / FILE}: missing: a pretrained folder has its tokenizer in it")
    model = getattr(getattr(theirs, "backend_tokenizer", None), "model", None)
    for draws in ("dropout", "alpha", "nbest_size"):
        if getattr(model, draws, None) is not None:
            setattr(model, draws, None)
    return theirs


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Turn whatever a foreign library raises into one line; a panic of Rust is no Exception."""
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise InputError(f"{place}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
