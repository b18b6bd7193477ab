"""minirm demo: the known-truth world, from data to verdict."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from minirm.cli import STOPPED
from minirm.cli.console import new_console
from minirm.cli.watcher import Watcher
from minirm.files import disk
from minirm.worlds.demo import run_demo, verdict


@dataclass(frozen=True)
class Demo:
    """Make a world of preferences whose truth is known, train on it, and report how much of the truth was learned."""

    out: Path
    """Folder for the report, the data and the run; empty, absent, or where this command was stopped."""
    seed: int = 0
    """Another seed, another draw of the world and other weights."""

    def run(self) -> int:
        """Make the world, train, report; the last line is the verdict."""
        disk.check_folder(self.out)
        console = new_console()
        with Watcher(console) as watcher:
            tested = run_demo(self.out, watcher, seed=self.seed)
        if tested is None:
            console.print("stopped and saved; the same command goes on")
            return STOPPED
        table = Table("test set", "accuracy", "95% interval", "")
        for one in tested:
            table.add_row(*one.row)
        console.print(table)
        console.print(f"report: {self.out / 'report.html'}", soft_wrap=True)
        console.print(verdict(tested), soft_wrap=True)
        return 0
