"""The backbone on PyTorch's decoder: its memory, its pads, its first weights, and a run like any other.

That its rewards and gradients are those of each sequence alone is in tests/test_packing_is_exact.py.
"""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minirm.cli.main import main
from minirm.cli.watcher import Watcher
from minirm.config import ModelConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.hub.load import load
from minirm.models import torch_decoder
from minirm.models.language_model import LanguageModel
from minirm.models.reward_model import RewardModel, build_backbone
from minirm.runs.prepare import prepare
from minirm.tokens.layout import lay_out
from minirm.tokens.packing import Encoded, pack, tokenize
from minirm.training.loop import Step
from tests.conftest import QUICK
from tests.oracles import decoder_states, rewards_one_by_one
from tests.strategies import ARCHITECTURES, encoded_batches, randomised
from tests.test_packing_is_exact import gradients
from tests.test_run import a_config
from tests.test_train import some_comparisons

CONFIG = ARCHITECTURES["torch_decoder"]
DECODER = ["--backbone", "torch_decoder", "--language-model.epochs", "1", "--reward.epochs", "2", "--dropout", "0.1"]


def nll_of_responses(model: LanguageModel, batch: list[Encoded]) -> Tensor:
    """Return the sum of −log p over the tokens of all responses, in nats, one response at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for encoded in batch:
        for response in encoded.responses:
            states = decoder_states(model.backbone, torch.tensor(encoded.prompt), torch.tensor(response))
            log_p = (states @ model.backbone.embedding.weight.T).log_softmax(-1)
            for i, token in enumerate(response.tolist()):
                total = total - log_p[i, token]  # state 0 is that of the prompt's last token
    return total


@settings(max_examples=12)
@given(batch=encoded_batches())
def test_the_language_models_loss_and_gradient_are_those_of_each_response_alone(batch):
    model = randomised(LanguageModel(CONFIG))
    batch = [replace(encoded, learned=np.zeros(len(encoded.prompt), dtype=bool)) for encoded in batch]
    for share_prompt in (True, False):
        fast, slow = model(pack(batch, share_prompt=share_prompt)).sum(), nll_of_responses(model, batch)
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients(model, fast), gradients(model, slow), rtol=1e-8, atol=1e-8)


def test_a_prompt_becomes_memory_once_however_many_responses_it_has():
    model, seen = RewardModel(CONFIG), []
    model.backbone.memory_norm.register_forward_hook(lambda module, given, memory: seen.append(memory.shape))
    comparisons = some_comparisons(5)
    model(pack(comparisons))
    assert seen == [(5, max(len(c.prompt) for c in comparisons), CONFIG.width)]


def test_nothing_is_handed_from_the_host_to_the_device_on_the_way():
    """A GPU would be waited for; the device that holds no numbers stands in for it."""

    class Crossings(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, given=(), options=None):
            result = function(*given, **(options or {}))
            sources = {tensor.device.type for tensor in given if isinstance(tensor, Tensor)}
            crossings.extend([function] if sources == {"cpu"} and result.device.type == "meta" else [])
            return result

    backbone, batch, crossings = build_backbone(CONFIG).to("meta"), pack(some_comparisons(5)), []
    assert batch.layout.levels
    tokens, layout = batch.tokens.to("meta"), batch.layout.to("meta")
    with Crossings():
        backbone(tokens, layout)
    assert crossings == []


def test_what_stands_in_padded_places_changes_nothing(monkeypatch):
    model, batch = randomised(RewardModel(CONFIG)), pack(some_comparisons(9))
    rewards, plain = model(batch), torch_decoder._rectangle

    def littered(x, level):
        rectangle, lengths = plain(x, level)
        pads = torch.arange(rectangle.shape[1]) >= lengths[:, None]
        assert pads.any() and (rectangle[pads] == 0).all()  # as they are: no NaN from elsewhere can stand there
        return rectangle + 100 * pads[..., None] * torch.randn_like(rectangle), lengths

    expected = gradients(model, rewards.tanh().sum())
    monkeypatch.setattr(torch_decoder, "_rectangle", littered)
    torch.testing.assert_close(model(batch), rewards, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(model, model(batch).tanh().sum()), expected, rtol=1e-10, atol=1e-10)


def test_layers_start_different_with_queries_equal_to_keys():
    """`nn.TransformerDecoder` copies one layer; left as they are, all would start alike."""
    torch.manual_seed(0)
    first, second = build_backbone(ModelConfig(vocab_size=23, layers=2, backbone="torch_decoder")).decoder.layers
    for name, parameter in first.named_parameters():
        assert parameter.dim() == 1 or (parameter != second.get_parameter(name)).all(), name
    for attention in (first.self_attn, first.multihead_attn):
        query, key, value = attention.in_proj_weight.chunk(3)
        assert torch.equal(query, key) and (key != value).all()
        assert key.std().item() == pytest.approx(256**-0.5, rel=0.05)
        assert value.std().item() == pytest.approx(0.02, rel=0.05)


def test_in_bfloat16_the_rewards_are_near_those_in_float32():
    model, batch = RewardModel(CONFIG), pack(some_comparisons(9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch)
    assert low.dtype == torch.float32 and (low != model(batch)).any()
    torch.testing.assert_close(low, model(batch), rtol=0, atol=0.05)


def test_what_pytorchs_module_cannot_do_is_refused():
    backbone, batch = build_backbone(CONFIG), pack(some_comparisons(2))
    with pytest.raises(ValueError, match="torch_decoder has no state to continue from"):
        backbone(batch.tokens, batch.layout, keep_state=True)
    with pytest.raises(InputError, match="backbone=torch_decoder must be another to generate"):
        LanguageModel(CONFIG).generate([[1, 2]], max_new_tokens=3, end_id=0)
    with pytest.raises(ValueError, match="torch_decoder reads prompts and responses, not 1 levels"):
        backbone(torch.tensor([1, 2]), lay_out([2], [-1], [0]))


def test_its_language_model_stage_learns_every_response_and_no_prompt(pairs_file, tmp_path):
    config = a_config(pairs_file)
    store = prepare(replace(config, model=replace(config.model, backbone="torch_decoder")), tmp_path).stores[
        "training language model"
    ]
    for item in map(store.__getitem__, range(len(store))):
        assert pack([item]).targets.tolist() == np.concatenate(item.responses).tolist()


# On the command line


@pytest.fixture(scope="module")
def decoder_run(tmp_path_factory, pairs_file) -> Path:
    """A run folder; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "decoder"
    assert main(["train", "--data", str(pairs_file), "--out", str(folder), *QUICK, *DECODER]) == 0
    return folder


def test_a_decoder_learns_and_is_evaluated(decoder_run, pairs_file, tmp_path):
    assert main(["eval", str(decoder_run), "--data", str(pairs_file), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["accuracy"]["value"] > 0.85


def test_a_loaded_decoder_scores_each_response_as_the_slow_twin_does(decoder_run):
    scorer, prompts, responses = load(decoder_run), ["Question 1?", "Question 1?", None], ["Gladly.", "No, go!", ""]
    turns = [() if prompt is None else (Turn("user", prompt),) for prompt in prompts]
    comparisons = [Comparison(t, (r,), (0.0,)) for t, r in zip(turns, responses, strict=True)]
    with torch.no_grad():
        expected = rewards_one_by_one(scorer.run.model, list(tokenize(comparisons, scorer.run.tokenizer)))
    assert scorer.score(prompts, responses) == pytest.approx([reward.item() for reward in expected], abs=2e-5)


@pytest.mark.parametrize("at", ["language model", "reward"])
def test_a_decoder_resumes_where_it_was_stopped(decoder_run, pairs_file, tmp_path, monkeypatch, at):
    watched, folder = Watcher.event, tmp_path / "run"

    def interrupt(self, stage, event):
        watched(self, stage, event)
        if isinstance(event, Step) and (stage, event.step) == (at, 3):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Watcher, "event", interrupt)
    assert main(["train", "--data", str(pairs_file), "--out", str(folder), *QUICK, *DECODER]) == 130
    monkeypatch.setattr(Watcher, "event", watched)
    assert main(["resume", str(folder)]) == 0
    for name in ("model.safetensors", "metrics.json"):
        assert (folder / name).read_bytes() == (decoder_run / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--style llama", "style=llama must be gpt2 for backbone=torch_decoder"),
        (
            "--language-model-tokens all",
            "language_model_tokens=all must be assistant for backbone=torch_decoder: its prompts are memory",
        ),
        ("--kv-heads 2", "kv_heads=2 must be heads=4 for backbone=torch_decoder"),
    ],
)
def test_options_that_pytorchs_module_does_not_know_are_refused(pairs_file, tmp_path, refused, options, message):
    command = ["train", "--data", pairs_file, "--out", tmp_path / "run", "--backbone", "torch_decoder"]
    assert refused(*command, *options.split()) == message
