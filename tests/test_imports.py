"""The house stands: imports run downward, and nobody imports in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "minirm"

FLOORS = [
    ["errors", "memory"],
    ["disk", "config_json", "config_rules"],
    ["config", "dialogue", "files", "losses", "metrics", "shaping", "evaluation"],
    ["run_config", "records", "layout", "films", "pictures", "report", "template"],
    ["strips"],
    ["layers", "splits", "survey", "synthetic", "tokenizer", "backbones.protocol"],
    ["recurrence", "lora", "pairs", "skills"],
    ["backbones.transformer", "backbones.recurrent", "backbones.torch_decoder"],
    ["backbones", "evaluate"],
    ["packing"],
    ["reward_model", "language_model", "stream"],
    ["objectives", "optimizers"],
    ["train"],
    ["checkpoint", "journal", "rlhf", "rlhf.sampling"],
    ["hugging_face.families", "hugging_face.tensors", "hugging_face.card"],
    ["hugging_face.chat_template"],
    ["hugging_face.reading", "hugging_face.writing"],
    ["hugging_face"],
    ["scoring", "evaluation_page", "prepare", "rewardbench"],
    ["run", "zero_shot", "rlhf.best_of_n", "rlhf.ppo"],
    ["rlhf.follow"],
    ["demo"],
    ["watcher"],
    ["commands.console", "commands.options"],
    [f"commands.{name}" for name in ("demo", "train", "eval", "score", "export", "data", "tokenizer", "ppo")],
    ["commands"],
    ["cli"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            names[name] = path
    return names


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


def test_every_module_has_a_floor():
    assert set(modules()) <= set(FLOOR_OF)


@pytest.mark.parametrize("name", modules())
def test_imports_run_downward(name):
    above = {other for other in imported(modules()[name]) if FLOOR_OF[other] >= FLOOR_OF[name]}
    assert not above, f"{name} (floor {FLOOR_OF[name]}) imports {above}"


def test_the_mathematics_comes_with_the_package():
    names = "minirm.losses.bradley_terry_loss, minirm.metrics.pairwise_accuracy, minirm.shaping.whiten"
    assert subprocess.run([sys.executable, "-c", f"import minirm; {names}"]).returncode == 0


def test_the_package_never_imports_the_bench_or_the_tests():
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        assert "from bench" not in text and "from tests" not in text
