"""A reward without any training on rewards: ask an instructed language model whether a response is good.

    reward = P(yes) / (P(yes) + P(no)) = σ(log P(yes) − log P(no))

after a question that a template writes around the response. Where both words are single tokens, that is
σ(logit_yes − logit_no) at the next token; a word of several tokens has the product of their probabilities.
"""

import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError, field_error
from minirm.evaluation.scoring import Scorer
from minirm.files.dialogue import check_text, parse_prompt, render_dialogue
from minirm.files.pretrained import AnyTokenizer
from minirm.models.language_model import LanguageModel
from minirm.tokens.packing import Encoded, pack
from minirm.tokens.stream import cut_into_batches
from minirm.training.parallel import Ranks

YES, NO = " yes", " no"
"""The two answers, unless others are given."""
TOKENS_AT_ONCE = 2048
"""Tokens of a batch, pads included: models of transformers return V logits for each."""
LEAST_SURE, SUREST = -700.0, 36.0
"""Differences of log probabilities, in nats, beyond which σ in float64 is 0 and 1."""
PLACES = re.compile(r"\{(prompt|response)\}")


class ZeroShotScorer(Scorer):
    """Scores responses with a language model, its own tokenizer, and a question.

    Args:
        language_model: minirm's own, or a causal or sequence-to-sequence model of transformers.
        tokenizer: the model's.
        template: text with "{response}", and maybe "{prompt}", in the places where they go; or messages
            {"role", "content"} whose contents are such texts, for a model that knows turns: the answer opens the
            assistant's.
        yes, no: the two answers, each as the model would write it right behind the question.
    Raises:
        InputError: the template has no place for the response, or the tokenizer can't tell the answers apart.
    """

    def __init__(
        self,
        language_model: nn.Module,
        tokenizer: object,
        template: str | Sequence[dict],
        yes: str = YES,
        no: str = NO,
    ) -> None:
        super().__init__()
        self.template = template
        texts = (
            [check_text(template, "template")]
            if isinstance(template, str)
            else [turn.text for turn in parse_prompt(template, "template")]
        )
        places = {name for text in texts for name in PLACES.findall(text)}
        self.reads_prompts = "prompt" in places
        if "response" not in places:
            raise field_error("template", template, "must hold {response}, where the response goes")
        kind = _Own if isinstance(language_model, LanguageModel) else _FromTransformers
        self.model: _Model = kind(language_model, tokenizer)
        self.words = tuple(self._answer(name, word) for name, word in (("yes", yes), ("no", no)))
        if self.words[0] == self.words[1]:
            raise InputError(f"yes={yes!r} and no={no!r} are the same tokens of this tokenizer: must differ")

    def _answer(self, name: str, word: str) -> list[int]:
        ids = self.model.encode_word(check_text(word, name))
        if not ids:
            raise field_error(name, word, "must be at least one token that this tokenizer knows")
        return ids

    def score_comparisons(self, comparisons: Sequence[Comparison], *, normalise: bool = False) -> list[list[float]]:
        """Return the probability of yes against no for each response, in (0, 1); a user's only turn is its text alone.

        Raises:
            InputError: a question is longer than the model can read; the message names the response.
        """
        if normalise:
            raise InputError("normalise: a probability has its own scale: must be left out")
        questions = []
        for one in comparisons:
            names = [one.source] if len(one.responses) == 1 else [f"responses[{k}]" for k in range(len(one.responses))]
            if len(names) > 1 and one.source:
                names = [f"{one.source}: {name}" for name in names]
            prompt = _as_text(one.prompt)
            questions += [self._ask(prompt, text, name) for text, name in zip(one.responses, names, strict=True)]
        rewards = iter(self._answers(questions))
        return [list(islice(rewards, len(one.responses))) for one in comparisons]

    def _answers(self, questions: list[list[int]]) -> list[float]:
        """Return the probability of yes against no behind each question in tokens; processes divide the work."""
        rewards, ranks = torch.zeros(len(questions), dtype=torch.float64), Ranks()
        batches = cut_into_batches([len(ids) for ids in questions], TOKENS_AT_ONCE, padded=True)
        for number, batch in enumerate(batches):
            if number % ranks.count == ranks.rank:
                yes, no = self.model.log_probabilities([questions[n] for n in batch], self.words)
                sure = (yes - no).double().cpu()
                likely = sure.clamp(LEAST_SURE, SUREST).sigmoid()
                rewards[torch.from_numpy(batch)] = torch.where(sure.isfinite(), likely, torch.nan)
            self.advance(len(batch))
        everything = ranks.sum(rewards)
        if not all(map(math.isfinite, everything)):  # on all processes alike
            raise InputError("an answer's probability is not finite: the numbers of this language model overflow")
        return everything

    def _ask(self, prompt: str, response: str, name: str) -> list[int]:
        """Return the question about one response, in tokens."""
        texts = {"prompt": prompt, "response": response}

        def fill(text: str) -> str:
            return PLACES.sub(lambda place: texts[place[1]], text)

        if isinstance(self.template, str):
            ids = self.model.encode_text(fill(self.template))
        else:
            ids = self.model.encode_messages([{**m, "content": fill(m["content"])} for m in self.template])
        if not ids:
            raise InputError(f"{name}: template and texts give no token: must give at least one")
        room, answer = self.model.max_tokens, max(map(len, self.words)) - 1
        if room is not None and len(ids) + answer > room:
            raise InputError(f"{name}: {len(ids) + answer} tokens with the template: must be at most {room}")
        return ids


def _as_text(turns: tuple[Turn, ...]) -> str:
    return turns[0].text if len(turns) == 1 and turns[0].role == "user" else render_dialogue(turns)


class _Model(Protocol):
    """A language model and its tokenizer."""

    max_tokens: int | None
    """Tokens that it can read, answer included; None: any number."""

    def encode_word(self, word: str) -> list[int]:
        """Return an answer's tokens; none if the vocabulary lacks it."""
        ...

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of a question."""
        ...

    def encode_messages(self, messages: list[dict]) -> list[int]:
        """Return the tokens of a question in turns, up to what opens the assistant's."""
        ...

    def log_probabilities(self, questions: list[list[int]], words: Sequence[list[int]]) -> list[Tensor]:
        """Return log p(word | question) in nats, (questions,) for each word."""
        ...


class _Own:
    """minirm's own: a question is computed once for both answers."""

    def __init__(self, model: LanguageModel, tokenizer: AnyTokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_tokens = model.config.max_positions

    def encode_word(self, word: str) -> list[int]:
        return self.tokenizer.encode([word])[0]

    def encode_text(self, text: str) -> list[int]:
        return self.tokenizer.encode_alone(text)

    def encode_messages(self, messages: list[dict]) -> list[int]:
        return self.tokenizer.encode_prompts([parse_prompt(messages, "template")])[0]

    @torch.inference_mode()
    def log_probabilities(self, questions: list[list[int]], words: Sequence[list[int]]) -> list[Tensor]:
        answers = tuple(np.array(word, dtype=np.int32) for word in words)
        unlearned = [np.zeros(len(ids), dtype=bool) for ids in questions]  # the answers alone are the targets
        batch = pack(
            [
                Encoded(np.array(ids, dtype=np.int32), answers, (0.0,) * len(words), learned=mask)
                for ids, mask in zip(questions, unlearned, strict=True)
            ]
        )
        nll = self.model(batch.to(self.model.backbone.embedding.weight.device))
        per_answer = nll.view(len(questions), -1).split([len(word) for word in words], dim=1)
        return [-tokens.sum(1) for tokens in per_answer]


class _FromTransformers:
    """A model of transformers. Rows are padded on the right, where no real token looks."""

    def __init__(self, model: nn.Module, tokenizer: object) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.has_encoder = model.config.is_encoder_decoder
        self.max_tokens = getattr(model.config, "max_position_embeddings", None)

    def encode_word(self, word: str) -> list[int]:
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        return [] if self.tokenizer.unk_token_id in ids else ids

    def encode_text(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def encode_messages(self, messages: list[dict]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def log_probabilities(self, questions: list[list[int]], words: Sequence[list[int]]) -> list[Tensor]:
        after: dict[tuple[int, ...], Tensor] = {}  # what has been written of an answer → log p of every next token
        for word in words:
            stem = tuple(word[:-1])
            if stem not in after:
                after[stem] = self._next_tokens(questions, stem)
        return [self._sum(after[tuple(word[:-1])], word) for word in words]

    def _sum(self, log_p: Tensor, word: list[int]) -> Tensor:
        """Return Σ log p of a word's tokens, (questions,), from (questions, tokens, V)."""
        ids = torch.tensor(word, device=log_p.device).expand(len(log_p), -1)
        return log_p.gather(2, ids[..., None])[..., 0].sum(1)

    def _next_tokens(self, questions: list[list[int]], stem: tuple[int, ...]) -> Tensor:
        """Return log p of the token behind each question, and behind each further token of the stem."""
        device = self.model.device
        if self.has_encoder:
            tokens, mask = _padded(questions, device)
            begun = torch.tensor([self.model.config.decoder_start_token_id, *stem], device=device)
            begun = begun.expand(len(questions), -1)
            logits = self.model(input_ids=tokens, attention_mask=mask, decoder_input_ids=begun).logits
        else:
            tokens, mask = _padded([[*ids, *stem] for ids in questions], device)
            last = torch.tensor([[len(ids) - 1 + k for k in range(len(stem) + 1)] for ids in questions], device=device)
            logits = self.model(input_ids=tokens, attention_mask=mask).logits
            logits = logits.gather(1, last[..., None].expand(-1, -1, logits.shape[-1]))
        return logits.double().log_softmax(-1)


def _padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return tokens and mask (rows, longest), the ends of short rows filled with token 0."""
    mask = torch.arange(max(map(len, rows))) < torch.tensor([[len(row)] for row in rows])
    tokens = torch.zeros(mask.shape, dtype=torch.long)
    tokens[mask] = torch.tensor([token for row in rows for token in row])
    return tokens.to(device), mask.to(device).long()
