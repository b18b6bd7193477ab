"""minirm data: what files hold, before anything is trained on them."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from minirm.cli.console import check_open, new_console
from minirm.errors import InputError
from minirm.files.fields import Usage
from minirm.files.reading import names_of
from minirm.files.records import read_comparisons
from minirm.files.survey import as_rows, describe
from minirm.runs.cache import entries


@dataclass(frozen=True)
class Data:
    """Show what files of comparisons hold, and what of it a reward model can learn from."""

    files: Positional[tuple[Path, ...]]
    """Files or folders."""
    other: tuple[Path, ...] = ()
    """Other files, of a test set for instance, whose prompts should not occur in these."""
    format: str | None = None
    """Format of the files; by default it is recognised by content."""
    fields: tuple[str, ...] = ()
    """What fields hold: prompt=question chosen=answer_a …; unread=FIELD for one that is not to be read."""

    cache: Path | None = None
    """A cache of prepared data, of minirm train --cache: show what it holds."""

    def run(self) -> int:
        """Print what the files, or the cache, hold."""
        if not self.files and self.cache is None:
            raise InputError("data needs at least one file or folder, or --cache")
        check_open("stdout")
        if self.cache is not None:
            self._show_cache()
        if self.files:
            self._show_files()
        return 0

    def _show_cache(self) -> None:
        if not self.cache.is_dir():
            raise InputError(f"{self.cache}: no such folder")
        table = Table("prepared data", "of", "MB", "days old", title=str(self.cache))
        for entry in entries(self.cache):
            files = names_of(entry.files) if entry.is_finished else "not finished; the same minirm train goes on"
            table.add_row(entry.folder.name, files, f"{entry.bytes / 1e6:,.1f}", f"{entry.days:.1f}")
        new_console().print(table)

    def _show_files(self) -> None:
        usage: dict[str, Usage] = {}
        how = {"format": self.format, "fields": self.fields}
        other = read_comparisons(self.other, **how) if self.other else None
        summary = describe(read_comparisons(self.files, **how, usage=usage), other)
        table = Table("", "", title=names_of(self.files))
        for name, value in as_rows(summary):
            table.add_row(name, value)
        console = new_console()
        console.print(table)
        for name, file in usage.items():
            console.print(f"\n{name}: {file.records:,} records", soft_wrap=True)
            table = Table("field", "read as", "records")
            for row in file.rows():
                table.add_row(*row)
            console.print(table)
