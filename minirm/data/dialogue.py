"""Dialogues, as text and as messages → turns.

In text, "\\n\\nHuman: " opens a turn of the user and "\\n\\nAssistant: " one of the assistant; the one space is part
of the marker, and a marker without it is ordinary text. So nothing is stripped and nothing is lost: `render_dialogue`
gives back the text. What stands before the first marker is a system turn.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from minirm.errors import field_error

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "tool": "tool",
}
MARKERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\nSystem: ", "tool": "\n\nTool: "}
FOR_TEMPLATES = ("tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
"""Fields of a message that chat templates know, beside its role and content."""
LEAD_IN = "\n\nAssistant:"  # what a response follows; its space may stand in the prompt, in the response or nowhere
TURN_START = re.compile(r"\n\n(Human|Assistant): ")


class Turn(NamedTuple):
    """One message of a dialogue."""

    role: str  # "system", "user", "assistant" or "tool"
    text: str
    message: str = ""  # as JSON, what else its message holds, which a pretrained folder's chat template may write


def parse_prompt(prompt: str | Sequence[dict] | None, field: str = "prompt") -> tuple[Turn, ...]:
    """Return the turns of a prompt, the same ones for training, evaluation and scoring.

    Args:
        prompt: a list of messages; or a dialogue in text that ends with "\\n\\nAssistant:"; or any other text, which
            is one turn of the user; or nothing ("" or None), which is no turn.
        field: the name that errors give it.
    Raises:
        InputError: it is none of these, or holds a NUL or half a surrogate pair.
    """
    if prompt is None or prompt == "":
        return ()
    if isinstance(prompt, list | tuple):
        return tuple(parse_message(message, f"{field}[{i}]") for i, message in enumerate(prompt))
    if not isinstance(prompt, str):
        raise field_error(field, prompt, "must be text or a list of messages")
    check_text(prompt, field)
    if ends_with_lead_in(prompt):
        return parse_dialogue(prompt[: prompt.rindex(LEAD_IN)])
    return (Turn("user", prompt),)


def parse_response(response: str, prompt: str | Sequence[dict] | None, field: str = "response") -> str:
    """Return the response without the space that belongs to a prompt's last "\\n\\nAssistant:"."""
    check_text(response, field)
    spaced = isinstance(prompt, str) and prompt.endswith(LEAD_IN) and ends_with_lead_in(prompt)
    return response.removeprefix(" ") if spaced else response


def parse_message(message: dict, field: str) -> Turn:
    """Return the turn that {"role", "content"} stands for."""
    if not isinstance(message, dict):
        raise field_error(field, message, 'must be a message {"role", "content"}')
    role = message.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise field_error(f"{field}.role", role, f"must be one of {', '.join(ROLES)}")
    text, more = check_text(message.get("content"), f"{field}.content"), {}
    if not message.keys().isdisjoint(FOR_TEMPLATES):
        more = {key: message[key] for key in ("content", *FOR_TEMPLATES) if message.get(key) is not None}
    return Turn(ROLES[role.lower()], text, json.dumps(more) if more else "")


def parse_dialogue(text: str) -> tuple[Turn, ...]:
    """Return the turns of a dialogue in text; the two line breaks before its very first marker may be missing."""
    preamble, *parts = TURN_START.split("\n\n" + text if text.startswith("Human: ") else text)
    turns = tuple(
        Turn("user" if speaker == "Human" else "assistant", words)
        for speaker, words in zip(parts[::2], parts[1::2], strict=True)
    )
    return (Turn("system", preamble), *turns) if preamble else turns


def render_dialogue(turns: Sequence[Turn]) -> str:
    """Return the dialogue as text, the inverse of `parse_dialogue`."""
    preamble = turns[0].text if turns and turns[0].role == "system" else ""
    return preamble + "".join(MARKERS[turn.role] + turn.text for turn in turns[1 if preamble else 0 :])


def split_dialogues(chosen: str, rejected: str) -> tuple[tuple[Turn, ...], str, str]:
    """Return prompt, chosen and rejected response of two whole dialogues in text.

    The prompt ends at the last "\\n\\nAssistant:" that both share; what follows it, later turns included, is the
    response. Texts that share none have no prompt.
    """
    end = chosen.rfind(LEAD_IN, 0, shared_length(chosen, rejected))
    opening = chosen[: max(end, 0)]
    if not has_human_turn(opening):
        return (), chosen, rejected
    start = end + len(LEAD_IN)
    return parse_dialogue(opening), chosen[start:].removeprefix(" "), rejected[start:].removeprefix(" ")


def split_messages(
    prompt: tuple[Turn, ...], chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]
) -> tuple[tuple[Turn, ...], str, str]:
    """Return prompt, chosen and rejected response of two dialogues in turns, which may or may not repeat the prompt.

    The prompt is what both share, up to an assistant's turn; the response is that turn, and later turns follow it as
    text: the same reading that `split_dialogues` gives to the same dialogues.
    """
    first, second = (
        turns if len(turns) > len(prompt) and turns[: len(prompt)] == prompt else prompt + turns
        for turns in (chosen, rejected)
    )
    shared, last = 0, min(len(first), len(second)) - 1
    while shared < last and first[shared] == second[shared]:
        shared += 1
    while shared > 0 and not first[shared].role == second[shared].role == "assistant":
        shared -= 1
    return first[:shared], render_response(first[shared:]), render_response(second[shared:])


def render_response(turns: Sequence[Turn]) -> str:
    """Return an assistant's turn as its bare text, with the turns after it as a dialogue in text."""
    if turns[0].role != "assistant":
        return render_dialogue(turns)
    return turns[0].text + "".join(MARKERS[turn.role] + turn.text for turn in turns[1:])


def has_human_turn(text: str) -> bool:
    """Return whether a turn of the user opens anywhere in the text."""
    return text.startswith("Human: ") or MARKERS["user"] in text


def ends_with_lead_in(prompt: str) -> bool:
    """Return whether the prompt is a dialogue in which it is the assistant's turn to speak."""
    return prompt.endswith((LEAD_IN, LEAD_IN + " ")) and has_human_turn(prompt)


def shared_length(first: str, second: str) -> int:
    """Return how many characters the two texts begin with in common."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # halving: each step compares one slice, at the speed of memory
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def check_text(value: object, field: str) -> str:
    """Return the value, which must be text that can be written as UTF-8 and holds no NUL."""
    if not isinstance(value, str):
        raise field_error(field, value, "must be text")
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        raise field_error(field, value, "must be Unicode text, without half a surrogate pair") from None
    if "\0" in value:
        raise field_error(field, value, "must be text without NUL")
    return value
