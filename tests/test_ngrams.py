"""Words beside the network: against a naive count of n-grams in Python's integers, and in a run from start to end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import minirm
from minirm.cli.main import main
from minirm.config import ModelConfig, PackingConfig, TrainConfig
from minirm.errors import InputError
from minirm.models.ngrams import BITS, MIXER, SCALE, NGrams
from minirm.models.reward_model import RewardModel
from minirm.runs.run_config import DataConfig, RunConfig
from minirm.tokens.packing import Encoded, pack
from minirm.training.objectives import RewardObjective
from tests.conftest import QUICK
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


def test_a_run_begun_with_a_language_model_may_count_words_beside_it_and_keep_its_language(tmp_path, pairs_file):
    """What was learned comes back with the run, n-grams included, and takes part in its rewards."""
    first, second = tmp_path / "language", tmp_path / "run"
    assert main(["train", "--stage", "lm", "--data", str(pairs_file), "--out", str(first), *QUICK]) == 0
    beside = ["--ngrams", "2", "--reward.language-model-weight", "0.1", "--reward.epochs", "1"]
    assert main(["train", "--from", str(first), "--data", str(pairs_file), "--out", str(second), *beside]) == 0
    scorer = minirm.load(second)
    model, texts = scorer.run.model, ["a fine day", "a day", "no"]
    before = scorer.score(None, texts)
    assert model.ngrams.weight.count_nonzero() > 0
    torch.nn.init.zeros_(model.ngrams.weight)
    assert scorer.score(None, texts) != before


@pytest.mark.parametrize(
    ("model", "reward", "message"),
    [
        ({"ngrams": 2}, {"loss": "step"}, "ngrams=2 must be 0 for loss=step"),
        ({"style": "prefix"}, {"language_model_weight": 0.1}, "must be 0 for .*style=prefix"),
        ({"backbone": "torch_decoder"}, {"language_model_weight": 0.1}, "must be 0 for backbone=torch_decoder"),
        ({"tied_head": False}, {"language_model_weight": 0.1}, "must be 0 for .*tied_head=False"),
    ],
)
def test_what_cannot_stand_beside_a_network_is_refused(model, reward, message):
    with pytest.raises(InputError, match=message):
        RunConfig(
            DataConfig((Path("x"),)),
            ModelConfig(**model),
            PackingConfig(),
            TrainConfig(epochs=0),
            TrainConfig(**reward),
        )
