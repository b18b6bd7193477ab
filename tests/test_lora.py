"""Low-rank adapters: their equation, what they leave alone, and a run that learns nothing else."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from minirm.cli.main import main
from minirm.config import LoraConfig, TrainConfig
from minirm.errors import InputError
from minirm.hub.load import load
from minirm.models.attention import Stacked
from minirm.models.lora import Adapted, add_adapters, merge
from minirm.models.reward_model import RewardModel
from minirm.models.transformer import compile_mlps
from minirm.runs.job import read_config, train_run
from minirm.runs.journal import Observer
from minirm.runs.run_config import LANGUAGE_MODEL, REWARD
from minirm.runs.run_folder import METRICS, WEIGHTS
from minirm.tokens.packing import pack
from minirm.training.loop import Evaluated
from minirm.training.optimizers import build_optimizer, trained_weights
from tests.conftest import QUICK, STAGES, kind_and_rude, last_state, write_lines
from tests.strategies import ARCHITECTURES, randomised
from tests.test_run import StopAt, a_config
from tests.test_train import some_comparisons

EVERYTHING = {
    "gpt2": ("query", "key", "value", "output", "up", "down"),
    "llama": ("query", "key", "value", "output", "gate", "up", "down"),
}
PLACES = {"query": "attention.qkv", "key": "attention.qkv", "value": "attention.qkv", "output": "attention.out"}
PLACES |= {"gate": "mlp.gate_up", "down": "mlp.down"}


def adapted_model(name: str, **lora: object) -> RewardModel:
    """Return a float64 model with adapters, every weight of which is random, those of B included."""
    model = RewardModel(ARCHITECTURES[name]).double()
    add_adapters(model.backbone, LoraConfig(**{"rank": 3, "alpha": 5.0, "matrices": EVERYTHING[name], **lora}))
    return randomised(model).eval()


def rewards_of(model: RewardModel) -> torch.Tensor:
    return model(pack(some_comparisons(6, seed=1))).detach()


# The equation


def test_an_adapted_map_is_its_equation_and_its_parts_are_rows_of_it():
    torch.manual_seed(0)
    linear = Stacked(5, {"query": 4, "key": 2, "value": 3}, bias=True).double()
    adapted = Adapted(linear, {"query": slice(0, 4), "value": slice(6, 9)}, LoraConfig(rank=2, alpha=3.0))
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = x @ linear.weight.T + linear.bias
    for name, first, stop in (("query", 0, 4), ("value", 6, 9)):
        adapter = adapted.adapters[name]
        torch.nn.init.normal_(adapter.B)
        assert adapter.A.shape == (2, 5) and adapter.B.shape == (stop - first, 2)
        expected[:, first:stop] += 3.0 / 2 * torch.einsum("or,ri,ni->no", adapter.B, adapter.A, x)
    torch.testing.assert_close(adapted(x), expected)
    for start, stop in ((0, 4), (4, 9), (6, 9)):
        torch.testing.assert_close(adapted.part(x, start, stop), expected[:, start:stop])


def test_dropout_falls_on_the_input_of_the_adapters_alone():
    torch.manual_seed(0)
    adapted = Adapted(torch.nn.Linear(6, 4), {"up": slice(0, 4)}, LoraConfig(rank=2, alpha=4.0, dropout=0.5))
    adapter, x = adapted.adapters["up"], torch.randn(3, 6)
    torch.nn.init.normal_(adapter.B)
    torch.manual_seed(1)
    dropped = F.dropout(x, 0.5)
    torch.manual_seed(1)
    torch.testing.assert_close(adapted(x), adapted.linear(x) + 2.0 * dropped @ adapter.A.T @ adapter.B.T)
    torch.testing.assert_close(adapted.eval()(x), adapted.linear(x) + 2.0 * x @ adapter.A.T @ adapter.B.T)


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_fused_read_with_adapters_has_the_gradient_of_reading_everywhere(name):
    model, batch = adapted_model(name).train(), pack(some_comparisons(6, seed=1))
    fused, _ = model.backbone(batch.tokens, batch.layout, only_reads=True)
    everywhere, _ = model.backbone(batch.tokens, batch.layout)
    there = everywhere[batch.layout.reads]
    torch.testing.assert_close(fused, there, rtol=1e-12, atol=1e-12)
    learned = list(trained_weights(model.backbone).values())
    fast, slow = (torch.autograd.grad((states.tanh() * there.detach()).sum(), learned) for states in (fused, there))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EVERYTHING)
def test_adapters_start_from_the_very_model_that_was_there(name):
    torch.manual_seed(0)
    model = RewardModel(ARCHITECTURES[name]).double()
    before = rewards_of(model)
    add_adapters(model.backbone, LoraConfig(matrices=EVERYTHING[name]))
    torch.testing.assert_close(rewards_of(model), before, rtol=1e-12, atol=1e-12)  # the fused read goes another way
    for weight_name, weight in trained_weights(model.backbone).items():
        bound = weight.shape[1] ** -0.5  # Kaiming-uniform with a = √5
        wanted = (0.8 * bound, bound) if weight_name.endswith("A") else (0.0, 0.0)
        assert wanted[0] <= weight.abs().max() <= wanted[1], weight_name


# Merging


@pytest.mark.parametrize("name", EVERYTHING)
def test_an_adapted_model_is_the_plain_one_with_the_products_added_by_hand(name):
    """Through the fused read, in float64; the sums are made here, matrix by matrix, from the paper's equation."""
    model = adapted_model(name)
    config, state = model.config, model.state_dict()
    keys = config.key_value_heads * config.head_width
    first_row = {"query": 0, "key": config.width, "value": config.width + keys, "output": 0, "gate": 0, "down": 0}
    first_row["up"] = 0 if name == "gpt2" else config.inner_width
    up_place = "mlp.up" if name == "gpt2" else "mlp.gate_up"
    plain = {key.replace(".linear.", "."): value.clone() for key, value in state.items() if ".adapters." not in key}
    for layer in range(config.layers):
        for matrix in EVERYTHING[name]:
            place = f"backbone.blocks.{layer}.{PLACES.get(matrix, up_place)}"
            A, B = (state[f"{place}.adapters.{matrix}.{factor}"] for factor in "AB")
            plain[f"{place}.weight"][first_row[matrix] : first_row[matrix] + len(B)] += 5.0 / 3 * B @ A
    by_hand = RewardModel(config).double()
    by_hand.load_state_dict(plain)
    torch.testing.assert_close(rewards_of(model), rewards_of(by_hand))
    merge(model)
    assert model.state_dict().keys() == plain.keys() and all(p.requires_grad for p in model.parameters())
    for weight_name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, plain[weight_name])


@pytest.mark.parametrize("name", EVERYTHING)
def test_merged_and_unmerged_give_the_same_rewards_in_float32(name):
    model = adapted_model(name).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.2)
    before = rewards_of(model)
    merge(model)
    torch.testing.assert_close(rewards_of(model), before, rtol=1e-5, atol=1e-5)


# What learns


def test_the_optimizer_holds_adapters_and_head_alone_and_gradients_reach_all_of_them():
    model = adapted_model("llama", matrices=("key", "up"))
    config = model.config
    per_layer = 3 * (config.width + config.kv_heads * config.head_width) + 3 * (config.width + config.inner_width)
    held = [p for group in build_optimizer(model, TrainConfig()).param_groups for p in group["params"]]
    assert sum(p.numel() for p in held) == config.layers * per_layer + config.width
    model(pack(some_comparisons(6, seed=1))).square().sum().backward()
    for name, parameter in model.named_parameters():
        learns = ".adapters." in name or name == "head.weight"
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


def test_compiled_mlps_keep_their_adapters():
    model = adapted_model("llama", matrices=("up", "down")).float()
    expected = rewards_of(model)
    compile_mlps(model)
    torch.testing.assert_close(rewards_of(model), expected)


def test_a_model_without_such_a_matrix_refuses_and_stays_as_it_was():
    for name, matrix, has in (
        ("gru", "query", "it has none that can be adapted"),
        ("gpt2", "gate", "it has down, key, output, query, up, value"),
    ):
        model = RewardModel(ARCHITECTURES[name])
        with pytest.raises(InputError, match=f"^lora: matrices: this model has no matrix '{matrix}'; {has}$"):
            add_adapters(model, LoraConfig(matrices=(matrix,)))
        assert all(p.requires_grad for p in model.parameters()) and model.state_dict().keys() == {
            *RewardModel(ARCHITECTURES[name]).state_dict()
        }


# A run


@pytest.fixture(scope="module")
def lora_config(tmp_path_factory):
    file = write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", kind_and_rude(40))
    lora = LoraConfig(rank=2, alpha=4.0, dropout=0.2, matrices=("query", "value", "up"))
    return replace(a_config(file, weight_decay=0.5, learning_rate=0.05), lora=lora)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, lora_config):
    folder = tmp_path_factory.mktemp("runs") / "lora"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minirm.runs.claim._clear", lambda folder: None)  # the last state stays
        assert train_run(lora_config, folder, Observer()) is not None
    return folder


def part(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def test_frozen_weights_come_out_of_a_run_with_weight_decay_bit_by_bit(run_folder, lora_config, tmp_path):
    class StopWhenEvaluated(StopAt):
        def event(self, stage, event):
            self.stop = isinstance(event, Evaluated) and (stage, event.step) == (LANGUAGE_MODEL, 8)

    assert train_run(lora_config, tmp_path / "stopped", StopWhenEvaluated()) is None
    before = part(load_file(last_state(tmp_path / "stopped")), "best.backbone.")
    after = part(load_file(last_state(run_folder)), "model.backbone.")
    frozen = {name.replace(".linear.", "."): t for name, t in after.items() if ".adapters." not in name}
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[name], before[name]) for name in before)
    learned = [t for name, t in after.items() if name.endswith(".B")]
    assert len(learned) == 3 and all(t.abs().max() > 0.01 for t in learned)


@pytest.mark.parametrize(("stage", "step"), [(LANGUAGE_MODEL, 5), (REWARD, 5)])
def test_a_resumed_run_with_adapters_ends_as_the_uninterrupted_one_did(run_folder, lora_config, tmp_path, stage, step):
    folder = tmp_path / "run"
    assert train_run(lora_config, folder, StopAt(stage, step)) is None
    assert read_config(folder) == lora_config
    assert train_run(read_config(folder), folder, Observer()) is not None
    for name in (WEIGHTS, METRICS):
        assert (folder / name).read_bytes() == (run_folder / name).read_bytes(), name


def test_pytorchs_own_decoder_has_an_mlp_to_adapt():
    model = RewardModel(ARCHITECTURES["torch_decoder"]).eval()
    with pytest.raises(InputError, match=r"this model has no matrix 'query'; it has down, up$"):
        add_adapters(model.backbone, LoraConfig())
    before = rewards_of(model)
    add_adapters(model.backbone, LoraConfig(matrices=("up", "down")))
    torch.testing.assert_close(rewards_of(model), before)  # frozen, its attention takes another kernel
    for weight in trained_weights(model.backbone).values():
        torch.nn.init.normal_(weight, std=0.3)
    adapted = rewards_of(model)
    assert (adapted - before).abs().max() > 1e-3
    merge(model)
    torch.testing.assert_close(rewards_of(model), adapted, rtol=1e-5, atol=1e-5)


# The command line


def test_flags_describe_the_adapters(pairs_file, tmp_path):
    command = ["train", "--data", pairs_file, "--out", tmp_path / "run", *QUICK, *STAGES]
    flags = ["--lora.rank", 2, "--lora.alpha", 8, "--lora.matrices", "query", "down"]
    assert main([str(word) for word in [*command, *flags]]) == 0
    assert read_config(tmp_path / "run").lora == LoraConfig(2, 8.0, 0.0, ("query", "down"))
    assert load(tmp_path / "run").score("Question 1?", ["Gladly."])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lora.alpha", 8], "--lora.alpha goes with --lora.rank: without a rank there are no adapters"),
        (["--lora.rank", 0], "lora: rank=0 must be at least 1"),
        (["--lora.rank", 2, "--lora.dropout", 1], "lora: dropout=1.0 must be below 1"),
        (
            ["--lora.rank", 2, "--language-model.epochs", 0],
            "lora: adapters need weights to adapt: those of another run, or of a language-model stage",
        ),
        (
            ["--lora.rank", 2, "--backbone", "gru"],
            "lora: matrices: this model has no matrix 'query'; it has none that can be adapted",
        ),
    ],
)
def test_what_adapters_cannot_be_is_refused_before_anything_is_written(pairs_file, tmp_path, refused, flags, said):
    assert refused("train", "--data", pairs_file, "--out", tmp_path / "run", *QUICK, *flags) == said
    assert not (tmp_path / "run").exists()
