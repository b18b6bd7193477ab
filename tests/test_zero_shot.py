"""P(yes) against P(no), by minirm's language model and by models of transformers, each question also asked alone."""

import copy
import json
import re
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer as BPETokenizer
from tokenizers import models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import minirm
from minirm.cli.main import main
from minirm.config import ModelConfig
from minirm.data.comparison import Turn
from minirm.errors import InputError
from minirm.hub.load import load_zero_shot
from minirm.hub.reading import build_language_model, read_model
from minirm.models.language_model import LanguageModel
from minirm.policies import zero_shot
from minirm.tokens.tokenizer import Tokenizer
from tests.conftest import write_lines
from tests.oracles import hidden_states
from tests.strategies import randomised

QUESTION = "Task: {prompt} Review: {response} Is this movie review positive? Response:"
PROMPTS = ["Write a review.", "", "A {response} in braces?", None]
RESPONSES = ["A fine film.", "Dull, dull, dull! yes", "", "no {prompt} no"]
TEXTS = [f"Task: {prompt or ''} Review: {response} Is this movie review positive? Response:"
         for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]  # fmt: skip
WORDS = {
    "one token each": (" yes", " no"),
    "several tokens": (" yes indeed", " no"),
    "of one stem": (" yes no", " yes"),
}
GPT2 = {"n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1}
SEQ2SEQ = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
TRAINED_ON = [*TEXTS, " yes yes yes no no no"] * 3


@cache
def own() -> tuple[LanguageModel, Tokenizer]:
    tokenizer = Tokenizer.train(TRAINED_ON)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, layers=2, width=16, heads=2, max_positions=128)
    return randomised(LanguageModel(config)), tokenizer


@cache
def of_transformers(kind: str) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """Return a random GPT-2 or T5, and a byte-level tokenizer that ends a T5's input with </s>, as T5's own does."""
    bpe = BPETokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=["<pad>", "</s>", "<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TRAINED_ON, trainer)
    torch.manual_seed(0)
    size = bpe.get_vocab_size()
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=size, **GPT2))
    else:
        bpe.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        model = T5ForConditionalGeneration(T5Config(vocab_size=size, **SEQ2SEQ))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 if kind == "gpt2" else 0.7)  # so that questions differ, and no answer is certain
    return model.double().eval(), PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", pad_token="<pad>")


def log_probability(next_token_logits, word: list[int]) -> float:
    """Return log p(word), token by token, given a function of what is already written."""
    return sum(next_token_logits(word[:k]).log_softmax(-1)[token].item() for k, token in enumerate(word))


def expected(next_token_logits, words: list[list[int]]) -> float:
    yes, no = (log_probability(next_token_logits, word) for word in words)
    return 1 / (1 + torch.tensor(no - yes, dtype=torch.float64).exp().item())


@pytest.fixture(autouse=True)
def few_tokens_at_once(monkeypatch):
    monkeypatch.setattr(zero_shot, "TOKENS_AT_ONCE", 100)  # so that these few texts make several batches


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_minirms_own_model_gives_the_probability_of_yes_against_no(words):
    model, tokenizer = own()
    ids = tokenizer.encode(TEXTS)

    def after(question: list[int]):
        embedding = model.backbone.embedding.weight
        return lambda written: hidden_states(model.backbone, torch.tensor(question + written))[-1] @ embedding.T

    scorer = minirm.ZeroShotScorer(model, tokenizer, QUESTION, *words)
    encoded = [tokenizer.encode([word])[0] for word in words]
    assert scorer.score(PROMPTS, RESPONSES) == pytest.approx([expected(after(q), encoded) for q in ids], abs=1e-12)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@torch.no_grad()
def test_models_of_transformers_give_the_probability_of_yes_against_no(kind, words):
    model, tokenizer = of_transformers(kind)

    def after(text: str):
        question = tokenizer(text)["input_ids"]
        assert (question[-1] == 1) == (kind == "t5")
        if kind == "gpt2":
            return lambda written: model(torch.tensor([question + written])).logits[0, -1]
        return lambda written: model(
            input_ids=torch.tensor([question]), decoder_input_ids=torch.tensor([[0, *written]])
        ).logits[0, -1]

    scores = minirm.ZeroShotScorer(model, tokenizer, QUESTION, *words).score(PROMPTS, RESPONSES)
    encoded = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert scores == pytest.approx([expected(after(text), encoded) for text in TEXTS], rel=1e-9)
    assert max(scores) > 1.01 * min(scores) and all(1e-14 < score < 1 for score in scores)


def test_for_single_tokens_it_is_the_sigmoid_of_the_difference_of_logits():
    model, tokenizer = of_transformers("gpt2")
    [[yes], [no]] = (tokenizer(word)["input_ids"] for word in (" yes", " no"))
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(TEXTS[0])["input_ids"]])).logits[0, -1]
    scored = minirm.ZeroShotScorer(model, tokenizer, QUESTION).score(PROMPTS[0], RESPONSES[:1])
    assert scored == pytest.approx([(logits[yes] - logits[no]).sigmoid().item()], abs=1e-12)


def test_a_template_of_turns_is_answered_where_the_assistant_begins():
    model, tokenizer = own()
    turns = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Is {response} good?"}]
    [ids] = tokenizer.encode_prompts([(Turn("system", "Judge."), Turn("user", "Is A fine film. good?"))])
    logits = hidden_states(model.backbone, torch.tensor(ids))[-1] @ model.backbone.embedding.weight.T
    words = [tokenizer.encode([word])[0][0] for word in ("y", "n")]
    scored = minirm.ZeroShotScorer(model, tokenizer, turns, "y", "n").score(None, ["A fine film."])
    assert scored == pytest.approx([(logits[words[0]] - logits[words[1]]).sigmoid().item()], abs=1e-12)
    theirs, other = of_transformers("gpt2")
    other = copy.deepcopy(other)
    other.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}[assistant]"
    by_text = minirm.ZeroShotScorer(theirs, other, "[system] Judge.[user] Is {response} good?[assistant]")
    by_turns = minirm.ZeroShotScorer(theirs, other, turns)
    assert by_turns.score(None, RESPONSES) == by_text.score(None, RESPONSES)


def test_a_llama_is_asked_behind_its_start_token_as_transformers_asks_it(tmp_path):
    _, tokenizer = of_transformers("gpt2")
    bpe = BPETokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bpe.add_special_tokens(["<s>"])
    start = bpe.token_to_id("<s>")
    bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path)
    imported = read_model(tmp_path)
    assert tokenizer(TEXTS[0])["input_ids"][0] == start == imported.tokenizer.encode_alone("")[0]
    ours = minirm.ZeroShotScorer(build_language_model(imported), imported.tokenizer, QUESTION)
    theirs = minirm.ZeroShotScorer(model, tokenizer, QUESTION)
    assert ours.score(PROMPTS, RESPONSES) == pytest.approx(theirs.score(PROMPTS, RESPONSES), rel=1e-4)


# The command line


@pytest.fixture
def checkpoint(tmp_path):
    """A GPT-2 and its tokenizer in Hugging Face's layout."""
    model, tokenizer = of_transformers("gpt2")
    for saved in (copy.deepcopy(model).float(), tokenizer):
        saved.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_score_asks_a_checkpoint_the_question(checkpoint, tmp_path, capsys):
    expected = minirm.ZeroShotScorer(*of_transformers("gpt2"), QUESTION).score(PROMPTS[0], RESPONSES[:2])
    asked = ["score", str(checkpoint), "--question", QUESTION]
    capsys.readouterr()
    assert main([*asked, "--prompt", PROMPTS[0], "--response", RESPONSES[0], "--response", RESPONSES[1]]) == 0
    assert [float(line) for line in capsys.readouterr().out.split()] == pytest.approx(expected, abs=2e-6)
    single = {"prompt": PROMPTS[0], "response": RESPONSES[0], "id": 7}
    several = {"prompt": [{"role": "user", "content": PROMPTS[0]}], "responses": RESPONSES[:2]}
    assert main([*asked, "--file", str(write_lines(tmp_path / "texts.jsonl", [single, several]))]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {**single, "reward": pytest.approx(expected[0], rel=1e-4)}
    assert second == {**several, "rewards": pytest.approx(expected, rel=1e-4)}
    assert main([*asked, "--yes", " no", "--no", " yes", "--prompt", PROMPTS[0], "--response", RESPONSES[0]]) == 0
    assert float(capsys.readouterr().out) == pytest.approx(1 - expected[0], abs=2e-6)


def test_score_asks_only_language_models_and_says_where_it_can_not(checkpoint, trained, refused, tmp_path):
    once = ("--response", "x")
    said = refused("score", checkpoint, "--question", "Good?", *once)
    assert said == "field \"template\": 'Good?': must hold {response}, where the response goes"
    assert "a reward model: must be a language model" in refused("score", trained, "--question", QUESTION, *once)
    assert refused("score", trained, "--yes", "ja", *once).startswith("--yes and --no go with --question")
    assert "surrogate" in refused("score", checkpoint, "--question", "{response} \ud800", *once)
    file = write_lines(tmp_path / "texts.jsonl", [{"response": "x"}] * 300 + [{"responses": ["a", "b", "x" * 500]}])
    said = refused("score", checkpoint, "--question", QUESTION, "--file", file)
    assert re.fullmatch(re.escape(f"{file}:301: responses[2]: ") + r"\d+ tokens with .* must be at most 128", said)
    said = refused("score", checkpoint, "--question", QUESTION, "--normalise", *once)
    assert said.startswith("--normalise goes without --question")


def test_an_unlikely_answer_keeps_its_order_and_numbers_that_overflow_are_refused():
    model, tokenizer = own()
    scorer = minirm.ZeroShotScorer(model, tokenizer, QUESTION, yes=" yes yes yes yes yes yes", no=" no")
    for difference, probability in ((-50.0, 1.928749847963918e-22), (-60.0, 8.75651076269652e-27), (99.0, 1 - 2**-52)):
        scorer.model = SimpleNamespace(
            log_probabilities=lambda questions, _, d=difference: [torch.full((len(questions),), d), torch.zeros(1)],
            encode_text=lambda text: [1],
            max_tokens=None,
        )
        assert scorer.score(None, ["x"]) == pytest.approx([probability], rel=1e-6)
    scorer.model.log_probabilities = lambda *_: [torch.tensor([torch.nan]), torch.zeros(1)]
    with pytest.raises(InputError, match="not finite: the numbers of this language model overflow"):
        scorer.score(None, ["x"])


def test_a_classifier_is_not_asked(tmp_path):
    tokenizer = of_transformers("gpt2")[1]
    classifier = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), num_labels=1, **GPT2))
    for saved in (classifier, tokenizer):
        saved.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a reward model: must be a language model"):
        load_zero_shot(tmp_path, QUESTION)


def test_a_prompt_of_messages_is_written_as_a_dialogue_in_text():
    scorer = minirm.ZeroShotScorer(*own(), QUESTION)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    written = "\n\nHuman: Hi\n\nAssistant: Ho"
    assert scorer.score(messages, ["A fine film."]) == scorer.score(written, ["A fine film."])


def test_reward_fn_takes_what_trlx_and_trl_hand_over():
    whole = minirm.ZeroShotScorer(*own(), "Review: {response} Response:")
    samples, outputs = ["This film is fun.", "This film is dull."], [" is fun.", " is dull."]
    judged = whole.score(None, samples)
    assert whole.reward_fn(samples) == whole.reward_fn(samples, prompts=["This film"] * 2, outputs=outputs) == judged
    both = minirm.ZeroShotScorer(*own(), QUESTION)
    apart = both.score("This film", outputs)
    assert both.reward_fn(samples, prompts=["This film"] * 2, outputs=outputs, other=1) == apart
    completions = [[{"role": "assistant", "content": output}] for output in outputs]
    assert both.reward_fn(prompts=["This film"] * 2, completions=completions) == apart
    with pytest.raises(InputError, match="reward_fn needs samples, or prompts with outputs"):
        both.reward_fn(prompts=["This film"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "Is {prompt} good?"}, r"template.*must hold \{response\}"),
        ({"template": [{"role": "user"}]}, r"template\[0\].content.*null: must be text"),
        ({"yes": ""}, 'field "yes": .*must be at least one token that this tokenizer knows'),
        ({"yes": " no"}, "yes=' no' and no=' no' are the same tokens of this tokenizer: must differ"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        minirm.ZeroShotScorer(*own(), **{"template": QUESTION, **options})


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (["a", "b"], ["c"], r"prompts \(2\) and responses \(1\) must be equally many"),
        (None, "text", 'field "responses": .*must be a list of texts'),
        (None, ["a", 3], r'field "responses\[1\]": 3: must be text'),
        (None, ["a", "long " * 300], r"responses\[1\]: \d+ tokens with the template: must be at most 128"),
    ],
)
@pytest.mark.parametrize("made", [own, lambda: of_transformers("gpt2")], ids=["own", "gpt2"])
def test_texts_that_cannot_be_scored_are_named(made, prompts, responses, message):
    scorer = minirm.ZeroShotScorer(*made(), QUESTION)
    with pytest.raises(InputError, match=message):
        scorer.score(prompts, responses)
    assert scorer.score(None, []) == []
