"""A trainer on designed targets takes the steps of `vfunc run`, unbroken or resumed."""

from __future__ import annotations

import pytest
from datasets import Dataset
from small_run import same, shallow  # noqa: F401  a fixture
from small_trainer import STEPS, parameters, rows, run_of, trainer_of

import vfunc
from vfunc.errors import UserError
from vfunc.integrations.trainer_run import Told, mean_notes
from vfunc.integrations.trainer_state import DESIGNER, STATE
from vfunc.integrations.transformers import RightPadding
from vfunc.language.soft_targets.designer import load_designer
from vfunc.language.soft_targets.gates import OF_SOURCE
from vfunc.training.loop import one_step
from vfunc.training.step import warm_up

pytestmark = pytest.mark.usefixtures("shallow")

CASES = {
    "bfloat16, activations made again": (
        {"precision": "bfloat16"},
        {"bf16": True, "activation_checkpointing": True},
        {},
    ),
    "adapters": (
        {"lora_rank": 2, "lora_dropout": 0.0, "align": "lora:last:2"},
        {},
        {"align": None},
    ),
    "windows, cosine, clipped outside S": (
        {"meta_period": 2, "accumulate": 3, "value": "cosine", "align": "last:1", "clip": 0.1},
        {"gradient_accumulation_steps": 3, "max_grad_norm": 0.1},
        {"align": "last:1", "gate_penalty": 0.1},
    ),
    "windows ahead, step sizes that fall": (
        {
            "estimator": "unrolled",
            "lookahead_steps": 2,
            "accumulate": 2,
            "meta_period": 3,
            "final_lr": 0.0,
            "burn_in": 1,
        },
        {"gradient_accumulation_steps": 2, "lr_scheduler_type": "linear"},
        {"burn_in": 1},
    ),
    "what is held": (
        {
            "value": "deflated",
            "means": 2,
            "mean_bank": 2,
            "feedback_bank": 5,
            "feedback_every": 2,
            "designer_warmup": 2,
            "designer_final_lr": 0.5,
        },
        {},
        {
            "mean_bank": 2,
            "feedback_bank": 5,
            "feedback_every": 2,
            "designer_warmup": 2,
            "designer_final_lr": 0.5,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_its_trajectory_is_the_run_s_bit_for_bit(case, tmp_path):
    options, arguments, value = CASES[case]
    if "gate_penalty" in value:
        options = options | {"gate_penalty": value["gate_penalty"]}
    run = run_of(**options)
    trainer = trainer_of(run, tmp_path, value=value, **arguments)
    begun = parameters(trainer.designer)
    assert same(begun, parameters(run.state.designer))
    trainer.train()
    for _ in warm_up(run):
        pass
    told = [one_step(run) for _ in range(STEPS)]
    assert same(parameters(trainer.model), parameters(run.state.learner))
    assert same(parameters(trainer.designer), parameters(run.state.designer))
    assert not same(begun, parameters(trainer.designer))
    assert all("gate" in done["counts"] for done in told)
    for line, done in zip(trainer.state.log_history, told, strict=False):
        # a trainer tells no sources apart
        gates = {n: done[n] for n in done["counts"] if not n.startswith(OF_SOURCE)}
        assert {name: line[name] for name in gates} == pytest.approx(gates, rel=1e-12)


def test_a_log_of_several_steps_has_means_over_their_tokens():
    """Of what is told by micro-batch, plain means; what one does not tell is left out."""
    found = mean_notes(
        [
            Told(
                {"gate": 1.0, "gate_on_wrong": 0.5, "value": 2.0},
                {"gate": 30.0, "gate_on_wrong": 1.0},
            ),
            Told({"gate": 0.0, "value": 4.0}, {"gate": 10.0}),
            Told({"gate": 0.5, "gate_on_wrong": 1.0}, {"gate": 10.0, "gate_on_wrong": 3.0}),
        ]
    )
    assert found == {"gate": 0.7, "gate_on_wrong": 0.875, "value": 3.0}


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path):
    run = run_of(value="deflated", means=1, feedback_every=2, accumulate=2)
    own = {
        "value": {"feedback_every": 2, "meta_period": 1},
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "linear",
        "train_sampling_strategy": "random",
    }
    whole = trainer_of(run, tmp_path / "whole", **own)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(run, tmp_path / "broken", **own, **saving).train()
    checkpoint = tmp_path / "broken" / "checkpoint-2"
    broken = trainer_of(run, tmp_path / "broken", **own)
    broken.train(resume_from_checkpoint=str(checkpoint))
    assert same(parameters(whole.model), parameters(broken.model))
    assert same(parameters(whole.designer), parameters(broken.designer))
    saved = load_designer(checkpoint / DESIGNER)
    assert not same(parameters(saved), parameters(broken.designer))
    other = trainer_of(
        run, tmp_path / "other", **own | {"value": own["value"] | {"meta_period": 2}}
    )
    with pytest.warns(UserWarning, match="resumed with other .*: meta_period 1 is 2 now$"):
        other.train(resume_from_checkpoint=str(checkpoint))
    value = own["value"] | {"estimator": vfunc.FirstOrder("deflated", beta=0.5)}
    other = trainer_of(run, tmp_path / "other", **own | {"value": value})
    with pytest.warns(UserWarning, match=r"estimator FirstOrder.*beta=1\.0.* is FirstOrder"):
        other.train(resume_from_checkpoint=str(checkpoint))
    told = [line for line in broken.state.log_history if "value" in line]
    assert [line["step"] for line in told][-2:] == [3, 4]
    assert told[-1] == whole.state.log_history[-2]
    with (checkpoint / STATE).open("r+b") as file:
        file.seek(200)
        file.write(b"?")
    with pytest.raises(UserError, match="damaged"):
        trainer_of(run, tmp_path / "broken", **own).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / STATE).unlink()
    with pytest.raises(UserError, match="written by another trainer"):
        trainer_of(run, tmp_path / "broken", **own).train(resume_from_checkpoint=str(checkpoint))


def test_evaluation_is_the_trainer_s_own_and_disturbs_nothing(tmp_path):
    run = run_of()
    plain = trainer_of(run, tmp_path)
    plain.train()
    held_out = rows(run.workload.data.held_out.sequences(0, 4))
    arguments = {"eval_strategy": "steps", "eval_steps": 1, "bf16_full_eval": False}
    told = trainer_of(run, tmp_path, given={"eval_dataset": held_out}, **arguments)
    told.train()
    assert same(parameters(plain.model), parameters(told.model))
    assert told.state.log_history[1]["eval_loss"] > 0
    assert {"value", "gate", "gate_on_wrong", "moved"} <= told.state.log_history[0].keys()


def test_what_looks_ahead_ends_with_the_epoch(tmp_path):
    run = run_of()
    sequences = run.workload.data.stream.sequences(0, 6)
    value = {"estimator": vfunc.Unrolled(lookahead_steps=3), "meta_period": 1, "align": "last:1"}
    arguments = {"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 2}
    found = trainer_of(
        run, tmp_path, value=value, given={"train_dataset": rows(sequences)}, **arguments
    )
    found.train()  # three micro-batches: a window of two, and one of one
    told = [line.get("lookahead_steps") for line in found.state.log_history if "value" in line]
    assert told == [2.0, 1.0]


# TRL sets it by the name that transformers gave up
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_no_collator_is_that_of_vfunc_however_it_is_said(tmp_path):
    run = run_of()
    for given in ({}, {"data_collator": None}):
        assert isinstance(trainer_of(run, tmp_path, given=given).data_collator, RightPadding)


# TRL 1.16 sets an option of transformers by the name that it had before 5.24; told once a process
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_trl_s_trainer_takes_the_same_steps(tmp_path):
    from trl import SFTConfig

    from vfunc.integrations.trl import ValueSFTTrainer

    run = run_of()
    plain = trainer_of(run, tmp_path)
    plain.train()
    data = {
        name: Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in part])
        for name, part in (
            ("train_dataset", plain.train_dataset),
            ("feedback_dataset", rows(run.workload.data.feedback.encoded.sequences)),
        )
    }
    given = {"processing_class": run.workload.tokenizer, **data}
    arguments = {"completion_only_loss": False, "pad_to_multiple_of": None, "bf16": False}
    found = trainer_of(
        run, tmp_path, ValueSFTTrainer, given=given, arguments_of=SFTConfig, **arguments
    )
    found.train()
    assert same(parameters(plain.model), parameters(found.model))
    assert same(parameters(plain.designer), parameters(found.designer))
    with pytest.raises(UserError, match="packing=True"):
        trainer_of(
            run, tmp_path, ValueSFTTrainer, given=given, arguments_of=SFTConfig, packing=True
        )
