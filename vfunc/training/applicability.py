"""Which options do something in which company."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vfunc.language.arithmetic import STYLES
from vfunc.training.arms import ARMS
from vfunc.training.defaults import EMBEDDED_DATA
from vfunc.training.method_options import (
    ESTIMATOR_OPTIONS,
    DesignerOptions,
    EstimatorOptions,
)

Options = Mapping[str, Any]

FIXED_ALPHA_ARMS = ("uniform_smoothing", "self_distillation")
DESIGNED_ARMS = tuple(name for name, arm in ARMS.items() if arm.designed)
OBSERVING_ARMS = tuple(name for name, arm in ARMS.items() if arm.observes)
# --feedback and --eval without --stream are incomplete rather than useless: see `values`.
FILE_DATA = ("stream_fields", "feedback_fields", "eval_fields", "stream_limit")
SAVED_WITH_DESIGNER = (
    "targets",
    "alpha_max",
    "shift_bound",
    "designer_width",
    "designer_layers",
    "designer_heads",
    "designer_features",
)
DESIGNER_TRAINING = (
    "certify",
    "designer_lr",
    "gate_penalty",
    "moved_penalty",
    "feedback_combine",
    "meta_period",
    "burn_in",
    "estimate_mode",
    "estimator",
    *ESTIMATOR_OPTIONS,
)
# The control random_feedback has an estimator of its own, and takes the engine alone.
OF_THE_ESTIMATOR = ("estimator", *(name for name in ESTIMATOR_OPTIONS if name != "engine"))
# The arms without a designer take candidates too; the rest of these groups serves designers alone.
_OF_DESIGNED_ARMS = (
    *(f.name for f in dataclasses.fields(DesignerOptions) if f.name != "top_k"),
    *(f.name for f in dataclasses.fields(EstimatorOptions)),
    "feedback_size",
    "feedback_batch_size",
    "feedback_kind",
    "reward_samples",
    "reward_temperature",
    "feedback_tasks",
    "feedback_weights",
    "feedback_combine",
    "normalise_feedback",
    "probe_batches",
    "certify",
)


@dataclass(frozen=True)
class Rule:
    """`names` do something only where `applies`; `reason` says why not elsewhere."""

    names: tuple[str, ...]
    applies: Callable[[Options], bool]
    reason: str


def _any_arm(arms: tuple[str, ...]) -> Callable[[Options], bool]:
    return lambda options: any(arm in arms for arm in options["arms"])


def task_count(options: Options) -> int:
    """How many feedback tasks there are."""
    if options["stream"] is None:
        return len(STYLES) if options["feedback_tasks"] == "styles" else 1
    return len(options["feedback"] or ()) or 1


def _normalising_matters(options: Options) -> bool:
    """A cosine does not change with the size of its own domain's gradient."""
    cosine = options["estimator"] == "first_order" and options["value"] == "cosine"
    return not (options["feedback_combine"] == "matched" and cosine)


RULES = (
    Rule(
        EMBEDDED_DATA,
        lambda options: options["stream"] is None,
        "it belongs to the embedded problem, and --stream brings data of your own",
    ),
    Rule(
        FILE_DATA,
        lambda options: options["stream"] is not None,
        "it is for data of your own; give --stream, --feedback and --eval",
    ),
    Rule(
        ("mistakes", "careless_styles"),
        lambda options: options["wrong_share"] != 0,
        "nothing is wrong in the stream; give --wrong-share above 0",
    ),
    Rule(("momentum",), lambda options: options["optimizer"] == "sgd", "it is for --optimizer sgd"),
    Rule(
        ("betas",), lambda options: options["optimizer"] == "adamw", "it is for --optimizer adamw"
    ),
    Rule(
        ("lora_alpha", "lora_dropout"),
        lambda options: options["lora_rank"] > 0,
        "it is for adapters; give --lora-rank above 0",
    ),
    Rule(
        ("fixed_alpha",),
        _any_arm(FIXED_ALPHA_ARMS),
        f"it is for the arms {' and '.join(FIXED_ALPHA_ARMS)}",
    ),
    Rule(("top_k",), _any_arm(OBSERVING_ARMS), "the baseline has no candidates; see --arms"),
    Rule(
        _OF_DESIGNED_ARMS,
        _any_arm(DESIGNED_ARMS),
        f"it needs an arm with a designer, {' or '.join(DESIGNED_ARMS)}",
    ),
    Rule(
        ("feedback_weights", "feedback_combine", "normalise_feedback"),
        lambda options: task_count(options) > 1,
        "there is one feedback task; give several --feedback, or --feedback-tasks styles on the "
        "embedded problem",
    ),
    Rule(
        ("feedback_weights",),
        lambda options: options["feedback_combine"] == "sum",
        "--feedback-combine matched takes the plain mean",
    ),
    Rule(
        ("normalise_feedback",),
        _normalising_matters,
        "the cosine of each matched domain does not depend on its gradient's norm",
    ),
    Rule(
        ("reward_samples", "reward_temperature"),
        lambda options: options["feedback_kind"] == "reward",
        "it is for --feedback-kind reward",
    ),
    Rule(
        ("nystrom_rank",),
        lambda options: options["solver"] == "nystrom",
        "it is for --solver nystrom",
    ),
    Rule(
        ("precondition",),
        lambda options: options["solver"] in (None, "cg"),
        "it is for --solver cg",
    ),
    Rule(
        ("solver_steps",),
        lambda options: options["solver"] in (None, "cg", "neumann"),
        "it is for --solver cg and neumann",
    ),
    Rule(
        OF_THE_ESTIMATOR,
        lambda options: "vpretraining" in options["arms"],
        "it is for the arm vpretraining; random_feedback draws its direction",
    ),
    Rule(
        SAVED_WITH_DESIGNER,
        lambda options: options["designer"] is None,
        "it is saved with the designer that --designer names",
    ),
    Rule(
        ("freeze_designer",),
        lambda options: options["designer"] is not None,
        "a new designer has to be trained; give --designer PATH",
    ),
    Rule(
        DESIGNER_TRAINING,
        lambda options: not options["freeze_designer"],
        "--freeze-designer trains no designer",
    ),
    Rule(
        ("shift_bound",),
        lambda options: options["targets"] == "bounded",
        "it is for --targets bounded",
    ),
)


def useless_options(given: Options, options: Options) -> dict[str, str]:
    """Which of the given options do nothing, and why.

    Args:
        given: options to look at.
        options: these with every default.
    """
    useless: dict[str, str] = {}
    for rule in RULES:
        if not rule.applies(options):
            for name in rule.names:
                if name in given:
                    useless.setdefault(name, rule.reason)
    return useless
