"""The encoder in BERT's style: transformers' mathematics, read at the first token, and a run like any other."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from minirm.cli.main import main
from minirm.cli.watcher import Watcher
from minirm.config import LoraConfig, ModelConfig
from minirm.data.comparison import Comparison, Turn
from minirm.hub.load import load
from minirm.models.attention import segment_attention
from minirm.models.lora import add_adapters, merge
from minirm.models.reward_model import RewardModel
from minirm.tokens.layout import lay_out, lay_out_sequences, see_both_ways
from minirm.tokens.packing import pack, tokenize
from minirm.training.loop import Step
from minirm.training.optimizers import trained_weights
from tests.conftest import QUICK, sealed
from tests.oracles import rewards_one_by_one, seen_by_tiles
from tests.strategies import randomised
from tests.test_train import some_comparisons

STYLE = ["--style", "bert", "--no-share-prompt", "--stage", "reward"]
ENCODER = [*STYLE, "--reward.epochs", "3", "--dropout", "0.1"]
CONFIG = ModelConfig(
    vocab_size=23, layers=3, width=16, heads=4, mlp_width=24, max_positions=32, style="bert", norm_eps=1e-12
)


def bert_for(config: ModelConfig) -> BertForSequenceClassification:
    """Return transformers' model of the same shape, with every parameter drawn at random but the head's bias."""
    theirs = BertForSequenceClassification(
        BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.inner_width,
            max_position_embeddings=config.max_positions,
            num_labels=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=None,  # else the gradient of that token's embedding is held at zero
        )
    )
    theirs = randomised(theirs)
    torch.nn.init.zeros_(theirs.classifier.bias)
    return theirs.train()


def as_ours(theirs: BertForSequenceClassification, take) -> dict[str, Tensor]:
    """Return `take(parameter)` of each of their parameters under our names; q, k and v lie in one matrix here."""
    bert = theirs.bert
    pairs = {
        "backbone.embedding": bert.embeddings.word_embeddings,
        "backbone.positions": bert.embeddings.position_embeddings,
        "backbone.token_types": bert.embeddings.token_type_embeddings,
        "backbone.embedding_norm": bert.embeddings.LayerNorm,
        "pooler.dense": bert.pooler.dense,
    }
    ours = {"head.weight": take(theirs.classifier.weight), "offset": take(theirs.classifier.bias)}
    for i, layer in enumerate(bert.encoder.layer):
        pairs |= {
            f"backbone.blocks.{i}.attention.out": layer.attention.output.dense,
            f"backbone.blocks.{i}.attention_norm": layer.attention.output.LayerNorm,
            f"backbone.blocks.{i}.mlp.up": layer.intermediate.dense,
            f"backbone.blocks.{i}.mlp.down": layer.output.dense,
            f"backbone.blocks.{i}.mlp_norm": layer.output.LayerNorm,
        }
        qkv = (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
        for kind in ("weight", "bias"):
            ours[f"backbone.blocks.{i}.attention.qkv.{kind}"] = torch.cat([take(getattr(m, kind)) for m in qkv])
    for name, module in pairs.items():
        ours |= {f"{name}.{kind}": take(parameter) for kind, parameter in module.named_parameters()}
    return ours


def padded(batch: list) -> dict[str, Tensor]:
    """Return a batch's rows as transformers wants them: (N, T), padded on the right with any token."""
    rows = [(item.prompt, response) for item in batch for response in item.responses]
    longest = max(len(p) + len(r) for p, r in rows)
    inputs = {name: torch.zeros(len(rows), longest, dtype=torch.int64) for name in ("attention_mask", "token_type_ids")}
    inputs["input_ids"] = torch.full((len(rows), longest), 7)
    for n, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        inputs["input_ids"][n, :end] = torch.tensor([*prompt, *response])
        inputs["attention_mask"][n, :end] = 1
        inputs["token_type_ids"][n, len(prompt) : end] = 1
    return inputs


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_states_rewards_and_gradients_are_those_of_transformers(dtype, near):
    theirs = bert_for(CONFIG).to(dtype)
    ours = RewardModel(CONFIG).to(dtype)
    ours.load_state_dict(as_ours(theirs, lambda parameter: parameter.detach()))
    comparisons = some_comparisons(9)
    batch, inputs = pack(comparisons, share_prompt=False, bidirectional=True), padded(comparisons)
    same = {"rtol": near, "atol": near}

    expected = theirs.bert(**inputs)
    hidden, _ = ours.backbone(batch.tokens, batch.layout)
    torch.testing.assert_close(hidden, expected.last_hidden_state[inputs["attention_mask"].bool()], **same)
    read, _ = ours.backbone(batch.tokens, batch.layout, only_reads=True)
    torch.testing.assert_close(ours.pooler(read), expected.pooler_output, **same)

    rewards, logits = ours(batch)[batch.mask], theirs(**inputs).logits[:, 0]
    torch.testing.assert_close(rewards, logits, **same)
    weight = torch.linspace(-1, 1, len(rewards), dtype=dtype)  # a different one for each
    (weight * rewards.tanh()).sum().backward()
    (weight * logits.tanh()).sum().backward()
    expected_gradients = as_ours(theirs, lambda parameter: parameter.grad)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], **same, msg=lambda m, n=name: f"{n}: {m}")


def test_attention_weights_are_dropped_in_training_and_what_stays_is_scaled_up():
    layout = lay_out_sequences([2, 1], [3, 1])
    q, k, v = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = segment_attention(q, k, v, layout.everywhere, head_width=4)
    torch.manual_seed(0)
    drawn = torch.stack([segment_attention(q, k, v, layout.everywhere, 4, dropout=0.3) for _ in range(4000)])
    assert (drawn[0] != kept).any()
    torch.testing.assert_close(drawn.mean(0), kept, rtol=0, atol=0.06)  # the mean of 4000 has a deviation below 0.02


def test_in_bfloat16_the_rewards_are_near_those_in_float32():
    model, batch = RewardModel(CONFIG), pack(some_comparisons(9), share_prompt=False, bidirectional=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch)
    assert low.dtype == torch.float32 and (low != model(batch)).any()
    torch.testing.assert_close(low, model(batch), rtol=0, atol=0.02)


def test_only_an_encoder_drops_attention_weights_and_pooled_units():
    models = {style: RewardModel(ModelConfig(vocab_size=23, dropout=0.5, style=style)) for style in ("gpt2", "bert")}
    assert [models[style].backbone.blocks[0].attention.dropout for style in models] == [0.0, 0.5]
    pooled = models["bert"].pooler(torch.ones(100, 256))
    assert 0.45 < (pooled == 0).double().mean() < 0.55


def test_weights_start_as_berts_do_but_for_queries_that_look_for_likeness():
    torch.manual_seed(0)
    model = RewardModel(ModelConfig(vocab_size=500, width=128, style="bert"))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "norm" in name:
            assert (parameter == 1).all()
        elif name.endswith("qkv.weight"):
            assert torch.equal(parameter[:128], parameter[128:256])
        elif name != "head.weight":
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name


def test_a_decoder_and_an_encoder_refuse_each_others_batches():
    comparisons = some_comparisons(2)
    encoder, decoder = RewardModel(CONFIG), RewardModel(ModelConfig(vocab_size=23))
    with pytest.raises(ValueError, match="style=bert must be packed with bidirectional=True"):
        encoder(pack(comparisons, share_prompt=False))
    with pytest.raises(ValueError, match="style=gpt2 must be packed with bidirectional=False"):
        decoder(pack(comparisons, share_prompt=False, bidirectional=True))
    with pytest.raises(ValueError, match="share_prompt=True must be False where bidirectional=True"):
        pack(comparisons, bidirectional=True)


def test_an_encoder_takes_adapters_while_its_pooler_and_head_learn():
    matrices = ("query", "key", "value", "output", "up", "down")
    model, batch = RewardModel(CONFIG), pack(some_comparisons(9), share_prompt=False, bidirectional=True)
    add_adapters(model.backbone, LoraConfig(rank=2, matrices=matrices))
    assert {name for name in trained_weights(model) if "adapters" not in name} == {
        "pooler.dense.weight", "pooler.dense.bias", "head.weight"}  # fmt: skip
    rewards = randomised(model)(batch)
    merge(model.backbone)
    torch.testing.assert_close(model(batch), rewards, rtol=1e-10, atol=1e-10)


# On the command line


@pytest.fixture(scope="module")
def encoder_run(tmp_path_factory, pairs_file) -> Path:
    """A run folder of an encoder; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "encoder"
    assert main(["train", "--data", str(pairs_file), "--out", str(folder), *QUICK, *ENCODER]) == 0
    return folder


def test_an_encoder_learns_and_is_evaluated(encoder_run, pairs_file, tmp_path):
    assert main(["eval", str(encoder_run), "--data", str(pairs_file), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["accuracy"]["value"] > 0.85


def test_a_loaded_encoder_scores_each_row_as_the_slow_twin_does(encoder_run):
    """However many are scored together; a long prompt is cut behind its first token, where it is read."""
    scorer = load(encoder_run)
    prompts = ["Question 1?", "Question 1?", None, "A very long question? " * 20]
    responses = ["Gladly, here is answer 3.", "No.", "", "No, go away 5."]
    rewards, expected = scorer.score(prompts, responses), []
    for prompt, response in zip(prompts, responses, strict=True):
        turns = () if prompt is None else (Turn("user", prompt),)
        [encoded] = tokenize([Comparison(turns, (response,), (0.0,))], scorer.run.tokenizer)
        prompt_ids = encoded.prompt
        if len(prompt_ids) + len(encoded.responses[0]) > 64:
            prompt_ids = np.array([prompt_ids[0], *prompt_ids[len(encoded.responses[0]) - 63 :]])
        with torch.no_grad():
            [[reward]] = rewards_one_by_one(scorer.run.model, [replace(encoded, prompt=prompt_ids)])
        expected.append(reward.item())
    assert rewards == pytest.approx(expected, abs=2e-5) and len(prompt_ids) == 64 - len(encoded.responses[0])


def test_an_encoder_resumes_where_it_was_stopped(encoder_run, pairs_file, tmp_path, monkeypatch):
    watched, folder = Watcher.event, tmp_path / "run"

    def interrupt(self, stage, event):
        watched(self, stage, event)
        if isinstance(event, Step) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Watcher, "event", interrupt)
    assert main(["train", "--data", str(pairs_file), "--out", str(folder), *QUICK, *ENCODER]) == 130
    monkeypatch.setattr(Watcher, "event", watched)
    assert main(["resume", str(folder)]) == 0
    for name in ("model.safetensors", "metrics.json"):
        assert (folder / name).read_bytes() == (encoder_run / name).read_bytes(), name


@pytest.mark.parametrize("given", [[], ["--no-share-prompt"], ["--stage", "reward"]])
def test_what_an_encoder_cannot_do_is_refused_with_all_that_is_to_be_set(pairs_file, tmp_path, refused, given):
    said = refused("train", "--data", pairs_file, "--out", tmp_path / "run", "--style", "bert", *QUICK, *given)
    assert said.startswith("style=bert sees prompt and response both ways: share_prompt=")
    assert "share_prompt=True must be False, language_model.epochs=None must be 0" in said or given
    assert said.endswith("(--no-share-prompt --stage reward)")
    assert not (tmp_path / "run").exists()


def test_a_prefix_encoder_is_refused_a_language_model_stage(pairs_file, tmp_path, refused):
    said = refused("train", "--data", pairs_file, "--out", tmp_path / "run", "--style", "prefix", *QUICK)
    assert said == "style=prefix predicts no token: language_model.epochs=None must be 0 (--stage reward)"


def test_a_prefix_encoders_prompt_knows_nothing_of_its_responses():
    layout = see_both_ways(lay_out([2, 3, 1], [-1, 0, 0], [1, 2]))
    assert [sorted(seen) for seen in seen_by_tiles(layout.everywhere)] == (
        [[0, 1]] * 2 + [[0, 1, 2, 3, 4]] * 3 + [[0, 1, 5]]
    )


def test_a_run_folder_whose_encoder_would_share_prompts_is_refused(encoder_run, tmp_path, refused):
    broken = Path(shutil.copytree(encoder_run, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    config["packing"]["share_prompt"] = True
    (broken / "config.json").write_text(json.dumps(config))
    said = "share_prompt=True must be False for style=bert: a prompt's tokens look at the response"
    assert refused("score", sealed(broken), "--response", "a") == f"{broken / 'config.json'}: packing: {said}"
