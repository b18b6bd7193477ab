"""minirm's own tokenizer for much text: a word that came before is looked up, not merged again.

The tokenizer cuts a text wherever white space begins, whatever stands around, and merges within what it has cut; so a
text's tokens are those of its words.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain

from minirm.tokens.tokenizer import Ids, Tokenizer

SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space, of which Python's own class holds more."""
WORD = re.compile(f"[{SPACE}]*[^{SPACE}]+|[{SPACE}]+")
"""A word and the white space before it."""
REMEMBERED, LONGEST = 1 << 16, 64
"""How many words are remembered, and characters of the longest of them."""


class WordTokenizer(Tokenizer):
    """Encodes as the tokenizer does that it is made of, which must be one of which `cuts_at_spaces` is true."""

    def __init__(self, own: Tokenizer) -> None:
        super().__init__(own.bpe)
        self._known: dict[str, Ids] = {}

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of each text, without any special token."""
        cut = [WORD.findall(text) for text in texts]
        known = self._known
        if len(known) > REMEMBERED:
            known.clear()
        new = list(set().union(*cut) - known.keys())
        known.update(zip(new, super().encode(new), strict=True))
        encoded = [list(chain.from_iterable(map(known.__getitem__, words))) for words in cut]
        for word in new:
            if len(word) > LONGEST:
                del known[word]
        return encoded


def cuts_at_spaces(tokenizer: object) -> bool:
    """Return whether a tokenizer cuts texts as those do that minirm trains."""
    if type(tokenizer) is not Tokenizer or tokenizer.bpe.normalizer is not None:
        return False
    cuts = json.loads(tokenizer.bpe.to_str())["pre_tokenizer"] or {}
    first = cuts.get("pretokenizers", [cuts])[0]
    return first.get("type") == "ByteLevel" and not first["add_prefix_space"] and first["use_regex"]
