"""Comparisons kept in a file, read one at a time: what is held in memory does not grow with them."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from minirm.data.comparison import Comparison

RECORDS, ENDS = "comparisons.msgpack", "ends.bin"


class Kept(Sequence[Comparison]):
    """The comparisons in a folder, or some of them."""

    def __init__(self, folder: Path, numbers: np.ndarray | range | None = None) -> None:
        self.folder = folder
        size = (folder / ENDS).stat().st_size
        self.ends = np.memmap(folder / ENDS, np.int64, "r") if size else np.empty(0, np.int64)
        self.numbers = range(len(self.ends)) if numbers is None else numbers
        self._decoder = msgspec.msgpack.Decoder(Comparison)

    @classmethod
    def write(cls, comparisons: Iterable[Comparison], folder: Path) -> "Kept":
        """Write comparisons into a folder as they come, and return them."""
        folder.mkdir(parents=True, exist_ok=True)
        for _ in cls.writing(comparisons, folder):
            pass
        return cls(folder)

    @classmethod
    def writing(cls, comparisons: Iterable[Comparison], folder: Path) -> Iterator[tuple[Comparison, int]]:
        """Yield each comparison, written, and the bytes that it took."""
        encoder, end = msgspec.msgpack.Encoder(enc_hook=str), 0  # a table's Cell is a text
        with (folder / RECORDS).open("wb") as records, (folder / ENDS).open("wb") as ends:
            for one in comparisons:
                # a record's own id may hold what MessagePack has no place for
                plain = one if one.id is None else dataclasses.replace(one, id=json.dumps(one.id))
                written = encoder.encode(plain)
                end += len(written)
                records.write(written)
                ends.write(end.to_bytes(8, "little"))
                yield one, len(written)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at: int | slice) -> "Comparison | Kept":
        if isinstance(at, slice):
            return Kept(self.folder, self.numbers[at])
        return next(iter(Kept(self.folder, [self.numbers[at]])))

    def __iter__(self) -> Iterator[Comparison]:
        with (self.folder / RECORDS).open("rb") as records:
            at = 0
            for number in self.numbers:
                start, end = int(self.ends[number - 1]) if number else 0, int(self.ends[number])
                if start != at:
                    records.seek(start)
                one, at = self._decoder.decode(records.read(end - start)), end
                yield one if one.id is None else dataclasses.replace(one, id=json.loads(one.id))
