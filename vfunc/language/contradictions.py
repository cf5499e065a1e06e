"""Contradictions between the options of a language run, refused in a line each."""

from __future__ import annotations

import math

from vfunc.arms import ARMS
from vfunc.conditions import EMBEDDED
from vfunc.config.declared import Options
from vfunc.errors import UserError
from vfunc.language.benchmarks.benchmark_options import FIELD_TOKENS, asked_names, check_benchmarks
from vfunc.language.conditions import task_count
from vfunc.language.data.mixture import (
    caps_of,
    domains_of,
    fields_of,
    read_mixture,
    source_names,
    tasks_of,
)

PICTURE_ARMS = ("known_objects", "matched_uniform")
_TOGETHER = ("stream", "feedback", "eval")


def check_language(given: Options, options: Options) -> None:
    """Refuse options that contradict each other or need one that is missing.

    Args:
        given: what was given.
        options: the same with every default, of a run on text.

    Raises:
        UserError: the first contradiction, and how to resolve it.
    """
    missing = [name for name in _TOGETHER if name not in given]
    if 0 < len(missing) < len(_TOGETHER):
        lacking = " and ".join(f"--{name}" for name in missing)
        raise UserError(
            f"data of your own needs --stream, --feedback and --eval together; {lacking} is missing"
        )
    of_pictures = [arm for arm in options["arms"] if arm in PICTURE_ARMS]
    if of_pictures:
        raise UserError(f"--arms: {of_pictures[0]} works on pictures; it is for --modality vision")
    _check_stream(options)
    _check_estimate(options)
    _check_arms_with_labels(options)
    _check_feedback_tasks(options)
    _check_feedback_bank(options)
    check_benchmarks(options)
    _check_sampled(options)
    width, heads = options["designer_width"], options["designer_heads"]
    if options["designer_features"] != "hidden" and (width % heads or width % 2):
        raise UserError(
            f"--designer-width {width} must be even and divisible by --designer-heads {heads}"
        )
    if options["levels"] is not None and not any(options["levels"]):
        raise UserError("--levels gives every level weight 0; give one a weight above 0")
    differentiated = options["truncate"] or options["lookahead_steps"] or 1
    if options["engine"] == "linear" and differentiated > 1:
        raise UserError(
            "--engine linear gives no Hessian-vector product, which --lookahead-steps above 1 "
            "needs; give auto, reverse, forward or finite_difference"
        )
    align = options["align"]
    if align.startswith("lora") and options["learner"] == EMBEDDED and not options["lora_rank"]:
        raise UserError(
            f"--align {align} needs adapters, which the embedded learner has not; give --lora-rank"
        )


def _check_sampled(options: Options) -> None:
    """Sampled solutions are of problems."""
    written = any(name in FIELD_TOKENS for name in asked_names(options))
    if options["pass_at"] and options["solve_size"] == 0 and not written:
        raise UserError("--pass-at has nothing to solve with --solve-size 0; leave one of them out")


def _check_stream(options: Options) -> None:
    """Weights, caps, fields and domains are of all sources, and one says how much is read."""
    stream, feedback = options["stream"], options["feedback"]
    if stream is None or feedback is None:
        return
    read_mixture(stream)
    caps_of(options["stream_cap"], len(stream))
    fields_of(options["stream_fields"], len(stream), "stream")
    fields_of(options["feedback_fields"], len(feedback), "feedback")
    if options["stream_cap"] is not None and options["stream_limit"] is not None:
        raise UserError(
            "--stream-cap takes the first examples and --stream-limit draws from all; give one"
        )
    domains = options["feedback_domains"]
    tasks = source_names(feedback) if domains is None else tasks_of(domains, len(feedback))
    if options["stream_domains"] is not None:
        domains_of(options["stream_domains"], tasks, len(stream))


def _check_arms_with_labels(options: Options) -> None:
    """Arms that step on labels need solutions; values by formula are of one feedback loss."""
    direct = [n for n in options["arms"] if ARMS[n].direct and ARMS[n].phases != ("grpo",)]
    if direct and options["feedback_kind"] != "worked":
        raise UserError(
            f"the arm {direct[0]} trains on the feedback's solutions, of which --feedback-kind "
            "reward has none; take it out of --arms"
        )
    share, budget = options["sft_share"], options["budget"]
    both = "sft+grpo" in options["arms"] and budget.unit == "steps"
    if both and math.ceil(share * budget.amount) >= budget.amount:
        raise UserError(
            f"--sft-share {share:g} of {budget} leaves no step to GRPO; give less, or more steps"
        )
    valued = [name for name in options["arms"] if ARMS[name].valued]
    if valued and task_count(options) > 1 and options["feedback_combine"] == "matched":
        raise UserError(
            f"the arm {valued[0]} asks all feedback at once; take it out of --arms, or give "
            "--feedback-combine sum"
        )


def _check_estimate(options: Options) -> None:
    """An estimate takes no more than there is; all of it, where it repeats dropout on it."""
    size, whole = options["meta_batch_size"], options["batch_size"]
    longest = options["seq_len"]
    if options["feedback_seq_len"] > longest:
        raise UserError(
            f"--feedback-seq-len {options['feedback_seq_len']} is above the --seq-len {longest}"
        )
    if size > whole:
        raise UserError(
            f"--meta-batch-size {size} is above the --batch-size {whole} that it is taken from"
        )
    tokens = options["meta_seq_len"]
    if tokens > longest:
        raise UserError(
            f"--meta-seq-len {tokens} is above the --seq-len {longest} that it is taken from"
        )
    for given, most, name in ((size, whole, "batch-size"), (tokens, longest, "seq-len")):
        if given < most and options["estimate_mode"] == "train":
            raise UserError(
                "--estimate-mode train repeats the dropout of whole micro-batches; leave it or "
                f"--meta-{name} {given} out"
            )


def _check_feedback_bank(options: Options) -> None:
    """Many examples at once, or g_down held: of one loss on worked solutions."""
    given = "--feedback-bank" if options["feedback_bank"] is not None else "--feedback-every"
    if options["feedback_bank"] is None and (options["feedback_every"] or 1) == 1:
        return
    if options["feedback_kind"] == "reward":
        raise UserError(
            f"{given} is for --feedback-kind worked: a reward is of completions that the learner "
            "draws at each update; give more --reward-samples or a larger --feedback-batch-size"
        )
    if task_count(options) > 1 and options["feedback_combine"] == "matched":
        raise UserError(
            f"{given} is of one L_down, and --feedback-combine matched asks domain by domain; give "
            "sum"
        )


def _check_feedback_tasks(options: Options) -> None:
    """Several feedback tasks: weights for all, examples of all, and text of all to match."""
    count = task_count(options)
    if count == 1:
        return
    weights = options["feedback_weights"]
    if weights is not None and (len(weights) != count or not any(weights)):
        raise UserError(
            f"--feedback-weights {' '.join(f'{w:g}' for w in weights)}: give {count} weights, one "
            "a feedback task, not all 0"
        )
    if options["feedback_batch_size"] < count:
        raise UserError(
            f"--feedback-batch-size {options['feedback_batch_size']} is below the {count} feedback "
            "tasks that share it"
        )
    embedded = options["stream"] is None
    if embedded and options["eval_forum_share"] in (0, 1):
        raise UserError(
            "--feedback-tasks styles needs both; set --eval-forum-share between 0 and 1"
        )
    if options["feedback_combine"] == "sum":
        return
    if embedded and options["forum_share"] in (0, 1):
        raise UserError(
            "--feedback-combine matched needs text of both styles; set --forum-share between 0 "
            "and 1"
        )
    placed = not embedded and options["stream_domains"] is None
    if placed and len(options["stream"]) != count:
        tasks = "--feedback" if options["feedback_domains"] is None else "feedback domain"
        raise UserError(
            f"--feedback-combine matched needs a --stream for each {tasks}, in the same order; "
            f"there are {len(options['stream'])} and {count}; or name the domain of each by "
            "--stream-domains"
        )
    for name, whose in (("batch_size", "a micro-batch"), ("meta_batch_size", "an estimate")):
        if options[name] < count:
            raise UserError(
                f"--{name.replace('_', '-')} {options[name]} is below the {count} domains that "
                f"{whose} has to hold"
            )
    if options["estimate_mode"] == "train":
        raise UserError(
            "--estimate-mode train repeats the dropout of whole micro-batches, which "
            "--feedback-combine matched divides by domain; leave one of them out"
        )
