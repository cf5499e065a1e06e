"""The options of V-pretraining in another library's trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vfunc.config.allowed import check_fields
from vfunc.errors import UserError
from vfunc.estimators import Estimator, FirstOrder
from vfunc.language.options import TargetOptions
from vfunc.language.soft_targets.designer import DesignerConfig
from vfunc.training.options.designer_options import DesignerOptions
from vfunc.training.options.estimator_options import EstimatorOptions


def _as(owner: type, name: str, default: Any = dataclasses.MISSING) -> Any:
    """A field with the bounds of a command's option, and its default where none is given."""
    (field,) = (f for f in dataclasses.fields(owner) if f.name == name)
    own = field.default if default is dataclasses.MISSING else default
    return dataclasses.field(default=own, metadata=field.metadata)


@dataclass(frozen=True, kw_only=True)
class ValueOptions:
    """How tasks are designed and valued; the command line's options of these names.

    What a trainer has arguments of its own for is read there: step size, accumulation, clipping,
    precision, batch size, seed.

    Attributes:
        estimator: estimator of a task's value: `vfunc.FirstOrder`, `vfunc.Unrolled`,
            `vfunc.Implicit`, or one of your own.
        align: the parameters over which value is taken; None is `last:2`, with adapters
            `lora:last:2`.
        meta_period: r, micro-batches between designer updates.
        feedback_batch_size: labelled examples in a feedback batch, of each process; None is the
            trainer's batch size.
        feedback_bank: labelled examples that g_down is of, in all processes; None is a batch.
        feedback_every: designer updates that one g_down serves.
        mean_bank: micro-batches whose mean gradient takes the place of the first running mean.
        mean_decays: decay rates of the running means; None is 0.9, 0.99, ...
        designer_steps: steps of the designer's optimizer an update, all by one estimate.
        burn_in: micro-batches before the designer's first update.
        estimate_mode: the learner's mode in estimates; train repeats its step's own dropout.
        meta_batch_size: sequences of a micro-batch that an estimate takes; None is all.
        meta_seq_len: tokens of a sequence that an estimate takes, the first; None is all.
        feedback_weights: weights of several feedback data sets; None weighs all the same.
        normalise_feedback: whether each data set's loss is divided by its gradient's norm.
        designer: the designer's size and targets, or a file that one was saved in; None is a new
            one of the default size, with targets of the form `gate`.
        top_k: candidate tokens at each position.
        gate_penalty: penalty on the mean gate, in units of a token's typical value.
        gate_penalty_absolute: the same in units of the objective; None is none.
        moved_penalty: penalty on the mean target mass that is off the text's own token.
        designer_lr: learning rate of the designer's Adam.
        designer_final_lr: that at the end, as a fraction; None leaves it alone.
        designer_warmup: updates of the designer before the first learner step.
        freeze_designer: whether a saved designer is used as it is.
    """

    estimator: Estimator = dataclasses.field(default_factory=FirstOrder)
    align: str | None = None
    meta_period: int = _as(EstimatorOptions, "meta_period", 8)
    feedback_batch_size: int | None = None
    feedback_bank: int | None = _as(EstimatorOptions, "feedback_bank")
    feedback_every: int = _as(EstimatorOptions, "feedback_every", 1)
    mean_bank: int | None = _as(EstimatorOptions, "mean_bank")
    mean_decays: tuple[float, ...] | None = None
    designer_steps: int = _as(EstimatorOptions, "designer_steps", 1)
    burn_in: int = _as(EstimatorOptions, "burn_in")
    estimate_mode: Literal["eval", "train"] = _as(EstimatorOptions, "estimate_mode")
    meta_batch_size: int | None = None
    meta_seq_len: int | None = None
    feedback_weights: tuple[float, ...] | None = None
    normalise_feedback: bool = False
    designer: DesignerConfig | str | Path | None = None
    top_k: int = _as(TargetOptions, "top_k", 64)
    gate_penalty: float = _as(TargetOptions, "gate_penalty")
    gate_penalty_absolute: float | None = _as(TargetOptions, "gate_penalty_absolute")
    moved_penalty: float = _as(TargetOptions, "moved_penalty")
    designer_lr: float = _as(DesignerOptions, "designer_lr", 1e-4)
    designer_final_lr: float | None = _as(DesignerOptions, "designer_final_lr")
    designer_warmup: int = _as(DesignerOptions, "designer_warmup", 0)
    freeze_designer: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not callable(self.estimator) or isinstance(self.estimator, type):
            raise UserError(
                f"estimator takes an estimator, such as vfunc.FirstOrder(), not {self.estimator!r}"
            )
        if isinstance(weights := self.feedback_weights, Mapping):
            raise UserError(
                f"feedback_weights takes numbers in the order of the feedback data sets, not a "
                f"dict: ({', '.join(map(str, weights.values()))})"
            )
        least = {"feedback_batch_size": 1, "meta_batch_size": 1, "meta_seq_len": 2}
        for name, lowest in least.items():
            size = getattr(self, name)
            if size is not None and size < lowest:
                raise UserError(f"{name} must be at least {lowest}, not {size}")
        if self.freeze_designer and not isinstance(self.designer, str | Path):
            raise UserError(
                "freeze_designer does nothing here: a new designer has to be trained; give "
                "designer=PATH of a saved one"
            )
        if self.feedback_every > 1 and not getattr(self.estimator, "g_down_alone", False):
            raise UserError(
                f"feedback_every={self.feedback_every} holds g_down of an earlier learner, and "
                f"{type(self.estimator).__name__} asks for L_down elsewhere; leave it out (a "
                "feedback_bank alone works)"
            )
        if self.designer_steps > 1 and getattr(self.estimator, "repeats", False) is not True:
            raise UserError(
                f"designer_steps={self.designer_steps} goes on from one estimate to what it is at "
                f"the next designers, and {self.estimator!r} does not say that: it is for "
                "FirstOrder's dot and deflated, without mean_batches"
            )
        means = getattr(self.estimator, "running_means", 0)
        if not means:
            for name in ("mean_bank", "mean_decays"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"{name} does nothing here: it is for an estimator that takes means, such "
                        "as vfunc.FirstOrder('deflated')"
                    )
        self.decays  # noqa: B018  refuses what does not fit

    @property
    def decays(self) -> tuple[float, ...]:
        """Decay rates of the running means that the estimator takes."""
        asked = EstimatorOptions(
            estimator=self.estimator,
            align=self.align or "all",
            meta_period=self.meta_period,
            mean_bank=self.mean_bank,
            mean_decays=self.mean_decays,
        )
        return asked.decays_of(self.estimator)

    @property
    def penalties(self) -> Mapping[str, float]:
        """Weights of the designer's regulariser, in units of the objective."""
        return {"gate": self.gate_penalty_absolute or 0.0, "moved": self.moved_penalty}

    @property
    def penalties_in_values(self) -> Mapping[str, float]:
        """The same in units of a token's typical value."""
        return {"gate": self.gate_penalty}
