"""Pretrained folders of the shapes that the field has, made on the spot: tokenizers, chat templates, tiny models."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "What is the capital of France? Paris is the capital, I think.",
    "I think so, yes. No, it is not. user assistant system model",
    "Name a fruit: a pear, an apple. Because it is sweet. Human: Assistant:",
    "2+2 is 4. Let me think about it [INST] [/INST] <<SYS>>",
] * 5
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>"]
SPECIAL += [
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
]
SPECIAL += ["<｜User｜>", "<｜Assistant｜>", "<|endoftext|>"]
DIGITS_APART = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(*, prefix_space: bool = False, split: str | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=split is None)
    parts = [] if split is None else [pre_tokenizers.Split(Regex(split), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def metaspace(prepend: str = "first", model: type = models.BPE) -> Tokenizer:
    """SentencePiece, as today's files write it: Llama 2, Mistral (BPE), T5 (Unigram)."""
    tokenizer = Tokenizer(models.Unigram() if model is models.Unigram else models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    kind = trainers.UnigramTrainer if model is models.Unigram else trainers.BpeTrainer
    return _trained(tokenizer, kind, **({"unk_token": "<unk>"} if model is models.Unigram else {}))


def legacy_llama() -> Tokenizer:
    """SentencePiece, as older files write it: no pre-tokenizer, white space by the normaliser."""
    tokenizer = metaspace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}))


def lowercased() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return tokenizer


def with_start(*, end: bool = False) -> Tokenizer:
    tokenizer = byte_level()
    names = ["<s>", *(["</s>"] if end else [])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if end else "<s> $A",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )
    return tokenizer


def with_added() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("Paris", lstrip=True, rstrip=True), AddedToken("</think>", special=False), "pear"])
    return tokenizer


def _trained(tokenizer: Tokenizer, kind: type, **options: object) -> Tokenizer:
    tokenizer.train_from_iterator(TEXTS, kind(vocab_size=420, special_tokens=SPECIAL, show_progress=False, **options))
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte level, prefix space": lambda: byte_level(prefix_space=True),
    "byte level, digits apart": lambda: byte_level(split=DIGITS_APART),
    "byte level, puts a start": with_start,
    "byte level, puts start and end": lambda: with_start(end=True),
    "byte level, lower case": lowercased,
    "byte level, added tokens": with_added,
    "metaspace first": metaspace,
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "unigram": lambda: metaspace(model=models.Unigram),
    "legacy Llama": legacy_llama,
}


def turns(user: str, assistant: str, system: str = "", start: str = "", opens: str = "") -> str:
    """Return a template that writes `{}` of each role's text around it."""
    cases = [(role, text) for role, text in (("user", user), ("assistant", assistant), ("system", system)) if text]
    lines = ""
    for n, (role, text) in enumerate(cases):
        before, after = (json.dumps(part, ensure_ascii=False) for part in text.split("{}"))
        word = "elif" if n else "if"
        lines += f"{{%- {word} m['role'] == '{role}' -%}}{{{{- {before} + m['content'] + {after} -}}}}"
    opening = f"{{%- if add_generation_prompt -%}}{{{{- {json.dumps(opens, ensure_ascii=False)} -}}}}{{%- endif -%}}"
    refusal = "{%- else -%}{{- raise_exception('Role ' + m['role'] + ' not supported') -}}{%- endif -%}"
    loop = "{%- for m in messages -%}" + lines + refusal + "{%- endfor -%}"
    return f"{{{{- {start} -}}}}{loop}{opening}" if start else loop + opening


ALTERNATE = (
    "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set said = '' %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
TEMPLATES = {
    "Llama 2": ALTERNATE
    + "{% if loop.index0 == 0 and said %}{% set c = '<<SYS>>\\n' + said + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set c = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ (bos_token if loop.index0 else '') + '[INST] ' + c.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + c.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "Llama 3": "{% set loop_messages = messages %}{% for m in loop_messages %}{% set content = '<|start_header_id|>' + "
    "m['role'] + '<|end_header_id|>\n\n'+ m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "ChatML": turns(
        "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n{}<|im_end|>\n",
        "<|im_start|>system\n{}<|im_end|>\n",
        opens="<|im_start|>assistant\n",
    ),
    "Qwen 2": "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "Qwen 3": "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}{%- set content = m.content %}"
    "{%- if m.role == 'assistant' %}{%- set reasoning = '' %}{%- if m.reasoning_content is string %}"
    "{%- set reasoning = m.reasoning_content %}{%- elif '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or reasoning) %}{{- '<|im_start|>assistant\n<think>\n' + reasoning + "
    "'\n</think>\n\n' + content }}{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}"
    "{%- if m.tool_calls %}{{- '\n<tool_call>' }}{%- endif %}{{- '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "Gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "Mistral": ALTERNATE
    + "{% if m['role'] == 'user' %}{{ '[INST] ' + (said + '\n\n' if loop.last else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}",
    "Zephyr": "{% for m in messages %}\n{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "DeepSeek R1": "{{- bos_token -}}{%- for m in messages -%}{%- if m['role'] == 'system' -%}{{- m['content'] -}}"
    "{%- elif m['role'] == 'user' -%}{{- '<｜User｜>' + m['content'] -}}{%- else -%}{%- set content = m['content'] -%}"
    "{%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}"
    "{{- '<｜Assistant｜>' + content + eos_token -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\n' -}}{%- endif -%}",
    "Phi 3": "{% for m in messages %}{% if m['role'] == 'system' and m['content'] %}{{'<|system|>\n' + m['content'] + "
    "'<|end|>\n'}}{% elif m['role'] == 'user' %}{{'<|user|>\n' + m['content'] + '<|end|>\n'}}"
    "{% elif m['role'] == 'assistant' %}{{'<|assistant|>\n' + m['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "Vicuna": turns("USER: {} ", "ASSISTANT: {}</s>", "{} ", start="bos_token", opens="ASSISTANT:"),
    "answer's first word decides": "{% for m in messages %}<|im_start|>{{ m.role }}:"
    "{{ ' (short)' if m.content | length < 9 else '' }}{{ ' (no)' if m.content.startswith('No') else '' }}"
    " {{ m.content }}<|im_end|>{% endfor %}",
    "counts all turns first": "{{ messages | length }} {{ messages[-1].content | length }}\n{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
}


def save(
    folder: Path, tokenizer: Tokenizer, template: str | None, *, pad: str | None = "<pad>", end: str = "</s>", **model
) -> Path:
    """Write a Llama with one label, its tokenizer and its template as transformers writes them."""
    names = {"bos_token": "<s>", "eos_token": end, "unk_token": "<unk>"} | ({"pad_token": pad} if pad else {})
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    theirs.chat_template = template
    save_model(folder, len(theirs), theirs.pad_token_id, theirs.eos_token_id, **model)
    theirs.save_pretrained(folder)
    return folder


def save_model(folder: Path, size: int, pad: int | None, end: int | None, kind: str = "LlamaForSequenceClassification"):
    config = transformers.LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=1,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=pad, eos_token_id=end, bos_token_id=None,
    )  # fmt: skip
    draw(getattr(transformers, kind)(config)).save_pretrained(folder)


def draw(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model with every parameter drawn wide, so that each token counts."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.dim() > 1 else 1.0, std=0.3)
    return model.eval()


def their_rewards(folder: Path, dialogues: list[list[dict]]) -> list[float]:
    """Return the reward of each dialogue by transformers alone, one at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rewards = []
    for messages in dialogues:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt", padding=False, truncation=False)
        with torch.no_grad():
            rewards.append(model(inputs["input_ids"]).logits[0, 0].item())
    return rewards
