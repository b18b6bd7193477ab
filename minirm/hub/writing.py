"""A run → a folder from which transformers loads the same reward model."""

from pathlib import Path

import torch.nn.functional as F
from tokenizers import Tokenizer as BPETokenizer
from tokenizers import processors
from torch import Tensor

from minirm.config import ModelConfig
from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError
from minirm.evaluation.scoring import LoadedRun
from minirm.files.disk import check_free, save_tensors, write_folder_whole, write_json
from minirm.files.pretrained import PretrainedTokenizer
from minirm.hub.card import write_card
from minirm.hub.families import FAMILIES, Family, part_rows, write_config
from minirm.hub.tensors import WEIGHTS
from minirm.runs.run_folder import CONFIG, load_run
from minirm.tokens.tokenizer import END, FILE, PAD, ROLES, Tokenizer

SETTINGS, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
JINJA = (
    "{%- for message in messages -%}"
    f"{{%- if message['role'] not in {list(ROLES)} -%}}{{{{- raise_exception('no such role') -}}}}{{%- endif -%}}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    f"{{%- if message['role'] == 'assistant' -%}}{{{{- '{END}' -}}}}{{%- endif -%}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""How minirm's own tokenizer writes a dialogue, as a chat template."""
SAMPLES = [
    Comparison(prompt, (response,), (0.0,))
    for prompt, response in (
        ((Turn("user", "What is 2 + 2?"),), "It's 4."),
        ((Turn("user", "Größe\n\n1. a\n"), Turn("assistant", "yes,"), Turn("user", "and?")), "no\n"),
    )
]
"""Dialogues on which an exported tokenizer must agree with the run's."""


def export_run(run_folder: str | Path, out: str | Path) -> None:
    """Write a run as a sequence classifier of transformers, with its tokenizer, chat template and model card.

    Args:
        out: a folder that is absent or empty; it is written whole or not at all.
    Raises:
        InputError: the run can't be read, transformers has no class for its backbone, or `out` is not empty.
    """
    run_folder, out = Path(run_folder), Path(out)
    check_free(out)
    run = load_run(run_folder)
    config = run.model.config
    family = next((family for family in FAMILIES.values() if family.style == config.style), None)
    if config.backbone != "transformer" or family is None:
        what = f"backbone={config.backbone}" + f", style={config.style}" * (config.backbone == "transformer")
        raise InputError(f"{run_folder}: {what}: transformers has no such classifier to load it")
    if config.ngrams:
        raise InputError(f"{run_folder}: ngrams={config.ngrams}: transformers' models have no read-out of words")
    if config.token_types and not config.bidirectional:
        raise InputError(f"{run_folder}: token_types=True: transformers has no decoder with token types")
    if config.style != "llama" and config.key_value_heads != config.heads:
        raise InputError(f"{run_folder}: kv_heads={config.kv_heads}: transformers has them in a llama alone")

    def write(folder: Path) -> None:
        is_own = isinstance(run.tokenizer, Tokenizer)
        pad_id = _write_own(folder, run.tokenizer, config) if is_own else _write_pretrained(folder, run.tokenizer)
        _write_model(folder, run, family, pad_id)
        if not is_own:
            _check_tokenizer(folder, run.tokenizer, out)
        write_card(folder, run_folder, run, name=out.resolve().name)

    write_folder_whole(out, write)


def _write_own(folder: Path, tokenizer: Tokenizer, config: ModelConfig) -> int:
    """Write minirm's own tokenizer as transformers uses it, and return the id of its pad token."""
    bpe = BPETokenizer.from_str(tokenizer.bpe.to_str())
    bpe.post_processor = _pair_of_texts(tokenizer) if config.bidirectional else processors.Sequence([])
    (folder / FILE).write_text(bpe.to_str(pretty=True), encoding="utf-8")  # bpe.save has no OSError
    if not config.bidirectional:
        (folder / CHAT_TEMPLATE).write_text(JINJA, encoding="utf-8")
    settings = {
        "model_input_names": ["input_ids", *(["token_type_ids"] if config.bidirectional else []), "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "padding_side": "right",  # GPT-2's positions count pads on the left
        "truncation_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_positions,
    }
    write_json(folder / SETTINGS, settings)
    return tokenizer.pad_id


def _pair_of_texts(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Return what puts the special tokens around a prompt and a response, and gives the response its token type."""
    names = ("<|user|>", "<|assistant|>", END)
    return processors.TemplateProcessing(
        single="<|user|> $A <|assistant|>",
        pair=f"<|user|> $A <|assistant|> $B:1 {END}:1",
        special_tokens=[(name, tokenizer.special[name]) for name in names],
    )


def _write_pretrained(folder: Path, tokenizer: PretrainedTokenizer) -> int:
    """Write the tokenizer of the pretrained folder from which a run was trained, and return the id of its pad token.

    It must not be one that ends a response: transformers reads a classifier at the last token that is no pad.
    """
    theirs = tokenizer.theirs
    if tokenizer.unread is None and theirs.pad_token_id in (None, *tokenizer.ending):
        theirs.add_special_tokens({"pad_token": PAD})
    theirs.padding_side, theirs.truncation_side = "right", "left"
    theirs.save_pretrained(folder)
    return theirs.pad_token_id if tokenizer.unread is None else tokenizer.unread


def _check_tokenizer(folder: Path, tokenizer: PretrainedTokenizer, out: Path) -> None:
    """Refuse a tokenizer that transformers saved and that writes dialogues with other tokens than before."""
    saved = PretrainedTokenizer(folder, bidirectional=tokenizer.bidirectional)
    if list(saved.encode_comparisons(SAMPLES)) != list(tokenizer.encode_comparisons(SAMPLES)):
        raise InputError(f"{out}: transformers saves this tokenizer as one that writes other tokens")


def _write_model(folder: Path, run: LoadedRun, family: Family, pad_id: int) -> None:
    tensors = run.model.state_dict()
    rows = max(run.model.config.vocab_size, pad_id + 1)  # a row of zeros for a pad token that was added
    embedding = tensors["backbone.embedding.weight"]
    tensors["backbone.embedding.weight"] = F.pad(embedding, (0, 0, 0, rows - len(embedding)))
    values = write_config(run.model.config, family) | {
        "vocab_size": rows,
        "pad_token_id": pad_id,
        "bos_token_id": None,
        "eos_token_id": run.tokenizer.end_id,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "problem_type": "regression",  # so that the pipeline gives the reward itself, and not its sigmoid
        "dtype": "float32",
    }
    write_json(folder / CONFIG, values)
    save_tensors(rename(tensors, run.model.config, family), folder / WEIGHTS, metadata={"format": "pt"})


def rename(tensors: dict[str, Tensor], config: ModelConfig, family: Family) -> dict[str, Tensor]:
    """Return the tensors as transformers names and cuts them."""
    renamed = {}
    for ours, tensor in tensors.items():
        names = family.names(ours)
        for name, part in zip(names, tensor.split(part_rows(names, len(tensor), config)), strict=True):
            renamed[name] = (part.T if family.is_transposed(ours, part.dim()) else part).contiguous()
    return renamed
