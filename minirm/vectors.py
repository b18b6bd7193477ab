"""What every metric takes: arrays, lists or tensors of one shape; NaN is refused with one line."""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_array(values: ArrayLike) -> NDArray:
    """Return float64 values, those of a torch tensor too: NumPy knows neither bfloat16 nor the GPU."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().tolist()
    return np.asarray(values, dtype=float)


def as_vectors(
    *, at_least: int = 1, finite: bool = False, unit: Collection[str] = (), **values: ArrayLike
) -> list[NDArray]:
    """Return values of one shape (N,).

    Args:
        at_least: the smallest N.
        finite: refuse ±∞ as well.
        unit: the arguments that must be in [0, 1].
    Raises:
        ValueError: names the argument, the value and the rule.
    """
    arrays = {name: as_array(value) for name, value in values.items()}
    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    if len({array.shape for array in arrays.values()}) > 1 or any(array.ndim != 1 for array in arrays.values()):
        raise ValueError(f"shapes must be (N,) and equal: {shapes}")
    for name, array in arrays.items():
        if len(array) < at_least:
            raise ValueError(f"{name} has {len(array)} values, it must have at least {at_least}")
        if np.isnan(array).any():
            raise ValueError(f"{name}[{np.isnan(array).argmax()}] is NaN, it must be a number")
        if finite and np.isinf(array).any():
            place = np.isinf(array).argmax()
            raise ValueError(f"{name}[{place}] is {array[place]}, it must be finite")
        if name in unit and ((array < 0) | (array > 1)).any():
            place = ((array < 0) | (array > 1)).argmax()
            raise ValueError(f"{name}[{place}]={array[place]} must be in [0, 1]")
    return list(arrays.values())


def ranks(values: NDArray, group: NDArray | None = None) -> NDArray:
    """Return ranks from 1, equal values sharing their mean rank; of each next group they count on from the last."""
    keys = (values,) if group is None else (values, group)
    order = np.lexsort(keys)
    is_first = np.ones(len(values), bool)  # of entries that are tied
    is_first[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=len(values))
    found = np.empty(len(values))
    found[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return found
