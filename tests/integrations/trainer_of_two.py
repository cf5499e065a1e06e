"""What `accelerate launch` starts twice: a training in two processes, and its second half again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from small_run import same, shallow_learner
from small_trainer import BATCH, parameters, run_of, trainer_of

from vfunc.training.build import language_assembly

OPTIONS = {"value": "preconditioned", "align": "last:1", "meta_period": 1}
# a first step of Adam's is as good as a sign, and its derivative nothing but rounding errors
ARGUMENTS = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "adam_epsilon": 1e-4}


def doubled(folder: Path, batch: int, **more: Any) -> Any:
    """A trainer in float64; Adam would make steps of rounding errors in the designer."""
    run = run_of(**OPTIONS)
    run.state.learner.double()
    value = {"align": "last:1", "feedback_batch_size": batch}
    arguments = ARGUMENTS | {"per_device_train_batch_size": batch} | more
    trainer = trainer_of(run, folder, value=value, **arguments)
    trainer.designer.double()
    trainer.designer_optimizer = torch.optim.SGD(trainer.designer.parameters(), lr=0.1)
    return trainer


def trained(trainer: Any, **more: Any) -> dict[str, Any]:
    """Its parameters behind a training, and what it logged."""
    trainer.train(**more)
    told = [line["value"] for line in trainer.state.log_history if "value" in line]
    module = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "learner": parameters(module),
        "designer": parameters(trainer.designer),
        "values": told,
    }


def main(output: str) -> None:
    language_assembly.EMBEDDED_LEARNER = shallow_learner()
    folder = Path(output).parent / "two"
    trainer = doubled(folder, BATCH, save_strategy="steps", save_steps=2)
    found = trained(trainer)
    checkpoint = str(folder / "checkpoint-2")
    again = trained(doubled(folder, BATCH), resume_from_checkpoint=checkpoint)
    found["resumed"] = all(same(found[part], again[part]) for part in ("learner", "designer"))
    found["processes"] = trainer.accelerator.num_processes
    torch.save(found, f"{output}.{trainer.args.process_index}")


if __name__ == "__main__":
    main(*sys.argv[1:])
