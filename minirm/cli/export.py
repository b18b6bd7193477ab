"""minirm export: a run as transformers reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from minirm.cli.console import new_console
from minirm.files import disk
from minirm.hub.writing import export_run


@dataclass(frozen=True)
class Export:
    """Write a run as a sequence classifier for transformers: weights, tokenizer, chat template, model card."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder."""
    out: Path
    """Folder to write, complete or not at all; must be empty or absent."""

    def run(self) -> int:
        """Export the run."""
        disk.check_folder(self.out)
        export_run(self.run_folder, self.out)
        new_console().print(f"model: {self.out}", soft_wrap=True)
        return 0
