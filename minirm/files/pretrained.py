"""The tokenizer and the chat template of a pretrained folder, used exactly as transformers uses them.

Each response's whole dialogue becomes text, and the text tokens; what the token sequences of a comparison begin with in
common is their prompt. So no template and no tokenizer needs to be understood to get the reward that transformers gets.
An encoder reads a prompt and a response as a pair of texts.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from minirm.data.comparison import Comparison, Turn
from minirm.errors import InputError, field_error
from minirm.files.dialogue import MARKERS, render_dialogue
from minirm.files.disk import read_json
from minirm.files.guarded import Guarded
from minirm.files.opening import first_line, naming, open_theirs
from minirm.tokens.tokenizer import FILE, Ids, Tokenized, Tokenizer

FOLDER = "tokenizer"
"""Where in a run's folder the files of a pretrained tokenizer lie."""
CONFIG, FILES = "config.json", (FILE, "tokenizer_config.json", "special_tokens_map.json")
OTHERS_TEMPLATE = "chat_template.json"  # of processors of pictures and text
FILES += ("added_tokens.json", "chat_template.jinja", OTHERS_TEMPLATE, CONFIG)
"""What may belong to a tokenizer, whatever its class; its own class knows more."""
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
PROBE = "⁂"
"""A response like nobody's: what its dialogue and another one begin with in common is no part of the other response."""
LONGEST, LONGER = 100_000, 20
"""Characters that a template may write of its own, and for each that it is given."""
SECONDS_TO_RENDER, SECONDS_PER_DIALOGUE = 3.0, 0.02
DIALOGUE = """{{%- set before = {before} -%}}{{{{- {start} -}}}}{{%- for message in messages -%}}
{{{{- before[message['role']] + message['content'] -}}}}{{%- if message['role'] == 'assistant' -%}}{{{{- {end} -}}}}
{{%- endif -%}}{{%- endfor -%}}{{%- if add_generation_prompt -%}}{{{{- {opening} -}}}}{{%- endif -%}}"""
"""The chat template of a language model that has none: a dialogue in text, an end token behind each response."""

Messages = list[dict]


class PretrainedTokenizer:
    """Encodes as transformers does with the files of a folder, but for what draws lots there: dropout is off.

    Args:
        folder: holds the files of a tokenizer and the config.json of the model that they belong to.
        bidirectional: the model is an encoder.
    Raises:
        InputError: transformers is not installed or can't open the files, or the chat template or the tokenizer takes
            more time or memory than there is for it.
    """

    def __init__(self, folder: Path, *, bidirectional: bool = False) -> None:
        self.folder, self.bidirectional = folder, bidirectional
        config = read_json(folder / CONFIG)
        self.theirs = open_theirs(folder)
        classes = config.get("architectures") or [""]
        pad = config.get("pad_token_id")
        self.unread = None if bidirectional or str(classes[0]).endswith(LANGUAGE_MODELS) else pad
        """A token at which transformers reads no reward: it takes the last one that is another. None: it takes all."""
        if bidirectional and self.theirs.chat_template is not None:
            rule = "an encoder reads prompt and response as a pair of texts, which no chat template writes: remove it"
            raise InputError(f"{folder}: its chat template: {rule}")
        self._is_plain = self.theirs.chat_template is None and not bidirectional
        if self._is_plain and (folder / OTHERS_TEMPLATE).is_file():
            rule = "transformers' tokenizers do not read it: its template must stand in chat_template.jinja"
            raise InputError(f"{folder / OTHERS_TEMPLATE}: {rule}")
        if self._is_plain:
            self.theirs.chat_template = self._plain_template(config)
        names = {*FILES, *type(self.theirs).vocab_files_names.values()}
        there = [folder / name for name in sorted(names) if (folder / name).is_file()]
        self._files = {f"{FOLDER}/{path.name}": path.read_bytes() for path in there}
        self._guarded = Guarded(self._render, f"{folder}: its chat template")
        self.ending = self._find_ending()
        eos = self.theirs.eos_token_id
        self.end_id = eos if eos in self.ending or not self.ending else self.ending[0]

    def files(self) -> dict[str, bytes]:
        """Return what a run's folder must hold to give the same tokenizer: names and contents of files."""
        return self._files

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.theirs)

    @property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(self.theirs.get_vocab().values())

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of each text, without any special token that it does not spell."""
        return self._tokens(list(texts))

    def encode_alone(self, text: str) -> Ids:
        """Return a text's token ids outside of any dialogue, with the special tokens that the tokenizer puts there."""
        return self._tokens([text], add_special_tokens=True)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a response's token ids; special tokens are left out."""
        text = self.theirs.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix(" ") if self._is_plain else text  # the marker's space, which goes with its words

    def encode_prompts(self, prompts: Sequence[Sequence[Turn]]) -> list[Ids]:
        """Return the tokens of each prompt, and of what opens a response that is to be written."""
        texts = self._render_all([(_messages(prompt), True) for prompt in prompts])
        return self._tokens([_right(text, self.folder) for text in texts])

    def encode_comparisons(
        self, comparisons: Sequence[Comparison], *, by_assistant: bool = False
    ) -> Iterator[Tokenized]:
        """Yield each comparison's prompt and responses in tokens.

        Args:
            by_assistant: find out which tokens of a prompt an assistant wrote.
        Raises:
            InputError: the chat template refuses a dialogue, or nothing stands before a response.
        """
        if self.bidirectional:
            yield from map(self._encode_pairs, comparisons)
            return
        sequences = self._encode_dialogues(comparisons)
        for comparison in comparisons:
            *whole, probe = islice(sequences, len(comparison.responses) + 1)
            shared = min(_common(a, b) for a, b in pairwise([*whole, probe]))
            shared = min(shared, *(len(ids) - 1 for ids in whole))
            if shared < 1:
                raise InputError(f"{_place(comparison)}{self.folder}: nothing stands before a response in tokens")
            prompt, responses = whole[0][:shared], [ids[shared:] for ids in whole]
            learned = self._written(comparison.prompt, prompt) if by_assistant else [True] * shared
            yield Tokenized(prompt, responses, learned, self._length_of_end(responses))

    def _encode_dialogues(self, comparisons: Sequence[Comparison]) -> Iterator[Ids]:
        """Yield the tokens of each comparison's dialogues, and of one more whose response is the probe."""
        answers = [(one, text) for one in comparisons for text in (*one.responses, PROBE)]
        dialogues = [([*_messages(one.prompt), _message("assistant", text)], False) for one, text in answers]
        rendered = zip(answers, self._render_all(dialogues), strict=True)
        for ids in self._tokens([_right(said, f"{_place(one)}{self.folder}") for (one, _), said in rendered]):
            yield self._cut(ids)

    def _cut(self, ids: Ids) -> Ids:
        """Return a sequence up to the token at which its reward is read."""
        last = len(ids)
        while last > 1 and ids[last - 1] == self.unread:
            last -= 1
        return ids[:last]

    def _encode_pairs(self, comparison: Comparison) -> Tokenized:
        """Return a comparison as an encoder reads it: the first text's tokens have type 0, the second's type 1."""
        turns = comparison.prompt
        text = turns[0].text if len(turns) == 1 and turns[0].role == "user" else render_dialogue(turns)
        pairs = self._pairs(text, comparison.responses)
        types = pairs.get("token_type_ids") or [[0]]
        first = types[0].count(0)
        prompt, responses = pairs["input_ids"][0][:first], [ids[first:] for ids in pairs["input_ids"]]
        if any(t != [0] * first + [1] * (len(t) - first) or len(t) == first for t in types):
            raise InputError(f"{self.folder}: its tokenizer does not mark the second of two texts by token type 1")
        return Tokenized(prompt, responses, [True] * first, self._length_of_end(responses))

    def _pairs(self, text: str, responses: Sequence[str]) -> dict[str, list[Ids]]:
        with naming(f"{self.folder}: its tokenizer"):
            return self.theirs([text] * len(responses), list(responses))

    def _length_of_end(self, responses: list[Ids]) -> int:
        """Return how many tokens end all responses as the template or the tokenizer ends one, at least 1."""
        return max(1, min(_common(ids[::-1], self.ending[::-1]) for ids in responses))

    def _find_ending(self) -> Ids:
        """Return the tokens with which every response ends."""
        asked, answers = (Turn("user", "Why?"),), ("(1)", "No")
        if self.bidirectional:
            first, second = (self._pairs("Why?", [text])["input_ids"][0] for text in answers)
            return first[len(first) - _common(first[::-1], second[::-1]) :]
        prompts = (asked, (), (Turn("system", "Be brief."), *asked))  # a template may ask for a system's turn, or none
        said = self._render_all(
            [([*_messages(p), _message("assistant", text)], False) for p in prompts for text in answers]
        )
        pairs = list(zip(said[::2], said[1::2], strict=True))
        written = next((pair for pair in pairs if ValueError not in map(type, pair)), pairs[0])
        first, second = map(self._cut, self._tokens([_right(one, self.folder) for one in written]))
        if not first:
            raise InputError(f"{self.folder}: its chat template and its tokenizer write no token")
        return first[len(first) - _common(first[::-1], second[::-1]) :]

    def _written(self, turns: Sequence[Turn], prompt: Ids) -> list[bool]:
        """Return which tokens of a prompt an assistant wrote, its turns' ends among them."""
        ends = [n for n, turn in enumerate(turns) if turn.role == "assistant"]
        parts = [part for n in ends for part in ((_messages(turns[:n]), True), (_messages(turns[: n + 1]), False))]
        parts = [(messages, opens) for messages, opens in parts if messages]
        texts = self._tokens([_right(text, self.folder) for text in self._render_all(parts)])
        bounds = [_common(ids, prompt) for ids in ([[]] if ends[:1] == [0] else []) + texts]
        learned = [False] * len(prompt)
        for start, end in zip(bounds[::2], bounds[1::2], strict=True):
            learned[start:end] = [True] * (end - start)
        return learned

    def _tokens(self, texts: list[str], *, add_special_tokens: bool = False) -> list[Ids]:
        if not texts:
            return []
        with naming(f"{self.folder}: its tokenizer"):
            return self.theirs(
                texts, add_special_tokens=add_special_tokens, return_token_type_ids=False, verbose=False
            )["input_ids"]

    def _render_all(self, dialogues: list[tuple[Messages, bool]]) -> list[str | ValueError]:
        """Return each dialogue as the template writes it, or what it says against it."""
        if not dialogues:
            return []
        return self._guarded(dialogues, SECONDS_TO_RENDER + SECONDS_PER_DIALOGUE * len(dialogues))

    def _render(self, dialogues: list[tuple[Messages, bool]]) -> list[str | ValueError]:
        return [self._render_one(messages, opens) for messages, opens in dialogues]

    def _render_one(self, messages: Messages, opens: bool) -> str | ValueError:
        try:
            text = self.theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens)
        except Exception as error:  # a foreign program may fail in any way
            return ValueError(first_line(error))
        most = LONGEST + LONGER * len(str(messages))
        return text if len(text) <= most else ValueError(f"it writes {len(text)} characters: must be at most {most}")

    def _plain_template(self, config: dict) -> str:
        """Return a template that writes a dialogue as text, with the tokenizer's own start and end."""
        marked, bare = self.encode_alone("x"), self._tokens(["x"])[0]
        start = marked[: next((n for n in range(len(marked)) if marked[n : n + len(bare)] == bare), 0)]
        ids = config.get("eos_token_id")
        last = ids[0] if isinstance(ids, list) and ids else ids
        end = self.theirs.eos_token
        if end is None and type(last) is int and 0 <= last < len(self.theirs):
            end = self.theirs.convert_ids_to_tokens(last)
        if end is None:
            error = field_error("eos_token_id", ids, "must be the id of a token: a response needs an end")
            raise InputError(f"{self.folder / CONFIG}: {error}")
        texts = {
            "before": MARKERS,
            "start": "".join(self.theirs.convert_ids_to_tokens(start)),
            "end": end,
            "opening": MARKERS["assistant"].rstrip(" "),
        }
        quoted = {name: json.dumps(text, ensure_ascii=False) for name, text in texts.items()}
        return DIALOGUE.replace("\n", "").format(**quoted)


AnyTokenizer = Tokenizer | PretrainedTokenizer


def open_tokenizer(run_folder: Path, *, bidirectional: bool) -> AnyTokenizer:
    """Return a run's tokenizer: its own, or that of the pretrained folder from which it was trained.

    Raises:
        InputError: the files are missing or broken.
    """
    if (run_folder / FOLDER).is_dir():
        return PretrainedTokenizer(run_folder / FOLDER, bidirectional=bidirectional)
    return Tokenizer.load(run_folder / FILE)


def _right(said: str | ValueError, place: object) -> str:
    if isinstance(said, ValueError):
        raise InputError(f"{place}: its chat template does not write this dialogue ({said})")
    return said


def _place(comparison: Comparison) -> str:
    return f"{comparison.source}: " if comparison.source else ""


def _messages(turns: Iterable[Turn]) -> Messages:
    return [_message(turn.role, turn.text) | (json.loads(turn.message) if turn.message else {}) for turn in turns]


def _message(role: str, text: str) -> dict:
    return {"role": role, "content": text}


def _common(first: Ids, second: Ids) -> int:
    """Return how many tokens two sequences begin with in common."""
    length = min(len(first), len(second))
    unequal = np.flatnonzero(np.array(first[:length]) != np.array(second[:length]))
    return int(unequal[0]) if len(unequal) else length
