"""What GPT-2, Llama and BERT are called in Hugging Face's files: every field of config.json, every tensor, both ways.

A field of config.json is in one of three tables, and one that is in none of them is refused: it may change what the
model computes.
"""

import math
import typing
from dataclasses import dataclass

from minirm.config import ModelConfig, RopeScaling, Style
from minirm.config_rules import KINDS
from minirm.errors import InputError, field_error, shorten


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


HARMLESS = _names(
    """
    _name_or_path _model_name_or_path architectures model_type transformers_version torch_dtype dtype torchscript
    use_bfloat16
    tf_legacy_loss use_cache return_dict output_attentions output_hidden_states output_scores return_dict_in_generate
    initializer_range initializer_factor gradient_checkpointing chunk_size_feed_forward _attn_implementation_autoset
    is_decoder bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id decoder_start_token_id
    tokenizer_class
    prefix id2label label2id num_labels problem_type finetuning_task task_specific_params
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty
    """
)
"""Fields that say nothing about hidden states: names, generation, labels, initialisation, speed."""

FIXED = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}
"""Field → the values that mean what minirm computes."""

REQUIRED = object()
Field = tuple[str, object]
"""Its name in config.json, and the value that its absence stands for."""


DECODER_HEADS = {"head.weight": "score.weight", "unembedding.weight": "lm_head.weight"}


@dataclass(frozen=True)
class Family:
    """One architecture of transformers."""

    model_type: str
    style: Style
    classifier: str
    """The class that `AutoModelForSequenceClassification` takes."""
    fields: dict[str, Field]
    """Field of `ModelConfig` → field of config.json."""
    fixed: dict[str, tuple]
    """Field of config.json → the values that mean what minirm computes; absence does, too."""
    harmless: frozenset[str]
    """Fields that do not change the hidden states."""
    dropouts: dict[str, bool]
    """Field of a probability that something is dropped in training → whether minirm drops it, too."""
    prefix: str
    """What the backbone's tensors begin with, unless the backbone was saved alone."""
    outside: dict[str, str]
    """Module outside the blocks → its name in the files."""
    block: str
    """What the tensors of the first block begin with, without its number."""
    inside: dict[str, tuple[str, ...]]
    """Module of a block → the modules that it is made of, by rows."""
    transposed: bool
    """Matrices of the blocks are stored (in, out)."""
    buffers: tuple[str, ...]
    """How tensors begin or end that a reward model does not read: buffers of older versions, heads of pre-training."""
    heads: dict[str, str]
    """Tensor outside the backbone → its name in the files."""

    def names(self, tensor: str, *, bare: bool = False) -> tuple[str, ...]:
        """Return what a tensor of a reward model or language model is called in the files.

        Args:
            bare: the backbone was saved alone, without its prefix.
        """
        if tensor in self.heads:
            return (self.heads[tensor],)
        prefix = "" if bare else self.prefix
        module, _, leaf = tensor.removeprefix("backbone.").rpartition(".")
        if not module.startswith("blocks."):
            return (f"{prefix}{self.outside[module]}.{leaf}",)
        _, number, inner = module.split(".", 2)
        return tuple(f"{prefix}{self.block}.{number}.{part}.{leaf}" for part in self.inside[inner])

    def is_read(self, name: str) -> bool:
        """Return whether a tensor of the files says something about rewards."""
        return not name.startswith(self.buffers) and not name.endswith(self.buffers)

    def is_transposed(self, tensor: str, dimensions: int) -> bool:
        """Return whether a tensor of ours is the files' one transposed."""
        return self.transposed and dimensions == 2 and ".blocks." in tensor


GPT2 = Family(
    model_type="gpt2",
    style="gpt2",
    classifier="GPT2ForSequenceClassification",
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "layers": ("n_layer", REQUIRED),
        "width": ("n_embd", REQUIRED),
        "heads": ("n_head", REQUIRED),
        "mlp_width": ("n_inner", None),
        "max_positions": ("n_positions", REQUIRED),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tied_head": ("tie_word_embeddings", True),
    },
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
    harmless=_names(
        """
        n_ctx reorder_and_upcast_attn summary_type summary_use_proj
        summary_activation summary_proj_to_labels summary_first_dropout
        """
    ),
    dropouts={"embd_pdrop": True, "resid_pdrop": True, "attn_pdrop": False},
    prefix="transformer.",
    outside={"embedding": "wte", "positions": "wpe", "norm": "ln_f"},
    block="h",
    inside={
        "attention_norm": ("ln_1",),
        "attention.qkv": ("attn.c_attn",),
        "attention.out": ("attn.c_proj",),
        "mlp_norm": ("ln_2",),
        "mlp.up": ("mlp.c_fc",),
        "mlp.down": ("mlp.c_proj",),
    },
    transposed=True,
    buffers=(".attn.bias", ".attn.masked_bias"),
    heads=DECODER_HEADS,
)

LLAMA = Family(
    model_type="llama",
    style="llama",
    classifier="LlamaForSequenceClassification",
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "layers": ("num_hidden_layers", REQUIRED),
        "width": ("hidden_size", REQUIRED),
        "heads": ("num_attention_heads", REQUIRED),
        "kv_heads": ("num_key_value_heads", None),
        "mlp_width": ("intermediate_size", REQUIRED),
        "max_positions": ("max_position_embeddings", REQUIRED),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "tied_head": ("tie_word_embeddings", False),
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
    },
    harmless=_names("pretraining_tp rope_theta rope_scaling rope_parameters head_dim"),
    dropouts={"attention_dropout": False},
    prefix="model.",
    outside={"embedding": "embed_tokens", "norm": "norm"},
    block="layers",
    inside={
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.out": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down": ("mlp.down_proj",),
    },
    transposed=False,
    buffers=(".rotary_emb.inv_freq",),
    heads=DECODER_HEADS,
)

BERT = Family(
    model_type="bert",
    style="bert",
    classifier="BertForSequenceClassification",
    fields={
        "vocab_size": ("vocab_size", REQUIRED),
        "layers": ("num_hidden_layers", REQUIRED),
        "width": ("hidden_size", REQUIRED),
        "heads": ("num_attention_heads", REQUIRED),
        "mlp_width": ("intermediate_size", REQUIRED),
        "max_positions": ("max_position_embeddings", REQUIRED),
        "norm_eps": ("layer_norm_eps", 1e-12),
    },
    fixed={
        "hidden_act": ("gelu",),
        "type_vocab_size": (2,),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
    },
    harmless=_names("tie_word_embeddings"),
    dropouts={"hidden_dropout_prob": True, "attention_probs_dropout_prob": True, "classifier_dropout": True},
    prefix="bert.",
    outside={
        "embedding": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "pooler.dense": "pooler.dense",
    },
    block="encoder.layer",
    inside={
        "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.out": ("attention.output.dense",),
        "attention_norm": ("attention.output.LayerNorm",),
        "mlp.up": ("intermediate.dense",),
        "mlp.down": ("output.dense",),
        "mlp_norm": ("output.LayerNorm",),
    },
    transposed=False,
    buffers=("cls.", ".position_ids"),
    heads={"head.weight": "classifier.weight", "offset": "classifier.bias"},
)

FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, BERT)}

ROPE = {
    "factor": ("factor", REQUIRED),
    "low_frequency_factor": ("low_freq_factor", REQUIRED),
    "high_frequency_factor": ("high_freq_factor", REQUIRED),
    "trained_positions": ("original_max_position_embeddings", REQUIRED),
}
"""Field of `RopeScaling` → field of config.json's "rope_scaling", called "rope_parameters" in newer versions."""


def read_config(values: dict, family: Family) -> ModelConfig:
    """Return what config.json describes.

    Raises:
        InputError: a field is missing, has a value that minirm does not compute, or is unknown.
    """
    fixed = FIXED | family.fixed
    known = (
        HARMLESS
        | family.harmless
        | family.dropouts.keys()
        | fixed.keys()
        | {theirs for theirs, _ in family.fields.values()}
    )
    for name, value in values.items():
        if name in fixed and value not in fixed[name]:
            raise field_error(
                name, value, f"must be {' or '.join(map(shorten, fixed[name]))}: minirm computes no other"
            )
        if name not in known and value is not None:
            raise field_error(name, value, f"is not known to minirm in a {family.model_type}, and may change the model")
    rope = _read_rope(values) if family.style == "llama" else {}
    config = ModelConfig(style=family.style, **_read_fields(ModelConfig, values, family.fields), **rope)
    if values.get("head_dim") not in (None, config.head_width):
        raise field_error("head_dim", values["head_dim"], f"must be width/heads={config.head_width}")
    return config


def _read_fields(kind: type, values: dict, fields: dict[str, Field], place: str = "") -> dict:
    """Return the fields of a dataclass, by our names, each of the type that it has there."""
    hints, read = typing.get_type_hints(kind), {}
    for ours, (theirs, default) in fields.items():
        value = values.get(theirs, default)
        if value is REQUIRED:
            raise InputError(f'field "{place}{theirs}": missing')
        wanted = {bool: (bool,), float: (int, float)}.get(hints[ours], (int,))
        if type(value) not in wanted and not (value is None and default is None):
            raise field_error(place + theirs, value, f"must be {KINDS[wanted[-1]]}")
        read[ours] = _as_float(value) if hints[ours] is float else value
    return read


def _as_float(number: float) -> float:
    """Return a number as a float; a whole number that is too large as infinity, as JSON's 1e400 is read."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _read_rope(values: dict) -> dict:
    """Return the rotary fields: older files hold "rope_theta" and "rope_scaling", newer ones "rope_parameters"."""
    name = "rope_parameters" if values.get("rope_parameters") is not None else "rope_scaling"
    rope = values.get(name) or {}
    if not isinstance(rope, dict):
        raise field_error(name, rope, "must be an object")
    theta = _read_fields(ModelConfig, {**values, **rope}, {"rope_theta": ("rope_theta", 10_000.0)})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise field_error(f"{name}.rope_type", kind, "must be 'default' or 'llama3': minirm computes no other")
    scaled = {theirs for theirs, _ in ROPE.values()} if kind == "llama3" else set()
    for field in sorted(rope.keys() - scaled - {"rope_type", "type", "rope_theta"}):
        raise field_error(f"{name}.{field}", rope[field], f"is not known to minirm for rope_type={kind}")
    scaling = RopeScaling(**_read_fields(RopeScaling, rope, ROPE, f"{name}.")) if scaled else None
    return {**theta, "rope_scaling": scaling}


def write_config(config: ModelConfig, family: Family) -> dict:
    """Return the fields of config.json that `read_config` reads back as the same."""
    values: dict = {theirs: getattr(config, ours) for ours, (theirs, _) in family.fields.items()}
    values["architectures"], values["model_type"] = [family.classifier], family.model_type
    values |= {name: accepted[0] for name, accepted in family.fixed.items()}
    values |= {name: config.dropout if is_ours else 0.0 for name, is_ours in family.dropouts.items()}
    values[family.fields["mlp_width"][0]] = config.inner_width
    if family.style == "llama":
        values |= {"num_key_value_heads": config.key_value_heads, "head_dim": config.head_width, "rope_scaling": None}
        values["rope_theta"] = config.rope_theta
        if config.rope_scaling is not None:
            scaling = {theirs: getattr(config.rope_scaling, ours) for ours, (theirs, _) in ROPE.items()}
            values["rope_scaling"] = {"rope_type": "llama3", **scaling}
    return values


def part_rows(names: tuple[str, ...], rows: int, config: ModelConfig) -> list[int]:
    """Return how many rows each part of a tensor of ours has: all, half (gate and up), or queries, keys and values."""
    keys = config.key_value_heads * config.head_width
    return {1: [rows], 2: [rows // 2] * 2, 3: [config.width, keys, keys]}[len(names)]
