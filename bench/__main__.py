"""python -m bench NAME …: run one measurement."""

import importlib
import os
import sys

from minirm.errors import InputError

NAMES = {
    "architectures": "which architecture makes a better reward model, and at what price",
    "speed": "training and scoring, against TRL, Hugging Face and plain loops",
    "earlier": "whether this commit trains and scores as fast as an earlier one",
    "defaults": "batches and epochs for few comparisons",
    "damage": "flipped bits and cut files in a run's folder: is every one noticed?",
    "kills": "runs that are killed and gone on with: do they end as the uninterrupted one?",
    "overoptimisation": "how far a reward model can be followed before the truth turns away",
    "policy_kills": "policies that are killed while they learn and gone on with: to the same bits?",
    "checkpoints": "time and memory of importing a GPT-2 of 124 million parameters",
    "files": "memory and seconds of the commands against the size of the file they read",
    "plan": "memory, traffic and time of a training on many GPUs, from formulae held against a CPU",
    "gpu": "the checks and the comparison that need a GPU",
    "losses": "time and memory of the losses, their atlas, and how often intervals hold the truth",
    "lora": "memory and time of low-rank adapters, against full training",
    "preferences": "real preferences, against what needs no neural network",
    "pretrained": "two small pretrained models out of packages, into folders that minirm reads",
    "recipes": "the documents' recipes, each ending in its own table",
}


def main() -> int:
    """Run the measurement that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        print("python -m bench NAME, where NAME is one of")
        for known, what in NAMES.items():
            print(f"  {known:16} {what}")
        return 0 if name in ("", "-h", "--help") else 2
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, as minirm's command line does
    try:
        return importlib.import_module(f"bench.{name}").main(sys.argv[2:]) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as missing:
        print(f'bench: {missing.name} is not installed: pip install -e ".[peers]"', file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
