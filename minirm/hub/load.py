"""Any folder as a scorer: a run of minirm, or a pretrained folder in Hugging Face's layout."""

from pathlib import Path

from minirm.config import PackingConfig
from minirm.errors import InputError
from minirm.evaluation.scoring import LoadedRun, RewardScorer, usual_device
from minirm.hub.reading import build_language_model, build_reward_model, is_pretrained, read_model
from minirm.policies.zero_shot import NO, YES, ZeroShotScorer
from minirm.runs.run_folder import load_language_model, load_run


def load(run_folder: str | Path, device: str | None = None) -> RewardScorer:
    """Return the scorer of a run folder, which holds all that it needs.

    Args:
        run_folder: what `minirm train` wrote; or a reward model in Hugging Face's layout.
        device: where to compute; None takes a GPU where there is one.
    Raises:
        InputError: the folder lacks a file, or a file does not fit the others.
    """
    device = device or usual_device()
    is_foreign = is_pretrained(Path(run_folder))
    return RewardScorer(_load_checkpoint(Path(run_folder), device) if is_foreign else load_run(run_folder, device))


def _load_checkpoint(folder: Path, device: str) -> LoadedRun:
    imported = read_model(folder)
    if not imported.has_head:
        if imported.notes:
            raise InputError(imported.notes[0].replace("not taken", "no part of a classifier of transformers"))
        raise InputError(f"{folder}: is a language model, without a head for rewards; train one: minirm train --from")
    model = build_reward_model(imported).to(device).eval()
    packing = PackingConfig(max_tokens=model.config.max_positions, share_prompt=not model.config.bidirectional)
    return LoadedRun(model, imported.tokenizer, packing, None, None, None)


def load_zero_shot(
    folder: str | Path, question: str, yes: str = YES, no: str = NO, device: str | None = None
) -> ZeroShotScorer:
    """Return the scorer that asks the language model in a folder.

    Args:
        folder: what `minirm train --stage lm` wrote; or a language model in Hugging Face's layout.
        question: template with "{response}", and maybe "{prompt}"; see `ZeroShotScorer`.
        yes, no: the two answers.
        device: where to compute; None takes a GPU where there is one.
    Raises:
        InputError: the folder holds no language model, or the question no place for the response.
    """
    folder, device = Path(folder), device or usual_device()
    if is_pretrained(folder):
        imported = read_model(folder)
        if imported.has_head:
            raise InputError(f"{folder}: a reward model: must be a language model, which can answer a question")
        model, tokenizer = build_language_model(imported).to(device), imported.tokenizer
    else:
        model, tokenizer = load_language_model(folder, device)
    return ZeroShotScorer(model, tokenizer, question, yes, no)
