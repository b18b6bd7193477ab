"""Byte-level BPE: text → token ids, and the one way in which a prompt and a response are written as tokens.

<|system|> text <|user|> text <|assistant|> text <|end|> … <|assistant|>  |  text <|end|>
the prompt: a token opens each turn, and <|end|> ends the assistant's        the response
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, Protocol

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as BPETokenizer

from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError

FILE = "tokenizer.json"
PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL = (PAD, END, *(f"<|{role}|>" for role in ROLES))
SMALLEST = len(SPECIAL) + 256
"""Special tokens and one token per byte: the vocabulary that knows every text and merges nothing."""
DEFAULT_VOCABULARY = 8192
LARGEST = 1_000_000
LONGEST = 64
"""Bytes of the longest stretch that is merged into tokens: time grows with the square of its length."""


def read_bpe(path: Path) -> BPETokenizer:
    """Return what a file of the `tokenizers` library holds.

    Raises:
        InputError: the file is missing, or is not a tokenizer.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return BPETokenizer.from_file(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the library raises bare Exception, and panics with what is not even that
        raise InputError(f"{path}: not a tokenizer file ({str(error).splitlines()[0]})") from None


Ids = list[int]


class Tokenized(NamedTuple):
    """A comparison in tokens."""

    prompt: Ids
    responses: list[Ids]
    learned: list[bool]  # of the prompt's tokens, those that an assistant wrote
    ending: int  # tokens that end each response


class ComparisonTokenizer(Protocol):
    """What tokenizes comparisons: minirm's own `Tokenizer`, or a pretrained folder's."""

    def encode_comparisons(self, comparisons: Sequence[Comparison], *, by_assistant: bool) -> Iterator[Tokenized]:
        """Yield each comparison in tokens; `learned` may be all False where it is not asked for."""
        ...


class Tokenizer:
    """A tokenizer that reads no special token out of a text: one opens each turn, one ends each of the assistant's.

    A text that spells "<|end|>" is encoded as those seven characters; it can't end its own response.
    """

    bidirectional = False

    def __init__(self, bpe: BPETokenizer) -> None:
        self.bpe = bpe
        self.bpe.encode_special_tokens = True  # special tokens inside a text are ordinary characters
        self.special = {token: bpe.token_to_id(token) for token in SPECIAL}
        self.pad_id, self.end_id = self.special[PAD], self.special[END]
        self.opens = {role: self.special[f"<|{role}|>"] for role in ROLES}

    def __reduce__(self) -> tuple:
        """Go to another process by what makes it."""
        return Tokenizer, (self.bpe,)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None = None) -> "Tokenizer":
        """Return a tokenizer learned from texts.

        Args:
            texts: what it will have to encode; read once.
            vocab_size: how many tokens, special ones included. None: 8192, or as many as the texts give.
        Raises:
            InputError: `vocab_size` is below 262, above a million, or more than the texts can give.
        """
        wanted = DEFAULT_VOCABULARY if vocab_size is None else vocab_size
        if wanted < SMALLEST:
            raise InputError(
                f"vocab_size={wanted} must be at least {SMALLEST} (256 bytes and {len(SPECIAL)} special tokens)"
            )
        if wanted > LARGEST:
            raise InputError(f"vocab_size={wanted} must be at most {LARGEST}")
        bpe = BPETokenizer(models.BPE())
        bounded = pre_tokenizers.Split(Regex(f".{{1,{LONGEST}}}"), "isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False), bounded])
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=wanted,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            min_frequency=2,
            max_token_length=LONGEST,
        )
        with ThreadPool(1) as thread:  # which leaves this one free to hear Ctrl-C
            thread.apply(bpe.train_from_iterator, (texts, trainer))
        reached = bpe.get_vocab_size()
        if vocab_size is not None and reached < vocab_size:
            raise InputError(f"vocab_size={vocab_size} is more than these texts can give; they give at most {reached}")
        return cls(bpe)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Return the tokenizer in a file of the `tokenizers` library.

        Raises:
            InputError: the file is missing, is not a tokenizer, or lacks a special token.
        """
        bpe = read_bpe(path)
        for token in SPECIAL:
            if bpe.token_to_id(token) is None:
                raise InputError(f"{path}: special token {token!r} is missing from its vocabulary")
        return cls(bpe)

    def save(self, path: Path) -> None:
        """Write the tokenizer as one JSON file, in the format of the `tokenizers` library."""
        path.write_bytes(self.files()[FILE])

    def files(self) -> dict[str, bytes]:
        """Return what a folder must hold to give the same tokenizer: names and contents of files."""
        return {FILE: self.bpe.to_str(pretty=True).encode()}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self.bpe.get_vocab_size()

    @property
    def largest_id(self) -> int:
        """The largest token id that `encode` may return."""
        return max(self.bpe.get_vocab().values())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without any special token."""
        return [encoding.ids for encoding in self.bpe.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_alone(self, text: str) -> Ids:
        """Return a text's token ids outside of any dialogue."""
        return self.encode([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens are left out."""
        return self.bpe.decode(list(ids), skip_special_tokens=True)

    def encode_prompts(self, prompts: Sequence[Sequence[Turn]]) -> list[Ids]:
        """Return each prompt as its turns, and the token that opens the response.

        An empty prompt is that opening alone, so no prompt is without tokens.
        """
        return [ids for ids, _ in self._encode_prompts(prompts)]

    def encode_responses(self, responses: Sequence[str]) -> list[Ids]:
        """Return the tokens of each response and its end."""
        return [[*ids, self.end_id] for ids in self.encode(responses)]

    def encode_comparisons(
        self, comparisons: Sequence[Comparison], *, by_assistant: bool = True
    ) -> Iterator[Tokenized]:
        """Yield each comparison in tokens; `by_assistant` changes nothing, for who wrote what is always known."""
        responses = iter(self.encode_responses([text for one in comparisons for text in one.responses]))
        prompts = self._encode_prompts([one.prompt for one in comparisons])
        for one, (prompt, learned) in zip(comparisons, prompts, strict=True):
            yield Tokenized(prompt, list(islice(responses, len(one.responses))), learned, 1)

    def _encode_prompts(self, prompts: Sequence[Sequence[Turn]]) -> Iterator[tuple[Ids, list[bool]]]:
        texts = iter(self.encode([turn.text for prompt in prompts for turn in prompt]))
        for prompt in prompts:
            ids: Ids = []
            learned: list[bool] = []
            for turn in prompt:
                is_written = turn.role == "assistant"
                turn_ids = [*next(texts), self.end_id] if is_written else next(texts)
                ids += [self.opens[turn.role], *turn_ids]
                learned += [False, *[is_written] * len(turn_ids)]
            yield [*ids, self.opens["assistant"]], [*learned, False]
