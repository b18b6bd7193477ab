"""A run → a folder from which transformers loads the same reward model."""

from pathlib import Path

import torch.nn.functional as F
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as BPETokenizer
from torch import Tensor

from minirm.config import ModelConfig
from minirm.data.dialogue import Turn
from minirm.disk import check_free, save_tensors, write_folder_whole, write_json
from minirm.errors import InputError
from minirm.evaluation.scoring import LoadedRun
from minirm.hub.card import write_card
from minirm.hub.chat_template import CHAT_TEMPLATE, SETTINGS
from minirm.hub.families import FAMILIES, Family, part_rows, write_config
from minirm.hub.tensors import WEIGHTS
from minirm.runs.run_folder import CONFIG, TOKENIZER, load_run
from minirm.tokens.tokenizer import PAD, Tokenizer

PADS = (PAD, "[PAD]", "<pad>", "<|finetune_right_pad_id|>")
"""What tokenizers call a token that no text is written with."""
SAMPLES = (
    [Turn("user", "What is 2 + 2?"), Turn("assistant", "It's 4.")],
    [Turn("user", "Größe\n\n1. a\n"), Turn("assistant", "yes,"), Turn("user", "and?"), Turn("assistant", "no\n")],
    [Turn("assistant", "")],
)
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
        raise InputError(f"{run_folder}: backbone={config.backbone}: transformers has no such classifier to load it")
    if config.style != "llama" and config.key_value_heads != config.heads:
        raise InputError(f"{run_folder}: kv_heads={config.kv_heads}: transformers has them in a llama alone")
    bpe, pad = _plain_tokenizer(run.tokenizer, bidirectional=config.bidirectional)
    _check_tokenizer(run.tokenizer, bpe, run_folder, bidirectional=config.bidirectional)

    def write(folder: Path) -> None:
        _write_model(folder, run, family, bpe, pad)
        (folder / TOKENIZER).write_text(bpe.to_str(pretty=True), encoding="utf-8")  # bpe.save has no OSError
        (folder / CHAT_TEMPLATE).write_text(run.tokenizer.template.to_jinja(), encoding="utf-8")
        write_json(folder / SETTINGS, _tokenizer_settings(run.tokenizer, pad, config))
        write_card(folder, run_folder, run, name=out.resolve().name)

    write_folder_whole(out, write)


def _plain_tokenizer(tokenizer: Tokenizer, *, bidirectional: bool) -> tuple[BPETokenizer, str]:
    """Return the tokenizer as transformers uses it, and its pad token; one is added if there is none.

    The pad token must not be the end token: transformers reads a classifier at the last token that is no pad.
    """
    bpe = BPETokenizer.from_str(tokenizer.bpe.to_str())
    # A decoder's chat template writes every special token; none must come twice.
    bpe.post_processor = _pair_of_texts(tokenizer) if bidirectional else processors.Sequence([])
    pad = next((name for name in PADS if name in tokenizer.special), None)
    if pad is None:
        pad = PAD
        bpe.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
    return bpe, pad


def _pair_of_texts(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Return what puts the special tokens around a prompt and a response, and gives the response its token type.

    Raises:
        InputError: the template puts text there as well.
    """
    ids = {i: name for name, i in tokenizer.special.items()}
    (before,), (opening,) = tokenizer.encode_prompts([[Turn("user", "")]]), tokenizer.encode_prompts([[]])
    before = before[: len(before) - len(opening)]
    (end,) = tokenizer.encode_responses([""])
    around = [[ids.get(i) for i in part] for part in (before, opening, end)]
    if any(None in part for part in around):
        raise InputError("the template of an encoder must hold special tokens alone to be written for transformers")
    before, opening, end = around
    pair = [*before, "$A", *opening, "$B:1", *(f"{token}:1" for token in end)]
    used = sorted({token for part in around for token in part})
    return processors.TemplateProcessing(
        single=[*before, "$A", *opening],
        pair=pair,
        special_tokens=[(token, tokenizer.special[token]) for token in used],
    )


def _check_tokenizer(tokenizer: Tokenizer, bpe: BPETokenizer, place: Path, *, bidirectional: bool) -> None:
    """Refuse a tokenizer that writes a dialogue, once it is one text, with other tokens than in its parts."""
    for turns in SAMPLES[:1] if bidirectional else SAMPLES:
        if bidirectional:
            whole = bpe.encode(turns[0].text, turns[1].text).ids
        else:
            whole = bpe.encode(tokenizer.template.render(turns), add_special_tokens=False).ids
        (prompt,), (response,) = tokenizer.encode_prompts([turns[:-1]]), tokenizer.encode_responses([turns[-1].text])
        if whole != prompt + response:
            raise InputError(
                f"{place}: its tokenizer writes a whole dialogue with other tokens than its prompt and its response: "
                "the exported model would give other rewards"
            )


def _write_model(folder: Path, run: LoadedRun, family: Family, bpe: BPETokenizer, pad: str) -> None:
    tensors = run.model.state_dict()
    pad_id = bpe.token_to_id(pad)
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


def _tokenizer_settings(tokenizer: Tokenizer, pad: str, config: ModelConfig) -> dict:
    ids = {i: name for name, i in tokenizer.special.items()}
    inputs = ["input_ids", *(["token_type_ids"] if config.bidirectional else []), "attention_mask"]
    return {
        "model_input_names": inputs,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": ids[tokenizer.end_id],
        "pad_token": pad,
        "padding_side": "right",  # GPT-2's positions count pads on the left
        "truncation_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_positions,
    }
