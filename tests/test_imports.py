"""The house stands: a folder imports only folders below it, and nobody imports in a circle."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
CORE = ("data", "tokens", "models/kernels", "models", "training")
SHELL = ("files", "evaluation", "runs", "worlds", "policies", "hub", "cli")
FLOORS = ("", *CORE, *SHELL)
"""Folders from the ground up; "" is the files at the top of the package."""


def folder_of(module: str) -> str:
    """Return the folder of a dotted module: the longest known one, for `models.kernels` lies in `models`."""
    path = "cli" if module == "__main__" else module.replace(".", "/")  # the door to the command line
    return max((floor for floor in FLOORS if path == floor or path.startswith(f"{floor}/")), key=len, default="")


def modules() -> dict[str, Path]:
    """Return every module of minirm by its dotted name without "minirm."; a package by its folder's name."""
    paths = sorted((HOME / "minirm").rglob("*.py"))
    names = [path.relative_to(HOME / "minirm").with_suffix("").as_posix().replace("/", ".") for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imported(path: Path) -> set[str]:
    """Return the modules of minirm that a file imports."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "minirm":
            base = node.module.removeprefix("minirm").lstrip(".")
            names = {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
            found |= {name for name in names if name in known} or ({base} if base else set())
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("minirm.") for a in node.names if a.name.startswith("minirm.")}
    return found


@pytest.mark.parametrize("name", modules())
def test_a_folder_imports_only_folders_below_it(name):
    floor = FLOORS.index(folder_of(name))
    above = {other for other in imported(modules()[name]) if FLOORS.index(folder_of(other)) > floor}
    assert not above, f"{name} (in {FLOORS[floor]!r}) imports {above}"


def test_every_folder_has_a_floor():
    folders = {path.parent.relative_to(HOME / "minirm").as_posix() for path in modules().values()}
    assert folders == {".", *CORE, *SHELL}


def test_the_readme_shows_the_house_as_it_stands():
    """Its table names every folder, from the ground up, and where the core ends."""
    house = (HOME / "README.md").read_text(encoding="utf-8").partition("### The house")[2].partition("\n\nTo add")[0]
    named = re.findall(r"^\| (?:`([a-z/]+)/` )?\|", house, re.MULTILINE)
    assert named == ["minirm", *CORE, "", *SHELL]


def test_nobody_imports_in_a_circle():
    TopologicalSorter({name: imported(path) - {name} for name, path in modules().items()}).prepare()


def test_the_core_is_small_enough_to_be_studied():
    """Kernels are not counted: reading stops at them."""
    core = [path for name, path in modules().items() if folder_of(name) in ("", *CORE) and "kernels" not in name]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in core}
    assert sum(lines.values()) <= 4600 and max(lines.values()) <= 320
    functions = (ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in core)
    longest = max(
        one.end_lineno - one.lineno + 1 for tree in functions for one in tree if isinstance(one, ast.FunctionDef)
    )
    assert longest <= 40


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh Python has loaded after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_mathematics_alone_loads_three_modules_and_no_library_of_the_shell():
    loaded = loaded_by("import minirm.losses")
    assert sum(re.match(r"minirm(\.|$)", name) is not None for name in loaded) <= 3
    assert not loaded & {"tokenizers", "jinja2", "safetensors", "tyro", "rich"}


def test_the_mathematics_comes_with_the_package():
    names = "minirm.losses.bradley_terry_loss, minirm.metrics.pairwise_accuracy, minirm.shaping.whiten, minirm.load"
    loaded_by(f"import minirm; {names}, minirm.RewardScorer, minirm.ZeroShotScorer")


def test_the_package_never_imports_the_bench_or_the_tests():
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        assert "from bench" not in text and "from tests" not in text
