"""The command line: which set, which networks, on which splits."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import bench.preferences
from bench.judgements import SETS, Judged, fold, read_splits
from bench.places import out_folder
from bench.preferences.language import Language
from bench.preferences.learning import ASKED, ORACLE, ask, baselines, oracle, train_and_score
from bench.preferences.recipes import QUESTIONS, RECIPES, REMEDIES, Recipe
from bench.preferences.summary import summary
from bench.preferences.table import MODEL, Measured, SetPage, page
from bench.recipes.common import Setting, write_page
from bench.timing import machine
from minirm.errors import InputError
from minirm.evaluation.scoring import swap_prompts
from minirm.hub.reading import is_pretrained

ALL = "people"
PEOPLE = ("ukpconvarg1-strict", "ibm-argq-pairs", "ibm-eviconv", "wmt19-darr", "nycc-k16", "hh-harmless")
"""Sets of people's judgements, which ALL names together."""
QUICK = (40, 40)
"""Comparisons for training and for the test with --quick."""
INNER_PARTS = 5
"""Parts of the first split's training groups of which each is tested on in its turn with --inner."""


def main(argv: Sequence[str]) -> int:
    """Measure one data set, or all of people's judgements, and write the tables."""
    options = parser().parse_args(argv)
    options.language = [Language.parse(text) for text in options.language]
    if options.texts and not options.language:
        raise InputError("--texts: goes with --language: nobody else reads them")
    counts = (options.seeds, options.folds, *(options.most or ()))
    if any(count is not None and count < 1 for count in counts):
        raise InputError("--seeds, --folds and --most must be at least 1")
    if options.quick:
        options.folds, options.seeds, options.most = options.folds or 1, options.seeds or 1, options.most or QUICK
    names = [name for name in (PEOPLE if options.name == ALL else [options.name]) if _is_there(options.data / name)]
    command, facts, pages = " ".join(["python -m bench preferences", *argv]), machine(), {}
    out = out_folder(options.out, whole=options.folds is None and not options.inner and options.most is None)
    try:
        for name in names:
            began = time.perf_counter()
            pages[name] = measure(name, options)
            minutes = round((time.perf_counter() - began) / 60, 1)
            print(write_page(pages[name], name, {"command": command, **facts, "minutes of this call": minutes}, out))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if options.name == ALL and pages:
        print(write_page(summary(pages), "preferences", {"command": command, **facts}, out))
    return 0


def _is_there(folder: Path) -> bool:
    if not folder.is_dir():
        print(f"{folder}: not there; skipped")
    return folder.is_dir()


def measure(name: str, options: argparse.Namespace) -> SetPage:
    """Return the page of one data set."""
    if options.ask and name not in QUESTIONS:
        raise InputError(f"--ask: no question is known for {name}: must be one of {', '.join(QUESTIONS)}")
    setting, judged = Setting(options.data, options.cache), SETS[name]
    if options.least_difference is not None:
        judged = replace(judged, least_difference=options.least_difference)
    read = [(one, one.run(setting, options.texts or options.data / "texts")) for one in options.language]
    recipes, measured = recipes_of(name, options, read), Measured(judged, languages=options.language)
    for number, parts in enumerate(splits(name, options)):
        training, test = parts if options.most is None else map(Judged.at_most, parts, options.most)
        print(f"{name}, split {number + 1}: {len(training.comparisons)} comparisons for training", flush=True)
        add_split(name, setting, options, measured, recipes, training, test)
    return page(name, judged, recipes[MODEL].seeds, measured)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench preferences",
        description=bench.preferences.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("name", choices=[*SETS, ALL], help=f"{ALL}: {', '.join(PEOPLE)}, and a table of them all")
    add("--data", type=Path, default=Path("../shared/data"))
    add("--cache", type=Path, default=Path("bench-cache/preferences"), help="finished trainings")
    add(
        "--from", dest="starts", nargs="+", default=[], type=Path,
        help="language models' runs, and pretrained folders, of which adapters learn",
    )  # fmt: skip
    named = f"beside it, changes of its recipe; without a name all: {', '.join(REMEDIES)}"
    add("--remedies", nargs="*", metavar="NAME", help=named)
    add(
        "--language", nargs="+", default=[], metavar="MODEL:MILLIONS",
        help="beside it, from models that read so many million tokens of texts first: tiny:0 tiny:20",
    )  # fmt: skip
    add("--texts", type=Path, help="folder of the texts that they read, instead of the data's own")
    add("--ask", type=Path, help="a language model's run or folder, which is asked and not trained")
    add("--epochs", type=float, help="of reward stages, instead of the recipe's")
    add("--rate", type=float, help="learning rate of reward stages, instead of the recipe's")
    add("--precision", choices=("float32", "bfloat16"), help="of what begins with pretrained weights; float32")
    add("--seeds", type=int, help="of each network, instead of the recipe's")
    add("--least-difference", type=float, help="of two scores, for a test pair to count, instead of the set's")
    add("--folds", type=int, help="only the first so many")
    add(
        "--most", nargs=2, type=int, metavar=("TRAIN", "TEST"),
        help="comparisons that are learned and tested on, drawn at random: the same for every method",
    )  # fmt: skip
    add("--inner", action="store_true", help="test on parts of the first split's training groups; it is not opened")
    add("--quick", action="store_true", help=f"one seed, one fold, --most {QUICK[0]} {QUICK[1]}")
    add("--out", type=Path, help="bench/results; for less than the whole bench a new temporary folder")
    return options


def recipes_of(name: str, options: argparse.Namespace, read: Sequence[tuple[Language, Path]] = ()) -> dict[str, Recipe]:
    """Return the recipe of each network: from nothing, from language models that read so much, and from each start."""
    first = RECIPES[name]
    recipes = {MODEL: first} | {language.name: first.begun_with(run) for language, run in read}
    for start in options.starts:
        row = start.name + (" + LoRA" if is_pretrained(start) else ", then minirm")
        if row in recipes:
            raise InputError(
                f"--from {start}: another start is called {start.name} too: their rows must differ in name"
            )
        recipes[row] = first.begun_with(start)
    for row in options.remedies or (REMEDIES if options.remedies is not None else ()):
        if row not in REMEDIES:
            raise InputError(f"--remedies {row}: must be of {', '.join(REMEDIES)}")
        recipes[row] = REMEDIES[row](first)
    if options.precision is not None and all(recipe.lora is None for recipe in recipes.values()):
        raise InputError("--precision: goes with --from and a pretrained folder, whose adapters learn in it")
    return {row: _as_asked(recipe, options) for row, recipe in recipes.items()}


def _as_asked(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    reward = recipe.reward
    if options.precision is not None and recipe.lora is not None:
        reward = replace(reward, precision=options.precision)
    if options.epochs is not None:
        reward = replace(reward, epochs=options.epochs)
    if options.rate is not None:
        reward = replace(reward, learning_rate=options.rate)
    recipe = replace(recipe, reward=reward, seeds=options.seeds or recipe.seeds)
    return replace(recipe, vocab_size=None) if options.quick else recipe  # so few texts may give fewer words


def splits(name: str, options: argparse.Namespace) -> Iterator[tuple[Judged, Judged]]:
    """Yield training and test part of each split that is asked for."""
    if not options.inner:
        yield from read_splits(options.data, name, options.folds)
        return
    whole, _ = next(read_splits(options.data, name, 1))
    for train, test in islice(fold(whole, INNER_PARTS, seed=1), options.folds):
        yield whole.take(train), whole.take(test)


def add_split(
    name: str,
    setting: Setting,
    options: argparse.Namespace,
    measured: Measured,
    recipes: Mapping[str, Recipe],
    training: Judged,
    test: Judged,
) -> None:
    """Add what every method says of a test part, having learned from the training part beside it."""
    measured.check(test)
    rows = test.comparisons
    tests = [*rows, *(swap_prompts(rows) if SETS[name].prompt_decides else [])]
    plain, others = baselines(name, training, test), {}
    if name == "alpaca-pairs" and not options.inner and options.most is None:
        others[ORACLE] = oracle(setting.shared / name, training, test)
    if options.ask:
        others[options.ask.name + ASKED] = ask(setting, options.ask, name, rows)
    networks = {}
    for row, recipe in recipes.items():
        print(f"{row}:", flush=True)
        networks[row] = [train_and_score(setting, training, tests, recipe, seed) for seed in range(recipe.seeds)]
    measured.add(test, plain, networks, others)
