"""A model without memory: its shapes, to be held against a file's and then filled with the file's own tensors."""

from typing import TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from minirm.config import ModelConfig
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as they are where modules draw their first weights.

    Drawing on the device "meta" does nothing either, but it takes PyTorch two seconds and 70 MB to find that out.
    """

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return options["tensor"]
        return function(*arguments, **(options or {}))


M = TypeVar("M", RewardModel, LanguageModel)


def build_empty(kind: type[M], config: ModelConfig) -> M:
    """Return a model whose parameters have shapes and no memory, to be filled by `load_state_dict(assign=True)`."""
    with torch.device("meta"), _NothingDrawn():
        return kind(config)
