"""The tensors of a pretrained folder's safetensors files, read one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minirm.errors import InputError, list_names, shorten
from minirm.files.disk import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F32", "F16", "BF16")
HEADS = ("v_head", "value_head", "reward_head", "score", "classifier")
"""What the tensors of a reward model's head are called, or a file of them."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Entry:
    """One tensor in a file."""

    path: Path
    name: str
    """What the file calls it."""
    shape: tuple[int, ...]
    dtype: str


class TensorFiles:
    """What a pretrained folder's files hold, known from their headers alone."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
        placed = _read_index(folder) if self.path.name == INDEX else None
        files = [folder / name for name in sorted(set(placed.values()))] if placed else [self.path]
        entries = {entry.name: entry for path in files for entry in _read_header(path)}
        for name, file in (placed or {}).items():
            if name not in entries or entries[name].path.name != file:
                raise InputError(f"{self.path}: tensor {name!r} is missing from {file}")
        self.entries = {_modern(name): entry for name, entry in entries.items()}

    def read(self, name: str) -> Tensor:
        """Return a tensor, mapped from its file: memory is taken by what is touched, for as long as it is held."""
        # A file opened once for all its tensors would keep every page that was touched.
        with safe_open(self.entries[name].path, framework="pt") as file:
            return file.get_tensor(self.entries[name].name)


def heads_beside(files: TensorFiles) -> Iterator[str]:
    """Yield what to say of each file beside the weights that holds a trained head, which transformers passes over."""
    read, folder = {entry.path for entry in files.entries.values()}, files.path.parent
    for path in sorted(folder.iterdir()):
        names = [entry.name for entry in _read_header(path)] if path.suffix == ".safetensors" else [path.stem]
        heads = [name for name in names if any(word in name for word in HEADS)]
        if heads and path not in read and path.suffix in (".safetensors", *PICKLES):
            yield f"{path}: holds a trained head ({list_names(heads)}), which is not taken"


def _modern(name: str) -> str:
    """Return a tensor's name of today; the first BERT named its norms' weights after TensorFlow's."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def _read_index(folder: Path) -> dict[str, str]:
    """Return the file of each tensor of a pretrained folder in several files."""
    path = folder / INDEX
    if not path.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            advice = "save it anew with safe_serialization=True"
            raise InputError(f"{folder / pickles[0]}: is a pickle, which may run code when it is read: {advice}")
        raise InputError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there")
    placed = read_json(path).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise InputError(f'{path}: field "weight_map": {shorten(placed)}: must be an object of tensors and their files')
    for name, file in placed.items():
        # One rule for "../x", "/x", "a/x" and what is no text: a file of this very folder.
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(f"{path}: tensor {name!r}: {shorten(file)}: must be a .safetensors file of this folder")
    return placed


def _read_header(path: Path) -> list[Entry]:
    if not path.is_file():
        raise InputError(f"{path}: file is missing, though {INDEX} names it")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return [Entry(path, name, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({str(error).splitlines()[0]})") from None


def check_parts(files: TensorFiles, parts: dict[str, tuple[int, ...]]) -> None:
    """Refuse a pretrained folder in which a tensor is missing or is not of the shape and type that it must have.

    Args:
        parts: tensor → its shape by config.json.
    """
    for name, shape in parts.items():
        if name not in files.entries:
            raise InputError(f"{files.path}: tensor {name!r} is missing")
        entry = files.entries[name]
        if entry.shape != shape:
            raise InputError(
                f"{entry.path}: tensor {name!r} has shape {entry.shape}, by config.json it must be {shape}"
            )
        if entry.dtype not in DTYPES:
            raise InputError(f"{entry.path}: tensor {name!r} holds {entry.dtype}: must be {', '.join(DTYPES)}")


def check_rest(files: TensorFiles, rest: set[str]) -> None:
    """Refuse tensors that the model does not have: the folder's rewards would be others without them."""
    if rest:
        number = f"{len(rest)} tensors belong" if len(rest) > 1 else "tensor belongs"
        raise InputError(
            f"{files.path}: {number} to no part of the model that config.json describes: {list_names(sorted(rest))}"
        )


def assemble(files: TensorFiles, names: tuple[str, ...], shape: tuple[int, ...], *, transposed: bool) -> Tensor:
    """Return one float32 tensor of ours from its parts, which lie one below the other.

    Raises:
        InputError: a part holds NaN or an infinity.
    """
    whole = torch.empty(shape, dtype=torch.float32)
    row = 0
    for name in names:
        part = files.read(name)
        part = part.T if transposed else part
        low, high = part.aminmax()  # unlike isfinite(), which makes copies, and NaN comes through
        if not (low.isfinite() and high.isfinite()):
            raise InputError(f"{files.entries[name].path}: tensor {name!r} holds NaN or an infinity")
        whole[row : row + len(part)] = part
        row += len(part)
    return whole
