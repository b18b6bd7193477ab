"""Where a bench writes what it found."""

import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def out_folder(asked: Path | None, *, whole: bool = True) -> Path:
    """Return the folder that was asked for, or else the committed results; a new one for less than the whole bench."""
    if asked is not None:
        asked.mkdir(parents=True, exist_ok=True)
        return asked
    return RESULTS if whole else Path(tempfile.mkdtemp(prefix="minirm-bench-"))
