"""Backbones: what turns tokens into hidden states.

To add one, fulfil `Backbone`, and name it here and in `config.BackboneName`.
"""

from minirm.config import ModelConfig
from minirm.models.protocol import Backbone
from minirm.models.recurrent import Recurrent
from minirm.models.torch_decoder import TorchDecoder
from minirm.models.transformer import Transformer

__all__ = ["Backbone", "build_backbone"]

BACKBONES = {"transformer": Transformer, "torch_decoder": TorchDecoder, "gru": Recurrent, "lstm": Recurrent}


def build_backbone(config: ModelConfig) -> Backbone:
    """Return a freshly initialised backbone."""
    return BACKBONES[config.backbone](config)
