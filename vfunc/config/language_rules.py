"""Which options do something with `--modality language`, and which contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfunc.config.defaults import EMBEDDED_DATA
from vfunc.config.rule import DESIGNED_ARMS, NEEDS_DESIGNER, Options, Rule, any_arm
from vfunc.errors import UserError
from vfunc.language.data.arithmetic import STYLES
from vfunc.training.arms import ARMS

FIXED_ALPHA_ARMS = ("uniform_smoothing", "self_distillation")
OBSERVING_ARMS = tuple(name for name, arm in ARMS.items() if arm.observes)
# --feedback and --eval without --stream are incomplete rather than useless: see `check_language`.
FILE_DATA = ("stream_fields", "feedback_fields", "eval_fields", "stream_limit")
_TOGETHER = ("stream", "feedback", "eval")
_REWARDS = ("reward_samples", "reward_temperature")
_TASKS = ("feedback_weights", "feedback_combine")

LANGUAGE_ONLY = (
    *(name for name in EMBEDDED_DATA if name not in ("stream_size", "eval_split")),
    *FILE_DATA,
    "feedback_kind",
    *_REWARDS,
    *_TASKS,
    "seq_len",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "targets",
    "alpha_max",
    "shift_bound",
    "top_k",
    "designer_features",
    "gate_penalty",
    "moved_penalty",
)
"""Options that do nothing for pictures."""


def task_count(options: Options) -> int:
    """How many feedback tasks there are."""
    if options["stream"] is None:
        return len(STYLES) if options["feedback_tasks"] == "styles" else 1
    return len(options["feedback"] or ()) or 1


def _normalising_matters(options: Options) -> bool:
    """A cosine does not change with the size of its own domain's gradient."""
    cosine = options["estimator"] == "first_order" and options["value"] == "cosine"
    return not (options["feedback_combine"] == "matched" and cosine)


LANGUAGE_RULES = (
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
    Rule(
        ("lora_alpha", "lora_dropout"),
        lambda options: options["lora_rank"] > 0,
        "it is for adapters; give --lora-rank above 0",
    ),
    Rule(
        ("fixed_alpha",),
        any_arm(FIXED_ALPHA_ARMS),
        f"it is for the arms {' and '.join(FIXED_ALPHA_ARMS)}",
    ),
    Rule(("top_k",), any_arm(OBSERVING_ARMS), "the baseline has no candidates; see --arms"),
    # the arms without a designer take candidates too; what is here serves designers alone
    Rule(
        (
            "targets",
            "alpha_max",
            "shift_bound",
            "designer_features",
            "gate_penalty",
            "moved_penalty",
            "feedback_kind",
            "feedback_tasks",
            *_REWARDS,
            *_TASKS,
        ),
        any_arm(DESIGNED_ARMS),
        NEEDS_DESIGNER,
    ),
    Rule(
        (*_TASKS, "normalise_feedback"),
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
        _REWARDS,
        lambda options: options["feedback_kind"] == "reward",
        "it is for --feedback-kind reward",
    ),
    Rule(
        ("targets", "alpha_max", "shift_bound", "designer_features"),
        lambda options: options["designer"] is None,
        "it is saved with the designer that --designer names",
    ),
    Rule(
        ("gate_penalty", "moved_penalty", "feedback_combine"),
        lambda options: not options["freeze_designer"],
        "--freeze-designer trains no designer",
    ),
    Rule(
        ("shift_bound",),
        lambda options: options["targets"] == "bounded",
        "it is for --targets bounded",
    ),
)


def check_language(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
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
    if "known_wrong" in options["arms"] and not missing:
        raise UserError(
            "the arm known_wrong has to be told which tokens are wrong, which only the embedded "
            "problem can; take it out of --arms, or drop --stream"
        )
    _check_feedback_tasks(options)
    width, heads = options["designer_width"], options["designer_heads"]
    if width % heads or width % 2:
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
    if align.startswith("lora") and options["learner"] == "embedded" and not options["lora_rank"]:
        raise UserError(
            f"--align {align} needs adapters, which the embedded learner has not; give --lora-rank"
        )


def _check_feedback_tasks(options: Mapping[str, Any]) -> None:
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
    if not embedded and len(options["stream"]) != count:
        raise UserError(
            f"--feedback-combine matched needs a --stream for each --feedback, in the same order; "
            f"there are {len(options['stream'])} and {count}"
        )
    if options["batch_size"] < count:
        raise UserError(
            f"--batch-size {options['batch_size']} is below the {count} domains that a micro-batch "
            "has to hold"
        )
    if options["estimate_mode"] == "train":
        raise UserError(
            "--estimate-mode train repeats the dropout of whole micro-batches, which "
            "--feedback-combine matched divides by domain; leave one of them out"
        )
