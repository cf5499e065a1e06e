"""V-pretraining in a `transformers.Trainer`: designed targets in place of the text's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from vfunc.designer_file import save_designer
from vfunc.integrations.trainer_batches import WRONG, RightPadding, tokenised
from vfunc.integrations.trainer_pace import within_epoch
from vfunc.integrations.trainer_refusals import refuse
from vfunc.integrations.trainer_run import (
    Loop,
    Told,
    mean_notes,
    new_workload,
    own_forward,
    start_run,
)
from vfunc.integrations.trainer_state import (
    DESIGNER,
    load_value_state,
    save_value_state,
)
from vfunc.integrations.value_options import ValueOptions
from vfunc.language.soft_targets.designer import TopKDesigner, load_designer
from vfunc.problem import ValueEstimate
from vfunc.processes import ALONE, Processes
from vfunc.training.arm_run import ArmRun
from vfunc.training.step import (
    TaskLoss,
    count_micro_batch,
    count_step,
    note_gradient,
    task_loss,
    warm_up,
)

__all__ = ["RightPadding", "ValueOptions", "ValueTrainer", "ValueTrainerMixin", "tokenised"]

_Trainer = Trainer if TYPE_CHECKING else object


class ValueTrainerMixin(_Trainer):
    """What makes a trainer of transformers design the targets that it trains a causal model on.

    In front of a trainer's class: `class Own(ValueTrainerMixin, SFTTrainer)`. The learner's loss is
    that of `vfunc run`, a mean over the predicted tokens of a micro-batch (of all processes), and a
    window is the mean of its micro-batches: not, as in `Trainer`, a mean over the window's tokens.

    Attributes:
        designer: the designer, from the start on.
        designer_optimizer: its optimizer; None for one that is used as it is.
        value: the options.
    """

    designer: TopKDesigner
    designer_optimizer: torch.optim.Optimizer | None
    value: ValueOptions

    def __init__(
        self,
        *args: Any,
        feedback_dataset: Any,
        value: ValueOptions | None = None,
        **kwargs: Any,
    ) -> None:
        """A trainer with feedback.

        Args:
            *args: the trainer's own.
            feedback_dataset: labelled examples that the value signal alone sees, tokenised like
                the training data, with `labels`; or several such data sets by name, as many tasks.
            value: how tasks are designed and valued.
            **kwargs: the trainer's own.

        Raises:
            UserError: something that designed targets do not go with.
        """
        super().__init__(*args, **kwargs)
        self.value = value or ValueOptions()
        refuse(self)
        # a mean over micro-batches of means over tokens, as everywhere in this package
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = None
        self._pad_id = _pad_id(self._bare, tokenizer)
        bf16 = self.accelerator.mixed_precision == "bf16"
        self._workload = new_workload(
            self._bare,
            self._prepared_feedback(feedback_dataset),
            self.value,
            tokenizer=tokenizer,
            batch_size=self.args.per_device_train_batch_size,
            device=self.args.device,
            dtype=torch.bfloat16 if bf16 else None,
            seed=self.args.seed,
            pad_id=self._pad_id,
        )
        self._line = self._workload.line
        self._run: ArmRun | None = None
        self._taken: TaskLoss | None = None
        self._told: list[Told] = []
        self._resumed: str | None = None
        self._processes: Processes | None = None
        self._new_designer()
        self.add_callback(_Beginning(self))

    @property
    def _bare(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _new_designer(self) -> None:
        self.designer = self._workload.new_designer()
        self.designer_optimizer = None
        if not self.value.freeze_designer:
            self.designer_optimizer = torch.optim.Adam(
                self.designer.parameters(), self.value.designer_lr
            )

    def _prepared_feedback(self, feedback: Any) -> Any:
        """The feedback, prepared as the training data are where a trainer does that."""
        prepare: Any = getattr(self, "_prepare_dataset", None)
        if prepare is None:
            return feedback
        if isinstance(feedback, Mapping):
            return {name: self._prepared_feedback(one) for name, one in feedback.items()}
        if "input_ids" in (getattr(feedback, "column_names", None) or ["input_ids"]):
            return feedback
        made = getattr(self, "_formatting_func", None)
        return prepare(feedback, self.processing_class, self.args, False, made, "feedback")

    def _begin(self) -> None:
        """Forget the training before: the run is made at the first micro-batch."""
        self._run, self._taken = None, None
        self._told.clear()
        self._line.position = 0
        if self.model_init is not None:  # the learner is a new one, too
            self._new_designer()
        if self._processes is None:
            self._processes = _processes(self.accelerator)

    def _started(self, model: nn.Module, inputs: Mapping[str, Any]) -> ArmRun:
        """The run, made at the first micro-batch, and put where a checkpoint left it."""
        bare, processes = self._bare, self._processes or ALONE
        self._line.stand(0, inputs)
        loop = Loop(
            accumulate=self.args.gradient_accumulation_steps,
            clip=self.args.max_grad_norm or 0.0,
            steps=self.state.max_steps,
            seed=self.args.seed,
            scheduler=_inner(self.lr_scheduler, "scheduler"),
            optimizer=_inner(self.optimizer, "optimizer"),
            arguments=self.args,
        )
        run = start_run(
            bare,
            None if model is bare else model,
            self._workload,
            self.designer,
            self.designer_optimizer,
            self.value,
            loop,
            processes,
        )
        if self._resumed is not None:
            load_value_state(run, self.value, Path(self._resumed))
        processes.require_same("the designer", self.designer.state_dict())
        return run

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The window's micro-batches; those behind it are drawn where estimates look ahead."""
        drawn = iter(self._line.feed(epoch_iterator, num_batches))
        return super().get_batch_samples(drawn, num_batches, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss on designed targets, the designer updated first where that is due.

        In evaluation it is the trainer's own, on the labels.
        """
        if not (model.training and self.is_in_train and torch.is_grad_enabled()):
            own = {name: x for name, x in inputs.items() if name != WRONG}
            return super().compute_loss(
                model, own, return_outputs, num_items_in_batch=num_items_in_batch
            )
        with own_forward(self._bare):
            if self._run is None:
                self._run = self._started(model, inputs)
            run = self._run
            self._line.stand(run.state.counters.micro_batch, inputs)
            if self._line.index == 0:
                self._at_window(run)
            bounded, told = within_epoch(run, self._line)
            self._taken = task_loss(bounded)
        self._told.append(Told(_numbers(self._taken, told), self._taken.done.counts))
        # processes' gradients are averaged, and the losses are parts of a sum
        loss = self._taken.loss * run.workload.processes.size
        return (loss, {"loss": loss}) if return_outputs else loss

    def _at_window(self, run: ArmRun) -> None:
        """What comes before a window: the designer's step size, and its warm-up."""
        state, options = run.state, run.options
        if options.designer_final_lr is not None and state.designer_optimizer is not None:
            fraction = run.plan.spent(state.counters.step, 0, 0.0)
            for group in state.designer_optimizer.param_groups:
                group["lr"] = options.designer_lr * (1 + (options.designer_final_lr - 1) * fraction)
        for _ in warm_up(run):
            pass

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The trainer's step, and the counts of what it took."""
        loss = super().training_step(*args, **kwargs)
        run, taken, self._taken = self._run, self._taken, None
        if run is not None and taken is not None:
            count_micro_batch(run, taken)
            self._line.index += 1
            if self.accelerator.sync_gradients:
                count_step(run, note_gradient(run)[1])
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The trainer's log, with means of the value, the gate and the rest since the last."""
        if "loss" in logs and self._told:
            logs.update({k: x for k, x in mean_notes(self._told).items() if k not in logs})
            self._told.clear()
        super().log(logs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._signature_columns is not None and WRONG not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, WRONG]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # transformers calls this in every process
            folder = Path(output_dir or self.args.output_dir or ".")
            save_designer(self.designer, folder / DESIGNER)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self._run is not None:
            save_value_state(self._run, self.value, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self._resumed = checkpoint

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See `transformers.Trainer.train`."""
        self._resumed = None
        return super().train(*args, **kwargs)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        path = Path(self.state.best_model_checkpoint or "") / DESIGNER
        if path.is_file():
            self.designer.load_state_dict(load_designer(path).state_dict())


class ValueTrainer(ValueTrainerMixin, Trainer):
    """A `transformers.Trainer` of a causal language model on designed targets.

    Without a `data_collator` batches are padded on the right (`RightPadding`), labels too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See `ValueTrainerMixin`; the rest is `transformers.Trainer`'s."""
        given = args[2] if len(args) > 2 else kwargs.get("data_collator")
        super().__init__(*args, **kwargs)
        if given is None:
            self.data_collator = RightPadding(self._pad_id)


class _Beginning(TrainerCallback):
    """Tells the trainer that a training begins."""

    def __init__(self, trainer: ValueTrainerMixin) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.trainer._begin()


def _processes(accelerator: Any) -> Processes:
    """The processes that train together; numbers of the host go by a group that can sum them."""
    size = accelerator.num_processes
    if size == 1:
        return ALONE
    alone_on_gpu = accelerator.device.type != "cpu"
    host = dist.new_group(backend="gloo") if alone_on_gpu else None
    return Processes(accelerator.process_index, size, host)


def _inner(wrapped: Any, name: str) -> Any:
    """What a wrapper of Accelerate holds."""
    while hasattr(wrapped, name) and type(wrapped).__module__.startswith("accelerate"):
        wrapped = getattr(wrapped, name)
    return wrapped


def _pad_id(model: Any, tokenizer: Any) -> int:
    """A token of padding, which nothing predicts or attends to."""
    text = model.config.get_text_config() if hasattr(model, "config") else None
    said = (
        getattr(tokenizer, "pad_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
        getattr(text, "pad_token_id", None),
    )
    return next((x for x in said if isinstance(x, int) and x >= 0), 0)


def _numbers(taken: TaskLoss, told: Mapping[str, float]) -> dict[str, float]:
    """What there is to log of a micro-batch: plain numbers."""
    found: dict[str, Any] = {**taken.done.notes, **told}
    if (estimate := taken.done.estimate) is not None:
        found |= dict(estimate.diagnostics) | _of_estimate(estimate)
    numbers: dict[str, float] = {}
    for name, x in found.items():
        if isinstance(x, Tensor | float | int) and (not isinstance(x, Tensor) or x.numel() == 1):
            numbers[name] = float(x)
    return numbers


def _of_estimate(estimate: ValueEstimate) -> dict[str, float]:
    return {"value": float(estimate.value), "objective": float(estimate.objective)}
