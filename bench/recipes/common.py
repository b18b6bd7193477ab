"""What the recipes share: runs that are kept, data on the way into them, figures with intervals, and the page."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from bench.architectures.answers import with_interval
from bench.architectures.figures import ACCURACY, NLL, Scored, accuracy_alone
from bench.architectures.statistics import Resampled, resample, two_way_interval
from bench.architectures.subjects import TestSet
from minirm.cli.memory import keep_freed_memory
from minirm.config import ModelConfig, PackingConfig
from minirm.data.comparison import Comparison, Turn
from minirm.evaluation.pairs import Rewards
from minirm.files.disk import write_whole
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key
from minirm.files.survey import usable
from minirm.hub.load import load
from minirm.hub.reading import read_start
from minirm.metrics import Interval
from minirm.runs.claim import is_finished
from minirm.runs.config_json import to_json
from minirm.runs.job import computes_bfloat16, pick_device, train_run
from minirm.runs.journal import Observer
from minirm.runs.run_config import RunConfig
from minirm.training.loop import Evaluated, Step

SHOWN_CHARACTERS = 60
"""Of a text in a table."""


class Teller(Observer):
    """Prints a line at times."""

    def event(self, stage: str, event: Step | Evaluated) -> None:
        if isinstance(event, Evaluated) or event.step % 100 == 0:
            print(f"  {stage} {event.step}: loss {event.loss:.4f}, accuracy {event.accuracy:.3f}", flush=True)


@dataclass(frozen=True)
class Setting:
    """Where data comes from, and where finished work is kept."""

    shared: Path
    """Folder of the real data sets."""
    cache: Path

    def keep(self, name: str, text: str) -> Path:
        """Return the file of a text, under a name that changes with the text."""
        path = self.cache / "data" / f"{_digest(text)}-{name}"
        if not path.is_file():
            write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
        return path

    def trained(self, config: RunConfig, name: str) -> Path:
        """Return the folder of a finished run; what an earlier call left unfinished goes on."""
        folder = self.folder(config, name)
        if not is_finished(folder):
            print(f"{name}:", flush=True)
            keep_freed_memory()  # as the command line does
            train_run(config, folder, Teller(), open_start=read_start)
        return folder

    def folder(self, config: RunConfig, name: str) -> Path:
        """Return the folder in which `trained` leaves this run."""
        start = [] if config.start is None else [told_apart(config.start)]
        return self.cache / f"{name}-{_digest(to_json(config), *start, torch.__version__)}"

    def scored(self, run: Path, comparisons: Sequence[Comparison]) -> list[list[float]]:
        """Return the rewards that a finished run gives to comparisons."""
        return self.result(
            f"rewards of {run.name}",
            [(c.prompt, c.responses) for c in comparisons],
            lambda: load(run).score_comparisons(comparisons),
        )

    def result(self, name: str, identity: object, compute: Callable[[], object]) -> object:
        """Return what `compute` returns, as JSON gives it back; from an earlier call if there was one.

        Args:
            identity: all that the result depends on beside its name and the code, as JSON types.
        """
        path = self.cache / "results" / f"{_digest(name, identity, torch.__version__)}.json"
        if not path.is_file():
            text = json.dumps(compute())
            write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
        return json.loads(path.read_text(encoding="utf-8"))


def begun(start: Path | None, model: ModelConfig, packing: PackingConfig) -> tuple[ModelConfig, PackingConfig]:
    """Return the model of a folder that training starts from, and the packing within its positions.

    Args:
        start: a run or a pretrained folder. None: model and packing are as they come.
    """
    if start is None:
        return model, packing
    model = read_start(start).model
    longest = min(packing.max_tokens, model.max_positions)
    return model, replace(packing, max_tokens=longest, share_prompt=not model.bidirectional)


def told_apart(start: Path) -> str:
    """Return the name of a run, or of a pretrained folder, and the digest of its weights: another's are others."""
    return f"{start.name} {read_start(start).digest()}"


def precision() -> str:
    """Return what pretrained weights learn in: bfloat16 where the processor has products in it."""
    return "bfloat16" if computes_bfloat16(pick_device()) else "float32"


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_usable(*paths: Path) -> list[Comparison]:
    """Return the comparisons of files that something can be learned from."""
    return list(usable(read_comparisons(paths), Counter()))


def short(comparisons: Sequence[Comparison], characters: int) -> list[Comparison]:
    """Return the comparisons whose prompt is at most so long together with each response."""
    kept = []
    for comparison in comparisons:
        prompt = sum(len(turn.text) for turn in comparison.prompt)
        if prompt + max(map(len, comparison.responses)) <= characters:
            kept.append(comparison)
    return kept


def pairs_file(comparisons: Sequence[Comparison]) -> str:
    """Return pairs of single-turn prompts as lines of {"prompt", "chosen", "rejected"}, with their margins."""
    lines = []
    for comparison in comparisons:
        chosen, rejected = comparison.responses
        record = {"prompt": comparison.prompt[-1].text, "chosen": chosen, "rejected": rejected}
        lines.append(json.dumps(record | ({"margin": comparison.margin} if comparison.margin else {})))
    return "".join(f"{line}\n" for line in lines)


def conversations_file(dialogues: Iterable[Sequence[Turn]]) -> str:
    """Return LMFlow's file of conversations, for fine-tuning."""
    instances = [{"messages": [{"role": turn.role, "content": turn.text} for turn in turns]} for turns in dialogues]
    return json.dumps({"type": "conversation", "instances": instances})


def at_most(comparisons: Sequence[Comparison], per_prompt: int, seed: int = 0) -> list[Comparison]:
    """Return the comparisons in random order, so many of each prompt at most."""
    counts: Counter[bytes] = Counter()
    kept = []
    for n in np.random.default_rng(seed).permutation(len(comparisons)):
        key = prompt_key(comparisons[n])
        counts[key] += 1
        if counts[key] <= per_prompt:
            kept.append(comparisons[n])
    return kept


def excerpt(text: str) -> str:
    """Return the beginning of a text, fit for a cell of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


# ── Figures ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def measured(comparisons: Sequence[Comparison], rewards: Sequence[Rewards]) -> dict[str, Resampled]:
    """Return accuracy and negative log-likelihood on comparisons, from the rewards of each seed; groups are prompts."""
    keys: list[Hashable] = [prompt_key(comparison) for comparison in comparisons]
    ones = [[1.0] * len(comparisons)] * len(rewards)
    scored = Scored(TestSet(list(comparisons), keys), rewards, ones)
    nll = np.logaddexp(0, -scored.difference)  # (S, pairs)
    return {
        ACCURACY: accuracy_alone(scored),
        NLL: resample(lambda keep: nll[:, keep].mean(1), scored.pair_group),
    }


def mean_of(figures: Sequence[Resampled]) -> Resampled:
    """Return the mean of several figures, by seed and group."""
    return Resampled(np.mean([f.whole for f in figures], axis=0), np.mean([f.without for f in figures], axis=0))


def about_intervals(seeds: int) -> str:
    """Return over what the intervals of a page are."""
    if seeds == 1:
        return "95% intervals over prompts alone: with one seed nothing is known of another training."
    return f"{seeds} seeds; 95% intervals over prompts and seeds."


def in_words(figure: Resampled) -> str:
    """Return "0.812 [0.797, 0.827]"."""
    return with_interval(two_way_interval(figure))


def difference_in_words(first: Resampled, second: Resampled) -> str:
    """Return first − second with its interval, and whether the data tell it from 0."""
    return with_interval(two_way_interval(first - second), "+")


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Page:
    """What a recipe found."""

    title: str
    lines: list[str]
    """Markdown."""
    figures: dict[str, Interval] = field(default_factory=dict)
    """Every number of the tables that has an interval, by name."""
    picture: Figure | None = None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, a blank line after it."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)] + [""]


def write_page(page: Page, name: str, facts: dict, out: Path) -> str:
    """Write a recipe's page, its numbers and its picture into a folder, and return the page."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"# {page.title}", "", f"`{facts['command']}`", "", *page.lines]
    if page.picture is not None:
        page.picture.savefig(out / f"{name}.png", dpi=130)
        lines += [f"![{page.title}]({name}.png)", ""]
    about = ", ".join(f"{key}: {value}" for key, value in facts.items() if key != "command")
    text = "\n".join([*lines, about]) + "\n"
    record = {"facts": facts, "figures": {key: list(value) for key, value in page.figures.items()}}
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return text
