"""What fields are called, each meaning with its names; and a record that knows what of it was read."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from minirm.data.comparison import RawRecord
from minirm.errors import InputError, field_error, list_names
from minirm.files.dialogue import MESSAGE_FIELDS


def _scores_of(side: str) -> tuple[str, ...]:
    kinds = "score", "rating", "reward", "avg_rating", "avg_score"
    return tuple(name for kind in kinds for name in (f"{kind}_{side}", f"{side}_{kind}", f"{side}-{kind}"))


NAMES: dict[str, tuple[str, ...]] = {
    "prompt": (
        *("prompt", "question", "query", "instruction", "problem", "request", "user_prompt", "post", "history"),
        *("conversations", "conversation", "messages", "dialogue", "dialog", "info"),
    ),
    "context": ("context", "document", "passage", "article"),  # stands before a prompt …
    "input": ("input",),  # … and behind one, or is it
    "system": ("system", "system_prompt", "system_message", "system_instruction"),
    "chosen": (
        *("chosen", "chosen_response", "response_chosen", "chosen_conversations", "accepted", "preferred"),
        *("preferred_output", "positive"),
    ),
    "rejected": (
        *("rejected", "rejected_response", "rejected_messages", "response_rejected", "rejected_conversations"),
        *("dispreferred", "non_preferred", "non_preferred_output", "negative"),
    ),
    "responses": ("responses", "answers", "completions", "candidates", "generations", "outputs", "output", "summaries"),
    "response": ("response", "completion", "output", "answer", "summary"),
    "text": ("text", "response", "answer", "completion", "output", "summary", "content", "value"),
    "score": ("score", "rating", "reward", "pm_score", "overall_score", "helpfulness", "overall"),
    "rank": ("rank",),
    "scores": ("scores", "ratings", "rewards"),
    "ranks": ("ranks", "ranking"),
    "label": ("label", "kto_tag"),  # of one response: whether it is good
    "choice": (
        *("better_response_id", "winner", "choice", "best", "preference", "preferred", "better", "chosen", "labels"),
        "label",
    ),
    "strength": ("preference_strength", "overall_preference"),
    "worst": ("worst", "rejected"),
    "chosen score": _scores_of("chosen"),
    "rejected score": _scores_of("rejected"),
    **{name: (name,) for name in ("margin", "weight", "probability", "subset", "id")},
    "unread": (),
}
"""Meaning → the names that it goes by; the first that holds something counts. `--fields prompt=text` replaces them."""

JUDGEMENTS = (
    *("score", "rank", "scores", "ranks", "label", "choice", "worst", "strength", "chosen score", "rejected score"),
    *("margin", "weight", "probability"),
)
"""What says how good a response is, and what only training asks for."""
LABEL = re.compile(
    r"model|annotator|(^|_)(id|uuid|source|dataset|subset|category|domain|split|date|time|timestamp|url|lang|language|worker|"
    r"batch|type|name|version|license|tag|hash|file|index|policy|note|comment|critique|rationale|explanation|feedback)s?($|_)"
)
"""Names of fields that tell of a record, and are no part of its text, but for those that end in …"""
TEXT = re.compile(r"(text|input|prompt|question|document|sentence|passage|body|content|query|instruction|article)s?$")
JUDGING = re.compile(r"score|rating|rank|reward|grade|label|prefer|choice|winner|best|worst|better|worse|safer")
"""Names of fields that may say which response is better."""
LONG_TEXT = 40
NOTHING = (None, "", [], {})


class Names:
    """What fields are called: as `--fields` says it of some meanings, else as the field's sets call them."""

    def __init__(self, given: dict[str, tuple[str, ...]] | None = None, *, ignore_judgements: bool = False):
        self.given, self.ignore_judgements = given or {}, ignore_judgements
        ignored = JUDGEMENTS if ignore_judgements else ()
        joined = ("context", "input") if "prompt" in self.given else ()
        self.names = {**NAMES, **self.given, **dict.fromkeys((*joined, *ignored), ())}
        self.layouts: dict[tuple[str, ...], tuple[dict[str, str], dict[str, list[str]]]] = {}

    def layout(self, fields: tuple[str, ...]) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Return the fields by their name in small letters, and those of each meaning; the same for like records."""
        if fields not in self.layouts:
            keys = {name.lower(): name for name in fields}
            if len(keys) < len(fields):
                raise InputError(f"found keys {list_names(fields)}: two of them differ in the case of letters alone")
            keys = {low: name for low, name in keys.items() if low not in self.names["unread"]}
            found = {meaning: [keys[low] for low in names if low in keys] for meaning, names in self.names.items()}
            if len(self.layouts) == 1000:  # of records that are all unlike
                self.layouts.clear()
            self.layouts[fields] = keys, found
        return self.layouts[fields]


def parse_fields(named: Sequence[str], *, ignore_judgements: bool = False) -> Names:
    """Return the names that `--fields` gives: "prompt=question"; a prompt may join several: "prompt=title+body"."""
    given: dict[str, tuple[str, ...]] = {}
    for item in named:
        meaning, is_given, names = item.partition("=")
        if meaning not in NAMES or not is_given or not names:
            known = ", ".join(sorted(name for name in NAMES if " " not in name))
            raise InputError(f"fields {item!r}: must be MEANING=FIELD, the meaning one of {known}")
        if meaning in given and meaning != "unread":
            raise InputError(f"fields {item!r}: {meaning} is given twice")
        split = names.lower().split("+") if meaning == "prompt" else [names.lower()]
        given[meaning] = given.get(meaning, ()) + tuple(split)
    return Names(given, ignore_judgements=ignore_judgements)


class Record:
    """The fields of one record, found by their meaning, in any case of letters."""

    def __init__(self, fields: dict, names: Names, path: str = ""):
        self.fields = {name: _from_json(value, path + name) for name, value in fields.items()}
        self.names, self.path = names, path
        self.keys, self.found = names.layout(tuple(fields))
        self.read: dict[str, str] = {}  # field → the meaning with which it was read
        self.items: list[Record] = []

    def all(self, meaning: str) -> list[str]:
        """Return the fields that may mean this, first those that hold something."""
        found = self.found[meaning]
        return sorted(found, key=lambda name: self.fields[name] in NOTHING) if len(found) > 1 else found

    def find(self, meaning: str) -> str | None:
        """Return the field that means this; None if there is none."""
        found = self.found[meaning]
        return self.all(meaning)[0] if found else None

    def value(self, meaning: str) -> object:
        """Return what the field of this meaning holds, without reading it; None if there is none."""
        name = self.find(meaning)
        return None if name is None else self.fields[name]

    def take(self, name: str | None, meaning: str) -> object:
        """Return what a field holds, and note as what it was read."""
        if name is None:
            return None
        self.read[name] = meaning
        return self.fields[name]

    def item(self, fields: dict, path: str) -> "Record":
        """Return an object within this record."""
        self.items.append(Record(fields, self.names, path))
        return self.items[-1]

    def parts(self) -> Iterator["Record"]:
        """Yield this record and all objects within it."""
        yield self
        for item in self.items:
            yield from item.parts()

    def unread(self) -> Iterator[tuple[str, object]]:
        """Yield path and value of all that holds something and was not read."""
        for name, value in self.fields.items():
            if self.read.get(name) in ("tree", "message"):
                continue
            if name not in self.read:
                if value not in NOTHING:
                    yield self.path + name, value
                continue
            if not any(item.path.startswith(f"{self.path}{name}") for item in self.items):
                yield from _unread_of_messages(value, f"{self.path}{name}[].")
        for item in self.items:
            yield from item.unread()

    def check_given(self) -> None:
        """Refuse a record in which what `--fields` names was not found."""
        meanings = {meaning for part in self.parts() for meaning in part.read.values()} if self.names.given else ()
        for meaning, names in self.names.given.items():
            if meaning not in meanings and self.names.names[meaning] and meaning != "unread":
                asked, found = f"{meaning}={'+'.join(names)}", list_names(self.fields)
                raise InputError(f'field "{names[0]}": missing, or unfit for --fields {asked}; found keys {found}')


def _from_json(value: object, field: str) -> object:
    """Return messages that stand as JSON in a text, as in a cell of a table."""
    if not isinstance(value, str) or not value.startswith("[{"):
        return value
    if re.match(r"\[\{'(role|from|content|value)'", value):
        raise field_error(field, value, "must be messages in JSON; these are written as Python does it")
    try:
        messages = json.loads(value)
    except (ValueError, RecursionError):
        return value
    is_dialogue = all(isinstance(one, dict) and not one.keys().isdisjoint(("role", "from")) for one in messages)
    return messages if is_dialogue else value


def unfold(raw: RawRecord) -> Iterator[RawRecord]:
    """Yield the record; or, where one object holds columns instead, as pandas writes them, those in its columns."""
    columns = list(raw.fields.values())
    if not columns or not isinstance(columns[0], dict | list):
        columns = []
    elif all(isinstance(column, dict) and column and all(map(str.isdigit, column)) for column in columns):
        columns = [list(column.values()) for column in columns]
    elif not any(is_texts(column) and name.lower() in NAMES["prompt"] for name, column in raw.fields.items()) and not (
        raw.fields.keys() >= {"chosen", "rejected"} and all(map(is_texts, columns))
    ):
        columns = []
    if columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        for number, cells in enumerate(zip(*columns, strict=True), 1):
            yield RawRecord(f"{raw.place} (record {number})", dict(zip(raw.fields, cells, strict=True)))
    else:
        yield raw


def _unread_of_messages(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield what of messages, or of lists of them, holds something and is not read."""
    whole = isinstance(value, dict) and isinstance(value.get("messages"), list)
    if whole or isinstance(value, list):
        for message in value["messages"] if whole else value:
            yield from _unread_of_messages(message, path)
    read = ("messages", "system") if whole else MESSAGE_FIELDS
    for key, part in value.items() if isinstance(value, dict) else ():
        if key not in read and part not in NOTHING:
            yield path + key, part


def is_texts(value: object) -> bool:
    """Return whether a list holds a text."""
    return isinstance(value, list) and any(isinstance(item, str) for item in value)


def holds_text(value: object, least: int = 1) -> bool:
    """Return whether a text of several words and at least so many characters stands anywhere in the value."""
    if isinstance(value, str):
        return len(value) >= least and (least == 1 or any(map(str.isspace, value)))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(holds_text(part, least) for part in parts)


def tells(name: str, value: object) -> bool:
    """Return whether a field that is not read holds a long text, or by its name a judgement."""
    judges = JUDGING.search(name.lower()) and not LABEL.search(name.lower()) and isinstance(value, str | int | float)
    return bool(judges) or holds_text(value, LONG_TEXT)


@dataclass
class Usage:
    """What was read of one file's records, and what was not."""

    records: int = 0
    read: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Field and meaning → in how many records."""
    unread: Counter[str] = field(default_factory=Counter)
    """Field → in how many records it held something, and was not read."""
    telling: dict[str, None] = field(default_factory=dict)
    """Unread fields that held a long text or, by their names, a judgement."""

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield field, meaning and number of records as text, what was left unread last."""
        yield from ((name, meaning, f"{count:,}") for (name, meaning), count in sorted(self.read.items()))
        yield from ((name, "— (left unread)", f"{count:,}") for name, count in sorted(self.unread.items()))

    def add(self, record: Record) -> None:
        """Count one record."""
        self.records += 1
        read = {(part.path + name, meaning) for part in record.parts() for name, meaning in part.read.items()}
        self.read.update(read)
        unread = dict(record.unread())
        self.unread.update(unread.keys())
        for name, value in unread.items():
            if name not in self.telling and name.lower() not in record.names.names["unread"] and tells(name, value):
                self.telling[name] = None

    def add_plain(self, names: Iterable[str]) -> None:
        """Count one record whose fields all mean what they are called."""
        self.records += 1
        self.read.update((name, name) for name in names)


def tell_unread(usage: dict[str, Usage]) -> str | None:
    """Return one line that names the unread fields that hold long texts or judgements; None if there are none."""
    counts: Counter[str] = Counter()
    for file in usage.values():
        counts.update({name: file.unread[name] for name in file.telling})
    if not counts:
        return None
    fields = ", ".join(f'"{name}" ({count:,} records)' for name, count in list(counts.items())[:6])
    fields += ", …" * (len(counts) > 6)
    return f"left unread, though long texts or judgements stand there: {fields}; see minirm data"
