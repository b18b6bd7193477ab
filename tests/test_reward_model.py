"""The head, the shape of the rewards, and the sizes by name."""

from dataclasses import replace

import pytest
import torch

from minirm.config import SIZES, ModelConfig, TrainConfig, sized
from minirm.errors import InputError
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import pack
from minirm.training.objectives import LOSSES, RewardObjective
from tests.strategies import ARCHITECTURES, packed_for
from tests.test_train import some_comparisons


def test_the_head_has_no_bias_and_variance_one_over_width_plus_one():
    torch.manual_seed(0)
    weights = torch.cat([RewardModel(sized("tiny", vocab_size=8)).head.weight.flatten() for _ in range(40)])
    assert RewardModel(sized("tiny", vocab_size=8)).head.bias is None
    assert weights.var().item() == pytest.approx(1 / 129, rel=0.1)
    assert weights.mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_places_without_a_response_hold_zero_and_pass_no_gradient(name):
    model = RewardModel(ARCHITECTURES[name])
    batch = packed_for(name, some_comparisons(9))
    rewards = model(batch)
    assert rewards.shape == batch.mask.shape and not batch.mask.all()
    assert torch.equal(rewards[~batch.mask], torch.zeros((~batch.mask).sum()))
    [gradient] = torch.autograd.grad(rewards[~batch.mask].sum(), [model.head.weight])
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_sizes_by_name_can_be_overridden_field_by_field():
    config = sized("small", layers=6, kv_heads=2, dropout=None)
    assert (config.layers, config.width, config.heads, config.kv_heads, config.dropout) == (6, 256, 4, 2, 0.0)
    assert all(sized(name).width == size["width"] for name, size in SIZES.items())


def test_gpt2_by_name_has_gpt2s_number_of_parameters():
    with torch.device("meta"):
        model = RewardModel(sized("gpt2", vocab_size=50257))
    counted = sum(p.numel() for p in model.backbone.parameters())
    assert counted == 124_439_808  # as Hugging Face counts GPT2Model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 10, "heads": 4}, "width=10 must be a multiple of heads=4"),
        ({"heads": 4, "kv_heads": 3}, "heads=4 must be a multiple of kv_heads=3"),
        ({"dropout": 1.0}, r"dropout=1.0 must be below 1"),
        ({"layers": 0}, "layers=0 must be at least 1"),
        ({"style": "llama", "width": 12, "heads": 4}, "width/heads=3 must be even"),
        ({"style": "bert", "backbone": "gru"}, "style=bert must go with backbone=transformer, not gru"),
    ],
)
def test_a_wrong_shape_is_refused_by_field_value_and_rule(fields, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**fields)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_queries_start_equal_to_keys(name):
    """A token then looks first for tokens like itself."""
    config = ARCHITECTURES[name]
    attention = RewardModel(config).backbone.blocks[0].attention
    q, k, _ = attention.qkv.weight.split(attention.widths)
    groups = config.heads // config.key_value_heads
    q = q.view(config.key_value_heads, groups, config.head_width, config.width)
    assert torch.equal(q, k.view(config.key_value_heads, 1, config.head_width, config.width).expand_as(q))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_read_that_begins_as_average_is_the_mean_of_the_values_of_all_that_it_sees(name):
    config = ARCHITECTURES[name]
    model = RewardModel(config).double()
    model.backbone.begin_as_average()
    batch = packed_for(name, some_comparisons(5))
    attention = model.backbone.blocks[-1].attention
    x = torch.randn(len(batch.tokens), config.width, dtype=torch.float64)
    rotary = None if model.backbone.rotary is None else model.backbone.rotary(batch.layout.positions)
    out = attention.read(x, batch.layout.at_reads, batch.layout.reads, rotary)
    values = attention.qkv(x)[:, sum(attention.widths[:2]) :]
    for row, read in enumerate(batch.layout.reads):
        seen = next(path for path in batch.layout.paths if path[-1] == read)
        mean = values[torch.from_numpy(seen)].mean(0).view(config.key_value_heads, 1, -1)
        heads = mean.expand(-1, config.heads // config.key_value_heads, -1).flatten()
        torch.testing.assert_close(out[row], attention.out(heads))


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "step"])
def test_a_language_models_loss_goes_with_every_loss_whatever_precision_its_labels_have(loss):
    batch = pack([replace(one, margin=0.0) for one in some_comparisons(5)])
    model = RewardModel(ARCHITECTURES["gpt2"])
    alone, both = (RewardObjective(TrainConfig(loss=loss, language_model_weight=weight)) for weight in (0.0, 0.3))
    assert both(model, batch).loss.item() > alone(model, batch).loss.item()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gru"])
def test_a_language_models_loss_beside_the_rewards_is_that_of_a_language_model_on_the_same_weights(name):
    batch = packed_for(name, some_comparisons(9))
    model = RewardModel(ARCHITECTURES[name]).double()
    language_model = LanguageModel(ARCHITECTURES[name], model.backbone)
    alone, both = (RewardObjective(TrainConfig(language_model_weight=weight)) for weight in (0.0, 0.3))
    plain, mixed, weights = alone(model, batch), both(model, batch), alone.comparison_weights(batch)
    alone_each = [pack([comparison]) for comparison in some_comparisons(9)]
    means = torch.stack([language_model(one).mean() for one in alone_each])  # each comparison packed by itself
    torch.testing.assert_close(mixed.loss - plain.loss, 0.3 * (weights * means).sum())
    assert torch.equal(mixed.hits, plain.hits)
    mixed.loss.backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    assert torch.equal(both(model.eval(), batch).loss, alone(model, batch).loss)  # validation is of rewards alone
