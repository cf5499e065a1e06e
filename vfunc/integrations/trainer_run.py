"""An arm whose steps a trainer of transformers takes: its workload, its designer, its options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.integrations.trainer_batches import (
    LabelledStream,
    LabelledStreams,
    labelled_set,
)
from vfunc.integrations.trainer_pace import Line, TrainerPace
from vfunc.integrations.trainer_refusals import refuse_optimizer
from vfunc.integrations.value_options import ValueOptions
from vfunc.language.data.examples import TokenBatch, first_rows
from vfunc.language.data.reading import LanguageData
from vfunc.language.feedback_options import FeedbackTasks
from vfunc.language.learner import LanguageLearner
from vfunc.language.soft_targets.candidates import require_top_k
from vfunc.language.soft_targets.designer import DesignerConfig, TopKDesigner, load_designer
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.language.trimmed.trim import Trim, logits_by_rows
from vfunc.language.workload import LanguageWorkload
from vfunc.learner import FunctionalLearner, functional
from vfunc.processes import ALONE, Processes
from vfunc.sharding import ShardedLearner
from vfunc.training.arm_run import ArmRun, StepOptions
from vfunc.training.budget import ArmPlan, Budget, Schedule
from vfunc.training.log import Silent
from vfunc.training.loop import mean_over
from vfunc.training.state import ArmState, RunningMeans


@dataclass(frozen=True)
class TrainerWorkload(LanguageWorkload):
    """Soft targets on the micro-batches that a trainer draws.

    Attributes:
        line: they.
    """

    line: Line = field(default_factory=Line)

    def _own(self, position: int) -> TokenBatch:
        return self.line.at(position)

    def estimated(
        self, functional: FunctionalLearner, sharded: ShardedLearner | None = None
    ) -> LanguageLearner:
        """See `Workload.estimated`: the cut is tried on the first sequence there is."""
        assert sharded is None  # a trainer's learner that is sharded is refused
        batch = self.line.at(self.line.position + self.line.index)
        first = first_rows(batch, 1).to(self.device)
        return LanguageLearner(functional, self.dtype, trim=self.trim).cut(first)


def feedback_of(
    data: Any, model: nn.Module, pad_id: int, seed: int
) -> tuple[LanguageData, tuple[str, ...]]:
    """The feedback as a run's data, and the names of its tasks.

    Args:
        data: a data set of `input_ids` and `labels`, or several by name.
        model: the learner.
        pad_id: token id of padding.
        seed: seed of the order; that of the run, whose feedback is read by the seed after it.
    """
    several = data if isinstance(data, Mapping) else {"feedback_dataset": data}
    if not several or data is None:
        raise UserError("feedback_dataset holds no data set")
    rows = _vocabulary(model)
    sets = tuple(
        labelled_set(one, rows, pad_id, name, domain)
        for domain, (name, one) in enumerate(several.items())
    )
    first = LabelledStream(sets[0], seed + 1)
    stream = first if len(sets) == 1 else LabelledStreams(sets, seed + 1)
    names = tuple(several) if len(sets) > 1 else ("feedback",)
    # nothing but the feedback is asked for: batches are the trainer's, and so is evaluation
    return LanguageData(first, stream, (), first, (), 0), names


def _vocabulary(model: nn.Module) -> int:
    learner: Any = model
    return int(learner.get_input_embeddings().num_embeddings)


def new_workload(
    model: nn.Module,
    feedback: Any,
    value: ValueOptions,
    *,
    tokenizer: Any,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype | None,
    seed: int,
    pad_id: int,
) -> TrainerWorkload:
    """The language modality on a trainer's model and the feedback that it was given.

    Args:
        model: the bare learner.
        feedback: see `feedback_of`.
        value: the options.
        tokenizer: the learner's, if there is one.
        batch_size: sequences in a micro-batch of one process.
        device: the learner's.
        dtype: dtype of mixed precision, or None.
        seed: seed of the designer, the feedback's order, and what estimators draw.
        pad_id: token id of padding.

    Raises:
        UserError: something does not fit together.
    """
    vocabulary = _vocabulary(model)
    require_top_k(value.top_k, vocabulary)
    data, names = feedback_of(feedback, model, pad_id, seed)
    if (bank := value.feedback_bank) is not None:
        there, part = data.feedback.distinct, value.feedback_batch_size or batch_size
        if not part <= bank <= there:
            raise UserError(
                f"feedback_bank={bank} has to lie between the feedback batch of {part} that it is "
                f"computed in parts of, and the {there} feedback examples that there are"
            )
    if value.feedback_weights is not None and len(value.feedback_weights) != len(names):
        raise UserError(
            f"feedback_weights gives {len(value.feedback_weights)} weights for {len(names)} "
            "feedback data sets"
        )
    path = value.designer if isinstance(value.designer, str | Path) else None
    return TrainerWorkload(
        data=data,
        tokenizer=tokenizer,
        designer=_designer_config(value, vocabulary),
        start_designer=None if path is None else str(path),
        top_k=value.top_k,
        batch_size=batch_size,
        meta_batch_size=value.meta_batch_size or batch_size,
        meta_seq_len=value.meta_seq_len,
        feedback_batch_size=value.feedback_batch_size or batch_size,
        fixed_alpha=0.5,
        device=device,
        dtype=dtype,
        seed=seed,
        tasks=FeedbackTasks(names, value.feedback_weights, normalise=value.normalise_feedback),
        trim=Trim(logits_by_rows(model)),
    )


def _designer_config(value: ValueOptions, vocabulary: int) -> DesignerConfig:
    if value.designer is None:
        return DesignerConfig(vocabulary, TargetForm())
    config = value.designer
    if not isinstance(config, DesignerConfig):
        config = load_designer(config).config
    if config.vocabulary != vocabulary:
        raise UserError(
            f"the designer is made for a vocabulary of {config.vocabulary} tokens, and the learner "
            f"has {vocabulary}"
        )
    return config


def align_of(value: ValueOptions, model: nn.Module) -> str:
    """The subset S: as given, or the last two blocks, of adapters where there are any."""
    adapted = any("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    return value.align or ("lora:last:2" if adapted else "last:2")


@dataclass(frozen=True)
class Loop:
    """What a trainer says of its training.

    Attributes:
        accumulate: micro-batches in a window.
        clip: largest norm of the gradient; 0 never clips.
        steps: optimizer steps in all.
        seed: its seed.
        scheduler: its scheduler of step sizes.
        optimizer: torch's own, without a wrapper.
        arguments: the trainer's arguments, for messages.
    """

    accumulate: int
    clip: float
    steps: int
    seed: int
    scheduler: Any
    optimizer: torch.optim.Optimizer
    arguments: Any


def start_run(
    model: nn.Module,
    through: nn.Module | None,
    workload: TrainerWorkload,
    designer: TopKDesigner,
    designer_optimizer: torch.optim.Optimizer | None,
    value: ValueOptions,
    loop: Loop,
    processes: Processes = ALONE,
) -> ArmRun:
    """The arm at the first micro-batch of a training, which the workload's line stands at.

    Args:
        model: the bare learner.
        through: the wrapper that its own forwards go through, or None.
        workload: the modality.
        designer: the designer.
        designer_optimizer: its optimizer; None leaves it as it is.
        value: the options.
        loop: the trainer's.
        processes: the processes that train together.

    Raises:
        UserError: the optimizer steps otherwise than estimates simulate; S selects nothing.
    """
    own = functional(model, align_of(value, model))
    refuse_optimizer(loop.optimizer, own.live, loop.arguments)
    decays = value.decays if designer_optimizer is not None else ()
    state = ArmState(
        model,
        own,
        loop.optimizer,
        designer,
        designer_optimizer,
        running=RunningMeans(decays) if decays else None,
    )
    bound: Any = replace(workload, through=through).among(processes)
    pace = TrainerPace(
        workload.line, loop.accumulate, float(processes.size), loop.scheduler, loop.optimizer
    )
    return ArmRun(
        ARMS["vpretraining"],
        state,
        bound,
        bound.estimated(own),
        value.estimator,
        _step_options(value, loop),
        ArmPlan(Budget(loop.steps, "steps"), 0.0, Schedule(), 0.0, 0.0, 0),
        Silent(),
        pace,
    )


def _step_options(value: ValueOptions, loop: Loop) -> StepOptions:
    return StepOptions(
        accumulate=loop.accumulate,
        clip=loop.clip,
        meta_period=value.meta_period,
        burn_in=value.burn_in,
        look_ahead=getattr(value.estimator, "lookahead_steps", 1),
        penalties=value.penalties,
        train_mode=value.estimate_mode == "train",
        seed=loop.seed,
        feedback_bank=value.feedback_bank,
        feedback_every=value.feedback_every,
        mean_bank=value.mean_bank,
        penalties_in_values=value.penalties_in_values,
        designer_warmup=value.designer_warmup,
        designer_steps=value.designer_steps,
        designer_lr=value.designer_lr,
        designer_final_lr=value.designer_final_lr,
    )


@contextlib.contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """Within the context the learner's forward is its own, without Accelerate's mixed precision.

    That casts inside the forward, with a cache that would hand one theta's cast to another; ours
    is around it (`vfunc.forward_pass.autocast`).

    Args:
        model: the bare learner.
    """
    patched, own = vars(model).get("forward"), vars(model).get("_original_forward")
    if patched is None or own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = patched


@dataclass(frozen=True)
class Told:
    """What there is to log of a micro-batch.

    Attributes:
        numbers: by name.
        counts: of how many elements (tokens) a number is the mean; where a name is absent, it is
            the micro-batch's own.
    """

    numbers: Mapping[str, float]
    counts: Mapping[str, float]


def mean_notes(taken: Sequence[Told]) -> dict[str, float]:
    """Means by name over the micro-batches that have one; of means over tokens, over all tokens."""
    names = dict.fromkeys(name for one in taken for name in one.numbers)
    there = {name: [one for one in taken if name in one.numbers] for name in names}
    return {
        name: mean_over([t.numbers[name] for t in told], [t.counts.get(name, 1.0) for t in told])
        for name, told in there.items()
    }
