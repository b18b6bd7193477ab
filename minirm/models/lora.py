"""Low-rank adapters: a matrix stays as it is, and a small product of two others learns beside it.

    y = W·x + (α/r)·B·A·dropout(x)        W (out, in) is frozen; A (r, in) and B (out, r) learn

B starts at zero, so training starts from the very model that was there; A starts Kaiming-uniform, as in the authors'
code. Once trained, W + (α/r)·B·A takes the place of W, and what was learned costs nothing any more.

Source: LoRA, arXiv:2106.09685, section 4.1.
"""

import math
import typing

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirm.config import LoraConfig, Matrix
from minirm.config_rules import require
from minirm.models.attention import Stacked

FIELD_NAMES = {"out": "output", "linear1": "up", "linear2": "down"}
"""What the field calls a matrix that goes by another name here, or in PyTorch's own layers."""


class Adapter(nn.Module):
    """x ↦ (α/r)·B·A·x, beside one matrix."""

    def __init__(self, matrix: Tensor, config: LoraConfig) -> None:
        super().__init__()
        outputs, inputs = matrix.shape
        self.scale = config.alpha / config.rank
        self.A = nn.Parameter(matrix.new_empty(config.rank, inputs))
        self.B = nn.Parameter(matrix.new_zeros(outputs, config.rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in), through r channels: B·A itself is never made."""
        return self.scale * F.linear(F.linear(x, self.A), self.B)

    def product(self) -> Tensor:
        """Return (α/r)·B·A, (out, in), never rounded by autocast: what is added to the matrix."""
        with torch.autocast(self.A.device.type, enabled=False):
            return self.scale * (self.B @ self.A)


class Adapted(nn.Module):
    """A frozen linear map and the adapters of its matrices; it may hold several, stacked, of which some are adapted."""

    def __init__(self, linear: nn.Linear, rows: dict[str, slice], config: LoraConfig) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.rows = rows
        self.dropout = nn.Dropout(config.dropout)
        self.adapters = nn.ModuleDict({name: Adapter(linear.weight[span], config) for name, span in rows.items()})

    def forward(self, x: Tensor) -> Tensor:
        return self._adapt(self.linear(x), x, 0)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return rows `start` to `stop` of the result alone; see `attention.Stacked`."""
        return self._adapt(self.linear.part(x, start, stop), x, start)

    def _adapt(self, y: Tensor, x: Tensor, start: int) -> Tensor:
        """Add what the adapters say of x to y, which begins at row `start`."""
        x = self.dropout(x)
        for name, adapter in self.adapters.items():  # of which each lies within y or outside of it
            first, stop = self.rows[name].start - start, self.rows[name].stop - start
            if first >= 0 and stop <= y.shape[-1]:
                y[..., first:stop].add_(adapter(x))
        return y

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the linear map alone, what was learned added to its matrices."""
        for name, adapter in self.adapters.items():
            self.linear.weight[self.rows[name]] += adapter.product()
        return self.linear


def add_adapters(model: nn.Module, config: LoraConfig) -> None:
    """Freeze the model, and put an adapter beside each of its matrices that the configuration names.

    Raises:
        InputError: the model has no matrix of that name.
    """
    found = [
        (parent, name, child, rows)
        for parent in model.modules()
        for name, child in parent.named_children()
        if (rows := _matrices(name, child))
    ]
    known = {matrix for *_, rows in found for matrix in rows}
    for matrix in config.matrices:
        has = f"it has {', '.join(sorted(known))}" if known else "it has none that can be adapted"
        require(matrix in known, f"lora: matrices: this model has no matrix {matrix!r}; {has}")
    model.requires_grad_(False)
    for parent, name, child, rows in found:
        wanted = {matrix: span for matrix, span in rows.items() if matrix in config.matrices}
        if wanted:
            setattr(parent, name, Adapted(child, wanted, config))


def _matrices(name: str, module: nn.Module) -> dict[str, slice]:
    """Return the matrices of a linear map by the field's names, and the rows in which each lies."""
    if isinstance(module, Stacked):
        return module.rows
    field_name = FIELD_NAMES.get(name, name)
    known = isinstance(module, nn.Linear) and field_name in typing.get_args(Matrix)
    return {field_name: slice(0, module.out_features)} if known else {}


def merge(model: nn.Module) -> None:
    """Add what the adapters learned to their matrices, and take the adapters away; every weight learns again."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Adapted):
                setattr(parent, name, child.merged())
    model.requires_grad_(True)
