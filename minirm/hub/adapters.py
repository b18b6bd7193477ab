"""An adapter's folder → the model that it makes of its base, merged by peft into a folder of its own."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from minirm.errors import InputError, field_error
from minirm.files.disk import read_json
from minirm.files.opening import naming
from minirm.files.pretrained import FILES

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CLASSES = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}
"""Task of an adapter → the class of transformers whose model it changes."""
HEADS = ("score.weight", "classifier.weight", "classifier.bias")


@contextlib.contextmanager
def merged(folder: Path) -> Iterator[Path]:
    """Give a folder as it is, or, of one with an adapter, another with the merged model, for as long as it is read.

    Raises:
        InputError: the base is not on this disk, peft is not installed or can't merge it, or a head is missing.
    """
    if not (folder / SETTINGS).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="minirm-") as temporary:
        try:
            _merge(folder, Path(temporary))
            yield Path(temporary)
        except InputError as error:
            raise InputError(str(error).replace(temporary, str(folder))) from None


def _merge(folder: Path, out: Path) -> None:
    settings = read_json(folder / SETTINGS)
    name, task = settings.get("base_model_name_or_path"), settings.get("task_type")
    try:
        if not isinstance(name, str) or not Path(name).is_dir():
            rule = "an adapter must be merged into the model that it names, which is no folder on this disk"
            raise field_error("base_model_name_or_path", name, rule)
        if task not in CLASSES:
            raise field_error("task_type", task, f"must be one of {', '.join(CLASSES)}")
    except InputError as error:
        raise InputError(f"{folder / SETTINGS}: {error}") from None
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: missing, though {SETTINGS} is there")
    try:
        import peft
        import transformers
    except ImportError:
        raise InputError(f"{folder}: an adapter, which peft merges into its model: pip install minirm[hf]") from None
    with naming(f"{folder}: its adapter"), safe_open(folder / WEIGHTS, framework="pt") as file:
        brought = [key for key in file.keys() if key.endswith(HEADS)]  # noqa: SIM118
        labels = [file.get_slice(key).get_shape()[0] for key in brought if key.endswith("weight")]
        kind = getattr(transformers, CLASSES[task])
        how = {"num_labels": labels[0]} if labels else {}
        base, said = kind.from_pretrained(name, dtype="float32", local_files_only=True, output_loading_info=True, **how)
        missing = sorted(key for key in said["missing_keys"] if not any(one.endswith(key) for one in brought))
        if missing:
            raise InputError(f"{folder}: neither the adapter nor {name} holds {', '.join(map(repr, missing))}")
        peft.PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(out)
    has_tokenizer = (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file()
    source = folder if has_tokenizer else Path(name)
    for path in source.iterdir():
        if path.is_file() and path.name != "config.json" and (path.name in FILES or path.suffix in (".txt", ".model")):
            shutil.copy(path, out / path.name)
