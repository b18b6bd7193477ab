"""Training and scoring against what people would use instead, on the same texts, tokens, model, batch and precision.

    python -m bench speed                       all sections
    python -m bench speed training scoring      some of them; the others keep what was measured before
    python -m bench speed --quick               a tiny model and few rounds, to see that it runs

Sections: see `SECTIONS`. Texts are read from --data (../shared/data); where it is absent, the known-truth world takes
their place. Results go to bench/results/speed.json, speed.md and speed.png. The peers are installed by
`pip install -e ".[peers]"`.

What is timed. Training: whole optimizer steps (batches made, forward, backward, clipping, AdamW) over the same
comparisons, everyone once a round, in an order that rotates. minirm runs its own `Trainer`, its loader one batch ahead;
TRL runs its own `train()`, from the beginning of its epoch to the end of its last step, nothing logged or saved; the
plain loops are bench/peers.py's. Each has a process of its own, which waits while another runs, and runs as it comes:
`minirm train` keeps the memory that it frees, the others hand it back as glibc does by itself; in the section `kept`
they keep it too. Products in bfloat16 are compiled for each shape that a process has not met: before each pass, what
was compiled is pushed out of its cache, so that everyone meets new batches, as training does. Scoring: from texts to a
list of floats, tokenizing included. First of all, for each corpus, the peers' GPT-2 gets minirm's weights, and must
give minirm's rewards to 1e-4, or nothing is timed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from bench.neighbour import neighbour
from bench.places import out_folder
from bench.policy_speed import policy
from bench.scoring_speed import scoring
from bench.speed_report import Row, markdown, picture
from bench.speed_setup import BF16, FULL, QUICK, Settings
from bench.timing import machine
from bench.training_speed import (
    arithmetic,
    growth,
    ideas,
    kept,
    loader,
    memory,
    ranking,
    read,
    recurrent,
    strips,
    training,
)
from minirm.errors import InputError

SECTIONS: dict[str, Callable[[Settings], list[Row]]] = {
    "training": training,
    "kept": kept,
    "ranking": ranking,
    "read": read,
    "strips": strips,
    "recurrent": recurrent,
    "neighbour": neighbour,
    "scoring": scoring,
    "policy": policy,
    "arithmetic": arithmetic,
    "memory": memory,
    "ideas": ideas,
    "loader": loader,
    "growth": growth,
}


def write(out: Path, measured: dict[str, dict]) -> None:
    """Put the sections into speed.json beside those of earlier runs, and write table and picture of them all."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "speed.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known = {name: {**known, **measured}[name] for name in SECTIONS if name in known or name in measured}
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    titles = {name: section.__doc__ for name, section in SECTIONS.items()}
    (out / "speed.md").write_text(markdown(known, titles), encoding="utf-8")
    picture(known).savefig(out / "speed.png", dpi=150)


def main(argv: list[str]) -> int:
    """Measure the sections and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench speed", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few rounds; written to --out only")
    parser.add_argument("--rounds", type=int, help="5; 2 with --quick")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, help="bench/results; with --quick a new folder for temporary files")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"{unknown[0]!r} must be one of {', '.join(SECTIONS)}")
    base = QUICK if options.quick else FULL
    settings = replace(base, data=options.data, rounds=options.rounds or base.rounds)
    out = out_folder(options.out, whole=not options.quick)
    if BF16 not in settings.precisions:
        print("bfloat16 is left out: this processor has no matrix products in it")
    for name in options.sections or SECTIONS:
        print(name, flush=True)
        facts, began = machine(), time.perf_counter()
        try:
            rows = SECTIONS[name](settings)
        except InputError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        seconds, command = time.perf_counter() - began, " ".join(["python -m bench speed", *argv])
        print(*(f"  {row}" for row in rows), f"  {seconds:.0f} s", sep="\n", flush=True)
        write(out, {name: {"command": command, "machine": facts, "seconds": seconds, "rows": list(map(asdict, rows))}})
    print(f"written to {out}/speed.md, speed.json and speed.png")
    return 0
