"""The prompt of a record, which may stand in one field, in several, or in the responses as well."""

from collections.abc import Sequence

from minirm.data.comparison import Turn
from minirm.errors import field_error
from minirm.files.dialogue import TELLING, Reply, check_text, parse_prompt
from minirm.files.fields import NOTHING, Record


def read_prompt(record: Record, replies: Sequence[Reply]) -> tuple[tuple[Turn, ...], object]:
    """Return the turns before the responses, and the prompt as it stands in the record.

    Args:
        record: fields of several names may hold the prompt, or more of it.
        replies: the responses; one of them may end the dialogue in which the prompt stands.
    Raises:
        InputError: two fields hold different prompts.
    """
    system, before = record.take(record.find("system"), "system"), _earlier_turns(record)
    main = _main_prompt(record, replies)
    texts = [*_background(record, "context", main), *main, *_background(record, "input", main)]
    raw = texts[0] if len(texts) == 1 else "\n\n".join(check_text(text, "prompt") for text in texts)
    turns = before + (raw if isinstance(raw, tuple) else parse_prompt(raw))
    if system and turns[:1] != (opening := (Turn("system", check_text(system, "system")),)):
        if turns and turns[0].role == "system":
            raise field_error("system", system, "the prompt begins with another system turn: must be given once")
        turns = opening + turns
    return turns, raw


def _main_prompt(record: Record, replies: Sequence[Reply]) -> list[object]:
    """Return the prompt, text or turns, or nothing; of several that hold one another, the longest."""
    values: dict[str, object] = {}
    last = {reply if isinstance(reply, str) else reply[-1].text for reply in replies}
    for name in record.all("prompt"):
        value = _unwrapped(record, name)
        if name in record.read or (name.lower() == "info" and isinstance(value, dict)):
            continue
        record.take(name, "prompt")
        if not isinstance(value, str):
            value = parse_prompt(value, name)
            if name.lower() != "prompt" and value and value[-1].role == "assistant" and last:
                if value[-1].text not in last and "prompt" not in record.names.given:
                    rule = "ends with an answer that is none of the responses: --fields prompt=… says what is read"
                    raise field_error(name, value[-1].text, rule)
                value = value[:-1] if value[-1].text in last else value
        if value:
            values[name] = value
    if len(values) < 2 or "prompt" in record.names.given:
        return list(values.values())
    turns = {name: parse_prompt(value) if isinstance(value, str) else value for name, value in values.items()}
    longest = max(turns, key=lambda name: sum(len(turn.text) for turn in turns[name]))
    for name in turns:
        if not all(any(turn.text.strip() in other.text for other in turns[longest]) for turn in turns[name]):
            said = f"--fields prompt={longest} or prompt={name}+{longest} says what is read"
            raise field_error(name, record.fields[name], f'stands beside "{longest}", and is another prompt: {said}')
    return [values[longest]]


def _background(record: Record, meaning: str, main: list[object]) -> list[object]:
    """Return the fields that stand before or behind the prompt, unless it holds them already."""
    names = [name for name in record.all(meaning) if name not in record.read and record.fields[name] not in NOTHING]
    texts = [_unwrapped(record, name) for name in names if record.take(name, "prompt")]
    given = [part for one in main for part in ([one] if isinstance(one, str) else [turn.text for turn in one])]
    told = [
        text
        for text in texts
        if not isinstance(text, str) or len(text.split()) < TELLING or not any(text.strip() in part for part in given)
    ]
    return [text for i, text in enumerate(told) if text not in told[:i]]


def _earlier_turns(record: Record) -> tuple[Turn, ...]:
    """Return the turns in LlamaFactory's "history": a list of pairs, what the user said and what the assistant did."""
    name = record.keys.get("history")
    pairs = record.fields[name] if name else None
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return ()
    texts = [check_text(text, name) for pair in record.take(name, "prompt") for text in pair]
    return tuple(Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def _unwrapped(record: Record, name: str) -> object:
    """Return text or messages; of an object, what in it is the prompt."""
    value = record.fields[name]
    if not isinstance(value, dict) or "messages" in value or "role" in value or "from" in value:
        return value
    if value.get("post") or value.get("article"):  # OpenAI's posts, laid out as its authors did
        labels = (("subreddit", "SUBREDDIT: r/"), ("title", "TITLE: "), ("post", "POST: "), ("article", "ARTICLE: "))
        item = record.item(value, f"{name}.")
        parts = [l + check_text(item.take(k, "prompt"), f"{name}.{k}") for k, l in labels if value.get(k) is not None]
        return "\n\n".join([*parts, "TL;DR:"])
    for key in ("full_text", "text"):
        if value.get(key) is not None:
            return check_text(record.item(value, f"{name}.").take(key, "prompt"), f"{name}.{key}")
    return value
