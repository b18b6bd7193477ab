"""minirm: reward models from scratch in plain PyTorch."""

from minirm import losses, metrics, shaping
from minirm.checkpoint import load_language_model
from minirm.scoring import RewardScorer, load
from minirm.zero_shot import ZeroShotScorer

__all__ = ["RewardScorer", "ZeroShotScorer", "load", "load_language_model", "losses", "metrics", "shaping"]
