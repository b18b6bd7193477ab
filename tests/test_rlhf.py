"""A policy that follows a reward: the advantage and the loss against plain loops, and policies that do learn."""

import json
import math
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import minirm
from minirm.cli.main import main
from minirm.cli.watcher import Stopper
from minirm.errors import InputError
from minirm.files.disk import write_tensors
from minirm.files.records import read_comparisons
from minirm.files.splits import prompt_key
from minirm.policies import follow, learner
from minirm.policies.best_of_n import best_of_n, expected_best, kl_bound
from minirm.policies.dpo import DPO, DPOConfig
from minirm.policies.log import PolicyLog
from minirm.policies.ppo import PPO
from minirm.policies.trainer import PolicyConfig, PolicyTrainer
from minirm.runs.job import train_run
from minirm.runs.journal import Observer
from minirm.runs.run_folder import load_language_model, read_start
from minirm.runs.state import read_state, save_state
from minirm.tokens.packing import tokenize
from minirm.worlds.films import praise
from tests.conftest import last_state, sealed, write_lines
from tests.oracles import hidden_states
from tests.test_policies import BARE, METHODS, PROMPTS, a_model, a_trainer, comparisons, vowels
from tests.test_run import a_config
from tests.test_sft import chats


def a_policy(folder: Path, **model: object) -> list[str]:
    """Train a language model in seconds, and return the command that lets it follow a reward."""
    file = write_lines(folder / "chats.jsonl", chats(30))
    config = a_config(file)
    config = replace(config, stage="lm", model=replace(config.model, **model))
    assert train_run(config, folder / "tuned", Observer()) is not None
    few = ["--iterations", 3, "--prompts-per-iteration", 8, "--max-new-tokens", 8]
    return [str(word) for word in ["ppo", folder / "tuned", "--data", file, "--out", folder / "out", *few]]


# Learning


@pytest.mark.parametrize("name", METHODS)
def test_a_policy_learns_what_is_rewarded_and_a_high_price_keeps_it_near(name):
    runs = {w: list(a_trainer(name, a_model(width=32), kl_weight=w).run()) for w in (0.0, 5.0)}
    free, held = runs[0.0][-1], runs[5.0][-1]
    assert runs[0.0][0].reward < 0.1 and runs[0.0][0].kl_nats == pytest.approx(0, abs=1e-5)
    assert free.reward > 0.5
    assert held.kl_nats < free.kl_nats / 3 and held.reward < free.reward - 0.2


@pytest.mark.parametrize("name", METHODS)
def test_the_distance_that_is_told_is_that_of_the_whole_distributions(name):
    """After some learning: what is told of the draws, against Σ_a p·log(p/p₀) along other draws, each read alone."""
    prompts = 512 // METHODS[name][1].samples_per_prompt
    trainer = a_trainer(name, iterations=4, prompts_per_iteration=prompts, batch=256, max_new_tokens=3)
    run = trainer.run()
    for _ in range(3):
        next(run)
    exact = []
    for one in trainer.write([prompt for prompt in PROMPTS for _ in range(100)], seed=99):
        ids, first = torch.tensor([*one.prompt_ids.tolist(), *one.ids.tolist()]), len(one.prompt_ids) - 1
        log_p, log_q = (
            (hidden_states(model.backbone, ids)[first:-1] @ model.backbone.embedding.weight.T).log_softmax(-1)
            for model in (trainer.policy.language_model, trainer.first)
        )
        exact.append((log_p.exp() * (log_p - log_q)).sum().item())
    told, error = next(run), np.std(exact) / len(exact) ** 0.5
    assert len(trainer.latest) == 512 and told.kl_nats > 0.1
    assert told.kl_nats == pytest.approx(np.mean(exact), abs=0.1 * told.kl_nats + 4 * error)
    assert told.kl_k3_nats == pytest.approx(np.mean(exact), abs=0.2 * told.kl_nats + 4 * error)


def saved_and_read(learner, folder):
    """Return a learner's state, through a folder."""
    save_state(folder / "states", *learner.state())
    return read_state(folder / "states", print)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_learns_the_same_and_a_run_that_was_left_goes_on_as_if_it_had_not_been(name, tmp_path):
    whole, left, resumed = (a_trainer(name, iterations=4, target_kl=0.5, kl_weight=0.1) for _ in range(3))
    expected, two = list(whole.run()), left.run()
    begun = [next(two), next(two)]
    resumed.restore(saved_and_read(left, tmp_path))
    assert begun + list(resumed.run()) == expected
    assert len({one.kl_weight for one in expected}) == 4
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_dpo_that_was_left_goes_on_as_if_it_had_not_been(tmp_path):
    items = list(tokenize(comparisons() * 3, BARE))
    whole, left, resumed = (DPO(a_model(), BARE, items, DPOConfig(epochs=2, batch=4)) for _ in range(3))
    expected, two = list(whole.run()), left.run()
    begun = [next(two) for _ in range(4)]
    resumed.restore(saved_and_read(left, tmp_path))
    assert begun + list(resumed.run()) == expected
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("backbone", ["transformer", "gru"])
@pytest.mark.parametrize("name", METHODS)
def test_on_cuda_a_policy_learns_and_goes_on(backbone, name, tmp_path):
    left, resumed = (a_trainer(name, a_model(backbone).to("cuda")) for _ in range(2))
    next(left.run())
    resumed.restore(saved_and_read(left, tmp_path))
    assert next(resumed.run()).iteration == 2
    best = best_of_n(resumed.policy.language_model, BARE, PROMPTS, vowels, n=2, max_new_tokens=4)
    assert len(best) == len(PROMPTS) and {p.device.type for p in resumed.policy.parameters()} == {"cuda"}


def test_praise_is_the_share_of_opinions_that_are_favourable():
    assert praise("This film has witty dialogue and dull editing.") == 0.5
    assert praise("Tender, honest, superb, lazy") == 0.75
    assert praise("We sat in the third row.") == 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0),
        ("clip", 0.0),
        ("clip", 1e300),
        ("kl_weight", -1.0),
        ("kl_weight", 1e300),
        ("value_weight", 1e300),
        ("decay", 1.5),
        ("learning_rate", 0.0),
        ("learning_rate", 1e300),
        ("samples_per_prompt", 0),
        ("target_kl", 0.0),
        ("unended_reward", float("inf")),
        ("seed", -1),
        ("seed", 99999999999999999999),
    ],
)
def test_dials_out_of_their_range_are_refused(field, value):
    dials = PPO if field in ("clip", "decay", "value_weight") else PolicyConfig
    with pytest.raises(InputError, match=f"^{field}={re.escape(str(value))} must be"):
        dials(**{field: value})


def test_a_price_of_nothing_can_not_be_moved_towards_a_target():
    with pytest.raises(InputError, match=r"^kl_weight=0.0 must be above 0 where target_kl is given"):
        PolicyConfig(kl_weight=0.0, target_kl=5.0)


# The command line


def test_a_run_of_ppo_from_a_language_model_to_a_table_and_a_run_folder(tmp_path, capsys, refused):
    command, tuned = a_policy(tmp_path), tmp_path / "tuned"
    assert main(command) == 0
    said = capsys.readouterr().out
    assert (
        "before" in said
        and "mean reward" in said
        and said.endswith(f"run: {tmp_path / 'out'}, report: {tmp_path / 'out' / 'report.html'}\n")
    )
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [one["reward_after"] for one in samples] == [praise(one["after"]) for one in samples]
    before, after = load_language_model(tuned)[0], load_language_model(tmp_path / "out")[0]
    assert not torch.equal(before.backbone.embedding.weight, after.backbone.embedding.weight)
    begun = json.loads((tmp_path / "out" / "metrics.json").read_text())["asked"]
    assert (begun["policy"], begun["reward"], begun["iterations"]) == (str(tuned), "None", 3)
    known = read_start(tmp_path / "out").training_prompts
    learned = list(dict.fromkeys(map(prompt_key, read_comparisons([tmp_path / "chats.jsonl"]))))
    assert known == read_start(tuned).training_prompts | set(learned[: -(-len(learned) // 10) * -1])
    assert refused(*command) == f"{tmp_path / 'out'}: is not empty; name another folder"


@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_every_other_method_writes_a_policy_its_log_and_a_report(tmp_path, capsys, trained, method):
    """RLOO and GRPO learn from prompts alone; DPO needs comparisons."""
    command = a_policy(tmp_path)
    if method == "dpo":
        few = ["--epochs", 1, "--batch", 4, "--learning-rate", 1e-3, "--max-new-tokens", 8]
        pairs = [{"prompt": f"q{n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(20)]
        file = write_lines(tmp_path / "pairs.jsonl", pairs)
    else:
        few = ["--iterations", 2, "--prompts-per-iteration", 3, "--samples-per-prompt", 2, "--max-new-tokens", 8]
        file = write_lines(tmp_path / "prompts.jsonl", [{"prompt": f"q{n}?"} for n in range(9)])
    out, most = tmp_path / "out", 5 if method == "dpo" else 2
    words = [method, *command[1:2], "--data", file, "--reward", trained, "--out", out, *few]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert f"{most} of {most}: " in said and "stopped without an end: " in said
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [one["iteration"] for one in entries] == list(range(1, most + 1))
    names = {"loss", "accuracy", "chosen", "rejected"} if method == "dpo" else {"kl_nats", "kl_k3_nats", "unended"}
    assert names | {"gradient_norm", "updates_per_second"} <= entries[0].keys()
    assert all(math.isfinite(value) for entry in entries for value in entry.values() if value is not None)
    assert (out / "report.html").read_text().count("data:image/png") == (4 if method == "dpo" else 5)
    metrics = json.loads((out / "metrics.json").read_text())
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert metrics["unended_after"] == sum(one["unended_after"] for one in samples) / len(samples)
    before, after = (load_language_model(run)[0].backbone.embedding.weight for run in (tmp_path / "tuned", out))
    assert not torch.equal(before, after)


def test_tensorboard_holds_every_figure_of_every_iteration_and_texts(tmp_path):
    command = a_policy(tmp_path)
    assert main(command) == 0
    board = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    entries = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    for name in entries[0].keys() - {"iteration"}:
        points = [(point.step, point.value) for point in board.Scalars(name)]
        assert points == [(one["iteration"], pytest.approx(one[name], rel=1e-6)) for one in entries]
    assert board.Tags()["tensors"] == ["responses/text_summary"]


def test_best_of_n_prints_what_every_n_earns_and_writes_what_was_drawn(tmp_path, capsys, refused, trained):
    a_policy(tmp_path)
    file = write_lines(tmp_path / "prompts.jsonl", [{"prompt": f"q{n}?"} for n in range(3)] + [{"prompt": "q1?"}])
    command = ["best-of-n", tmp_path / "tuned", "--reward", trained, "--prompts", file, "--n", 6]
    command = [*map(str, command), "--max-new-tokens", "8", "--out", str(tmp_path / "best.jsonl")]
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert [line["prompt"][0]["content"] for line in lines] == ["q0?", "q1?", "q2?"]
    earned = expected_best([line["rewards"] for line in lines]).mean(0)
    for n in (1, 2, 4, 6):
        assert re.search(rf"│ {n} +│ {earned[n - 1]:.3f} +│ none below 10 prompts +│ {kl_bound(n):.3f} nats", said)
    scorer = minirm.load(trained)
    for line in lines:
        assert line["rewards"] == pytest.approx(scorer.score(line["prompt"], line["responses"]), abs=1e-4)
        assert line["reward"] == max(line["rewards"])
        assert line["response"] == line["responses"][line["rewards"].index(line["reward"])]
        assert line["best_of"] == pytest.approx(expected_best([line["rewards"]])[0])
    unended = sum(line["unended"] for line in lines)
    assert f"3 prompts, 6 responses each; {unended} of 18 were stopped without an end" in said
    assert refused(*["0" if word == "6" else word for word in command]) == "n=0 must be at least 1"
    assert main([*command, "--temperature", "0.5"]) == 0 and "KL from temperature 0.5" in capsys.readouterr().out
    for dial, value in (("seed", "99999999999999999999"), ("temperature", "1e-39"), ("temperature", "inf")):
        assert refused(*command, f"--{dial}", value).startswith(f"{dial}={value} must be at ")
    other = write_lines(tmp_path / "none.jsonl", [{"text": "x"}])
    said = refused(*["--prompts" if w == "--prompts" else str(other) if w == str(file) else w for w in command])
    assert said == f"{other}:1: must hold a prompt, or be a record that training accepts"


def test_ppo_computes_where_the_rest_of_minirm_does(tmp_path, monkeypatch):
    found = []

    def stop(language_model, *_, **__):
        found.append(language_model.backbone.embedding.weight.device.type)
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "pick_device", lambda: torch.device("meta"))
    monkeypatch.setattr(learner, "sample", stop)
    assert main(a_policy(tmp_path)) == 130 and found == ["meta"]


@pytest.mark.parametrize(
    ("model", "most", "message"),
    [
        ({}, 96, r"a prompt of \d+ tokens and max_new_tokens=96 must not exceed the model's max_positions=64"),
        ({"style": "llama"}, 60, r"a prompt of \d+ tokens and max_new_tokens=60 must not exceed .* max_positions=64"),
        ({"backbone": "torch_decoder"}, 8, "backbone=torch_decoder must be another to generate: .* keeps no state"),
    ],
    ids=["learned positions", "rotary", "torch_decoder"],
)
def test_ppo_refuses_what_its_policy_cannot_write_and_leaves_nothing(tmp_path, refused, model, most, message):
    command = a_policy(tmp_path, **model)
    said = refused(*command, "--max-new-tokens", most)
    assert re.fullmatch(re.escape(f"{tmp_path / 'tuned'}: ") + message, said)
    assert not (tmp_path / "out").exists()


def test_dpo_may_learn_from_prompts_behind_which_no_response_would_find_room(tmp_path, refused):
    """It writes nothing behind them; methods that do refuse them."""
    tuned = a_policy(tmp_path)[1]
    prompts = [f"q{n}?" + " why?" * (20 if n == 3 else 0) for n in range(9)]
    pairs = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in prompts]
    words = [tuned, "--data", write_lines(tmp_path / "pairs.jsonl", pairs), "--max-new-tokens", 40]
    assert main([str(word) for word in ["dpo", *words, "--out", tmp_path / "by-dpo"]]) == 0
    assert "must not exceed the model's max_positions" in refused("ppo", *words, "--out", tmp_path / "by-ppo")


def test_a_log_that_ends_too_early_is_not_gone_on_with(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"iteration": 1}\n')
    assert PolicyLog(tmp_path, 1).entries == [{"iteration": 1}]
    with pytest.raises(InputError, match="is missing or no log of 2 iterations"):
        PolicyLog(tmp_path, 2)
    (tmp_path / "log.jsonl").write_text("3\n")
    with pytest.raises(InputError, match="is missing or no log of 1 iterations"):
        PolicyLog(tmp_path, 1)


@pytest.mark.parametrize(
    ("number", "iteration"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGINT, 3)]
)
def test_a_signal_saves_ppo_and_the_same_command_ends_where_the_whole_run_ended(
    tmp_path, capsys, monkeypatch, number, iteration
):
    command, out, explore = a_policy(tmp_path), tmp_path / "out", PolicyTrainer._explore
    before = signal.getsignal(number)  # a shell that runs the tests in the background ignores it

    def interrupted(self, rng):
        if self.done == iteration - 1:
            signal.raise_signal(number)
        return explore(self, rng)

    monkeypatch.setattr(PolicyTrainer, "_explore", interrupted)
    assert main(command) == 130 and signal.getsignal(number) is before
    said = capsys.readouterr()
    assert f"{iteration} of 3" in said.out and said.out.endswith("\nstopped and saved; the same command goes on\n")
    assert said.err == "stopping after this step; Ctrl-C again stops at once, without saving\n"
    assert {path.name for path in out.iterdir()} == {"begun", "states", "log.jsonl", "tensorboard"}
    monkeypatch.setattr(PolicyTrainer, "_explore", explore)
    whole = ["whole" if word == str(out) else word for word in command]
    monkeypatch.chdir(tmp_path)
    assert main(command) == main(whole) == 0
    for name in ("model.safetensors", "samples.jsonl", "metrics.json"):
        assert (out / name).read_bytes() == Path("whole", name).read_bytes(), name
    told = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (out, Path("whole"))]
    for entry in told[0] + told[1]:
        del entry["samples_per_second"], entry["updates_per_second"]
    assert told[0] == told[1] and [entry["iteration"] for entry in told[0]] == [1, 2, 3]


@pytest.mark.parametrize("name", ["training_prompts.bin", "data.json"])
def test_ppo_refuses_a_policy_that_lacks_what_it_hands_on_before_it_learns(tmp_path, refused, name):
    command = a_policy(tmp_path)
    (tmp_path / "tuned" / name).unlink()
    assert refused(*command) == f"{tmp_path / 'tuned' / name}: file is missing from the run folder"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dial", [("--learning-rate", 1e10), ("--kl-weight", 1e30), ("--value-weight", 1e30)])
def test_ppo_that_diverges_says_when_and_leaves_nothing(tmp_path, refused, dial):
    said = refused(*a_policy(tmp_path), *dial)
    name = dial[0].removeprefix("--").replace("-", "_")
    assert re.search(r"(loss|norm) is (nan|inf|-inf) in iteration \d:|logit .* is not finite in iteration \d:", said)
    assert f"{name}={dial[1]}" in said and said.endswith(" may be too high") and not (tmp_path / "out").exists()


def test_a_policy_that_diverges_at_the_very_end_is_not_written(tmp_path, refused):
    command = a_policy(tmp_path)
    few = ["--iterations", 1, "--epochs", 1, "--batch", 8, "--learning-rate", 1e30]
    assert refused(*command, *few).startswith("a logit of the language model is not finite in iteration 1: learning_ra")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changed", ["data", "policy", "reward"])
def test_ppo_does_not_go_on_when_what_stands_behind_a_name_changed(tmp_path, refused, trained, monkeypatch, changed):
    command, out, reward = a_policy(tmp_path), tmp_path / "out", shutil.copytree(trained, tmp_path / "reward")
    command += ["--reward", str(reward)]
    with monkeypatch.context() as patch:
        patch.setattr(PolicyTrainer, "_learn", lambda *_: (0.0, 0.0))
        patch.setattr(Stopper, "should_stop", lambda self: True)
        assert main(command) == 130
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    weights = {"policy": tmp_path / "tuned" / "model.safetensors", "reward": reward / "model.safetensors"}
    if changed == "data":
        write_lines(tmp_path / "chats.jsonl", chats(40)[10:])
    else:
        tensors = {name: tensor * 0.5 for name, tensor in load_file(weights[changed]).items()}
        write_tensors(weights[changed], tensors)
        sealed(weights[changed].parent)
    place = {"data": tmp_path / "chats.jsonl", "policy": tmp_path / "tuned", "reward": reward}[changed]
    said = f"what {changed}={place} holds changed since this run began: begin anew in another folder"
    assert refused(*command) == f"{out / 'begun' / 'asked.json'}: {said}"
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("ending", "number", "said"),
    [
        (".step", -5, "an optimizer's step is below 0"),
        (".weight", torch.nan, "holds something else than finite floating-point numbers"),
        ("done", -5, "done=-5 is no number of iterations"),
    ],
)
def test_ppo_does_not_go_on_from_numbers_that_it_can_not_have_saved(
    tmp_path, refused, monkeypatch, ending, number, said
):
    command = a_policy(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Stopper, "should_stop", lambda self: True)
        assert main(command) == 130
    path = last_state(tmp_path / "out")
    if ending == "done":
        (path.parent / "progress.json").write_text(json.dumps({"done": number}))
    else:
        tensors = load_file(path)
        tensors[next(name for name in sorted(tensors) if name.endswith(ending))].fill_(number)
        write_tensors(path, tensors)
    assert "is damaged" in refused(*command)
    sealed(path.parent)
    assert refused(*command).endswith(said)


def test_ctrl_c_before_ppo_learns_stops_at_once_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    command = a_policy(tmp_path)
    monkeypatch.setattr(learner, "sample", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert main(command) == 130 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err == "minirm: stopped\n"


def test_ppo_stopped_on_the_way_goes_on_with_the_same_command_and_no_other(tmp_path, capsys, refused, monkeypatch):
    command = a_policy(tmp_path)
    file, out = tmp_path / "chats.jsonl", tmp_path / "out"
    assert (
        "no such run folder" in refused("ppo", tmp_path / "nowhere", "--data", file, "--out", out) and not out.exists()
    )
    monkeypatch.setattr(follow, "SECONDS_BETWEEN_SAVES", -1.0)
    learn, calls = PolicyTrainer._learn, []

    def interrupted(self, experience):
        calls.append(self.done)
        if self.done == 2:
            raise KeyboardInterrupt
        return learn(self, experience)

    monkeypatch.setattr(PolicyTrainer, "_learn", interrupted)
    assert main(command) == 130 and {path.name for path in out.iterdir()} == {
        "begun",
        "states",
        "log.jsonl",
        "tensorboard",
    }
    assert "2 of 3" in capsys.readouterr().out
    monkeypatch.setattr(PolicyTrainer, "_learn", learn)
    assert refused(*command, "--seed", 7) == f"{out / 'begun' / 'asked.json'}: was begun with seed=0, not seed=7"
    other = write_lines(tmp_path / "others.jsonl", chats(30))
    anew = refused(*["--data" if word == "--data" else str(other) if word == str(file) else word for word in command])
    assert anew == f"{out / 'begun' / 'asked.json'}: was begun with data={file}, not data={other}"
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("follows: praise in film reviews, since no --reward is given\n3 of 3")
    assert not (out / "begun").exists() and not (out / "states").exists()
    assert load_language_model(out)
