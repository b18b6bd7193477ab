"""Backbones: what turns tokens into hidden states.

To add one, fulfil `Backbone`, and name it here and in `config.BackboneName`.
"""

from minirm.backbones.protocol import Backbone
from minirm.backbones.recurrent import Recurrent
from minirm.backbones.torch_decoder import TorchDecoder
from minirm.backbones.transformer import Transformer
from minirm.config import ModelConfig

__all__ = ["Backbone", "build_backbone"]

BACKBONES = {"transformer": Transformer, "torch_decoder": TorchDecoder, "gru": Recurrent, "lstm": Recurrent}


def build_backbone(config: ModelConfig) -> Backbone:
    """Return a freshly initialised backbone."""
    return BACKBONES[config.backbone](config)
