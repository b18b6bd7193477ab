"""The validation curves of the main subject for TensorBoard."""

import shutil
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from bench.architectures.prices import histories
from bench.architectures.study import Study


def write(study: Study, folder: Path) -> None:
    """Write a run for each seed, over comparisons; "Relative" shows seconds of training."""
    shutil.rmtree(folder, ignore_errors=True)  # of earlier calls, which may have had other seeds
    begin = time.time()
    for name in study.costs:
        for seed, history in enumerate(histories(study, name)):
            with SummaryWriter(str(folder / name.replace("/", " ") / f"seed {seed}")) as board:
                for entry in history:
                    for figure in ("accuracy", "loss"):
                        at = begin + entry["seconds"]
                        board.add_scalar(f"validation/{figure}", entry[figure], entry["comparisons"], at)
