"""Which code computed a figure, when, and at which commit: figures of other code are not mixed with those of this one.

Code is told apart by what it does: comments, docstrings and layout do not count.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OURS = ("minirm", "bench")


@lru_cache
def code_digest(files: tuple[Path, ...]) -> str:
    """Return 12 letters that change when these files, or a module of minirm, of bench or beside them that they import,
    directly or not, computes something else."""
    found: dict[Path, str] = {}
    waiting = [file.resolve() for file in files]
    while waiting:
        file = waiting.pop()
        if file not in found:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            waiting += _imported(tree, file)
            found[file] = ast.dump(_without_docstrings(tree))
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(found):
        name = str(file.relative_to(REPOSITORY)) if file.is_relative_to(REPOSITORY) else file.name
        digest.update(f"{name}\n{found[file]}\n".encode())
    return digest.hexdigest()


def _imported(tree: ast.AST, file: Path) -> Iterator[Path]:
    """Yield the files that a module's imports name, wherever in it they stand.

    A package that is only passed through on the way to a module of it computes nothing, and does not count.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from filter(None, (_file_of(alias.name, file) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = file.parents[node.level - 1]
                base = ".".join([*package.relative_to(_root(file)).parts, *filter(None, [base])])
            named = [_file_of(f"{base}.{alias.name}".lstrip("."), file) for alias in node.names]
            yield from filter(None, named if all(named) else [*named, _file_of(base, file)])


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
