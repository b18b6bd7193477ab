"""The recipes of the five documents: each trains what its document trains, and ends in that document's table.

python -m bench recipes s0      PPO against a zero-shot reward: P(yes) of a question about film reviews
python -m bench recipes s1      BERT with low-rank adapters, 8 epochs, evaluated after each
python -m bench recipes s2      Llama with a margin that grows with the rating
python -m bench recipes s3      0, 1 and 2 epochs of supervised fine-tuning, three sizes, adapters or all weights
python -m bench recipes s4      GPT-2 from rankings: comparisons of a prompt together or shuffled; optimizers

With --from FOLDER, a pretrained model in Hugging Face's layout (`python -m bench pretrained`), of BERT's kind for s1
and a language model for the others, takes the place of what a recipe trains first, and adapters learn, from fewer
comparisons. Each then takes 10 to 40 minutes of one core, and without it minutes. Finished trainings are kept in
--cache: the same command goes on from there, and with more --seeds only what is new is trained.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.places import out_folder
from bench.recipes import s0, s1, s2, s3, s4
from bench.recipes.common import Setting, write_page
from bench.timing import machine
from minirm.errors import InputError

RECIPES = {"s0": s0, "s1": s1, "s2": s2, "s3": s3, "s4": s4}


def main(argv: Sequence[str]) -> int:
    """Run one recipe, print its page and write it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--scale", type=int, default=1, help="so many times the comparisons, and the model's width")
    parser.add_argument("--from", dest="start", type=Path, help="a pretrained folder, to begin with")
    parser.add_argument("--seeds", type=int, help="default: those of the plan")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="folder of the real data sets")
    parser.add_argument("--cache", type=Path, default=Path("bench-cache/recipes"), help="finished trainings stay here")
    parser.add_argument(
        "--out", type=Path, help="bench/results; a new folder for temporary files with --quick, --scale or --seeds"
    )
    options = parser.parse_args(argv)
    recipe, began, facts = RECIPES[options.name], time.perf_counter(), machine()
    try:
        setting = Setting(options.shared, options.cache)
        usual = recipe.PLAN if options.start is None else recipe.PRETRAINED
        plan = replace(recipe.QUICK if options.quick else usual.scaled(options.scale), start=options.start)
        page = recipe.run(setting, plan if options.seeds is None else replace(plan, seeds=options.seeds))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    facts = {"command": " ".join(["python -m bench recipes", *argv]), **facts}
    facts["minutes of this call, what an earlier one finished not counted"] = round(
        (time.perf_counter() - began) / 60, 1
    )
    as_published = not options.quick and options.scale == 1 and options.seeds is None
    out = out_folder(options.out, whole=as_published)
    name = f"recipe-{options.name}" + ("" if options.start is None else "-pretrained")
    print(write_page(page, name, facts, out))
    return 0
