"""Where the time of a call goes, by kind of operation."""

from collections import Counter
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

KINDS = {
    "matrix products": ("mm", "addmm", "mkldnn_linear"),
    "attention, its products included": ("scaled_dot_product", "softmax", "bmm", "addmm_", "masked_fill"),
    "GELU": ("gelu",),
    "moving rows (gathers, copies, zeros)": ("index", "embedding", "scatter", "cat", "copy_", "fill_", "zero_"),
    "norms": ("layer_norm",),
    "optimizer and clipping": ("adam", "foreach", "linalg_vector_norm"),
}
WHOLE_NAMES = ("matrix products",)
"""Kinds whose operations are named in full; those of the others contain one of the words."""
OTHER = "all else"


def time_by_kind(call: Callable[[], object]) -> dict[str, float]:
    """Return the share of a call's time on the CPU in operations of each kind; the shares sum to 1."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    spent = Counter()
    for event in seen.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: spent[kind] / total for kind in (*KINDS, OTHER)}


def kind_of(operation: str) -> str:
    """Return the kind of an operation by its name, such as "aten::mm"."""
    name = operation.removeprefix("aten::").lower()
    for kind, words in KINDS.items():
        if name in words if kind in WHOLE_NAMES else any(word in name for word in words):
            return kind
    return OTHER
