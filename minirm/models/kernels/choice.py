"""Which kernel computes attention: sequences end to end on a GPU in half precision, strips on a CPU, else nobody's."""

from collections.abc import Callable

from torch import Tensor, nn

from minirm.models.kernels.strips import attend_in_strips
from minirm.models.kernels.varlen import attend_to_sequences
from minirm.tokens.layout import Layout


def faster_attention(attention: nn.Module, layout: Layout) -> Callable[[Tensor], Tensor] | None:
    """Return what computes `attention.segment_attention` over all tokens faster than tiles do; None: nothing does.

    The result takes queries, keys and values side by side, (M, (H + 2·G)·C), and returns (M, H·C).

    Args:
        attention: an `Attention`: its widths are read, and whether it drops weights now.
        layout: of a batch without a past.
    """
    return attend_to_sequences(attention, layout) or attend_in_strips(attention, layout.everywhere)
