"""What every backbone promises."""

from typing import Protocol

from torch import Tensor, nn

from minirm.tokens.layout import Layout

State = list[tuple[Tensor, ...]]
"""Per layer, what later tokens need of those computed: keys and values (tokens, G·C), or memories (1 + segments, D)."""


class Backbone(Protocol):
    """Tokens in, hidden states out; the layout says which token continues which.

    Of use where a backbone has them: `micro_batch_tokens`, how many tokens it wants at once on a CPU; `continuing`, a
    faster way to generate than `language_model.Segments`; `begin_as_average()`, what `TrainConfig.average_read` does.
    """

    embedding: nn.Embedding
    """(V, D); the language model's head is tied to it."""
    gradient_checkpointing: bool
    """Keep only each block's input for the backward pass."""

    def __call__(
        self,
        tokens: Tensor,
        layout: Layout,
        *,
        only_reads: bool = False,
        past: State | None = None,
        keep_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """Return the hidden states, and the state if it is to be kept.

        Args:
            tokens: (M,) token ids, segments end to end.
            layout: their segments.
            only_reads: return the hidden states at `layout.reads` alone, and compute no more than they need.
            past: the state that `layout`'s past left.
            keep_state: also return the state, past included.
        Returns:
            (M, D), or (N, D) with `only_reads`.
        """
        ...
