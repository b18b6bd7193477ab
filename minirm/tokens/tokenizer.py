"""Byte-level BPE: text → token ids, and the one way in which a prompt and a response are written as tokens."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as BPETokenizer

from minirm.config_rules import require
from minirm.data.records import Turn
from minirm.errors import InputError
from minirm.tokens.template import OWN, Template

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL = (PAD, END, *(f"<|{role}|>" for role in ROLES))
SMALLEST = len(SPECIAL) + 256
"""Special tokens and one token per byte: the vocabulary that knows every text and merges nothing."""
DEFAULT_VOCABULARY = 8192
LARGEST = 1_000_000
LONGEST = 64
"""Bytes of the longest piece that is merged into tokens: time grows with the square of a piece's length."""


def read_bpe(path: Path) -> BPETokenizer:
    """Return what a file of the `tokenizers` library holds.

    Raises:
        InputError: the file is missing, or is not a tokenizer.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return BPETokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path}: not a tokenizer file ({str(error).splitlines()[0]})") from None


Piece = tuple[int | str, bool]
"""A special token's id, or text; and whether an assistant wrote it."""


class Tokenizer:
    """A tokenizer that reads no special token out of a text: its template puts them in.

    A text that spells "<|end|>" is encoded as those seven characters; it can't end its own response.
    """

    def __init__(self, bpe: BPETokenizer, template: Template = OWN) -> None:
        self.bpe = bpe
        self.bpe.encode_special_tokens = True  # special tokens inside a text are ordinary characters
        self.template = template
        self.special = {token.content: i for i, token in bpe.get_added_tokens_decoder().items() if token.special}
        self._pieces = cache(self._split)
        ends = [piece for piece, _ in self._pieces(template.assistant[1]) if isinstance(piece, int)]
        if not ends:
            raise InputError(f"the template ends a response with {template.assistant[1]!r}: must hold a special token")
        self.end_id = ends[0]
        [empty] = self.encode_responses([""])
        self.ending = len(empty) - empty.index(self.end_id)  # tokens, the end token and all after it
        self.pad_id = bpe.token_to_id(PAD)

    def __reduce__(self) -> tuple:
        """Go to another process by what makes it; the cache stays behind."""
        return Tokenizer, (self.bpe, self.template)

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
        require(wanted <= LARGEST, f"vocab_size={wanted} must be at most {LARGEST}")
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
        _hear_signals(lambda: bpe.train_from_iterator(texts, trainer))
        reached = bpe.get_vocab_size()
        if vocab_size is not None and reached < vocab_size:
            raise InputError(f"vocab_size={vocab_size} is more than these texts can give; they give at most {reached}")
        return cls(bpe)

    @classmethod
    def load(cls, path: Path, template: Template = OWN) -> "Tokenizer":
        """Return the tokenizer in a file of the `tokenizers` library.

        Raises:
            InputError: the file is missing, is not a tokenizer, or lacks a special token of the template.
        """
        bpe = read_bpe(path)
        for token in SPECIAL if template == OWN else ():
            if bpe.token_to_id(token) is None:
                raise InputError(f"{path}: special token {token!r} is missing from its vocabulary")
        try:
            return cls(bpe, template)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: Path) -> None:
        """Write the tokenizer as one JSON file, in the format of the `tokenizers` library."""
        path.write_text(self.bpe.to_str(pretty=True), encoding="utf-8")

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

    def encode_alone(self, text: str) -> list[int]:
        """Return a text's token ids outside of any dialogue, with the special tokens of the tokenizer's own file.

        A Llama's puts its start token before every text, as transformers does with the same file; minirm's puts none.
        """
        return self.bpe.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens are left out."""
        return self.bpe.decode(list(ids), skip_special_tokens=True)

    def encode_prompts(self, prompts: Sequence[Sequence[Turn]]) -> list[list[int]]:
        """Return each prompt as the template writes it, up to what opens the response.

        An empty prompt is that opening alone, so no prompt is without tokens.
        """
        return [ids for ids, _ in self.encode_dialogues(prompts)]

    def encode_dialogues(self, prompts: Sequence[Sequence[Turn]]) -> list[tuple[list[int], list[bool]]]:
        """Return the tokens of each prompt, and which of them an assistant wrote: its texts and what ends them."""
        return self._encode_pieces([[*self._write(prompt), *self._pieces(self.template.opening)] for prompt in prompts])

    def encode_responses(self, responses: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each response and what ends it."""
        lead, end = self.template.lead, self._pieces(self.template.assistant[1], True)
        written = [[(lead + self.template.text(text), True), *end] for text in responses]
        return [ids for ids, _ in self._encode_pieces(written)]

    def _write(self, prompt: Sequence[Turn]) -> list[Piece]:
        pieces = [*self._pieces(self.template.begins(prompt))]
        for role, text in prompt:
            before, after = self.template.around(role)
            bare, is_written = before.rstrip(" "), role == "assistant"
            text = before[len(bare) :] + self.template.text(text)
            pieces += [*self._pieces(bare), (text, is_written), *self._pieces(after, is_written)]
        return pieces

    def _split(self, text: str, is_written: bool = False) -> list[Piece]:
        """Split a text of the template at its special tokens."""
        names = sorted(self.special, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
        return [(self.special.get(part, part), is_written) for part in parts if part]

    def _encode_pieces(self, rows: list[list[Piece]]) -> list[tuple[list[int], list[bool]]]:
        """Return ids, and by whom: texts that adjoin are tokenised as one, as they would be in a whole dialogue."""
        joined = [list(_join_texts(row)) for row in rows]
        texts = iter(self.encode([piece for row in joined for piece, _ in row if isinstance(piece, str)]))
        encoded = []
        for row in joined:
            parts = [(next(texts) if isinstance(piece, str) else [piece], is_written) for piece, is_written in row]
            encoded.append(([i for ids, _ in parts for i in ids], [written for ids, written in parts for _ in ids]))
        return encoded


def _join_texts(pieces: list[Piece]) -> Iterator[Piece]:
    for (kind, is_written), run in groupby(pieces, lambda piece: (type(piece[0]), piece[1])):
        if kind is str:
            yield "".join(text for text, _ in run), is_written
        else:
            yield from run


def _hear_signals(work: Callable[[], object]) -> None:
    """Let a library work in a thread of its own: this one hears signals meanwhile."""
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join()
    for error in failed:
        raise error
