"""minirm: reward models from scratch in plain PyTorch."""

from minirm.scoring import RewardScorer, load

__all__ = ["RewardScorer", "load"]
