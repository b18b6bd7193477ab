"""An exported run in the tools that use reward models: transformers' pipeline, TRL's RewardTrainer and GRPOTrainer."""

from pathlib import Path

import pytest
import torch

import minirm
from minirm.hub.writing import export_run

pytestmark = pytest.mark.peers
transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

PROMPT = [{"role": "user", "content": "Question 3?"}]
KIND, RUDE = "Gladly, here is answer 3.", "No, go away 3."
QUIET = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
ON_CPU = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_run(trained, folder)
    return folder


@pytest.fixture
def tokenizer(exported):
    return transformers.AutoTokenizer.from_pretrained(exported)


@pytest.fixture
def model(exported):
    return transformers.AutoModelForSequenceClassification.from_pretrained(exported)


def test_the_pipeline_of_transformers_gives_the_rewards(exported, trained, tokenizer):
    pipeline = transformers.pipeline("text-classification", model=str(exported))
    texts = [tokenizer.apply_chat_template(PROMPT + said(text), tokenize=False) for text in (KIND, RUDE)]
    scores = [one["score"] for one in pipeline(texts, batch_size=2)]
    assert scores == pytest.approx(minirm.load(trained).score("Question 3?", [KIND, RUDE]), abs=1e-5)


def test_the_reward_trainer_of_trl_begins_with_the_loss_that_minirm_sees(trained, tokenizer, model, tmp_path):
    pairs = [{"prompt": PROMPT, "chosen": said(RUDE), "rejected": said(KIND)}] * 4
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, learning_rate=1e-3, **QUIET, **ON_CPU
    )
    trainer = trl.RewardTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    kind, rude = minirm.load(trained).score("Question 3?", [KIND, RUDE])
    expected = torch.nn.functional.softplus(torch.tensor(kind - rude)).item()
    assert losses[0] == pytest.approx(expected, abs=2e-3)  # TRL rounds what it logs
    assert losses[-1] < losses[0]


def test_grpo_of_trl_gets_the_same_rewards_from_the_export_and_from_the_run(
    trained, exported, tokenizer, model, tmp_path
):
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=6, **QUIET, **ON_CPU,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=transformers.GPT2LMHeadModel(config),
        reward_funcs=[model, minirm.load(trained).reward_fn],
        reward_processing_classes=[tokenizer, None],
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": PROMPT}] * 4),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rewards/reward_fn/mean" in entry]
    assert len(logged) == 2
    for entry in logged:
        for figure in ("mean", "std"):
            theirs, ours = entry[f"rewards/{exported.name}/{figure}"], entry[f"rewards/reward_fn/{figure}"]
            assert theirs == pytest.approx(ours, abs=1e-3)
