"""minirm eval: how often a run agrees with a file's labels."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from minirm.cli.console import new_console, print_evaluation
from minirm.cli.processes import joined_processes
from minirm.cli.watcher import counting, tell
from minirm.errors import InputError
from minirm.evaluation.report import check_evaluation_folder, write_evaluation
from minirm.evaluation.rewardbench import check_ties, score_subsets, write_results
from minirm.evaluation.scoring import RewardScorer
from minirm.files import disk
from minirm.files.fields import Usage, tell_unread
from minirm.files.kept import Kept
from minirm.files.reading import names_of
from minirm.files.records import read_comparisons
from minirm.files.survey import usable
from minirm.hub.load import load
from minirm.runs.together import by_the_first


@dataclass(frozen=True)
class Eval:
    """Evaluate a run on files of comparisons."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder, or a reward model in Hugging Face's layout."""
    data: tuple[Path, ...]
    """Files or folders of comparisons."""
    format: str | None = None
    """Format of the files; by default it is recognised by content."""
    fields: tuple[str, ...] = ()
    """What fields hold: prompt=question chosen=answer_a …; unread=FIELD for one that is not to be read."""
    out: Path | None = None
    """Folder for metrics.json and a page with pictures, report.html; with --format rewardbench also for its files.
    Empty, absent, or of an earlier evaluation, which is overwritten."""

    def run(self) -> int:
        """Score the files, and print the evaluation."""
        if self.out is not None:
            disk.check_folder(self.out)
            check_evaluation_folder(self.out)
        with joined_processes(), tempfile.TemporaryDirectory() as folder:
            self._evaluate(load(self.run_folder), Path(folder))
        return 0

    def _evaluate(self, scorer: RewardScorer, folder: Path) -> None:
        """Score the files, whose comparisons are kept in a folder, and print the evaluation."""
        counts: Counter[str] = Counter()
        usage: dict[str, Usage] = {}
        records = read_comparisons(self.data, format=self.format, fields=self.fields, usage=usage)
        comparisons = Kept.write(usable(records, counts), folder)
        if unread := tell_unread(usage):
            tell(f"minirm: {unread}")
        if not comparisons:
            raise InputError(f"{names_of(self.data)}: no two responses differ in score: nothing to evaluate")
        if self.format == "rewardbench":
            check_ties(comparisons)
        responses = sum(len(comparison.responses) for comparison in comparisons)
        with counting("scoring", 2 * responses) as scorer.advance:  # twice: also behind other prompts
            rewards, evaluation = scorer.evaluate(comparisons, dropped=counts)

        def write() -> None:
            title = f"{self.run_folder} on {names_of(self.data)}"
            write_evaluation(self.out, comparisons, rewards, evaluation, title=title)
            if self.format == "rewardbench":
                write_results(self.out, comparisons, rewards, model=str(self.run_folder))

        if self.out is not None:
            by_the_first(write)
        console = new_console()
        print_evaluation(console, evaluation, names_of(self.data))
        if self.format == "rewardbench":
            scores = [f"{name} {score:.3f}" for name, score in score_subsets(comparisons, rewards).items()]
            console.print(f"RewardBench's own scores: {', '.join(scores)}", soft_wrap=True, markup=False)
        if self.out is not None:
            console.print(f"report: {self.out / 'report.html'}", soft_wrap=True)
