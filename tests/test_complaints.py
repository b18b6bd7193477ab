"""What users of other reward-model libraries complained about, by its number: impossible here.

A complaint has its short test in this file, or stands in `COVERED` with the tests that cover it.
"""

import importlib
import json
from collections import Counter

import numpy as np
import pytest
import torch

from minirm.config import PackingConfig
from minirm.evaluation.evaluate import evaluate
from minirm.evaluation.report import as_table
from minirm.files import disk
from minirm.files.records import read_comparisons
from minirm.hub.load import load
from minirm.losses import all_pairs_loss, bradley_terry_loss
from minirm.runs import run_folder
from minirm.tokens.packing import Encoded, fit, pack, tokenize
from tests.conftest import sealed

COVERED = {
    2: {  # scores change with the batch size (reward-bench #137)
        "test_scoring": ["test_rewards_do_not_depend_on_the_batch"],
        "test_packing_is_exact": ["test_nan_in_one_comparison_stays_in_it"],
    },
    3: {  # pairs identical after truncation (OpenRLHF #1311, rlhf-book #503)
        "test_packing": ["test_a_pair_that_is_identical_after_the_cut_is_dropped_and_counted"],
        "test_run": ["test_what_is_dropped_stands_in_data_json_with_its_reason_and_stage"],
    },
    6: {  # pads in the loss, wrong normaliser (DeepSpeedExamples #316, trlx #246)
        "test_packing": ["test_targets_are_found_by_segment_as_a_loop_over_sequences_finds_them"],
        "test_packing_is_exact": ["test_packed_language_model_loss_and_gradient_are_those_of_each_sequence_alone"],
        "test_losses": ["test_padding_changes_nothing_even_when_it_is_nan"],
    },
    7: {  # gradient accumulation scaled wrongly (trl #4104)
        "test_train": ["test_a_step_is_the_same_however_it_is_cut_into_batches"],
        "test_processes": ["test_several_processes_take_the_steps_that_one_would"],
    },
    10: {  # `max_length` said to truncate, but filters (trl #2488)
        "test_packing": [
            "test_a_long_prompt_loses_its_left",
            "test_drop_leaves_out_what_is_longer_and_counts_it",
        ],
    },
    15: {  # evaluation data taken from the training data (three of eight libraries)
        "test_run": ["test_a_prompt_is_on_one_side_only_however_often_it_occurs"],
        "test_evaluate": ["test_leaked_prompts_are_counted_and_measured_apart"],
    },
}


@pytest.mark.parametrize("number", COVERED)
def test_complaints_without_a_test_here_have_theirs_elsewhere(number):
    for module, names in COVERED[number].items():
        tests = vars(importlib.import_module(f"tests.{module}"))
        assert all(callable(tests.get(name)) for name in names), f"complaint {number}"


def test_every_complaint_is_answered():
    here = {int(name.split("_")[1]) for name in globals() if name.startswith("test_") and name[5].isdigit()}
    assert sorted(here | COVERED.keys()) == list(range(1, 16)) and not here & COVERED.keys()


def test_1_rewards_are_read_by_length_whatever_the_tokens_are():
    """Logits past 300 from left padding (trl #937); pad = end, found at the end of an earlier turn (trl PR 6952)."""
    end = np.zeros(1, dtype=np.int32)  # pad, end and every text: all the same token
    pair = Encoded(end.repeat(3), (end.repeat(2), end.repeat(5)), (1.0, 0.0))
    batch = [pair, Encoded(end, (end.repeat(4),), (1.0,))]
    assert pack(batch).layout.reads.tolist() == [4, 9, 14]


def test_4_a_response_has_one_end_token_and_a_prompt_one_opening_whoever_encodes(trained):
    """A missing end token moved a model from 54.9 to 48.9 (reward-bench #90); BOS about 1% (RLHFlow #16)."""
    tokenizer = run_folder.load_run(trained).tokenizer
    [response] = tokenizer.encode_responses(["Yes.<|end|>"])
    assert response.count(tokenizer.end_id) == 1 and response[-1] == tokenizer.end_id
    [prompt] = tokenizer.encode_prompts([()])
    assert prompt == [tokenizer.special["<|assistant|>"]]


def test_5_a_pair_that_is_wrong_by_twenty_thousand_has_a_finite_loss_and_gradient():
    """inf or NaN from log(sigmoid) (DeepSpeedExamples #423)."""
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = bradley_terry_loss(chosen, -chosen.detach())
    [gradient] = torch.autograd.grad(loss.sum(), chosen)
    assert loss.tolist() == [2e4, 0.0] and gradient.tolist() == [-1.0, 0.0]


def test_8_the_head_that_is_loaded_is_the_one_that_was_trained(trained, broken):
    """Head lost or re-initialised on load (OpenRLHF #873)."""
    weights = disk.read_tensors(trained / run_folder.WEIGHTS)
    assert torch.equal(load(trained).run.model.head.weight, weights["head.weight"])
    del weights["head.weight"]
    disk.write_tensors(broken / run_folder.WEIGHTS, weights)
    sealed(broken)
    with pytest.raises(ValueError, match=r"tensor 'head\.weight' is missing"):
        load(broken)


def test_9_normalisation_says_what_it_was_taken_over_and_is_asked_for(trained):
    """Mean and spread unclear or ignored (OpenRLHF #224, #693)."""
    spread = json.loads((trained / "metrics.json").read_text())["normalisation"]
    assert spread["split"] == "validation"
    [plain], [normal] = (load(trained).score("Question 1?", ["Gladly."], normalise=n) for n in (False, True))
    assert normal == pytest.approx((plain - spread["mean"]) / spread["std"])


def test_11_of_k_responses_each_is_computed_once_and_every_pair_weighs_alike():
    """K-way batches misunderstood (following-instructions #2); one side of a split: complaint 15."""
    text = np.arange(5, dtype=np.int32)
    batch = pack([Encoded(text, (text,) * 9, tuple(map(float, range(9))))])
    assert len(batch.tokens) == 5 + 9 * 5 and len(batch.layout.reads) == 9
    rewards = torch.zeros(1, 9, requires_grad=True)
    [gradient] = torch.autograd.grad(all_pairs_loss(rewards, batch.order, batch.mask).sum(), rewards)
    won_minus_lost = torch.arange(-8.0, 9.0, 2)
    torch.testing.assert_close(gradient[0], -0.5 * won_minus_lost / 36)


def test_12_a_batch_holds_no_pad_and_a_prompt_once():
    """Padding-free reward modelling asked for (trl #3780), prefix sharing asked for (trl #3549)."""
    lengths = [(7, (3, 1, 9)), (1, (2, 2)), (30, (1,))]
    batch = [
        Encoded(np.ones(p, np.int32), tuple(np.ones(r, np.int32) for r in rs), tuple(map(float, range(len(rs)))))
        for p, rs in lengths
    ]
    assert len(pack(batch).tokens) == sum(p + sum(rs) for p, rs in lengths)


def test_13_every_table_shows_what_length_alone_would_reach(pairs_file):
    """ "Pick the longer" wins whole subsets (reward-bench #267, #268)."""
    comparisons = list(read_comparisons([pairs_file]))
    longer = [[float(len(text)) for text in comparison.responses] for comparison in comparisons]
    rows = {row.name: row for row in as_table(evaluate(comparisons, longer))}
    assert {"longer wins", "better is shorter", "reward and length", "prompts swapped"} <= rows.keys()
    assert rows["accuracy"].value == rows["longer wins"].value and rows["reward and length"].value == "+1.000"
    assert "not resolved" in rows["gain over longer wins"].explanation


def test_14_a_run_scores_what_was_trained_token_by_token(trained, pairs_file):
    """Train and serve encode differently (OpenRLHF's server adds no end token)."""
    scorer, comparisons = load(trained), list(read_comparisons([pairs_file]))[:5]
    assert scorer.run.packing == PackingConfig(max_tokens=64, comparisons_per_batch=8)
    as_trained = pack(list(fit(tokenize(comparisons, scorer.run.tokenizer), scorer.run.packing, Counter())))
    with torch.no_grad():
        expected = scorer.run.model(as_trained).flatten().tolist()
    prompts, responses = zip(*[(c.prompt[0].text, text) for c in comparisons for text in c.responses], strict=True)
    served = scorer.score(prompts, responses)
    assert served == pytest.approx(expected, abs=1e-5)
