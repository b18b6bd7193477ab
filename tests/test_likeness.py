"""A decoder with token types: before any training, a read tells what a response has in common with its prompt."""

import numpy as np
import pytest
import torch

from minirm.config import ModelConfig
from minirm.errors import InputError
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, pack

VOCABULARY = 400


def a_model(*, token_types: bool) -> RewardModel:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "layers": 2, "width": 128, "heads": 4, "max_positions": 64}
    model = RewardModel(ModelConfig(**shape, token_types=token_types))
    model.backbone.begin_as_average()
    return model.eval()


def comparisons(count: int) -> list[Encoded]:
    """Return responses of 12 tokens, of which 0 to 12 stand in their prompt, at other places; no token occurs twice."""
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        prompt, fresh = np.split(rng.permutation(VOCABULARY).astype(np.int32)[:60], [20])
        shared = rng.integers(0, 13, 3)
        responses = [np.r_[rng.permutation(prompt)[:s], rng.permutation(fresh)[: 12 - s]] for s in shared]
        made.append(Encoded(prompt, tuple(rng.permutation(r) for r in responses), (2.0, 1.0, 0.0)))
    return made


def what_a_read_tells(model: RewardModel) -> float:
    """Return how well a linear function of the state at a read says how many tokens are shared: R² on new ones."""
    items = comparisons(400)
    batch = pack(items)
    with torch.no_grad():
        states = model.backbone(batch.tokens, batch.layout, only_reads=True)[0].double().numpy()
    shared = np.array([len(set(r) & set(one.prompt)) for one in items for r in one.responses], float)
    known, new = slice(0, 900), slice(900, None)
    centre, spread = states[known].mean(0), states[known].std(0) + 1e-9
    x, mean = (states - centre) / spread, shared[known].mean()
    weights = np.linalg.solve(x[known].T @ x[known] + 10 * np.eye(x.shape[1]), x[known].T @ (shared[known] - mean))
    return float(1 - np.mean((x[new] @ weights + mean - shared[new]) ** 2) / shared[new].var())


def test_before_training_a_read_tells_how_many_tokens_a_response_shares_with_its_prompt():
    assert what_a_read_tells(a_model(token_types=True)) > 0.85
    assert what_a_read_tells(a_model(token_types=False)) < 0.4


def test_only_a_transformer_has_token_types():
    with pytest.raises(InputError, match="token_types=True must go with backbone=transformer, not gru"):
        ModelConfig(backbone="gru", token_types=True)
