"""For networks that want padded rows: a packed batch → one row for each path, and their hidden states back."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minirm.tokens.layout import Layout


class Rows(NamedTuple):
    """S paths, each whole in a row of its own."""

    tokens: Tensor  # (S, T) token ids, padded on the right with 0
    mask: Tensor  # (S, T) True is a token
    places: Tensor  # (M,) or (N,) where each hidden state that is asked for stands in a flat (S·T,)


def rows_of_paths(tokens: Tensor, layout: Layout, *, only_reads: bool) -> Rows:
    """Return a batch as padded rows, in which a prompt stands before every response again.

    Args:
        tokens: (M,) token ids, segments end to end.
        layout: their segments; none may continue a past.
        only_reads: ask for the hidden states at `layout.reads` alone; otherwise for those of all M tokens.
    """
    reads = layout.reads.tolist()
    if only_reads:
        is_read = np.zeros(layout.tokens_so_far, bool)
        is_read[reads] = True
        paths = [path for path in layout.paths if is_read[path].any()]
    else:
        paths = _covering(layout)
    longest = max(map(len, paths))
    index, mask = np.zeros((len(paths), longest), np.int64), np.zeros((len(paths), longest), bool)
    places = np.zeros(len(tokens), np.int64)
    for row, path in reversed(list(enumerate(paths))):  # so that a prompt is read in the first of its rows
        index[row, : len(path)], mask[row, : len(path)] = path, True
        places[path] = row * longest + np.arange(len(path))
    if only_reads:
        places = places[reads]
    device = tokens.device
    mask = torch.from_numpy(mask).to(device)
    rows = tokens[torch.from_numpy(index).to(device)].masked_fill(~mask, 0)
    return Rows(rows, mask, torch.from_numpy(places).to(device))


def _covering(layout: Layout) -> list[np.ndarray]:
    """Return the paths that no longer path holds."""
    seen = np.zeros(layout.tokens_so_far, bool)
    paths = []
    for path in sorted(layout.paths, key=len, reverse=True):
        if not seen[path[-1]]:
            paths.append(path)
            seen[path] = True
    return paths
