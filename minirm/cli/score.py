"""minirm score: texts in, rewards out, line by line."""

import collections
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

from tyro.conf import Positional, UseAppendAction, arg

from minirm.cli.console import UNPAIRED, check_open
from minirm.cli.processes import joined_processes
from minirm.cli.watcher import counting, tell
from minirm.config_rules import require
from minirm.data.comparison import RawRecord
from minirm.errors import InputError
from minirm.evaluation.scoring import RewardScorer
from minirm.files import disk
from minirm.files.disk import write_whole
from minirm.files.printable import printable
from minirm.files.reading import read_file, read_pipe
from minirm.hub.load import load, load_zero_shot
from minirm.policies.zero_shot import NO, YES, ZeroShotScorer
from minirm.training.parallel import Ranks


@dataclass(frozen=True)
class Score:
    """Score responses: to one prompt given here, or in a file or pipe of JSON Lines.

    A line holds "response", or "responses" as a list, and mostly "prompt", as text or as a list of messages; or it is
    any record that training accepts. It comes back with "reward" or "rewards" added, "minirm_reward" where it had a
    "reward", in the order in which it came; NaN in it becomes null.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's folder, or a reward model in Hugging Face's layout; with --question a language model of either kind."""
    prompt: str | None = None
    """The prompt of every --response."""
    response: UseAppendAction[tuple[str, ...]] = ()
    """A response, for one line of output; may be given several times. One that begins with a dash: --response=-1."""
    file: str | None = None
    """What to score: a file as data/README.md has it; - is JSON Lines from standard input, answered as they come."""
    fields: tuple[str, ...] = ()
    """What fields of the file hold: prompt=question response=answer …; unread=FIELD for one that is not to be read."""
    out: Path | None = None
    """File to write, complete or not at all. By default standard output."""
    normalise: bool = False
    """Subtract the mean and divide by the spread that rewards had on the run's validation part."""
    question: str | None = None
    """Ask a language model, which was trained on no rewards: "Review: {response} Is it good? Answer:", {prompt} in its
    place if wanted. The reward is then P(yes) / (P(yes) + P(no)) behind it."""
    yes: str = YES
    """The one answer to --question, as the model would write it."""
    no: str = NO
    """The other answer."""

    def run(self) -> int:
        """Score, and write a line for each response or record."""
        if (self.file is None) == (not self.response):
            raise InputError("score needs either --response, with or without --prompt, or --file")
        if self.file is not None and self.prompt is not None:
            raise InputError("--prompt goes with --response; with --file, each line holds its own prompt")
        if self.file == "-":
            check_open("stdin")
        if self.out is None:
            check_open("stdout")
        else:
            disk.check_file(self.out)
        with joined_processes():
            require(self.file != "-" or Ranks().count == 1, "--file -: one process alone can read standard input")
            self._score()
        return 0

    def _score(self) -> None:
        scorer = self._load()
        if self.file is None:
            rewards = scorer.score([self.prompt] * len(self.response), self.response, normalise=self.normalise)
            digits = ".6f" if self.question is None else ".6g"  # a probability may be as small as it likes
            lines: Iterable[str] = (f"{reward:{digits}}" for reward in rewards)
        else:
            records = scorer.score_records(_records(self.file), fields=self.fields, normalise=self.normalise)
            lines = map(_as_json, records)
        in_sight = self.out is None and sys.stdout.isatty()  # the lines themselves show how far it is
        with counting("scoring", shown=not in_sight) as scorer.advance:
            if Ranks().rank > 0:  # the first one writes
                collections.deque(lines, maxlen=0)
            elif self.out is None:
                _write_lines(lines, sys.stdout)
            else:
                write_whole(self.out, lambda path: _write_file(lines, path))
        if isinstance(scorer, RewardScorer):
            _tell_cut(scorer)

    def _load(self) -> RewardScorer | ZeroShotScorer:
        if self.question is None:
            if (self.yes, self.no) != (YES, NO):
                raise InputError("--yes and --no go with --question: they are the answers to it")
            return load(self.run_folder)
        if self.normalise:
            raise InputError("--normalise goes without --question: a probability has its own scale")
        return load_zero_shot(self.run_folder, self.question, self.yes, self.no)


def _tell_cut(scorer: RewardScorer) -> None:
    """Say on standard error for how many responses something was cut; nothing where nothing was."""
    if scorer.cut.total():
        prompts, responses = scorer.cut["prompts"], scorer.cut["responses"]
        parts = f"prompt from its left: {prompts:,}; response before its end token: {responses:,}"
        tell(f"minirm: cut to max_tokens={scorer.run.packing.max_tokens}: {parts}")


def _records(file: str) -> Iterator[RawRecord | None]:
    return read_pipe(sys.stdin.buffer, "stdin") if file == "-" else read_file(Path(file))


def _as_json(record: dict) -> str:
    """Return a record as JSON: what is no number there, NaN or infinity, becomes null."""
    try:
        return printable(json.dumps(record, ensure_ascii=False, allow_nan=False, default=str))
    except ValueError:
        return _as_json(_without_nan(record))


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return list(map(_without_nan, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_lines(lines: Iterable[str], stream: TextIO) -> None:
    for line in lines:
        stream.write(line + "\n")
        stream.flush()  # whoever asks line by line waits for the answer


def _write_file(lines: Iterable[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", errors=UNPAIRED) as stream:
        _write_lines(lines, stream)
