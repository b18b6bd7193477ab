"""Dialogues, as text and as messages → turns.

In text, "\\n\\nHuman: " opens a turn of the user and "\\n\\nAssistant: " one of the assistant; the one space is part
of the marker, and a marker without it is ordinary text. So nothing is stripped and nothing is lost: `render_dialogue`
gives back the text. What stands before the first marker is a system turn.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from itertools import pairwise

from minirm.data.comparison import Turn
from minirm.errors import InputError, field_error

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "model", "chatgpt", "bing", "bard", "ai", "function_call"), "assistant"
    ),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}
KEYS = ("role", "from"), ("content", "value")
"""What a message's speaker and text are called, now and in ShareGPT's files."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
MESSAGE_FIELDS = ("role", "from", "content", "value", *THOUGHTS, "tool_calls", "function_call")
"""What of a message is read."""
CALL_FIELDS = ("id", "type", "index", "function", "name", "arguments")
FOR_TEMPLATES = ("tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
"""Fields of a message that chat templates know, beside its role and content."""
MARKERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\nSystem: ", "tool": "\n\nTool: "}
LEAD_IN = "\n\nAssistant:"  # what a response follows; its space may stand in the prompt, in the response or nowhere
TELLING = 3  # words; so many of one text are not in another by chance
TURN_START = re.compile(r"\n\n(Human|Assistant): ")


Dialogue = tuple[tuple[Turn, ...], tuple[str, ...]]
"""A prompt and its K responses."""


def parse_prompt(prompt: str | Sequence[dict] | dict | None, field: str = "prompt") -> tuple[Turn, ...]:
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
    holds_messages = isinstance(prompt, dict) and not prompt.keys().isdisjoint(("messages", "role", "from"))
    if isinstance(prompt, list | tuple) or holds_messages:
        return parse_messages(prompt, field)
    if not isinstance(prompt, str):
        raise field_error(field, prompt, "must be text or a list of messages")
    check_text(prompt, field)
    if ends_with_lead_in(prompt):
        return parse_dialogue(prompt[: prompt.rindex(LEAD_IN)])
    return (Turn("user", prompt),)


def parse_response(response: str, prompt: object, field: str = "response") -> str:
    """Return the response without the space that belongs to a prompt's last "\\n\\nAssistant:"."""
    return check_text(response, field).removeprefix(" " if _leaves_space(prompt) else "")


def _leaves_space(prompt: object) -> bool:
    return isinstance(prompt, str) and prompt.endswith(LEAD_IN) and ends_with_lead_in(prompt)


def parse_messages(messages: object, field: str) -> tuple[Turn, ...]:
    """Return the turns of a list of messages, of a single one, or of LMFlow's {"system", "messages"}."""
    if isinstance(messages, dict) and isinstance(messages.get("messages"), list):
        system, messages = messages.get("system"), messages["messages"]
        messages = [{"role": "system", "content": system}, *messages] if system else messages
    messages = [messages] if isinstance(messages, dict) else messages
    return tuple(parse_message(message, f"{field}[{i}]") for i, message in enumerate(messages))


def parse_message(message: dict, field: str) -> Turn:
    """Return the turn that {"role", "content"} or {"from", "value"} stands for.

    Thoughts and calls of tools are written into its text, as the chat templates of Qwen and Hermes do it.
    """
    if not isinstance(message, dict):
        raise field_error(field, message, 'must be a message {"role", "content"}')
    names = [old if message.get(new) is None and old in message else new for new, old in KEYS]
    role, content = map(message.get, names)
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise field_error(f"{field}.{names[0]}", role, f"must be one of {', '.join(ROLES)}")
    if isinstance(content, list):
        parts = enumerate(content)
        content = "".join(_text_of_part(part, f"{field}.{names[1]}[{i}]") for i, part in parts)
    thoughts, calls = _thoughts(message, field), _calls(message, field)
    content = "" if content is None and (thoughts or calls) else check_text(content, f"{field}.{names[1]}")
    known = {key: message[key] for key in FOR_TEMPLATES if message.get(key) is not None}
    whole = json.dumps({"content": content, **known}) if known else ""
    return Turn(ROLES[role.lower()], thoughts + content + calls, whole)


def _text_of_part(part: object, field: str) -> str:
    if isinstance(part, dict):
        if part.get("type", "text") not in ("text", "input_text", "output_text"):
            raise field_error(f"{field}.type", part["type"], "must be text: nothing else can be read")
        part, field = part.get("text"), f"{field}.text"
    return check_text(part, field)


def _thoughts(message: dict, field: str) -> str:
    names = [name for name in THOUGHTS if message.get(name)]
    texts = dict.fromkeys(check_text(message[name], f"{field}.{name}") for name in names)  # which may stand there twice
    return "".join(f"<think>\n{text.strip()}\n</think>\n\n" for text in texts)


def _calls(message: dict, field: str) -> str:
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    written = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise field_error(f"{field}.tool_calls", call, 'must be a list of {"function": {"name", "arguments"}}')
        for key in [key for part in (call, function) for key in part if part[key] and key not in CALL_FIELDS]:
            raise field_error(f"{field}.tool_calls.{key}", call.get(key, function.get(key)), "is no part of a call")
        arguments = function.get("arguments", {})
        with contextlib.suppress(ValueError):  # what is no JSON stays text
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        text = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
        written.append(check_text(f"\n<tool_call>\n{text}\n</tool_call>", f"{field}.tool_calls"))
    return "".join(written)


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


Reply = str | tuple[Turn, ...]
"""A response as it stands in a record: text, or the turns of a dialogue that may begin before it."""


def parse_reply(value: object, field: str) -> Reply:
    """Return a response as text, or as turns of which the last is the assistant's."""
    if isinstance(value, str):
        return check_text(value, field)
    if not isinstance(value, dict | list):
        raise field_error(field, value, "must be text or a list of messages")
    turns = parse_messages(value, field)
    if not turns:
        raise field_error(field, value, "must be a list with at least one item")
    if turns[-1].role != "assistant":
        raise field_error(f"{field}[{len(turns) - 1}].role", turns[-1].role, "the last message must be the assistant's")
    return turns


def split_replies(prompt: tuple[Turn, ...], replies: Sequence[Reply], raw: object = None) -> Dialogue:
    """Return prompt and response texts of replies that may or may not repeat the prompt, which then stands once.

    Args:
        prompt: what a record gives as the prompt; () for nothing.
        replies: K of them.
        raw: the prompt as it stands there. It may be repeated as text, by every reply.
    Raises:
        InputError: the replies begin before the response, and not with the prompt.
    """
    if not all(isinstance(reply, str) for reply in replies):
        turns = [(Turn("assistant", reply),) if isinstance(reply, str) else reply for reply in replies]
        return split_turns(prompt, turns)
    if all(turn.role == "system" for turn in prompt):
        shared, texts = split_dialogues(*replies)
        return (_behind(prompt, (*shared, Turn("assistant", "")))[0][:-1] if prompt else shared), texts
    if all(reply.lstrip().startswith("Human: ") for reply in replies):
        turns = list(map(parse_dialogue, replies))
        if all(_find(prompt, dialogue) is not None for dialogue in turns):
            return split_turns(prompt, turns)
    asked = (raw if isinstance(raw, str) else prompt[-1].text).rstrip()
    if len(replies) > 1:
        rests = [reply[len(asked) :] for reply in replies if reply.startswith(asked)]
        is_told = len(asked.split()) >= TELLING or asked.endswith(("?", ":"))
        breaks = None if is_told else "\n"  # "Hello" may well begin every answer
        if len(rests) == len(replies) and all(rest.strip() and not rest[:1].strip(breaks) for rest in rests):
            replies = [rest.lstrip() for rest in rests]
    space = " " if _leaves_space(raw) else ""
    return prompt, tuple(reply.removeprefix(space) for reply in replies)


def split_dialogues(*texts: str) -> Dialogue:
    """Return prompt and responses of whole dialogues in text.

    The prompt ends at the last "\\n\\nAssistant:" that all share; what follows it, later turns included, is the
    response. Texts that share none have no prompt, nor has one alone: nobody can say where its response begins.
    """
    shared = min(shared_length(first, second) for first, second in pairwise(texts)) if len(texts) > 1 else 0
    end = texts[0].rfind(LEAD_IN, 0, shared)
    opening = texts[0][: max(end, 0)]
    if not has_human_turn(opening):
        return (), texts
    return parse_dialogue(opening), tuple(text[end + len(LEAD_IN) :].removeprefix(" ") for text in texts)


def split_turns(prompt: tuple[Turn, ...], dialogues: Sequence[tuple[Turn, ...]]) -> Dialogue:
    """Return prompt and responses of dialogues in turns, which may or may not repeat the prompt.

    The prompt is what all share, up to an assistant's turn; the response is that turn, and later turns follow it as
    text: the same reading that `split_dialogues` gives to the same dialogues. A dialogue alone is all prompt but for
    what follows the prompt that was given, or for its last turn.
    """
    wholes, ends = zip(*(_behind(prompt, dialogue) for dialogue in dialogues), strict=True)
    first, shared = wholes[0], min(map(len, wholes)) - 1
    if len(wholes) == 1:
        shared = ends[0] if ends[0] and first[ends[0]].role == "assistant" else shared
    else:
        while any(whole[:shared] != first[:shared] for whole in wholes):
            shared -= 1
    while shared > 0 and not all(whole[shared].role == "assistant" for whole in wholes):
        shared -= 1
    return first[:shared], tuple(render_response(whole[shared:]) for whole in wholes)


def _behind(prompt: tuple[Turn, ...], dialogue: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], int]:
    """Return the dialogue with the prompt in it once, and where in it the prompt ends."""
    if not prompt:
        return dialogue, 0
    if (start := _find(prompt, dialogue)) is not None:
        return dialogue, start + len(prompt)
    for repeated in range(min(len(prompt), len(dialogue) - 1), 0, -1):
        if _are_same(prompt[-repeated:], dialogue[:repeated]):
            return prompt + dialogue[repeated:], len(prompt)
    goes_on = dialogue[0].role in ("assistant", "tool") or all(turn.role == "system" for turn in prompt)
    if not goes_on or (prompt[-1].role == dialogue[0].role == "system"):
        raise InputError("the responses begin with another prompt than this one: must be the same")
    return prompt + dialogue, len(prompt)


def _find(prompt: tuple[Turn, ...], dialogue: tuple[Turn, ...]) -> int | None:
    """Return where the dialogue holds the prompt: at its beginning, behind a system turn, or as the last question."""
    last = len(dialogue) - 1 - len(prompt)
    starts = range(last + 1) if dialogue[0].role != "assistant" else range(min(last + 1, 1))
    return next((start for start in starts if _are_same(prompt, dialogue[start : start + len(prompt)])), None)


def _are_same(first: Sequence[Turn], second: Sequence[Turn]) -> bool:
    return all(a.role == b.role and a.text.strip() == b.text.strip() for a, b in zip(first, second, strict=True))


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
