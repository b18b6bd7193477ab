"""Words beside the network: against a naive count of n-grams in Python's integers, and in a run from start to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirm.config import ModelConfig, TrainConfig
from minirm.errors import InputError
from minirm.models.ngrams import BITS, MIXER, SCALE, NGrams
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, pack
from minirm.training.objectives import RewardObjective
from tests.strategies import ARCHITECTURES, packed_for
from tests.test_train import some_comparisons

WAYS = ({}, {"share_prompt": False}, {"share_prompt": False, "bidirectional": True})


def bucket(gram: tuple[int, ...]) -> int:
    value = 0
    for token in gram:
        value = (value + token + 1) * MIXER % 2**64
    return value >> (64 - BITS)


def said(response: np.ndarray, weight: list[float], longest: int) -> float:
    ids = response.tolist()
    grams = [tuple(ids[end - n : end]) for n in range(1, longest + 1) for end in range(n, len(ids) + 1)]
    return SCALE * sum(weight[bucket(gram)] for gram in grams) / len(grams) ** 0.5


tokens = st.lists(st.integers(0, 40), min_size=1, max_size=7).map(lambda ids: np.array(ids, dtype=np.int32))


@given(
    comparisons=st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=4),
    longest=st.integers(1, 5),
    way=st.sampled_from(WAYS),
)
def test_what_is_said_is_the_sum_over_the_ngrams_of_the_response_alone(comparisons, longest, way):
    words = NGrams(longest).double()
    torch.nn.init.normal_(words.weight, generator=torch.Generator().manual_seed(0))
    batch = pack([Encoded(p, tuple(rs), tuple(map(float, range(len(rs))))) for p, rs in comparisons], **way)
    weight = words.weight.tolist()
    expected = [said(response, weight, longest) for _, responses in comparisons for response in responses]
    torch.testing.assert_close(words(batch.tokens, batch.layout).tolist(), expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_read_out_is_added_to_the_rewards_begins_at_nothing_and_learns(name):
    batch = packed_for(name, some_comparisons(9))
    torch.manual_seed(0)
    plain = RewardModel(ARCHITECTURES[name])
    torch.manual_seed(0)
    model = RewardModel(replace(ARCHITECTURES[name], ngrams=2))
    assert torch.equal(model(batch), plain(batch))
    torch.nn.init.normal_(model.ngrams.weight)
    added = (model(batch) - plain(batch)).masked_select(batch.mask)
    torch.testing.assert_close(added, model.ngrams(batch.tokens, batch.layout), atol=2e-4, rtol=1e-4)
    RewardObjective(TrainConfig())(model, batch).loss.backward()
    assert model.ngrams.weight.grad.abs().sum() > 0


def test_ngrams_have_bounds():
    with pytest.raises(InputError, match="ngrams=17 must be at most 16"):
        ModelConfig(ngrams=17)
