"""Small trainings by a trainer, and the same by `vfunc run`'s loop."""

from __future__ import annotations

import copy
from typing import Any

import torch
from small_run import new_run
from transformers import TrainingArguments

from vfunc.integrations.trainer_batches import IGNORED, WRONG
from vfunc.integrations.transformers import ValueOptions, ValueTrainer
from vfunc.training.arm_run import ArmRun
from vfunc.training.loop import one_step

STEPS = 4
BATCH = 2


def arguments(folder: Any, kind: type[TrainingArguments] = TrainingArguments, **more: Any) -> Any:
    """Quiet arguments of a few steps on the CPU."""
    own = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "adam_beta2": 0.99,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        "train_sampling_strategy": "sequential",
    }
    return kind(output_dir=str(folder), **(own | more))


def rows(sequences: Any) -> list[dict[str, list[int]]]:
    """Sequences of a run as a data set's rows."""
    found = []
    for one in sequences:
        ids = one.tokens.tolist()
        labels = [IGNORED] * one.predict_from + ids[one.predict_from :]
        found.append({"input_ids": ids, "labels": labels, WRONG: one.wrong.int().tolist()})
    return found


def value_options(run: ArmRun, **more: Any) -> ValueOptions:
    """The options of a run, as a trainer takes them."""
    workload: Any = run.workload
    return ValueOptions(
        **{
            "estimator": run.estimator,
            "align": "all",
            "meta_period": run.options.meta_period,
            "designer": workload.designer,
            "top_k": workload.top_k,
            "designer_lr": run.options.designer_lr,
            "feedback_batch_size": workload.feedback_batch_size,
        }
        | more
    )


def trainer_of(run: ArmRun, folder: Any, kind: type = ValueTrainer, **more: Any) -> Any:
    """A trainer on a run's learner, text and feedback, in the run's order."""
    value = more.pop("value", {})
    data, given = run.workload.data, more.pop("given", {})
    args = arguments(folder, more.pop("arguments_of", TrainingArguments), **more)
    count = STEPS * args.gradient_accumulation_steps * BATCH * 2
    sequences = data.stream.sequences(0, count)
    return kind(
        copy.deepcopy(run.state.learner),
        args,
        **{
            "train_dataset": rows(sequences),
            "feedback_dataset": rows(data.feedback.encoded.sequences),
            "value": value if isinstance(value, ValueOptions) else value_options(run, **value),
        }
        | given,
    )


def run_of(**options: Any) -> ArmRun:
    """A run at its start, with steps of one size."""
    own = {"batch_size": BATCH, "budget": f"{STEPS}steps", "warmup": 0.0, "final_lr": 1.0}
    return new_run(**(own | options))


def stepped(run: ArmRun, steps: int = STEPS) -> ArmRun:
    """The run after its steps."""
    for _ in range(steps):
        one_step(run)
    return run


def parameters(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}
