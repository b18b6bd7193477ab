"""Checkpoints of transformers come in, and runs go out, with the same hidden states, logits, rewards and gradients."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as TheirTokenizer

import minirm
from minirm.cli.main import main
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.hub.families import FAMILIES, FIXED, read_config
from minirm.hub.reading import build_language_model, build_reward_model, read_model, read_start
from minirm.hub.writing import JINJA, export_run, rename
from minirm.models.reward_model import RewardModel
from minirm.tokens.packing import Encoded, PackedBatch, pack
from minirm.tokens.tokenizer import Tokenizer
from tests.conftest import QUICK, sealed, write_lines

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

VOCABULARY = 300
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "?", ".", "on", "[", "]", "sep"]
PROMPT, FIRST, SECOND = (np.arange(a, b, dtype=np.int32) for a, b in ((5, 17), (30, 60), (100, 104)))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}


def gpt2(**fields: object):
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return transformers.GPT2Config(vocab_size=VOCABULARY, num_labels=1, **SPECIAL_IDS, **sizes, **fields)


def llama(**fields: object):
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
    defaults = {"num_key_value_heads": 2, "rope_parameters": {**LLAMA_3, "original_max_position_embeddings": 16}}
    return transformers.LlamaConfig(vocab_size=VOCABULARY, num_labels=1, **SPECIAL_IDS, **sizes, **(defaults | fields))


def bert(**fields: object):
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, num_labels=1, **sizes, **fields)


CONFIGS = {
    "gpt2": gpt2(),
    "gpt2, narrow MLP, untied": gpt2(n_inner=24, tie_word_embeddings=False, layer_norm_epsilon=1e-3),
    "llama 3, grouped queries": llama(),
    "bert": bert(),
    "llama, tied": llama(
        tie_word_embeddings=True, num_key_value_heads=4, rope_parameters={"rope_theta": 77.0, "rope_type": "default"}
    ),
}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model with every parameter drawn anew, so that no zero or one hides a mistake."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def classifier(config):
    return randomised(transformers.AutoModelForSequenceClassification.from_config(config))


def language_model(config):
    return randomised(transformers.AutoModelForCausalLM.from_config(config))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat, and the cat was fat"])


@pytest.fixture
def save(tmp_path, tokenizer):
    """Save a model of transformers beside a tokenizer, and return the folder."""

    def into(model, **options: object) -> Path:
        folder = tmp_path / "theirs"
        model.save_pretrained(folder, **options)
        if model.config.model_type == "bert":
            transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
            return folder
        plain = TheirTokenizer.from_str(tokenizer.bpe.to_str())
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|end|>", pad_token="<|pad|>")
        theirs.chat_template = JINJA
        theirs.save_pretrained(folder)
        return folder

    return into


DECODERS = [name for name in CONFIGS if name != "bert"]


def batch(*, bidirectional: bool = False) -> PackedBatch:
    items = [Encoded(PROMPT, (FIRST, SECOND), (1.0, 0.0))]
    return pack(items, share_prompt=not bidirectional, bidirectional=bidirectional)


def sequences() -> list[torch.Tensor]:
    return [torch.tensor([[*PROMPT, *response]]) for response in (FIRST, SECOND)]


def rewards_of(theirs: torch.nn.Module) -> torch.Tensor:
    """Return what a model of transformers says of both sequences, each alone."""
    rewards = []
    for tokens in sequences():
        types = (torch.arange(tokens.shape[1]) >= len(PROMPT)).long()[None]
        inputs = {"token_type_ids": types} if theirs.config.model_type == "bert" else {}
        rewards.append(theirs(tokens, **inputs).logits[0, 0])
    return torch.stack(rewards)


# In


@pytest.mark.parametrize("name", CONFIGS)
def test_rewards_and_their_gradients_are_those_of_transformers(save, name):
    theirs = classifier(CONFIGS[name])
    imported = read_model(save(theirs))
    ours = build_reward_model(imported).eval()
    rewards = ours(batch(bidirectional=ours.config.bidirectional))[0]
    expected = rewards_of(theirs)
    torch.testing.assert_close(rewards, expected, **CLOSE)
    (rewards[0] - 2 * rewards[1]).backward()
    (expected[0] - 2 * expected[1]).backward()
    family = FAMILIES[CONFIGS[name].model_type]
    gradients = rename({name: p.grad for name, p in ours.named_parameters()}, ours.config, family)
    wanted = {name: p.grad for name, p in theirs.named_parameters() if name != "classifier.bias"}  # no weight here
    assert gradients.keys() == wanted.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[parameter], **CLOSE)


@pytest.mark.parametrize("name", DECODERS)
def test_hidden_states_and_logits_are_those_of_transformers(save, name):
    theirs = language_model(CONFIGS[name])
    imported = read_model(save(theirs))
    ours = build_language_model(imported).eval()
    assert not imported.has_head and (ours.unembedding is None) == CONFIGS[name].tie_word_embeddings
    hidden, _ = ours.backbone(batch().tokens, batch().layout)
    outputs = [theirs(tokens, output_hidden_states=True) for tokens in sequences()]
    shared, first, second = hidden.split([len(PROMPT), len(FIRST), len(SECOND)])
    for response, output in zip((first, second), outputs, strict=True):
        path = torch.cat([shared, response])
        torch.testing.assert_close(path, output.hidden_states[-1][0], **CLOSE)
        torch.testing.assert_close(ours.logits(path), output.logits[0], **CLOSE)


def test_the_backbone_alone_will_do(save):
    theirs = randomised(transformers.GPT2Model(CONFIGS["gpt2"]))
    ours = build_reward_model(read_model(save(theirs)))
    hidden, _ = ours.backbone(batch().tokens, batch().layout, only_reads=True)
    torch.testing.assert_close(hidden[0], theirs(sequences()[0]).last_hidden_state[0, -1], **CLOSE)
    assert ours.head.weight.shape == (1, 16) and ours.head.weight.std() > 0.1  # drawn anew


def test_a_bert_of_pre_training_gives_what_it_has(save):
    theirs = randomised(transformers.BertForPreTraining(CONFIGS["bert"]))
    imported = read_model(save(theirs))
    assert not imported.has_head
    ours = build_reward_model(imported)
    torch.testing.assert_close(ours.pooler.dense.weight, theirs.bert.pooler.dense.weight)
    assert ours.offset.item() == 0 and ours.head.weight.std() > 0.1  # drawn anew
    masked = build_reward_model(read_model(save(randomised(transformers.BertForMaskedLM(CONFIGS["bert"])))))
    assert 0.01 < masked.pooler.dense.weight.std() < 0.03  # as well


def test_norms_under_their_names_of_2018_are_read(save):
    folder = save(classifier(CONFIGS["bert"]))
    expected = read_model(folder).weights
    weights = load_file(folder / "model.safetensors")
    old = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for n, t in weights.items()}
    assert old.keys() != weights.keys()
    save_file(old, folder / "model.safetensors")
    read = read_model(folder).weights
    assert all(torch.equal(read[name], expected[name]) for name in expected)


def test_shards_give_what_one_file_gives(save):
    theirs = classifier(CONFIGS["gpt2"])
    whole = read_model(save(theirs)).weights
    (save(theirs) / "model.safetensors").unlink()
    folder = save(theirs, max_shard_size="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    sharded = read_model(folder).weights
    assert sharded.keys() == whole.keys() and all(torch.equal(sharded[name], whole[name]) for name in whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_over_into_float32(save, dtype):
    theirs = classifier(CONFIGS["llama 3, grouped queries"]).to(dtype)
    weights = read_model(save(theirs)).weights
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["head.weight"], theirs.score.weight.float())


def test_the_model_is_made_of_the_very_tensors_that_were_read(save):
    imported = read_model(save(classifier(CONFIGS["gpt2"])))
    ours = build_reward_model(imported)
    assert all(p.data_ptr() == imported.weights[name].data_ptr() for name, p in ours.named_parameters())
    assert not any(buffer.is_meta for buffer in ours.buffers())


def test_an_older_file_with_masks_and_older_names_of_rope_is_read(save):
    folder = save(classifier(CONFIGS["llama 3, grouped queries"]))
    expected = read_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(weights, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    rope = values.pop("rope_parameters")
    values |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (folder / "config.json").write_text(json.dumps(values))
    assert read_model(folder).config == expected.config


def test_a_foreign_reward_model_scores_and_evaluates(save, pairs_file, capsys):
    theirs = classifier(CONFIGS["gpt2"])
    folder = save(theirs)
    assert main(["score", str(folder), "--prompt", "the cat", "--response", "sat"]) == 0
    said = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    tokens = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(said)["input_ids"]
    expected = theirs(torch.tensor([tokens])).logits[0, 0].item()
    assert float(capsys.readouterr().out) == pytest.approx(expected, abs=1e-5)
    assert main(["eval", str(folder), "--data", str(pairs_file)]) == 0
    assert "not measured: the training prompts are not known" in capsys.readouterr().out


def test_a_foreign_reward_model_reads_as_far_as_its_positions_reach(save):
    theirs = classifier(llama(max_position_embeddings=8192))
    folder = save(theirs)
    scorer = minirm.load(folder)
    prompt, responses = "the dog ran, " * 300, ["the cat sat on the mat, " * 50, "sat"]
    comparison = Comparison((Turn("user", prompt),), tuple(responses), (0.0, 0.0))
    [pieces] = scorer.run.tokenizer.encode_comparisons([comparison])
    sequences = [[*pieces[0], *response] for response in pieces[1]]
    assert min(map(len, sequences)) > 1024
    with torch.no_grad():
        expected = [theirs(torch.tensor([tokens])).logits[0, 0].item() for tokens in sequences]
    assert scorer.score(prompt, responses) == pytest.approx(expected, abs=1e-4)
    assert scorer.run.packing.max_tokens == 8192


# What is refused


def test_a_language_model_does_not_score(save, refused):
    said = refused("score", save(language_model(CONFIGS["gpt2"])), "--response", "x")
    assert said.endswith("is a language model, without a head for rewards; train one: minirm train --from")


def test_a_foreign_model_has_no_normalised_rewards(save, refused):
    said = refused("score", save(classifier(CONFIGS["gpt2"])), "--response", "x", "--normalise")
    assert said == "normalise: this model does not say how its rewards lay on a validation split"


def drop_tensor(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("transformer.h.1.mlp.c_fc.bias"))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def cut_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_instead(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(**weight_map: object):
    def write(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return write


def change_config(folder: Path, **fields: object) -> None:
    values = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(values))


def nan(weights: dict) -> None:
    weights["score.weight"][0, 3] = torch.nan


BROKEN = {
    "tensor missing": (drop_tensor, "model.safetensors: tensor 'transformer.h.1.mlp.c_fc.bias' is missing"),
    "tensor too many": (
        lambda f: change_weights(f, lambda w: w.update({"v_head.weight": torch.ones(1)})),
        "tensor belongs to no part of the model that config.json describes: 'v_head.weight'",
    ),
    "wrong shape": (
        lambda f: change_weights(f, lambda w: w.update({"score.weight": torch.ones(2, 16)})),
        "'score.weight' has 2 labels ('LABEL_0'): a reward model must have one",
    ),
    "wrong type": (
        lambda f: change_weights(f, lambda w: w.update({"score.weight": torch.ones(1, 16, dtype=torch.int8)})),
        "tensor 'score.weight' holds I8: must be F32, F16, BF16",
    ),
    "NaN": (lambda f: change_weights(f, nan), "tensor 'score.weight' holds NaN or an infinity"),
    "file cut off": (cut_file, "model.safetensors: not a whole safetensors file ("),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "neither model.safetensors nor model.safetensors.index.json",
    ),
    "pickle": (pickle_instead, "pytorch_model.bin: is a pickle, which may run code when it is read"),
    "out of the folder": (
        index(a="../model-1.safetensors"),
        "'../model-1.safetensors': must be a .safetensors file of this folder",
    ),
    "absolute path": (
        index(a="/tmp/x.safetensors"),
        "'/tmp/x.safetensors': must be a .safetensors file of this folder",
    ),
    "shard is no text": (index(a=3), "tensor 'a': 3: must be a .safetensors file of this folder"),
    "shard missing": (index(a="gone.safetensors"), "gone.safetensors: file is missing, though"),
    "tensor not in its shard": (index(a="model-1.safetensors"), "tensor 'a' is missing from model-1.safetensors"),
    "index without a map": (
        index(),
        'field "weight_map": an empty object: must be an object of tensors and their files',
    ),
    "broken JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not readable as JSON"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "its tokenizer: "),
    "tokenizer broken": (lambda f: (f / "tokenizer.json").write_text("{}"), "its tokenizer: "),
    "several labels": (
        lambda f: change_weights(f, lambda w: w.update({"score.weight": torch.ones(5, 16)})),
        "model.safetensors: 'score.weight' has 5 labels ('LABEL_0'): a reward model must have one",
    ),
    "width beyond the file": (
        lambda f: change_config(f, n_embd=100_000, n_head=1),
        "tensor 'transformer.wte.weight' has shape (300, 16), by config.json it must be (300, 100000)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_checkpoint_gives_one_clear_line(save, refused, name):
    damage, message = BROKEN[name]
    folder = save(classifier(CONFIGS["gpt2"]))
    damage(folder)
    said = refused("score", folder, "--response", "x")
    assert said.startswith(str(folder)) and message in said


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_norm_epsilon": 10**400}, "norm_eps=inf must be at most 1e+30"),
        ({"n_layer": 10**7}, "layers=10000000 must be at most 1000"),
        ({"vocab_size": 10**400}, f"vocab_size=1{'0' * 58}… must be at most 1000000"),
        ({"model_type": ["gpt2"]}, 'field "model_type": a list of 1: must be one of gpt2, llama, bert'),
        ({"model_type": "mistral"}, "field \"model_type\": 'mistral': must be one of gpt2, llama, bert"),
        ({"activation_function": "relu"}, "field \"activation_function\": 'relu': must be 'gelu_new' or"),
        ({"scale_attn_by_inverse_layer_idx": True}, 'field "scale_attn_by_inverse_layer_idx": true: must be false'),
        (
            {"quantization_config": {"bits": 4}},
            "field \"quantization_config\": an object with keys 'bits': must be null",
        ),
        (
            {"sliding_window": 8},
            'field "sliding_window": 8: is not known to minirm in a gpt2, and may change the model',
        ),
        ({"n_embd": "16"}, "field \"n_embd\": '16': must be a whole number"),
        ({"n_embd": True}, 'field "n_embd": true: must be a whole number'),
        ({"tie_word_embeddings": 1}, 'field "tie_word_embeddings": 1: must be true or false'),
        ({"layer_norm_epsilon": None}, 'field "layer_norm_epsilon": null: must be a number'),
        ({"n_head": 3}, "width=16 must be a multiple of heads=3"),
        ({"vocab_size": 100}, "holds token id 2"),
    ],
)
def test_a_configuration_that_minirm_does_not_compute_is_refused(save, refused, fields, message):
    folder = save(classifier(CONFIGS["gpt2"]))
    change_config(folder, **fields)
    assert message in refused("score", folder, "--response", "x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_bias": True}, 'field "attention_bias": true: must be false'),
        ({"mlp_bias": True}, 'field "mlp_bias": true: must be false'),
        ({"hidden_act": "gelu"}, "field \"hidden_act\": 'gelu': must be 'silu'"),
        ({"head_dim": 8}, 'field "head_dim": 8: must be width/heads=4'),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "field \"rope_scaling.rope_type\": 'linear': must be"),
        ({"rope_scaling": {"rope_type": "llama3"}}, 'field "rope_scaling.factor": missing'),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            'field "rope_parameters.partial_rotary_factor": 0.5: is not known to minirm for rope_type=default',
        ),
        (
            {
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
                | {"original_max_position_embeddings": 10**400}
            },
            f"trained_positions=1{'0' * 58}… must be at most 10000000",
        ),
        ({"num_hidden_layers": None}, 'field "num_hidden_layers": null: must be a whole number'),
    ],
)
def test_a_llama_that_minirm_does_not_compute_is_refused(fields, message):
    values = CONFIGS["llama, tied"].to_dict() | {"rope_parameters": None} | fields
    with pytest.raises(InputError) as caught:
        read_config(values, FAMILIES["llama"])
    assert message in str(caught.value)


@pytest.mark.parametrize("config", [gpt2(), llama(), bert()], ids=["gpt2", "llama", "bert"])
def test_every_field_that_transformers_writes_is_in_a_table(config):
    family = FAMILIES[config.model_type]
    assert read_config(config.to_dict(), family).style == family.style
    assert not FIXED.keys() & family.fixed.keys()


# Out


DIALOGUES = [("Question 3?", "Gladly, here is answer 3."), ("Question 3?", "No"), ("", "Größe"), ("a\n b", "")]


def their_rewards(folder: Path, padding_side: str = "right") -> list[float]:
    """Return the rewards of DIALOGUES as transformers computes them, all in one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    dialogues = [
        [*([{"role": "user", "content": prompt}] if prompt else []), {"role": "assistant", "content": response}]
        for prompt, response in DIALOGUES
    ]
    texts = [tokenizer.apply_chat_template(dialogue, tokenize=False) for dialogue in dialogues]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side=padding_side)
    positions = (encoded.attention_mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(**encoded, position_ids=positions).logits[:, 0].tolist()


def their_encoder_rewards(folder: Path) -> list[float]:
    """Return the same of an encoder, to which prompt and response are two texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    prompts, responses = map(list, zip(*DIALOGUES, strict=True))
    with torch.no_grad():
        return model(**tokenizer(prompts, responses, return_tensors="pt", padding=True)).logits[:, 0].tolist()


def our_rewards(folder: Path) -> list[float]:
    prompts = [[{"role": "user", "content": prompt}] if prompt else None for prompt, _ in DIALOGUES]
    return minirm.load(folder).score(prompts, [response for _, response in DIALOGUES])


def train(folder: Path, *arguments: object) -> Path:
    batches = ["--max-tokens", "64", "--comparisons-per-batch", "8"]
    assert main(["train", "--out", str(folder), *batches, *map(str, arguments)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained_llama(tmp_path_factory, pairs_file) -> Path:
    options = [
        "--size",
        "tiny",
        "--style",
        "llama",
        "--kv-heads",
        "2",
        "--reward.epochs",
        "1",
        "--language-model.epochs",
        "0",
    ]
    return train(tmp_path_factory.mktemp("runs") / "llama", "--data", pairs_file, *options)


@pytest.mark.parametrize("run", ["trained", "trained_llama"])
def test_an_exported_run_gives_the_same_rewards_and_comes_back_the_same(run, request, tmp_path, capsys):
    folder = request.getfixturevalue(run)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    expected = our_rewards(folder)
    for side in ("left", "right"):
        assert their_rewards(tmp_path / "out", side) == pytest.approx(expected, abs=1e-5)
    assert our_rewards(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    imported, original = read_model(tmp_path / "out"), minirm.load(folder).run
    weights = original.model.state_dict()
    assert imported.weights.keys() == weights.keys()
    assert all(torch.equal(imported.weights[name], tensor) for name, tensor in weights.items())
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode == (tmp_path / "out" / "config.json").stat().st_mode


def test_an_exported_encoder_gives_the_same_rewards_and_comes_back_the_same(pairs_file, tmp_path):
    options = [
        "--size",
        "tiny",
        "--style",
        "bert",
        "--no-share-prompt",
        "--language-model.epochs",
        "0",
        "--reward.epochs",
        "1",
    ]
    folder = train(tmp_path / "run", "--data", pairs_file, *options)
    export_run(folder, tmp_path / "out")
    dialogues = [(prompt, response) for prompt, response in DIALOGUES if prompt]  # a prompt is never nothing there
    expected = minirm.load(folder).score(*zip(*dialogues, strict=True))
    theirs = [r for r, (prompt, _) in zip(their_encoder_rewards(tmp_path / "out"), DIALOGUES, strict=True) if prompt]
    assert theirs == pytest.approx(expected, abs=1e-5)
    imported, weights = read_model(tmp_path / "out"), minirm.load(folder).run.model.state_dict()
    assert imported.weights.keys() == weights.keys()
    assert all(torch.equal(imported.weights[name], tensor) for name, tensor in weights.items())
    assert 'tokenizer(["the prompt …"], ["the response …"]' in (tmp_path / "out" / "README.md").read_text()


def test_a_run_goes_on_from_a_checkpoint(save, pairs_file, tmp_path):
    theirs = language_model(CONFIGS["gpt2, narrow MLP, untied"])
    folder = save(theirs)
    run = train(tmp_path / "run", "--data", pairs_file, "--from", folder, "--reward.epochs", "1")
    trained = minirm.load(run).run.model
    start = read_start(folder)
    fresh = RewardModel(start.model)
    start.take_over(fresh)
    torch.testing.assert_close(fresh.backbone.embedding.weight, theirs.transformer.wte.weight)
    assert trained.config == start.model
    assert 0 < (trained.backbone.embedding.weight - fresh.backbone.embedding.weight).abs().max() < 0.1
    tuned = train(
        tmp_path / "lm", "--data", pairs_file, "--from", folder, "--stage", "lm", "--language-model.epochs", "1"
    )
    weights = load_file(tuned / "model.safetensors")
    assert 0 < (weights["unembedding.weight"] - theirs.lm_head.weight).abs().max() < 0.1


def test_an_exported_folder_says_what_the_model_is(trained, tmp_path):
    export_run(trained, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    card = (tmp_path / "out" / "README.md").read_text()
    accuracy = json.loads((trained / "metrics.json").read_text())["validation"]["accuracy"]["value"]
    assert "- comparisons: 40" in card and f"| accuracy | {accuracy:.3f} |" in card and "'<|end|>'" in card
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|end|>")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").num_labels == 1


def test_the_own_tokenizer_in_parts_gives_the_tokens_of_whole_dialogues(tokenizer):
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=TheirTokenizer.from_str(tokenizer.bpe.to_str()))
    prompts = [
        (), (Turn("user", " the cat\n"),), (Turn("system", "sat on"), Turn("user", ""), Turn("tool", "Größe 日本")),
        (Turn("user", "the"), Turn("assistant", " mat\n\n"), Turn("user", "\tand  the ")),
    ]  # fmt: skip
    responses = ("the cat", " was fat", "", "\n", "ünï 12345")
    rows = [Comparison(prompt, responses, (0.0,) * len(responses)) for prompt in prompts]
    for row, (prompt, answers, *_) in zip(rows, tokenizer.encode_comparisons(rows), strict=True):
        for text, answer in zip(responses, answers, strict=True):
            said = [{"role": turn.role, "content": turn.text} for turn in (*row.prompt, Turn("assistant", text))]
            assert prompt + answer == whole.apply_chat_template(said, chat_template=JINJA)["input_ids"]
        asked = [{"role": turn.role, "content": turn.text} for turn in row.prompt]
        if asked:
            opened = whole.apply_chat_template(asked, chat_template=JINJA, add_generation_prompt=True)
            assert prompt == opened["input_ids"]


def test_names_from_the_data_are_no_html_in_the_card(broken, tmp_path):
    values = json.loads((broken / "data.json").read_text())
    values["summary"]["subsets"] = {"<script>alert(1)</script> | `x`\n# head": 3}
    (broken / "data.json").write_text(json.dumps(values))
    export_run(sealed(broken), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\`x\\` # head: 3" in card and "<script>" not in card


def test_a_width_beyond_the_weights_of_a_run_is_refused_before_it_takes_memory(broken, refused):
    values = json.loads((broken / "config.json").read_text())
    values["model"] |= {"width": 100_000, "heads": 1000}
    (broken / "config.json").write_text(json.dumps(values))
    assert ", the model has (" in refused("score", sealed(broken), "--response", "x")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (["--backbone", "gru"], "backbone=gru: transformers has no such classifier to load it"),
        (["--token-types", "True"], "token_types=True: transformers has no decoder with token types"),
        (["--ngrams", "2"], "ngrams=2: transformers' models have no read-out of words"),
    ],
)
def test_what_transformers_does_not_compute_is_not_exported(tmp_path, pairs_file, refused, option, why):
    options = [*QUICK, *option, "--language-model.epochs", "0", "--reward.epochs", "0.2"]
    assert main(["train", "--data", str(pairs_file), "--out", str(tmp_path / "run"), *options]) == 0
    said = refused("export", tmp_path / "run", "--out", tmp_path / "out")
    assert said == f"{tmp_path / 'run'}: {why}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("config.json", "versions", []),
        ("data.json", "summary", None),
        ("data.json", "counts", 3),
        ("metrics.json", "validation.pairs", None),
        ("metrics.json", "validation.accuracy", None),
        ("metrics.json", "validation.accuracy.low", None),
        ("metrics.json", "validation.swapped", "high"),
    ],
)
def test_a_run_that_lacks_what_its_card_tells_is_not_exported(broken, refused, name, place, value):
    path, (*inside, last) = broken / name, place.split(".")
    values = part = json.loads(path.read_text())
    for key in inside:
        part = part[key]
    part.pop(last) if value is None else part.update({last: value})
    path.write_text(json.dumps(values))
    said = refused("export", sealed(broken), "--out", broken.parent / "out")
    assert said.startswith(f"{broken}: metrics.json or data.json does not hold what the card tells (")
    assert {path.name for path in broken.parent.iterdir()} == {"broken"}


def test_an_export_is_written_whole_or_not_at_all(trained, tmp_path, refused, monkeypatch):
    write_lines(tmp_path / "out" / "mine", []) if (tmp_path / "out").mkdir() is None else None
    assert (
        refused("export", trained, "--out", tmp_path / "out")
        == f"{tmp_path / 'out'}: is not empty; name another folder"
    )

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("minirm.hub.writing.write_card", fail)
    assert "No space left" in refused("export", trained, "--out", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_fills_the_empty_folder_in_which_one_stands(trained, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    monkeypatch.chdir(tmp_path / "link")
    assert main(["export", str(trained), "--out", "."]) == 0
    assert "# mine\n" in Path("README.md").read_text() and not list(Path().glob(".*"))
    assert set(os.listdir()) == set(os.listdir(tmp_path / "mine")) >= {"config.json", "model.safetensors"}
