"""An encoder–decoder: PyTorch's decoder, whose memory of the prompt an encoder has gone over first."""

import torch
from torch import Tensor, nn

from minirm.config import ModelConfig
from minirm.models.torch_decoder import TorchDecoder


class EncoderDecoder(TorchDecoder):
    """L layers over the prompt, whose tokens see each other both ways, then L that decode a response against them.

    Source: Vaswani et al., arXiv:1706.03762; norms before the sublayers, starts as in `TorchDecoder`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.inner_width,
            config.dropout,
            activation="gelu",
            layer_norm_eps=config.norm_eps,
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self._initialise()
        with torch.no_grad():
            for one in self.encoder.layers:
                query, key, _ = one.self_attn.in_proj_weight.chunk(3)
                query.copy_(nn.init.normal_(key, std=config.width**-0.5))

    def _remember(self, prompt: Tensor, pads: Tensor) -> Tensor:
        return self.memory_norm(self.encoder(prompt, src_key_padding_mask=pads))
