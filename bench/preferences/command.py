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
from bench.preferences.learning import ORACLE, ask, baselines, oracle, train_and_score
from bench.preferences.recipes import QUESTIONS, RECIPES, REMEDIES, Recipe
from bench.preferences.table import MODEL, Measured, page
from bench.recipes.common import Setting, write_page
from bench.timing import machine
from minirm.errors import InputError
from minirm.evaluation.scoring import swap_prompts
from minirm.hub.reading import is_pretrained

INNER_PARTS = 5
"""Parts of the first split's training groups of which each is tested on in its turn with --inner."""


def main(argv: Sequence[str]) -> int:
    """Measure one data set and write its table."""
    options = parser().parse_args(argv)
    options.language = [Language.parse(text) for text in options.language]
    if not (options.data / options.name).is_dir():
        print(f"{options.data / options.name}: not there; skipped")
        return 0
    if options.ask and options.name not in QUESTIONS:
        raise InputError(f"--ask: no question is known for {options.name}: must be one of {', '.join(QUESTIONS)}")
    began, facts, setting = time.perf_counter(), machine(), Setting(options.data, options.cache)
    if any(count is not None and count < 1 for count in (options.seeds, options.folds)):
        raise InputError("--seeds and --folds must be at least 1")
    if options.quick:
        options.folds = 1
    try:
        read = [(one, one.run(setting, options.texts or options.data / "texts")) for one in options.language]
        recipes, judged = recipes_of(options, read), SETS[options.name]
        if options.least_difference is not None:
            judged = replace(judged, least_difference=options.least_difference)
        measured = Measured(judged, languages=options.language)
        for number, (training, test) in enumerate(splits(options)):
            print(f"split {number + 1}: {len(training.comparisons)} comparisons for training", flush=True)
            add_split(setting, options, measured, recipes, training, test)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    minutes = round((time.perf_counter() - began) / 60, 1)
    facts = {"command": " ".join(["python -m bench preferences", *argv]), **facts, "minutes of this call": minutes}
    out = out_folder(options.out, whole=options.folds is None and not options.inner)
    found = page(options.name, judged, recipes[MODEL].seeds, measured)
    print(write_page(found, options.name, facts, out))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench preferences",
        description=bench.preferences.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("name", choices=SETS)
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
    add("--inner", action="store_true", help="test on parts of the first split's training groups; it is not opened")
    add("--quick", action="store_true", help="one seed, one fold, a twentieth of an epoch")
    add("--out", type=Path, help="bench/results; with --folds, --inner or --quick a new temporary folder")
    return options


def recipes_of(options: argparse.Namespace, read: Sequence[tuple[Language, Path]] = ()) -> dict[str, Recipe]:
    """Return the recipe of each network: from nothing, from language models that read so much, and from each start."""
    first = RECIPES[options.name]
    recipes = {MODEL: first} | {language.name: first.begun_with(run) for language, run in read}
    for start in options.starts:
        kind = " + LoRA" if is_pretrained(start) else ", then minirm"
        name = f"{start.name}{kind}"
        if name in recipes:
            raise InputError(
                f"--from {start}: another start is called {start.name} too: their rows must differ in name"
            )
        recipes[name] = first.begun_with(start)
    for name in options.remedies or (REMEDIES if options.remedies is not None else ()):
        if name not in REMEDIES:
            raise InputError(f"--remedies {name}: must be of {', '.join(REMEDIES)}")
        recipes[name] = REMEDIES[name](first)
    if options.precision is not None and all(recipe.lora is None for recipe in recipes.values()):
        raise InputError("--precision: goes with --from and a pretrained folder, whose adapters learn in it")
    return {name: _as_asked(recipe, options) for name, recipe in recipes.items()}


def _as_asked(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    reward = recipe.reward
    if options.precision is not None and recipe.lora is not None:
        reward = replace(reward, precision=options.precision)
    if options.epochs is not None:
        reward = replace(reward, epochs=options.epochs)
    if options.rate is not None:
        reward = replace(reward, learning_rate=options.rate)
    recipe = replace(recipe, reward=reward, seeds=options.seeds or recipe.seeds)
    if options.quick:
        first, second = (replace(stage, epochs=stage.epochs / 20) for stage in (recipe.language_model, recipe.reward))
        recipe = replace(recipe, language_model=first, reward=second, seeds=1)
    return recipe


def splits(options: argparse.Namespace) -> Iterator[tuple[Judged, Judged]]:
    """Yield training and test part of each split that is asked for."""
    if not options.inner:
        yield from read_splits(options.data, options.name, options.folds)
        return
    whole, _ = next(read_splits(options.data, options.name, 1))
    for train, test in islice(fold(whole, INNER_PARTS, seed=1), options.folds):
        yield whole.take(train), whole.take(test)


def add_split(
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
    tests = [*rows, *(swap_prompts(rows) if SETS[options.name].prompt_decides else [])]
    plain, others = baselines(options.name, training, test), {}
    if options.name == "alpaca-pairs" and not options.inner:
        others[ORACLE] = oracle(setting.shared / options.name, training, test)
    if options.ask:
        others[f"{options.ask.name}, asked"] = ask(setting, options.ask, options.name, rows)
    networks = {}
    for name, recipe in recipes.items():
        print(f"{name}:", flush=True)
        networks[name] = [train_and_score(setting, training, tests, recipe, seed) for seed in range(recipe.seeds)]
    measured.add(test, plain, networks, others)
