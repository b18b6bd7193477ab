"""Pretrained folders give the rewards that transformers computes, whatever their tokenizers and templates do."""

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import minirm
from minirm.cli.main import main
from minirm.config import PackingConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.files.pretrained import PretrainedTokenizer
from minirm.hub.load import load_zero_shot
from minirm.hub.writing import export_run
from minirm.tokens.packing import fit, tokenize

transformers = pytest.importorskip("transformers")
from tests import pretrained_folders as made  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CLOSE = 1e-5
ANSWERS = [
    "Paris is the capital.",
    "No.",
    "  2+2 is 4,\n\n I think \n",
    "<think>\nhm, a pear\n</think>\n\nA pear, pear",
    "Größe: 日本 1234567",
    "</s> said <|im_end|> in [INST] words",
]
DIALOGUES = [
    ("user", " What is  the capital of France?\n"),
    ("assistant", "<think>It is sweet.</think> Because it is sweet."),
    ("user", "Name a fruit:"),
]
SHAPES = [
    (template, tokenizer)
    for n, template in enumerate(made.TEMPLATES)
    for k, tokenizer in enumerate(made.TOKENIZERS)
    if (n + k) % 4 == 0
]


def messages(*turns: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": text} for role, text in turns]


def check_rewards(folder: Path, prompts: list[list[dict]], oracle: Path | None = None) -> list[float]:
    """Hold the rewards of all answers behind each prompt against transformers', and return the last ones."""
    scorer = minirm.load(folder)
    for prompt in prompts:
        rewards = scorer.score(prompt or None, ANSWERS)
        dialogues = [[*prompt, {"role": "assistant", "content": answer}] for answer in ANSWERS]
        theirs = made.their_rewards(oracle or folder, dialogues)
        rounding = CLOSE * max(1.0, *map(abs, theirs))  # float32 rounds by the size of what is added up
        assert rewards == pytest.approx(theirs, abs=rounding)
    return rewards


@pytest.mark.parametrize(("template", "tokenizer"), SHAPES, ids=[" with ".join(shape) for shape in SHAPES])
def test_rewards_are_those_of_transformers(tmp_path, template, tokenizer):
    folder = made.save(tmp_path / "f", made.TOKENIZERS[tokenizer](), made.TEMPLATES[template])
    prompts = [messages(*DIALOGUES[:1]), messages(*DIALOGUES)]
    if template != "Gemma":
        prompts.append(messages(("system", "Let me think."), *DIALOGUES))
    rewards = check_rewards(folder, prompts)
    assert len(set(rewards)) > 3


def test_there_are_thirty_shapes_and_each_template_and_tokenizer_is_in_some():
    assert len(SHAPES) >= 30
    assert {t for t, _ in SHAPES} == set(made.TEMPLATES) and {t for _, t in SHAPES} == set(made.TOKENIZERS)


@pytest.mark.parametrize("tokenizer", ["byte level", "byte level, prefix space", "byte level, puts a start", "unigram"])
def test_a_tokenizer_without_a_template_gets_the_dialogue_as_text(tmp_path, tokenizer):
    own = made.TOKENIZERS[tokenizer]()  # once: Unigram's training comes out another each time
    folder = made.save(tmp_path / "f", own, None)
    start = "<s>" if tokenizer.endswith("start") else ""
    template = start + made.turns("\n\nHuman: {}", "\n\nAssistant: {}</s>", "\n\nSystem: {}")
    oracle = made.save(tmp_path / "oracle", own, template)
    check_rewards(folder, [messages(*DIALOGUES), messages(("system", "Be kind."), *DIALOGUES[:1])], oracle)


@pytest.mark.parametrize(("pad", "end"), [("<|im_end|>", "<|im_end|>"), ("</s>", "</s>"), (None, "</s>")])
def test_the_reward_is_read_where_transformers_reads_it_when_pad_is_the_end(tmp_path, pad, end):
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    folder = made.save(tmp_path / "f", made.byte_level(), template, pad=pad, end=end)
    check_rewards(folder, [messages(*DIALOGUES)])
    tokenizer = PretrainedTokenizer(folder)
    assert tokenizer.ending == ([tokenizer.end_id] if pad is None else [])


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


STORED = {
    "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
    | {"pad_type_id": 0, "pad_token": "<pad>"},
}


@pytest.mark.parametrize("name", [*STORED, "dropout"])
def test_what_tokenizer_json_stores_of_truncation_padding_and_dropout_is_off(tmp_path, name):
    plain = made.save(tmp_path / "plain", made.byte_level(), made.TEMPLATES["ChatML"])
    folder = made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["ChatML"])
    settings = {name: STORED[name]} if name in STORED else {}
    change_json(
        folder / "tokenizer.json", lambda v: v.update(settings) or v["model"].update(dropout=0.5 * (not settings))
    )
    rewards = check_rewards(folder, [messages(*DIALOGUES)], oracle=plain)
    assert minirm.load(folder).score(messages(*DIALOGUES), ANSWERS) == rewards


def test_calls_of_tools_and_thoughts_of_a_prompt_are_written_as_the_template_writes_them(tmp_path):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ ' ' ~ m.name if m.name }}\n"
        "{% if m.reasoning_content %}(thinks {{ m.reasoning_content }}){% endif %}{{ m.content }}"
        "{% for call in m.tool_calls or [] %}[calls {{ call.function.name }} {{ call.function.arguments | tojson }}]"
        "{% endfor %}<|im_end|>\n{% endfor %}"
    )
    folder = made.save(tmp_path / "f", made.byte_level(), template)
    call = {"type": "function", "function": {"name": "fruit", "arguments": {"sweet": True}}}
    calls = {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "I think so"}
    found = {"role": "tool", "content": "a pear", "name": "fruit"}
    asked = messages(("user", "Name a fruit"))
    [with_call] = {tuple(check_rewards(folder, [[*asked, calls, found]]))}
    assert with_call != tuple(check_rewards(folder, [[*asked, {"role": "assistant", "content": ""}, found]]))


def test_a_template_that_transformers_does_not_read_is_named(tmp_path):
    folder = made.save(tmp_path / "f", made.byte_level(), None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": made.TEMPLATES["ChatML"]}))
    with pytest.raises(InputError, match=r"chat_template.json: transformers' tokenizers do not read it"):
        minirm.load(folder)


def test_a_dialogue_without_a_prompt_is_written_too(tmp_path):
    check_rewards(made.save(tmp_path / "f", made.metaspace(), made.TEMPLATES["Zephyr"]), [[]])


@pytest.mark.parametrize(
    ("template", "turns", "said"),
    [
        ("Gemma", [("system", "x"), ("user", "x")], "System role not supported"),
        ("Mistral", [("user", "x"), ("user", "x")], "Conversation roles must alternate"),
        ("Llama 2", [], "Conversation roles must alternate"),
        ("Vicuna", [("tool", "x")], "Role tool not supported"),
    ],
)
def test_a_dialogue_that_the_template_refuses_is_refused_in_its_words(tmp_path, template, turns, said):
    scorer = minirm.load(made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES[template]))
    with pytest.raises(
        InputError, match=re.escape(f"{tmp_path / 'f'}: its chat template does not write") + f".*{said}"
    ):
        scorer.score(messages(*turns) or None, ["x"])
    row = Comparison(tuple(Turn(*turn) for turn in turns), ("x",), (0.0,), source="a.jsonl:7")
    with pytest.raises(InputError, match=f"a.jsonl:7: .*{said}"):
        scorer.score_comparisons([row])


# Encoders


def bert_folder(folder: Path, **options: object) -> Path:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz?.,:",
        "the",
        "cat",
        "##s",
        "##at",
    ]
    words += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, **options)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=128, num_labels=1,
    )  # fmt: skip
    made.draw(transformers.BertForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("options", [{}, {"do_lower_case": False}])
def test_an_encoder_reads_a_pair_of_texts_as_transformers_does(tmp_path, options):
    folder = bert_folder(tmp_path / "f", **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for prompt in ("The cats sat?", "", "a " * 40):
        answers = ["Cats sat.", "", "no [SEP] the"]
        with torch.no_grad():
            pairs = [tokenizer([prompt], [text], return_tensors="pt") for text in answers]
            expected = [model(**pair).logits[0, 0].item() for pair in pairs]
        assert minirm.load(folder).score(messages(("user", prompt)), answers) == pytest.approx(expected, abs=CLOSE)


def test_an_encoder_with_a_chat_template_is_refused(tmp_path):
    folder = bert_folder(tmp_path / "f")
    (folder / "chat_template.jinja").write_text(made.TEMPLATES["ChatML"])
    with pytest.raises(InputError, match="its chat template: an encoder reads prompt and response as a pair of texts"):
        minirm.load(folder)


# What is shared, cut and learned


def encoded(folder: Path, prompt: list[tuple[str, str]], *responses: str, **how: object):
    row = Comparison(tuple(Turn(*turn) for turn in prompt), responses, (0.0,) * len(responses))
    [item] = tokenize([row], PretrainedTokenizer(folder), **how)
    return item


def test_what_all_dialogues_begin_with_is_shared_and_a_token_is_left_to_each(tmp_path):
    folder = made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["Llama 3"])
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    item = encoded(folder, DIALOGUES, "Paris", "Paris is", "")
    opened = theirs.apply_chat_template(messages(*DIALOGUES), add_generation_prompt=True)["input_ids"]
    assert item.prompt.tolist() == opened
    end = theirs.convert_tokens_to_ids("<|eot_id|>")
    assert item.responses[2].tolist() == [end] and item.ending == 1
    for response, text in zip(item.responses, ["Paris", "Paris is", ""], strict=True):
        whole = theirs.apply_chat_template([*messages(*DIALOGUES), *messages(("assistant", text))])["input_ids"]
        assert item.prompt.tolist() + response.tolist() == whole


def test_a_cut_shortens_the_prompt_from_its_left_and_keeps_the_ends(tmp_path):
    folder = made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["ChatML"])
    item, counts = encoded(folder, DIALOGUES, "Paris", "I think so. " * 20), Counter()
    assert item.ending == 2  # <|im_end|> and a line break
    [cut] = fit([item], PackingConfig(max_tokens=40), counts)
    assert len(cut.prompt) + max(map(len, cut.responses)) == 40
    assert cut.prompt.tolist() == item.prompt[len(item.prompt) - len(cut.prompt) :].tolist()
    assert cut.responses[0].tolist() == item.responses[0].tolist()
    assert cut.responses[1][-2:].tolist() == item.responses[1][-2:].tolist()
    assert counts == {
        "cut: prompt from its left": 1, "cut: response before its end token": 1,
        "merged: responses of the same tokens": 0,
    }  # fmt: skip


def test_what_an_assistant_wrote_in_a_prompt_is_marked_with_its_end(tmp_path):
    folder = made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["ChatML"])
    item = encoded(folder, DIALOGUES, "Paris", by_assistant=True)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.decode(item.prompt[item.learned]) == DIALOGUES[1][1] + "<|im_end|>\n"
    assert encoded(folder, DIALOGUES, "Paris").learned.all()


# Runs that begin with a pretrained folder


def train(folder: Path, data: Path, start: Path, *options: str) -> Path:
    sizes = ["--max-tokens", "64", "--comparisons-per-batch", "8"]
    arguments = ["train", "--data", str(data), "--from", str(start), "--out", str(folder), *sizes, *options]
    assert main(arguments) == 0
    return folder


STARTS = {
    "a classifier whose pad is its end": ("LlamaForSequenceClassification", "</s>", made.TEMPLATES["Mistral"]),
    "a classifier": ("LlamaForSequenceClassification", "<pad>", made.TEMPLATES["Qwen 3"]),
    "a language model without pad and template": ("LlamaForCausalLM", None, None),
    "a language model whose pad is its end": ("LlamaForCausalLM", "</s>", made.TEMPLATES["Zephyr"]),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_run_from_a_pretrained_folder_needs_no_other_and_is_exported_with_the_same_rewards(
    tmp_path, pairs_file, name
):
    kind, pad, template = STARTS[name]
    start = made.save(tmp_path / "start", made.byte_level(), template, pad=pad, kind=kind)
    run = train(tmp_path / "run", pairs_file, start, "--reward.epochs", "0.5")
    shutil.rmtree(start)
    prompt, answers = messages(("user", "Question 3?")), ["Gladly, here is answer 3.", "No", ""]
    rewards = minirm.load(run).score(prompt, answers)
    assert len(set(rewards)) == 3
    export_run(run, tmp_path / "out")
    dialogues = [[*prompt, {"role": "assistant", "content": answer}] for answer in answers]
    assert made.their_rewards(tmp_path / "out", dialogues) == pytest.approx(rewards, abs=CLOSE)
    assert minirm.load(tmp_path / "out").score(prompt, answers) == pytest.approx(rewards, abs=CLOSE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = [tokenizer.apply_chat_template(dialogue)["input_ids"] for dialogue in dialogues]
    together = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert model(**together).logits[:, 0].tolist() == pytest.approx(rewards, abs=CLOSE)


def test_a_language_model_learns_from_a_pretrained_folder_and_is_asked_and_trained_on(tmp_path, pairs_file):
    start = made.save(tmp_path / "start", made.byte_level(), made.TEMPLATES["ChatML"], kind="LlamaForCausalLM")
    tuned = train(tmp_path / "lm", pairs_file, start, "--stage", "lm", "--language-model.epochs", "0.5")
    rewards = [load_zero_shot(folder, "Is {response} good?").score(None, ["A pear."]) for folder in (start, tuned)]
    assert all(0 < reward < 1 for (reward,) in rewards) and rewards[0] != rewards[1]
    reward_run = train(tmp_path / "run", pairs_file, tuned, "--reward.epochs", "0.5")
    assert minirm.load(reward_run).run.tokenizer.files() == PretrainedTokenizer(start).files()


# Heads and adapters beside the weights


def test_a_trained_head_in_a_file_of_its_own_is_named(tmp_path, pairs_file, capsys):
    start = made.save(tmp_path / "start", made.byte_level(), made.TEMPLATES["ChatML"], kind="LlamaForCausalLM")
    save_file({"v_head.summary.weight": torch.ones(1, 32)}, start / "value_head.safetensors")
    said = f"{start / 'value_head.safetensors'}: holds a trained head ('v_head.summary.weight'), which is "
    with pytest.raises(InputError, match=re.escape(said)):
        minirm.load(start)
    train(tmp_path / "run", pairs_file, start, "--reward.epochs", "0.5")
    printed = "".join(capsys.readouterr())
    assert "holds a trained head ('v_head.summary.weight'), which is not taken" in " ".join(printed.split())


def adapter(folder: Path, base: Path, *, saved: list[str] | None) -> torch.nn.Module:
    """Write a trained LoRA of a folder's model, and return the model with it."""
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "up_proj"], modules_to_save=saved)
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "LlamaForCausalLM"])
def test_an_adapter_is_merged_into_the_base_that_it_names(tmp_path, kind, pairs_file):
    base = made.save(tmp_path / "base", made.byte_level(), made.TEMPLATES["ChatML"], kind=kind)
    adapted = adapter(tmp_path / "adapter", base, saved=None)  # of a classifier, peft saves the head by itself
    dialogues = [messages(("user", "Why?"), ("assistant", text)) for text in ANSWERS]
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    encoded = [tokenizer.apply_chat_template(one, return_tensors="pt")["input_ids"] for one in dialogues]
    with torch.no_grad():
        expected = [adapted(ids).logits[0, 0].item() for ids in encoded]
    assert minirm.load(tmp_path / "adapter").score("Why?", ANSWERS) == pytest.approx(expected, abs=CLOSE)
    run = train(tmp_path / "run", pairs_file, tmp_path / "adapter", "--reward.epochs", "0.5")
    assert (run / "tokenizer" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_an_adapter_that_cannot_be_merged_is_named(tmp_path):
    base = made.save(tmp_path / "base", made.byte_level(), made.TEMPLATES["ChatML"], kind="LlamaForCausalLM")
    folder = tmp_path / "adapter"
    adapter(folder, base, saved=None)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({n: t for n, t in tensors.items() if "score" not in n}, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"neither the adapter nor .* holds 'score.weight'"):
        minirm.load(folder)
    change_json(folder / "adapter_config.json", lambda value: value.update(base_model_name_or_path="x/y"))
    with pytest.raises(InputError, match=r"adapter_config.json: field .* 'x/y': an adapter must be merged"):
        minirm.load(folder)
    for path in base.iterdir():  # an adapter beside weights is not passed over either
        shutil.copy(path, folder)
    with pytest.raises(InputError, match=r"adapter_config.json: field .* 'x/y': an adapter must be merged"):
        minirm.load(folder)


# Foreign programs


HOSTILE = {
    "a long product": ("{{ 'x' * 10**9 }}", "MemoryError"),
    "a doubling": (
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "MemoryError",
    ),
    "nested loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "takes more than",
    ),
    "a wide centre": ("{{ 'x'.center(2000000000) }}", "MemoryError"),
    "a long text": ("{{ ('\n' * 10**7) | indent(10**6) }}", "it writes 10000000 characters: must be at most"),
    "much latin": ("{{ lipsum(n=10**5, max=10**5) }}", "takes more than"),
    "calls that double": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "takes more than",
    ),
    "a way out": ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
    "no template": ("{% if %}", "Expected an expression"),
    "nothing": ("{{ '' }}", "write no token"),
    "a division": ("{{ 1 // 0 }}", "integer division or modulo by zero"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_takes_too_much_or_fails_ends_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr("minirm.files.pretrained.SECONDS_TO_RENDER", 1.5)
    source, said = HOSTILE[name]
    folder = made.save(tmp_path / "f", made.byte_level(), source)
    with pytest.raises(InputError) as caught:
        minirm.load(folder)
    assert str(caught.value).startswith(f"{folder}: its chat template") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_that_takes_too_much_for_one_dialogue_alone_ends_in_one_line_and_goes_on(tmp_path):
    bomb = "{% if 'bomb' in messages[-1].content %}{{ 'x' * 10**9 }}{% endif %}"
    scorer = minirm.load(made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["ChatML"] + bomb))
    [before] = scorer.score("x", ["No."])
    with pytest.raises(InputError, match="MemoryError"):
        scorer.score("x", ["a bomb"])
    assert scorer.score("x", ["No."]) == [before]


def test_a_template_of_forty_kilobytes_is_no_hindrance(tmp_path):
    branch = "{% if messages[0].content == 'x' %}{{ 'y' ~ messages | length }}{% endif %}"
    folder = made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["ChatML"] + branch * 600)
    check_rewards(folder, [messages(("user", "Why?")), messages(*DIALOGUES)])


BROKEN = {
    "a normaliser that doubles": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}}] * 40}},
        "takes more than",
    ),
    "a normaliser of junk": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "Precompiled"),
    "an expression that goes back for ever": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
        "retry-limit-in-match over",
    ),
    "an unknown normaliser": ({"normalizer": {"type": "Nope"}}, "did not match any variant"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tokenizer_that_takes_too_much_or_panics_ends_in_one_line(tmp_path, monkeypatch, name, capfd):
    monkeypatch.setattr("minirm.files.opening.SECONDS", 1.0)
    fields, said = BROKEN[name]
    for one in fields.get("normalizer", {}).get("normalizers", []):
        one["content"] = "aa"
    folder = made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["ChatML"])
    change_json(folder / "tokenizer.json", lambda value: value.update(fields))
    capfd.readouterr()
    with pytest.raises(InputError) as caught:
        minirm.load(folder)
    assert str(caught.value).startswith(f"{folder}: its tokenizer: ") and said in str(caught.value)
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""


def test_without_transformers_one_line_says_what_to_install(tmp_path, monkeypatch):
    folder = made.save(tmp_path / "f", made.byte_level(), made.TEMPLATES["ChatML"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"a pretrained folder needs transformers: pip install minirm\[hf\]"):
        minirm.load(folder)
