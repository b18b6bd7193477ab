"""minirm tokenizer: a vocabulary from files of comparisons."""

from dataclasses import dataclass
from pathlib import Path

from minirm.cli.console import new_console
from minirm.files import disk
from minirm.files.disk import write_whole
from minirm.files.records import read_comparisons
from minirm.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainTokenizer:
    """Train a tokenizer on the texts of files of comparisons."""

    data: tuple[Path, ...]
    """Files or folders."""
    out: Path
    """File to write, in the format of the tokenizers library."""
    vocab_size: int | None = None
    """Tokens, special ones included; by default 8192, or as many as the texts give."""
    format: str | None = None
    """Format of the files; by default it is recognised by content."""
    fields: tuple[str, ...] = ()
    """What fields hold: prompt=question chosen=answer_a …; unread=FIELD for one that is not to be read."""

    def run(self) -> int:
        """Train the tokenizer, and write it."""
        disk.check_file(self.out)
        comparisons = read_comparisons(self.data, format=self.format, fields=self.fields)
        texts = (text for one in comparisons for text in (*(turn.text for turn in one.prompt), *one.responses))
        tokenizer = Tokenizer.train(texts, self.vocab_size)
        write_whole(self.out, tokenizer.save)
        new_console().print(f"{self.out}: {tokenizer.vocab_size} tokens", soft_wrap=True)
        return 0
