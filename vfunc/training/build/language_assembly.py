"""From a configuration to the parts of a language run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vfunc.config.config import RunConfig
from vfunc.config.method_options import EMBEDDED
from vfunc.config.run_options import DataOptions
from vfunc.errors import UserError
from vfunc.language.candidates import require_top_k
from vfunc.language.data.reading import RawData, Source, embedded_data, file_data, tokenised
from vfunc.language.data.streams import StreamSpec, stream_preset
from vfunc.language.designer import DesignerConfig, load_designer
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.feedback_tasks import FeedbackTasks
from vfunc.language.loading import load_learner, with_lora
from vfunc.language.reporting import language_reporting, language_saving
from vfunc.language.rewards import RewardOptions
from vfunc.language.targets import TargetForm
from vfunc.language.workload import LanguageWorkload
from vfunc.modality import Modality


def language_parts(
    config: RunConfig, device: torch.device, check: Callable[[nn.Module], None]
) -> tuple[nn.Module, Modality]:
    """The start learner, on the CPU, and the modality.

    Args:
        config: resolved, of a language run.
        device: where everything runs.
        check: refuses learners that do not suit the run, before any data are read.

    Raises:
        UserError: something is missing or does not fit together.
    """
    name = config.learner.learner
    assert config.data.seq_len is not None and config.designer.top_k is not None
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
    check(module)
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
    return module, Modality(workload, language_reporting(data), language_saving(tokenizer))


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
