"""TRL's trainers, on the learner and the feedback of a run: which, with what, and nothing else."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from vfunc.errors import NonFiniteError, UserError
from vfunc.extras import needs
from vfunc.language.data.tokenise import end_of_text
from vfunc.language.evaluation.answers import is_correct
from vfunc.language.evaluation.generation import context_of
from vfunc.language.loading import quiet
from vfunc.language.rewards import PromptStream
from vfunc.language.workload import LanguageWorkload
from vfunc.training.arm_run import ArmRun
from vfunc.training.direct.feedback_rows import ENDLESS, Rows, RunOrder, prompt_rows, solution_rows
from vfunc.trees import Params

with needs("language", "transformers"):
    from transformers import (
        GenerationConfig,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
with needs("trl", "trl"):
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

_RECOMPUTED = "activation_checkpointing"
if _RECOMPUTED not in TrainingArguments.__dataclass_fields__:
    _RECOMPUTED = "gradient_checkpointing"
"""What transformers calls it that activations are recomputed, which TRL does unless it is told."""

_Trainer = Trainer if TYPE_CHECKING else object


def twin_of(learner: nn.Module) -> Any:
    """A copy of a learner's modules and settings on the learner's own parameters and buffers.

    TRL writes to the forward, the settings and the adapters of what it trains; the learner's own
    stay as they are.
    """
    held = [*learner.parameters(), *learner.buffers()]
    return copy.deepcopy(learner, {id(x): x for x in held})


def right_answer(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """GRPO's reward: 1 where the answer that a completion states is right, by the run's own check.

    Args:
        completions: what the learner wrote.
        answer: the right answer of each one's prompt.
    """
    return [float(is_correct(text, one)) for text, one in zip(completions, answer, strict=True)]


class _OfARun(_Trainer):
    """What TRL's trainers do otherwise in a run: its order, its counts, and nobody is told."""

    order: Callable[[], Sampler[int]]
    where: Callable[[], str]
    tokens: int = 0

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return self.order()

    def _send_telemetry(self) -> None:
        """TRL tells its makers which models are trained; a run does not."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The trainer's loss; counts the tokens that the learner reads, as a run does."""
        self.tokens += tokens_read(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The trainer's step.

        Raises:
            NonFiniteError: the loss is not finite; the learner has not moved.
        """
        loss = super().training_step(*args, **kwargs)
        if not math.isfinite(float(loss)):
            raise NonFiniteError(f"the learner's loss is {float(loss)} ({self.where()})")
        return loss


class RunSFT(_OfARun, SFTTrainer):
    """TRL's `SFTTrainer` in a run."""


class RunGRPO(_OfARun, GRPOTrainer):
    """TRL's `GRPOTrainer` in a run."""


def tokens_read(inputs: dict[str, Any]) -> int:
    """Input tokens of a micro-batch without padding: each sequence's last token is not read."""
    masks = ("prompt_mask", "completion_mask") if "prompt_mask" in inputs else ("attention_mask",)
    return int(sum(inputs[name].sum() for name in masks)) - len(inputs[masks[0]])


def sft_trainer(run: ArmRun, folder: Path, callback: TrainerCallback) -> RunSFT:
    """TRL's `SFTTrainer` on the arm's learner, from where its counters are.

    Args:
        run: the arm.
        folder: a folder of the trainer's own, in which nothing is kept.
        callback: what follows the training.
    """
    workload, every = _workload(run), run.options.accumulate
    rows = solution_rows(workload.data.feedback)  # pyright: ignore[reportArgumentType]  refused
    config = SFTConfig(
        **_arguments(run, folder, workload.batch_size),
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenised, labelled and cut already
        max_length=None,
        packing=False,
    )
    window = workload.batch_size * every

    def order() -> Sampler[int]:
        return RunOrder(rows, run.state.counters.micro_batch * workload.batch_size, window)

    return _made(RunSFT, run, config, rows, callback, order)


def grpo_trainer(
    run: ArmRun, folder: Path, callback: TrainerCallback, reference: Params | None
) -> RunGRPO:
    """TRL's `GRPOTrainer` on the arm's learner, from where its counters are.

    Args:
        run: the arm.
        folder: as in `sft_trainer`.
        callback: as in `sft_trainer`.
        reference: the trained parameters of the learner that the divergence is from; None is none.

    Raises:
        UserError: completions for which the learner's context leaves no room.
    """
    workload, every = _workload(run), run.options.accumulate
    options, stream = workload.direct, _prompts(workload)
    assert workload.tokenizer is not None
    rows = prompt_rows(stream, workload.tokenizer)
    config = GRPOConfig(
        **_arguments(run, folder, workload.batch_size * options.grpo_generations),
        num_generations=options.grpo_generations,
        temperature=options.grpo_temperature,
        max_completion_length=completion_tokens(run),
        beta=0.0 if reference is None else options.grpo_beta,
    )
    window = workload.batch_size * every

    def order() -> Sampler[int]:
        at = run.state.counters.micro_batch * workload.batch_size
        return RunOrder(rows, at, window, options.grpo_generations, every)

    trainer = _made(RunGRPO, run, config, rows, callback, order, reward_funcs=right_answer)
    if reference is not None:
        _place_reference(trainer, reference)
    return trainer


def completion_tokens(run: ArmRun) -> int:
    """The most tokens of GRPO's completions.

    Raises:
        UserError: the longest prompt and as many do not fit the learner's context.
    """
    workload = _workload(run)
    asked = workload.direct.grpo_tokens
    prompts = (p for source in _prompts(workload).sources for p in source)
    longest = max(len(prompt.tokens) for prompt in prompts)
    context = context_of(_model(run.state.learner))
    room = math.inf if context is None else context - longest
    if asked is not None and asked > room:
        raise UserError(
            f"--grpo-tokens {asked}: the learner's context of {context} leaves {room} after the "
            f"longest prompt of {longest}"
        )
    return int(min(workload.data.max_new_tokens if asked is None else asked, max(room, 1)))


def _workload(run: ArmRun) -> LanguageWorkload:
    assert isinstance(run.workload, LanguageWorkload)
    return run.workload


def _prompts(workload: LanguageWorkload) -> PromptStream:
    assert workload.data.prompts is not None
    return workload.data.prompts


def _model(learner: Any) -> Any:
    """The model in a learner: adapters are layers of it."""
    return learner.get_base_model() if hasattr(learner, "get_base_model") else learner


def _arguments(run: ArmRun, folder: Path, batch_size: int) -> dict[str, Any]:
    """What both trainers are told: the run's own options, and that nothing is kept or shown."""
    workload = _workload(run)
    cpu = workload.device.type == "cpu"
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": run.options.accumulate,
        "max_steps": ENDLESS,  # the callback ends it
        "max_grad_norm": run.options.clip,
        "bf16": workload.dtype is torch.bfloat16,
        "use_cpu": cpu,
        "dataloader_pin_memory": not cpu,
        _RECOMPUTED: False,
        "seed": run.options.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


class _Held:
    """A schedule of step sizes that leaves them alone: the callback sets them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def step(self) -> None:
        """Nothing."""

    def get_last_lr(self) -> list[float]:
        """The present step sizes."""
        return [group["lr"] for group in self._optimizer.param_groups]


def _made(
    kind: Any,
    run: ArmRun,
    config: Any,
    rows: Rows,
    callback: TrainerCallback,
    order: Callable[[], Sampler[int]],
    **more: Any,
) -> Any:
    """A trainer on the learner's parameters and the arm's optimizer."""
    workload, optimizer = _workload(run), run.state.optimizer
    assert workload.tokenizer is not None
    config._n_gpu = min(config.n_gpu, 1)  # one of several GPUs is the run's
    twin = twin_of(run.state.learner)
    model = _model(twin)
    # what a checkpoint says of its own generation (penalties, top-p) is not the policy
    own = getattr(model.generation_config, "eos_token_id", None)
    own = [own] if isinstance(own, int) else list(own or [])
    ends = list(dict.fromkeys([end_of_text(workload.tokenizer), *own]))
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[0])
    if getattr(config, "beta", 0.0) and twin is model:
        # TRL reads the reference learner from where the learner came from: have that be here
        with quiet():
            model.save_pretrained(config.output_dir)
        model.config._name_or_path = config.output_dir
    with quiet():
        trainer = kind(
            model=twin,
            args=config,
            train_dataset=rows.dataset,
            processing_class=copy.deepcopy(workload.tokenizer),  # TRL gives it padding
            optimizers=(optimizer, _Held(optimizer)),
            callbacks=[callback],
            **more,
        )
    trainer.remove_callback(PrinterCallback)
    trainer.order, trainer.where = order, lambda: run.where
    return trainer


def _place_reference(trainer: Any, reference: Params) -> None:
    """Have the divergence be from these parameters: TRL copies the learner as it is now."""
    of_adapters = trainer.ref_model is None
    held = dict((trainer.model if of_adapters else trainer.ref_model).named_parameters())
    with torch.no_grad():
        for name, value in reference.items():
            held[name.replace(".default.", ".ref.") if of_adapters else name].copy_(value)
