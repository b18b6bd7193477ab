"""minirm data: what files hold, before anything is trained on them."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from minirm.cli.console import check_open, new_console
from minirm.errors import InputError, name_paths
from minirm.files.fields import Usage
from minirm.files.records import read_comparisons
from minirm.files.survey import as_rows, describe


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

    def run(self) -> int:
        """Print what the files hold."""
        if not self.files:
            raise InputError("data needs at least one file or folder")
        check_open("stdout")
        usage: dict[str, Usage] = {}
        how = {"format": self.format, "fields": self.fields}
        other = read_comparisons(self.other, **how) if self.other else None
        summary = describe(read_comparisons(self.files, **how, usage=usage), other)
        table = Table("", "", title=name_paths(self.files))
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
        return 0
