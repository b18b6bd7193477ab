"""minirm: reward models from scratch in plain PyTorch."""

import importlib

HOMES = {
    "RewardScorer": "minirm.evaluation.scoring",
    "ZeroShotScorer": "minirm.policies.zero_shot",
    "load": "minirm.hub.load",
    "load_language_model": "minirm.runs.run_folder",
}
"""Where each name lives; it is imported when it is first asked for, so that `import minirm.losses` brings no more."""

__all__ = [*HOMES, "losses", "metrics", "shaping"]


def __getattr__(name: str) -> object:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"minirm.{name}")
    raise AttributeError(f"module 'minirm' has no attribute {name!r}")
