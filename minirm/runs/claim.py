"""A job on disk, the same for train, demo and ppo: one process holds the folder, begins, saves, goes on and finishes.

begun/          all that decides the job, written whole before its first step
states/         where it stands: the last two states
checksums.txt   written last: the job is finished, and the other two are gone
"""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from minirm.errors import InputError
from minirm.files import disk
from minirm.runs.checksums import CHECKSUMS, check_sealed, seal
from minirm.runs.state import State, read_state, save_state

BEGUN, STATES, ASKED = "begun", "states", "asked.json"
DIGEST = "_digest"
"""How the names of what no option says end: what the files hold."""
UNFINISHED = re.compile(r"\.(.+\.\d+|tmp\w{6})")
"""What files are called until they are whole, by minirm and by safetensors: a process that was killed leaves them."""


@dataclass
class Job:
    """A job whose folder this process holds, or, of several that train together, one that the first one holds."""

    folder: Path
    asked: dict
    """All that decides it: a job that was begun with something else is not gone on with."""
    is_begun: bool = False

    @property
    def begun(self) -> Path:
        """The folder of what was written when it was begun."""
        return self.folder / BEGUN

    def begin(self, write: Callable[[Path], object] = lambda folder: None) -> None:
        """Write what the job needs to go on: what it was asked, and what `write` puts into the folder it is given."""
        if self.is_begun:
            return

        def fill(folder: Path) -> None:
            write(folder)
            disk.write_json(folder / ASKED, self.asked)
            seal(folder)

        disk.write_folder_whole(self.begun, fill)
        self.is_begun = True

    def save(self, tensors: dict[str, Tensor], progress: dict) -> None:
        """Write where the job stands, beside the state before; all processes that train together must ask."""
        save_state(self.folder / STATES, tensors, progress)

    def restore(self, note: Callable[[str], object]) -> State | None:
        """Return the last state that is whole, or None where none was saved; `note` hears of one that is damaged."""
        return read_state(self.folder / STATES, note)

    def finish(self) -> None:
        """Say that the job is done, and that its files are as they are now."""
        seal(self.folder)
        _clear(self.folder)


@contextlib.contextmanager
def claim(folder: Path, asked: dict) -> Iterator[Job]:
    """Hold a folder, made if need be, for a job that is to begin there or to go on.

    Raises:
        InputError: another process holds it, or it holds something else than the beginning of this job.
    """
    with disk.alone_in(folder):
        yield Job(folder, asked, _is_begun(folder, asked))


def is_finished(folder: Path) -> bool:
    """Whether a job came to its end in this folder."""
    return (folder / CHECKSUMS).is_file()


def _is_begun(folder: Path, asked: dict) -> bool:
    """Return whether this very job has begun here; refuse a folder that is neither begun so nor free."""
    begun = folder / BEGUN
    if is_finished(folder) and (begun / ASKED).is_file():
        _clear(folder)  # the end itself was cut short
    if not begun.is_dir():
        left = list(folder.glob(f".{BEGUN}.*"))  # by a process that was killed before the job had begun
        disk.check_free(folder, besides=(disk.LOCK, *(path.name for path in left)))
        for path in left:
            disk.remove_folder(path)
        return False
    for path in folder.iterdir():
        if UNFINISHED.fullmatch(path.name):
            path.unlink()
    check_sealed(begun)
    then, now = flat(disk.read_json(begun / ASKED)), flat(asked)
    for name in now | then:
        if then.get(name) != now.get(name):
            raise InputError(f"{begun / ASKED}: {_change(name, then.get(name), now)}")
    return True


def flat(values: dict, above: str = "") -> dict:
    """Return nested objects as one, its names dotted."""
    named = {}
    for name, value in values.items():
        named |= flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return named


def _change(name: str, before: object, now: dict) -> str:
    """Return what is to be said of something that is not as it was when the job began."""
    if name.endswith(DIGEST):
        what = name.removesuffix(DIGEST)
        return f"what {what}={now.get(what)} holds changed since this run began: begin anew in another folder"
    return f"was begun with {name}={before}, not {name}={now.get(name)}"


def _clear(folder: Path) -> None:
    for name in (STATES, BEGUN):
        shutil.rmtree(folder / name, ignore_errors=True)
