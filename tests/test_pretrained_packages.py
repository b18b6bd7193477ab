"""Pretrained models out of packages: what lies there is written whole, what does not is said."""

import sys

from bench import pretrained


def made_package(folder, name):
    (folder / name / "model").mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise RuntimeError('never imported')")
    for file in pretrained.FILES:
        (folder / name / "model" / file).write_text(file)


def test_a_package_in_their_layout_is_copied_without_being_imported_and_a_missing_one_is_named(
    tmp_path, monkeypatch, capsys
):
    made_package(tmp_path, "made_minilm")
    monkeypatch.syspath_prepend(tmp_path)
    models = {"minilm": ("made_minilm", pretrained.prepare_minilm), "other": ("not_there", pretrained.prepare_smollm2)}
    monkeypatch.setattr(pretrained, "MODELS", models)
    assert pretrained.main(["--out", str(tmp_path / "out")]) == 1
    assert "made_minilm" not in sys.modules
    assert sorted(path.name for path in (tmp_path / "out" / "minilm").iterdir()) == sorted(pretrained.FILES)
    said = capsys.readouterr().out
    assert "other: not prepared: package not_there is not installed; pip install" in said
    assert pretrained.main(["--out", str(tmp_path / "out")]) == 1
    assert "minilm: is there" in capsys.readouterr().out
