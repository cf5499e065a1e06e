"""Assembles the parts of a language run from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vfunc.conditions import EMBEDDED
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.language.benchmarks.benchmark_options import (
    OF_CODE,
    BenchmarkOptions,
    benchmarks_of,
    shots_of,
)
from vfunc.language.benchmarks.benchmark_scores import Sampling
from vfunc.language.benchmarks.harness import harness_tasks
from vfunc.language.benchmarks.questions import questions, require_runnable
from vfunc.language.code_execution.containment import Limits
from vfunc.language.data.arithmetic import STYLES
from vfunc.language.data.chat_format import ChatFormat, chat_format
from vfunc.language.data.disk.stream_sources import (
    Cutting,
    PreparedStream,
    StreamSource,
    prepare_stream,
)
from vfunc.language.data.mixture import (
    caps_of,
    domains_of,
    fields_of,
    read_mixture,
    source_names,
    tasks_of,
)
from vfunc.language.data.reading import (
    LanguageData,
    RawData,
    Source,
    embedded_data,
    file_data,
    task_names,
    tokenised,
)
from vfunc.language.data.record_layouts import WRONG
from vfunc.language.data.sequences import InterleavedStream, TokenStream, WeightedStream
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.evaluation.evaluating import AtEnd
from vfunc.language.evaluation.measured_tokens import read_patterns
from vfunc.language.feedback_options import GRPO_ARMS, FeedbackTasks
from vfunc.language.hidden_state import edge_of, width_at
from vfunc.language.loading import start_learner
from vfunc.language.options import DataOptions
from vfunc.language.reporting import language_reporting, language_saving
from vfunc.language.smollm2 import NAME as SMOLLM2
from vfunc.language.smollm2 import smollm2_directory
from vfunc.language.soft_targets.candidates import require_top_k
from vfunc.language.soft_targets.designer import DesignerConfig, load_designer
from vfunc.language.sound_learner import vocabulary as rows_of
from vfunc.language.trimmed.frozen_part import FrozenPart
from vfunc.language.trimmed.trim import Trim, logits_by_rows
from vfunc.language.workload import LanguageWorkload
from vfunc.learner import select
from vfunc.modality import Modality
from vfunc.storage.cache_folder import cache_folder
from vfunc.training.build.language_config import LanguageConfig
from vfunc.training.build.language_digests import digests_of_examples
from vfunc.training.build.language_frozen import (
    freeze_others,
    frozen_part_of,
    keep_edges,
    sequences_of,
    told_of_frozen,
)

with needs("language", "transformers"):
    from transformers import PreTrainedTokenizerBase

FIRST_TEXTS = 256
"""Texts of the stream that are looked at before a run."""


def language_parts(
    config: LanguageConfig, device: torch.device, check: Callable[[nn.Module], None]
) -> tuple[nn.Module, Modality]:
    """The start learner, on the CPU, and the modality.

    Args:
        config: resolved, of a language run.
        device: the device of the run.
        check: refuses learners that do not suit the run, before any data are read.

    Raises:
        UserError: something is missing or does not fit together.
    """
    name = config.learner.learner
    lora = config.adapters
    start = start_learner(
        place_of(name),
        lora.lora_rank,
        lora.lora_alpha,
        lora.lora_dropout,
    )
    learner, tokenizer, module = start.model, start.tokenizer, start.module
    freeze_others(module, config.trained.train)
    vocabulary = rows_of(learner)
    require_top_k(config.targets.top_k, vocabulary)
    context = getattr(learner.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and config.data.seq_len > context:
        raise UserError(
            f"--seq-len {config.data.seq_len} is longer than the learner's context of {context}"
        )
    check(module)
    frozen = frozen_part_of(config.trained, module, device)
    chat, how = chat_format(tokenizer)
    # the stream first: what is missing there is told before what the others hold is compared
    stream = _prepared(config, tokenizer, vocabulary, chat)
    raw = _read(config.data, config.run.seed, chat)
    data = tokenised(
        raw,
        tokenizer,
        config.data.seq_len,
        config.run.seed,
        feedback_length=config.data.feedback_seq_len,
        rewarded=config.data.feedback_kind == "reward",
        prompted=any(arm in GRPO_ARMS for arm in config.run.arms),
        vocabulary=vocabulary,
        solved=config.data.solve_size,
        patterns=read_patterns(config.data.measure_tokens) if config.data.measure_tokens else (),
        stream=stream,
    )
    _require_feedback(config, data)
    _require_stream(config, data)
    # the embedded problem knows of every token, and of style_shift that none is wrong
    if "known_wrong" in config.run.arms and config.data.stream is not None:
        _require_mistakes(data, stream)
    at_end = replace(
        asked_at_end(config.evaluation, config.run.seed),
        solve_on_the_way=config.data.solve_on_the_way,
    )
    workload = LanguageWorkload(
        data=data,
        tokenizer=tokenizer,
        designer=designer_config_of(config, vocabulary, module, frozen),
        start_designer=config.designer.designer,
        top_k=config.targets.top_k,
        batch_size=config.data.batch_size,
        meta_batch_size=config.data.meta_batch_size,
        meta_seq_len=_cut(config.data),
        feedback_batch_size=config.data.feedback_batch_size,
        fixed_alpha=config.targets.fixed_alpha,
        device=device,
        dtype=torch.bfloat16 if config.learner.precision == "bfloat16" else None,
        seed=config.run.seed,
        sources=told_apart(config.data.stream, config.data.stream_domains),
        tasks=_feedback_tasks(config.data, raw.tasks, data.max_new_tokens),
        tilt=config.targets.tilt,
        mixing_share=config.targets.mixing_share,
        direct=config.direct,
        trim=Trim(logits_by_rows(module), None if frozen is None else frozen.split),
        frozen=frozen,
        at_end=at_end,
    )
    if frozen is not None and not config.command.dry_run:
        keep_edges(frozen, data, sequences_of(config))
    notes = filter(None, (start.note, told_of_frozen(frozen)))
    of_turns = raw.chat or (stream is not None and stream.chat)
    reporting = language_reporting(data, "; ".join(notes), how if of_turns else "", at_end)
    saving = language_saving(tokenizer)
    digests = digests_of_examples(config.data, raw, None if stream is None else stream.digest)
    return module, Modality(workload, reporting, saving, digests)


def asked_at_end(options: BenchmarkOptions, seed: int) -> AtEnd:
    """What is evaluated at the end, read; where programs will run, their containment is tried.

    Args:
        options: what is asked for.
        seed: of sampled solutions.

    Raises:
        UserError: questions or tasks that cannot be read, or programs that cannot be contained.
    """
    asked = benchmarks_of(options.benchmarks)
    shots = shots_of(options.shots, [one.name for one in asked])
    limits = Limits(seconds=options.code_seconds) if options.allow_code_execution else None
    require_runnable(asked, OF_CODE)
    read = (
        questions(one, shots[one.name], options.benchmark_size, options.answer_tokens, limits)
        for one in asked
    )
    tasks = options.lm_eval
    harness = None if tasks is None else harness_tasks(tasks, options.lm_eval_limit)
    sampling = Sampling(options.pass_at or (), options.samples, options.temperature, seed)
    return AtEnd(tuple(read), sampling, harness)


def place_of(name: str) -> str:
    """Where a learner is that has a name of its own; other names are places already."""
    if name == EMBEDDED:
        return str(EMBEDDED_LEARNER)
    if name == SMOLLM2 and not Path(name).is_dir():
        return str(smollm2_directory())
    return name


def _read(data: DataOptions, seed: int, chat: ChatFormat) -> RawData:
    if data.stream is None:
        assert data.stream_size is not None and data.eval_split is not None
        return embedded_data(
            data.spec(),
            seed,
            stream=data.stream_size,
            feedback=data.feedback_size,
            evaluation=data.eval_size,
            split=data.eval_split,
            by_style=data.feedback_tasks == "styles",
        )
    assert data.feedback is not None and data.eval is not None
    count, domains, tasks = len(data.feedback), data.feedback_domains, None
    if domains is not None:
        tasks = tasks_of(domains, count)
    fields = fields_of(data.feedback_fields, count, "feedback")
    return file_data(
        None,
        [
            Source(
                name,
                fields[n],
                data.feedback_size,
                None if tasks is None or domains is None else tasks.index(domains[n]),
            )
            for n, name in enumerate(data.feedback)
        ],
        Source(data.eval, data.eval_fields, data.eval_size),
        seed,
        chat,
        tasks=tasks,
    )


def told_apart(stream: Sequence[str] | None, domains: Sequence[str] | None) -> tuple[str, ...]:
    """The sources that a sequence's domain numbers, whose gates are told apart.

    Args:
        stream: `--stream`; None is the embedded problem, whose sources are styles.
        domains: `--stream-domains`: then a domain numbers a feedback task, and no source.
    """
    if stream is None:
        return STYLES
    if domains is not None:
        return ()
    names, _ = read_mixture(stream)
    return source_names(names) if len(names) > 1 else ()


def _prepared(
    config: LanguageConfig,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: int,
    chat: ChatFormat,
) -> PreparedStream | None:
    """The stream of data of one's own, tokenised as far as it has to be; None of the embedded."""
    data = config.data
    if data.stream is None:
        return None
    names, weights = read_mixture(data.stream)
    count = len(names)
    fields = fields_of(data.stream_fields, count, "stream")
    caps = caps_of(data.stream_cap, count)
    assert data.feedback is not None
    pools = data.feedback_domains
    tasks = tasks_of(pools, len(data.feedback)) if pools else task_names(data.feedback)
    domains = domains_of(data.stream_domains, tasks, count)
    sources = [
        StreamSource(name, read, cap, data.stream_limit, domain)
        for name, read, cap, domain in zip(names, fields, caps, domains, strict=True)
    ]
    folder = None
    if data.data_cache != "no":
        given = data.data_cache
        folder = (cache_folder() / "tokens" if given is None else Path(given)).expanduser()
    cutting = Cutting(
        data.seq_len,
        data.pack,
        weights,
        data.shuffle_window,
        folder,
        config.run.seed,
        vocabulary,
        bar=True,
    )
    return prepare_stream(sources, tokenizer, cutting, chat)


def _cut(data: DataOptions) -> int | None:
    """What `--meta-seq-len` cuts texts to; None where it cuts none: nothing is to be agreed on."""
    return data.meta_seq_len if data.meta_seq_len < data.seq_len else None


def _require_stream(config: LanguageConfig, data: LanguageData) -> None:
    """Estimates have something to value, and a bank of the mean gradient holds no text twice.

    Raises:
        UserError: of the first texts none has a predicted token that an estimate takes; the bank
            is more than an epoch.
    """
    bank, size, stream = config.estimator.mean_bank, config.data.batch_size, data.stream
    assert isinstance(stream, TokenStream | InterleavedStream | WeightedStream)
    first = min(one.predict_from for one in stream.sequences(0, FIRST_TEXTS))
    if (length := config.data.meta_seq_len) <= first:
        raise UserError(
            f"--meta-seq-len {length}: no text of the stream has a predicted token among so many, "
            f"and nothing would have a value; give {first + 1} or more"
        )
    if bank is None:
        return
    there = stream.distinct
    if bank * size > there:
        raise UserError(
            f"--mean-bank {bank} is {bank * size} texts (--batch-size {size}), more than the "
            f"{there} of the stream; give at most {max(there // size, 1)}"
        )


def _require_feedback(config: LanguageConfig, data: LanguageData) -> None:
    """An epoch of the feedback is the most that a bank can hold.

    Raises:
        UserError: there are fewer examples.
    """
    bank, feedback = config.estimator.feedback_bank, data.feedback
    if bank is None or not isinstance(feedback, TokenStream | InterleavedStream):
        return
    sets = (feedback.encoded,) if isinstance(feedback, TokenStream) else feedback.sets
    there = len(sets) * min(map(len, sets))
    if bank > there:
        each = f" ({there // len(sets)} of each task)" if len(sets) > 1 else ""
        raise UserError(
            f"--feedback-bank {bank} is more than the {there} feedback examples that there are"
            f"{each}; give at most {there}, or more examples"
        )


def _require_mistakes(data: LanguageData, prepared: PreparedStream | None) -> None:
    """An arm that is told which tokens are wrong needs a stream that tells it.

    Raises:
        UserError: no token of it is.
    """
    if prepared is None:
        assert isinstance(data.stream, TokenStream)
        wrong = any(bool(s.wrong.any()) for s in data.stream.encoded.sequences)
    else:
        wrong = prepared.wrong
    if not wrong:
        raise UserError(
            "the arm known_wrong has to be told which tokens are wrong, and no record of --stream "
            f"has spans of mistakes in a field {WRONG!r} (or one that --stream-fields names by "
            f"{WRONG}=FIELD); take it out of --arms, or add them"
        )


def _feedback_tasks(
    data: DataOptions, names: tuple[str, ...], max_new_tokens: int
) -> FeedbackTasks:
    """What the feedback measures; completions may be as long as evaluation lets them be."""
    rewarded = data.feedback_kind == "reward"
    rewards = data.rewards(max_new_tokens=max_new_tokens) if rewarded else None
    return data.tasks(names=names, rewards=rewards)


def designer_config_of(
    config: LanguageConfig, vocabulary: int, learner: nn.Module, frozen: FrozenPart | None
) -> DesignerConfig:
    """The designer that a run begins with: a new one of the size asked for, or the saved one's.

    Args:
        config: the run.
        vocabulary: the learner's tokens.
        learner: the learner, on any device.
        frozen: its frozen lower blocks, if their output is kept.

    Raises:
        UserError: a saved designer does not suit the learner.
    """
    path, design = config.designer.designer, config.targets.design
    if path is None:
        looks = design["features"] == "hidden"
        hidden = edge_of(learner, select(learner, config.estimator.align)) if looks else None
        return design(vocabulary=vocabulary, hidden=hidden)
    saved = load_designer(Path(path)).config
    if saved.vocabulary != vocabulary:
        raise UserError(
            f"--designer {path}: made for a vocabulary of {saved.vocabulary} tokens, the learner "
            f"has {vocabulary}"
        )
    if saved.hidden is not None and frozen is not None and saved.hidden.block < frozen.split.below:
        raise UserError(
            f"--designer {path}: it looks at what enters block {saved.hidden.block}, and --train "
            f"{config.trained.train} leaves the lower {frozen.split.below} blocks out once their "
            "output is known; train more blocks, or another designer"
        )
    if saved.hidden is not None and width_at(learner, saved.hidden.block) != saved.hidden.width:
        raise UserError(
            f"--designer {path}: made for a hidden state of {saved.hidden.width} numbers at block "
            f"{saved.hidden.block}, and the learner's has {width_at(learner, saved.hidden.block)}"
        )
    return saved
