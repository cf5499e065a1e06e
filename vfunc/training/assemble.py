"""From a configuration to the things a run is made of: learner, data, workload, plans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.estimators import make_estimator
from vfunc.language.candidates import require_top_k
from vfunc.language.data import RawData, Source, embedded_data, file_data, tokenised
from vfunc.language.designer import DesignerConfig
from vfunc.language.designer_file import load_designer
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.feedback import FeedbackTasks
from vfunc.language.loading import load_learner, with_lora
from vfunc.language.rewards import RewardOptions
from vfunc.language.streams import StreamSpec, stream_preset
from vfunc.language.targets import TargetForm
from vfunc.language.workload import LanguageWorkload
from vfunc.learner import select
from vfunc.training.arms import ARMS, estimator_of
from vfunc.training.budget import Schedule
from vfunc.training.config import RunConfig
from vfunc.training.loop import ArmPlan
from vfunc.training.method_options import EMBEDDED
from vfunc.training.resolve import estimator_options
from vfunc.training.run_options import DataOptions
from vfunc.training.step import StepOptions


@dataclass(frozen=True)
class Assembled:
    """What every arm of a run shares.

    Attributes:
        config: the resolved configuration.
        learner: the start learner, on the CPU; arms train copies of it on the device.
        tokenizer: its tokenizer.
        workload: the modality.
        device: where everything runs.
    """

    config: RunConfig
    learner: nn.Module
    tokenizer: PreTrainedTokenizerBase
    workload: LanguageWorkload
    device: torch.device


def assemble(config: RunConfig) -> Assembled:
    """Load and check everything that a run needs, before anything is written.

    Args:
        config: a resolved configuration.

    Returns:
        The parts.

    Raises:
        UserError: something is missing or does not fit together.
    """
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    for name in config.run.arms:
        estimator_of(ARMS[name], config.estimator.estimator, estimator_options(config))
    device = pick_device(config.learner.device)
    torch.manual_seed(config.run.seed)
    name = config.learner.learner
    learner, tokenizer = load_learner(str(EMBEDDED_LEARNER) if name == EMBEDDED else name)
    vocabulary = learner.get_input_embeddings().num_embeddings
    require_top_k(config.designer.top_k, vocabulary)
    context = getattr(learner.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and config.data.seq_len > context:
        raise UserError(
            f"--seq-len {config.data.seq_len} is longer than the learner's context of {context}"
        )
    module: nn.Module = learner
    if config.learner.lora_rank:
        lora = config.learner
        module = with_lora(learner, lora.lora_rank, lora.lora_alpha, lora.lora_dropout)
    select(module, config.estimator.align)
    if config.estimator.estimate_mode == "train" and not _has_dropout(module):
        raise UserError("--estimate-mode train does nothing here: the learner has no dropout")
    raw = _read(config.data, config.run.seed)
    data = tokenised(
        raw,
        tokenizer,
        config.data.seq_len,
        config.run.seed,
        rewarded=config.data.feedback_kind == "reward",
    )
    workload = LanguageWorkload(
        data=data,
        tokenizer=tokenizer,
        designer=_designer_config(config, vocabulary),
        start_designer=config.designer.designer,
        top_k=config.designer.top_k,
        batch_size=config.data.batch_size,
        feedback_batch_size=config.data.feedback_batch_size,
        fixed_alpha=config.run.fixed_alpha,
        device=device,
        dtype=torch.bfloat16 if config.learner.precision == "bfloat16" else None,
        seed=config.run.seed,
        tasks=_feedback_tasks(config.data, raw.tasks, data.max_new_tokens),
    )
    return Assembled(config, module, tokenizer, workload, device)


def pick_device(name: str) -> torch.device:
    """The device that an option names; `auto` takes a GPU if there is one.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is none; give auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r} is not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def step_options(config: RunConfig) -> StepOptions:
    """How a step is taken, as configured."""
    return StepOptions(
        accumulate=config.optimizer.accumulate,
        clip=config.optimizer.clip,
        meta_period=config.estimator.meta_period,
        burn_in=config.estimator.burn_in,
        look_ahead=_look_ahead(config),
        penalties={
            "gate": config.designer.gate_penalty,
            "moved": config.designer.moved_penalty,
        },
        train_mode=config.estimator.estimate_mode == "train",
        seed=config.run.seed,
    )


def _has_dropout(module: nn.Module) -> bool:
    return any(
        (isinstance(child, nn.Dropout) and child.p > 0) or getattr(child, "attention_dropout", 0)
        for child in module.modules()
    )


def _look_ahead(config: RunConfig) -> int:
    """Unlabeled batches that the estimator wants: its `lookahead_steps`, where it has any."""
    if not any(ARMS[name].designed and not ARMS[name].random for name in config.run.arms):
        return 1
    estimator = make_estimator(config.estimator.estimator, estimator_options(config))
    return getattr(estimator, "lookahead_steps", 1)


def arm_plan(config: RunConfig) -> ArmPlan:
    """What bounds and follows an arm, as configured."""
    return ArmPlan(
        budget=config.run.budget,
        lr=config.optimizer.lr,
        schedule=Schedule(config.optimizer.warmup, config.optimizer.final_lr),
        eval_every=config.run.eval_every,
        save_every=config.run.save_every,
        probe_batches=config.run.probe_batches,
    )


def stream_spec(data: DataOptions) -> StreamSpec:
    """The embedded problem's stream, with what the options override."""
    assert data.problem is not None
    styles = {"both": ("textbook", "forum"), "textbook": ("textbook",), "forum": ("forum",)}
    given = {
        "mistakes": data.mistakes,
        "share_wrong": data.wrong_share,
        "careless_styles": data.careless_styles and styles[data.careless_styles],
        "forum_share": data.forum_share,
        "evaluation_forum_share": data.eval_forum_share,
        "levels": data.levels,
    }
    spec = stream_preset(data.problem)
    return replace(spec, **{name: value for name, value in given.items() if value is not None})


def _read(data: DataOptions, seed: int) -> RawData:
    if data.stream is None:
        assert data.stream_size is not None and data.eval_split is not None
        return embedded_data(
            stream_spec(data),
            seed,
            stream=data.stream_size,
            feedback=data.feedback_size,
            evaluation=data.eval_size,
            split=data.eval_split,
            by_style=data.feedback_tasks == "styles",
        )
    assert data.feedback is not None and data.eval is not None
    return file_data(
        [Source(name, data.stream_fields, data.stream_limit) for name in data.stream],
        [Source(name, data.feedback_fields, data.feedback_size) for name in data.feedback],
        Source(data.eval, data.eval_fields, data.eval_size),
        seed,
    )


def _feedback_tasks(
    data: DataOptions, names: tuple[str, ...], max_new_tokens: int
) -> FeedbackTasks:
    """What the feedback measures; completions may be as long as evaluation lets them be."""
    rewards = RewardOptions(data.reward_samples, data.reward_temperature, max_new_tokens)
    return FeedbackTasks(
        names,
        data.feedback_weights,
        data.feedback_combine,
        data.normalise_feedback,
        rewards if data.feedback_kind == "reward" else None,
    )


def _designer_config(config: RunConfig, vocabulary: int) -> DesignerConfig:
    options = config.designer
    if options.designer is not None:
        saved = load_designer(Path(options.designer)).config
        if saved.vocabulary != vocabulary:
            raise UserError(
                f"--designer {options.designer}: made for a vocabulary of {saved.vocabulary} "
                f"tokens, the learner has {vocabulary}"
            )
        return saved
    return DesignerConfig(
        vocabulary,
        TargetForm(options.targets, options.alpha_max, options.shift_bound),
        options.designer_width,
        options.designer_layers,
        options.designer_heads,
        options.designer_features,
    )
