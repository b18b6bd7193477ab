"""What the commands share: their console, how an evaluation looks on it, and the status of one that was stopped."""

import sys
from typing import ClassVar, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from minirm.errors import InputError
from minirm.evaluation.evaluate import Evaluation
from minirm.evaluation.report import as_table
from minirm.files.printable import printable
from minirm.runs.job import is_writer

UNPAIRED = "backslashreplace"
"""How half a surrogate pair is written: as JSON spells it."""
WIDTH_IN_A_PIPE = 120


class LastingConsole(Console):
    """Falls silent when nobody reads it any more, and the work goes on; `cli.main` tells by the exit status."""

    was_left: ClassVar = False
    """Whether a console of this process lost its reader."""

    def render_str(self, text: str, **options: object) -> Text:
        """Return the text without control characters, which a name of a file or a subset may hold."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        self.quiet = LastingConsole.was_left = True


def check_open(name: Literal["stdin", "stdout"]) -> None:
    """Refuse to work with a standard stream that the caller closed.

    Raises:
        InputError: it is closed.
    """
    if getattr(sys, name) is None:
        raise InputError(f"{name}: is closed; must be open to be {'read' if name == 'stdin' else 'written'}")


def new_console() -> Console:
    """Return a console that prints text as it is; file names are no markup."""
    width = None if sys.stdout and sys.stdout.isatty() else WIDTH_IN_A_PIPE
    return LastingConsole(width=width, markup=False, emoji=False, highlight=False, quiet=not is_writer())


def print_evaluation(console: Console, evaluation: Evaluation, name: str) -> None:
    """Print an evaluation as a table under the name of what was evaluated."""
    table = Table("", "value", "95% interval", "", title=name)
    for row in as_table(evaluation):
        table.add_row(*map(str, row))
    console.print(table)
