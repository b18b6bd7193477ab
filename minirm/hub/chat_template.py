"""A checkpoint's tokenizer, and its chat template as one of ours."""

import datetime
from collections.abc import Callable
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as BPETokenizer

from minirm.data.dialogue import Turn
from minirm.disk import read_json
from minirm.errors import InputError, field_error
from minirm.runs.run_folder import CONFIG, TOKENIZER
from minirm.tokens.template import Around, Template, as_dialogue, separated
from minirm.tokens.tokenizer import Tokenizer, read_bpe

SETTINGS, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
FIRST, REPLY, SECOND, ANSWER = (
    Turn("user", "(1)"),
    Turn("assistant", "(2)"),
    Turn("user", "(3)"),
    Turn("assistant", "(4)"),
)
SYSTEM, TOOL = Turn("system", "(5)"), Turn("tool", "(6)")
"""Turns from whose rendering a template is read off."""


def read_tokenizer(folder: Path, *, bidirectional: bool = False) -> Tokenizer:
    """Return the tokenizer of a checkpoint, with the template by which all texts will be written.

    That is what its chat template does; without one, the dialogue in text, with the tokenizer's own end token, and for
    an encoder turns between its separators.

    Raises:
        InputError: a file is missing or broken, or the chat template does more than put turns one behind another.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise InputError(
            f"{path}: missing: convert the tokenizer with AutoTokenizer.from_pretrained and save_pretrained"
        )
    bpe = read_bpe(path)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    names = {name: _content(value) for name, value in settings.items() if name.endswith("_token")}
    source = _chat_template(folder, settings)
    try:
        if source is not None:
            template = derive_template(source, {name: token for name, token in names.items() if token})
        elif bidirectional:
            template = separated(names.get("cls_token") or "[CLS]", names.get("sep_token") or "[SEP]")
        else:
            template = as_dialogue(_start(bpe), names.get("eos_token") or _end(bpe, read_json(folder / CONFIG)))
        return Tokenizer(bpe, template)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _content(token: object) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _chat_template(folder: Path, settings: dict) -> str | None:
    """Return the chat template from its file or the settings; of several, the one called default."""
    if (folder / CHAT_TEMPLATE).is_file():
        try:
            return (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{folder / CHAT_TEMPLATE}: byte {error.start + 1} is not UTF-8") from None
    source = settings.get("chat_template")
    if isinstance(source, list):
        source = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}.get("default")
    if source is not None and not isinstance(source, str):
        raise InputError(f"{folder / SETTINGS}: {field_error('chat_template', source, 'must be text')}")
    return source


def _start(bpe: BPETokenizer) -> str:
    """Return the special tokens that the tokenizer puts before a text by itself."""
    marked = bpe.encode("x").tokens
    return "".join(marked[: marked.index(bpe.encode("x", add_special_tokens=False).tokens[0])])


def _end(bpe: BPETokenizer, config: dict) -> str:
    """Return the end token by config.json, where GPT-2's files name it."""
    ids = config.get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    token = bpe.id_to_token(first) if type(first) is int and first >= 0 else None
    if token is None:
        raise field_error("eos_token_id", ids, f"must be the id of a token of {TOKENIZER}: a response needs an end")
    return token


def derive_template(source: str, names: dict[str, str]) -> Template:
    """Return the template that writes dialogues as a chat template does.

    It is read off the chat template's rendering of dialogues, and then held against it.

    Args:
        source: a chat template in Jinja, run in a sandbox.
        names: special tokens by the names that it has for them, as {"bos_token": "<s>"}.
    Raises:
        InputError: the chat template can't be run, or no template of ours writes what it writes.
    """
    render = _renderer(source, names)
    try:
        template = _read_off(render)
        _compare(template, render)
    except ValueError as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"its chat template does not just put turns one behind another ({said})") from None
    return template


Renderer = Callable[..., str]


def _renderer(source: str, names: dict[str, str]) -> Renderer:
    """Return a function that renders turns as transformers does, and raises ValueError where that fails."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda format: datetime.datetime.now().strftime(format),
    }

    def render(*turns: Turn, add_generation_prompt: bool = False) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:
            template = environment.from_string(source)
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **names)
        except Exception as error:  # a foreign program may fail in any way
            raise ValueError(str(error) or type(error).__name__) from None

    return render


def _read_off(render: Renderer) -> Template:
    _, after_user = _split(render(FIRST), FIRST)
    _, _, after_assistant = _split(render(FIRST, REPLY), FIRST, REPLY)
    opening, before_reply, before_second, _ = _split(render(FIRST, REPLY, SECOND), FIRST, REPLY, SECOND)
    before_assistant = before_reply.removeprefix(after_user)
    before_user = before_second.removeprefix(after_assistant)
    return Template(
        user=(before_user, after_user),
        assistant=(before_assistant, after_assistant),
        system=_read_off_system(render, before_user),
        tool=_read_off_tool(render, after_assistant),
        start=opening.removesuffix(before_user),
        strip=" x " not in render(Turn("user", " x ")),
    )


def _read_off_system(render: Renderer, before_user: str) -> Around | None:
    try:
        before, between, _ = _split(render(SYSTEM, FIRST), SYSTEM, FIRST)
    except ValueError:
        return None
    return before, between.removesuffix(before_user)


def _read_off_tool(render: Renderer, after_assistant: str) -> Around | None:
    try:
        _, _, between, after = _split(render(FIRST, REPLY, TOOL), FIRST, REPLY, TOOL)
    except ValueError:
        return None
    return between.removeprefix(after_assistant), after


def _split(text: str, *turns: Turn) -> list[str]:
    """Return what stands before, between and behind the texts of turns."""
    parts = []
    for turn in turns:
        before, found, text = text.partition(turn.text)
        if not found:
            raise ValueError(f"it leaves out a turn of role {turn.role!r}")
        parts.append(before)
    return [*parts, text]


def _compare(template: Template, render: Renderer) -> None:
    """Refuse a template that writes anything else than the chat template."""
    if not template.start + template.opening:
        raise ValueError("nothing stands before a response that has no prompt")
    system = (SYSTEM,) if template.system else ()
    for turns in ((FIRST,), (FIRST, REPLY, SECOND), (*system, FIRST), (*system, FIRST, REPLY, SECOND)):
        if template.render([*turns, ANSWER]) != render(*turns, ANSWER):
            raise ValueError(f"dialogues of {len(turns) + 1} turns come out otherwise")
        if render(*turns, add_generation_prompt=True).rstrip(" ") != template.render(turns) + template.opening:
            raise ValueError("what opens a response is not what stands before one")
    spaced = [Turn(turn.role, f" {turn.text}\n") for turn in (*system, FIRST, REPLY, SECOND, ANSWER)]
    if template.render(spaced) != render(*spaced):
        raise ValueError("white space at the ends of a text stays with some roles and goes with others")
