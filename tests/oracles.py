"""Slow twins: the same mathematics with one sequence at a time, dense masks and plain loops. Nothing here is clever."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minirm.config import LOOK_AHEAD
from minirm.models.recurrent import Recurrent
from minirm.models.reward_model import RewardModel
from minirm.models.torch_decoder import TorchDecoder
from minirm.models.transformer import Transformer
from minirm.tokens.layout import Tiles
from minirm.tokens.packing import Encoded


def hidden_states(backbone: torch.nn.Module, tokens: Tensor, prompt: int = 0) -> Tensor:
    """Return the hidden states (T, D) of one sequence (T,) alone, the first `prompt` tokens of which are its prompt."""
    if isinstance(backbone, Transformer):
        return _transformer_states(backbone, tokens, prompt)
    if isinstance(backbone, Recurrent):
        return _recurrent_states(backbone, tokens)
    raise TypeError(f"{type(backbone).__name__} has no slow twin yet: write it here")


def _transformer_states(model: Transformer, tokens: Tensor, prompt: int) -> Tensor:
    config, length = model.config, len(tokens)
    x = model.embedding(tokens)
    if model.positions is not None:
        x = x + model.positions.weight[:length]
    if config.token_types:
        x = x + torch.stack([model.token_types.weight[int(i >= prompt)] for i in range(length)])
    for block in model.blocks:
        x = x + _attention(block.attention, block.attention_norm(x), config, prompt)
        x = x + block.mlp(block.mlp_norm(x))
    return model.norm(x)


def _attention(attention: torch.nn.Module, x: Tensor, config, prompt: int = 0) -> Tensor:
    length, heads, groups, width = len(x), config.heads, config.key_value_heads, config.head_width
    q, k, v = attention.qkv(x).split([heads * width, groups * width, groups * width], dim=-1)
    q, k, v = q.view(length, heads, width), k.view(length, groups, width), v.view(length, groups, width)
    if config.style == "llama":
        q, k = _rotated(q, config.rope_theta), _rotated(k, config.rope_theta)
    rows = []
    for i in range(length):
        heads_out = []
        seen = prompt if config.style == "prefix" and i < prompt else length if config.style in LOOK_AHEAD else i + 1
        for h in range(heads):
            g = h // (heads // groups)
            weights = (k[:seen, g] @ q[i, h] / width**0.5).softmax(0)
            heads_out.append(weights @ v[:seen, g])
        rows.append(torch.cat(heads_out))
    return attention.out(torch.stack(rows))


def encoder_states(model: Transformer, prompt: Tensor, response: Tensor) -> Tensor:
    """Return the hidden states (P + R, D) of an encoder over one prompt and one response, token by token."""
    tokens = torch.cat([prompt, response])
    summed = [
        model.embedding.weight[token] + model.positions.weight[i] + model.token_types.weight[int(i >= len(prompt))]
        for i, token in enumerate(tokens)
    ]
    x = torch.stack([_normalised(row, model.embedding_norm) for row in summed])
    for block in model.blocks:
        attended = _attention(block.attention, x, model.config)
        x = torch.stack([_normalised(row, block.attention_norm) for row in x + attended])
        x = torch.stack([_normalised(row, block.mlp_norm) for row in x + block.mlp.down(_gelu(block.mlp.up(x)))])
    return x


def decoder_states(model: TorchDecoder, prompt: Tensor, response: Tensor) -> Tensor:
    """Return the hidden states (1 + R, D) of a prompt's last token, decoded alone, and of a response.

    Both are decoded against the prompt as memory, token by token and head by head.
    """
    embedded = [
        model.embedding.weight[token] + model.positions.weight[i] for i, token in enumerate([*prompt, *response])
    ]
    memory = torch.stack([_normalised(row, model.memory_norm) for row in embedded[: len(prompt)]])
    opening, rest = embedded[len(prompt) - 1 : len(prompt)], embedded[len(prompt) :]
    return torch.cat([_decoded(model, part, memory) for part in (opening, rest)])


def _decoded(model: TorchDecoder, rows: list[Tensor], memory: Tensor) -> Tensor:
    for layer in model.decoder.layers:
        normed = torch.stack([_normalised(row, layer.norm1) for row in rows])
        rows = [row + _look(layer.self_attn, normed[i], normed[: i + 1]) for i, row in enumerate(rows)]
        rows = [row + _look(layer.multihead_attn, _normalised(row, layer.norm2), memory) for row in rows]
        rows = [row + layer.linear2(_gelu(layer.linear1(_normalised(row, layer.norm3)))) for row in rows]
    return torch.stack([_normalised(row, model.decoder.norm) for row in rows])


def _look(attention: torch.nn.MultiheadAttention, query: Tensor, seen: Tensor) -> Tensor:
    """Return what one token (D,) finds among those that it sees (S, D)."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, seen, seen), weights, biases, strict=True))
    width, found = attention.head_dim, []
    for h in range(attention.num_heads):
        head = slice(h * width, (h + 1) * width)
        found.append((k[:, head] @ q[head] / width**0.5).softmax(0) @ v[:, head])
    return attention.out_proj.weight @ torch.cat(found) + attention.out_proj.bias


def _gelu(x: Tensor) -> Tensor:
    """Return x·Φ(x)."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def _normalised(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    """Return one vector's LayerNorm by its definition."""
    away = x - x.sum() / len(x)
    return away / ((away**2).sum() / len(x) + norm.eps) ** 0.5 * norm.weight + norm.bias


def _rotated(x: Tensor, theta: float) -> Tensor:
    """Turn channel i against i + C/2 as complex numbers."""
    length, _, width = x.shape
    powers = torch.arange(0, width, 2, dtype=torch.float32) / width
    angles = torch.arange(length, dtype=x.dtype)[:, None] * (theta**-powers).to(x.dtype)
    turned = (
        torch.complex(x[..., : width // 2], x[..., width // 2 :])
        * torch.polar(torch.ones_like(angles), angles)[:, None]
    )
    return torch.cat([turned.real, turned.imag], dim=-1)


def _recurrent_states(model: Recurrent, tokens: Tensor) -> Tensor:
    x = model.embedding(tokens)
    for block in model.blocks:
        weights = dict(block.recurrent.named_parameters())
        cell = _gru_cell if model.config.backbone == "gru" else _lstm_cell
        memory = (x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1]))
        outputs = []
        for step in block.norm(x):
            memory = cell(step, memory, weights)
            outputs.append(memory[0])
        x = x + torch.stack(outputs)
    return model.norm(x)


def _gru_cell(x: Tensor, memory: tuple[Tensor, Tensor], w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    h = memory[0]
    from_x = F.linear(x, w["weight_ih_l0"], w["bias_ih_l0"]).chunk(3)
    from_h = F.linear(h, w["weight_hh_l0"], w["bias_hh_l0"]).chunk(3)
    reset, update = (from_x[0] + from_h[0]).sigmoid(), (from_x[1] + from_h[1]).sigmoid()
    new = (from_x[2] + reset * from_h[2]).tanh()
    return (1 - update) * new + update * h, memory[1]


def _lstm_cell(x: Tensor, memory: tuple[Tensor, Tensor], w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    h, c = memory
    gates = F.linear(x, w["weight_ih_l0"], w["bias_ih_l0"]) + F.linear(h, w["weight_hh_l0"], w["bias_hh_l0"])
    enter, forget, new, leave = gates.chunk(4)
    c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * c.tanh(), c


def rewards_one_by_one(model: RewardModel, batch: list[Encoded]) -> list[Tensor]:
    """Return the rewards (K,) of each comparison, every response read alone behind its own copy of the prompt."""
    rewards = []
    for encoded in batch:
        prompt = torch.tensor(encoded.prompt).long()
        read = [_read(model, prompt, torch.tensor(response).long()) for response in encoded.responses]
        rewards.append(torch.stack([model.head(x)[0] for x in read]))
    return rewards


def _read(model: RewardModel, prompt: Tensor, response: Tensor) -> Tensor:
    """Return the vector (D,) that the head judges."""
    if model.config.style == "bert":
        return (model.pooler.dense.weight @ encoder_states(model.backbone, prompt, response)[0]
                + model.pooler.dense.bias).tanh()  # fmt: skip
    if isinstance(model.backbone, TorchDecoder):
        return decoder_states(model.backbone, prompt, response)[-1]
    return hidden_states(model.backbone, torch.cat([prompt, response]), len(prompt))[-1]


def nll_one_by_one(backbone: torch.nn.Module, batch: list[Encoded]) -> Tensor:
    """Return the sum of −log p over the tokens of a batch, in nats: each prompt's once, then each response's."""
    total = torch.zeros((), dtype=backbone.embedding.weight.dtype)
    for encoded in batch:
        prompt = len(encoded.prompt)
        for k, response in enumerate(encoded.responses):
            sequence = torch.tensor([*encoded.prompt, *response])
            log_p = (hidden_states(backbone, sequence) @ backbone.embedding.weight.T).log_softmax(-1)
            for i in range(len(sequence) - 1):
                counted = k == 0 or i >= prompt - 1
                total = total - log_p[i, sequence[i + 1]] * counted
    return total


def seen_by_tiles(tiles: Tiles) -> list[list[int]]:
    """Return for each query the keys it sees, read off masks or the kernel's triangle."""
    laid_end_to_end = []
    for tile in tiles.tiles:
        n, R = tile.queries.shape
        mask = tile.mask()
        if mask is None:
            mask = torch.ones(R, tile.keys.shape[1], dtype=torch.bool).tril()
        mask = mask.expand(n, 1, R, -1)
        for row in range(n):
            laid_end_to_end += [tile.keys[row][mask[row, 0, r]].tolist() for r in range(R)]
    return [laid_end_to_end[place] for place in tiles.slots.tolist()]
