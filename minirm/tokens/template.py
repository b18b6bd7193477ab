"""How a dialogue is written: what stands before and behind the text of each turn, as one explicit, saved table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from minirm.data.dialogue import MARKERS, Turn
from minirm.errors import InputError

Around = tuple[str, str]
"""What stands before a turn's text, and what stands behind it."""


@dataclass(frozen=True)
class Template:
    """A prompt is `start`, its turns and what opens the assistant's; a response is its text and what ends that turn."""

    user: Around
    assistant: Around
    system: Around | None = None
    tool: Around | None = None
    """None: the template has no such turns, and a dialogue that holds one is refused."""
    start: str = ""
    """Opens a dialogue whose first turn is not the system's; a system turn brings its own opening."""
    strip: bool = False
    """Texts lose the white space at their ends, as the chat templates of Llama 3 have it."""

    def around(self, role: str) -> Around:
        """Return what stands before and behind a turn.

        Raises:
            InputError: the template has no turns of this role.
        """
        around = getattr(self, role)
        if around is None:
            raise InputError(f"a turn of role {role!r}: the chat template of this tokenizer has no such turns")
        return around

    def begins(self, turns: Sequence[Turn]) -> str:
        """Return what stands before the first turn."""
        return "" if turns and turns[0].role == "system" else self.start

    def text(self, text: str) -> str:
        """Return a turn's text as it is written."""
        return text.strip() if self.strip else text

    @property
    def opening(self) -> str:
        """What opens a response: the last of the prompt."""
        return self.assistant[0].rstrip(" ")

    @property
    def lead(self) -> str:
        """The space between opening and response. It goes with the response: byte-level BPE joins it to a word."""
        return self.assistant[0][len(self.opening) :]

    def render(self, turns: Sequence[Turn]) -> str:
        """Return a whole dialogue as text, as the chat template of an exported model writes it."""
        written = [self.around(turn.role)[0] + self.text(turn.text) + self.around(turn.role)[1] for turn in turns]
        return self.begins(turns) + "".join(written)

    def to_jinja(self) -> str:
        """Return the same as a chat template for transformers."""
        roles = [role for role in ("system", "user", "assistant", "tool") if getattr(self, role) is not None]
        before, after = (
            "{" + ", ".join(f"{_quoted(role)}: {_quoted(self.around(role)[side])}" for role in roles) + "}"
            for side in (0, 1)
        )
        text = "message['content'] | trim" if self.strip else "message['content']"
        return (
            f"{{%- set before = {before} -%}}{{%- set after = {after} -%}}"
            "{%- if not messages or messages[0]['role'] != 'system' -%}"
            f"{{{{- {_quoted(self.start)} -}}}}"
            "{%- endif -%}{%- for message in messages -%}"
            f"{{{{- before[message['role']] + ({text}) + after[message['role']] -}}}}"
            f"{{%- endfor -%}}{{%- if add_generation_prompt -%}}{{{{- {_quoted(self.opening)} -}}}}{{%- endif -%}}"
        )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


OWN = Template(
    user=("<|user|>", ""), assistant=("<|assistant|>", "<|end|>"), system=("<|system|>", ""), tool=("<|tool|>", "")
)
"""minirm's own: one token opens a turn, one ends the assistant's."""


def as_dialogue(start: str, end: str) -> Template:
    """Return the template of a tokenizer without tokens for roles: a dialogue in text, an end token behind a response.

    Args:
        start: the token that opens a text; "" for none.
        end: the token that ends a text.
    """
    before = {role: MARKERS[role] for role in ("user", "system", "tool")}
    return Template(
        assistant=(MARKERS["assistant"], end),
        **{role: (marker, "") for role, marker in before.items()},
        start=start,
    )


def separated(start: str, separator: str) -> Template:
    """Return BERT's template: its first token, then turns with a separator before and behind each of the assistant's.

    Args:
        start: the token that opens a text and is read.
        separator: the token between two texts, and behind the last.
    """
    # WordPiece takes any white space as the end of a word and writes nothing for it.
    return Template(user=("", ""), assistant=(separator, separator), system=(start, "\n"), tool=("", "\n"), start=start)
