"""The baseline: Hugging Face's GPT2Model, as a backbone of minirm, so that it is trained by the very same loop.

With the head of `RewardModel` on the last token it is what people build a reward model from. Each response stands in a
padded row behind its own copy of the prompt, as they have it; nothing is shared.
"""

from torch import Tensor, nn

from bench.architectures.rows import rows_of_paths
from bench.gpt2 import gpt2_config
from minirm.config import ModelConfig
from minirm.errors import InputError
from minirm.models.kernels.rows import take_rows
from minirm.models.protocol import State
from minirm.tokens.layout import Layout


class HuggingFaceGPT2(nn.Module):
    """GPT2Model of a configuration's shape, from scratch, with its own initialisation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        from transformers import GPT2Model

        model = GPT2Model(gpt2_config(config))
        self.positions = model.wpe  # first, and so its name: what is called positions is not decayed, as in minirm
        self.model = model
        self.gradient_checkpointing = False

    @property
    def embedding(self) -> nn.Embedding:
        """(V, D)"""
        return self.model.wte

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        *,
        only_reads: bool = False,
        past: State | None = None,
        keep_state: bool = False,
    ) -> tuple[Tensor, None]:
        """Return hidden states after the last norm; see `protocol.Backbone`. It keeps no state."""
        if past is not None or keep_state:
            raise NotImplementedError("the GPT-2 baseline keeps no state")
        rows = rows_of_paths(tokens, layout, only_reads=only_reads)
        hidden = self.model(input_ids=rows.tokens, attention_mask=rows.mask.long(), use_cache=False).last_hidden_state
        return take_rows(hidden.flatten(0, 1), rows.places), None


def require_transformers() -> None:
    """Raise InputError unless the baseline can be built."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError("the GPT-2 baseline needs transformers: pip install 'minirm[peers]'") from error
