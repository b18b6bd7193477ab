"""Which code computed a figure: figures of other code are not mixed with those of this one.

From a function, every function, class and constant that it uses is followed by name, through the modules of minirm and
of bench; what stands beside them in the same files does not count, and no more do comments, docstrings and layout.
Annotations are not followed: whatever is used was made somewhere by its name.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
OURS = ("minirm", "bench")
GIVEN = (
    "minirm/files",
    "minirm/hub",
    "minirm/cli",
    "minirm/runs",
    "bench/timing.py",
    "bench/architectures/provenance.py",
)
"""Not followed: how files are read and written. What was read from them is in a cell's key by itself …"""
BY_NAME = "find_contestant"
"""… and so is the one contestant that this finds among all."""

Place = tuple[Path, str]
"""A file and a name at its top level; the name "" stands for all of the file."""


class Module(NamedTuple):
    """What a file defines, and what it imports of ours, by name."""

    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, Place]


@lru_cache
def code_digest(*starts: Place, given: tuple[str, ...] = GIVEN) -> str:
    """Return 12 letters that change when these functions, or what of ours they use, compute something else.

    Where the repository lies does not change them.
    """
    digest = hashlib.blake2b(digest_size=6)
    for where, name, text in sorted(
        (_place(file), name, text) for (file, name), text in followed(starts, given).items()
    ):
        digest.update(f"{where} {name}\n{text}\n".encode())
    return digest.hexdigest()


def _place(file: Path) -> str:
    return str(file.relative_to(REPOSITORY)) if file.is_relative_to(REPOSITORY) else file.name


def followed(starts: tuple[Place, ...], given: tuple[str, ...] = GIVEN) -> dict[Place, str]:
    """Return all that is used from some starts on, each as its syntax tree in words.

    Raises:
        ValueError: a start is no function, class or constant of its file, so that nothing would be followed.
    """
    for file, name in starts:
        if name and name not in read_module(file.resolve()).definitions:
            raise ValueError(f"{file}: defines no {name}: what computes a figure must be found")
    found: dict[Place, str] = {}
    waiting = [(file.resolve(), name) for file, name in starts]
    while waiting:
        place = waiting.pop()
        is_given = any(place[0].is_relative_to(REPOSITORY / folder) for folder in given)
        if place in found or is_given or place[1] == BY_NAME:
            continue
        file, name = place
        module = read_module(file)
        wanted = list(module.definitions) if name == "" else [name]
        if name == "":
            waiting += module.imports.values()
        found[place] = ""
        for one in wanted:
            for statement in module.definitions.get(one, []):
                found[place] += ast.dump(statement)
                waiting += _used(statement, file, module)
            if one not in module.definitions and one in module.imports:  # a name that is only handed on
                waiting.append(module.imports[one])
    return found


def _used(statement: ast.stmt, file: Path, module: Module) -> Iterator[Place]:
    """Yield the places that a definition's names stand for."""
    for name, attribute in _names(statement):
        if name in module.definitions:
            yield file, name
        elif name in module.imports:
            there, what = module.imports[name]
            yield there, (attribute if what == "" and attribute in read_module(there).definitions else what)


def _names(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield every name with the attribute that is asked of it, "" for none; annotations are left out."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield node.value.id, node.attr
        return
    if isinstance(node, ast.Name):
        yield node.id, ""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ("annotation", "returns"):
                yield from _names(child)


@lru_cache
def read_module(file: Path) -> Module:
    """Return what a file defines and imports."""
    tree = _without_docstrings(ast.parse(file.read_text(encoding="utf-8")))
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _defined(statement):
            definitions.setdefault(name, []).append(statement)
    return Module(definitions, dict(_imported(tree, file)))


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement at the top level defines; "" where it only does something."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return []
    stored = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return stored or [""]


def _imported(tree: ast.AST, file: Path) -> Iterator[tuple[str, Place]]:
    """Yield the names that imports of ours give, wherever in a module they stand, and what each stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                there = _file_of(alias.name, file)
                if there:
                    yield alias.asname or alias.name.partition(".")[0], (there, "")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = file.parents[node.level - 1]
                base = ".".join([*package.relative_to(_root(file)).parts, *filter(None, [base])])
            for alias in node.names:
                itself, within = _file_of(f"{base}.{alias.name}".lstrip("."), file), _file_of(base, file)
                if itself or within:
                    yield alias.asname or alias.name, (itself, "") if itself else (within, alias.name)


def _file_of(module: str, file: Path) -> Path | None:
    """Return where a module or package lies; None: it is not minirm's, nor bench's, nor beside the file."""
    root = REPOSITORY if module.split(".")[0] in OURS else _root(file)
    place = root.joinpath(*module.split("."))
    return next((found for found in (place.with_suffix(".py"), place / "__init__.py") if found.is_file()), None)


def _root(file: Path) -> Path:
    """Return the folder from which a file's own imports start: the repository, or where a user's file lies."""
    return REPOSITORY if file.is_relative_to(REPOSITORY) else file.parent


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return tree
