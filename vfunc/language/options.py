"""The options of a language run: its data, and the targets that are designed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vfunc.arms import ARMS
from vfunc.conditions import (
    DESIGNED,
    EMBEDDED,
    EMBEDDED_LEARNER,
    LABELLED,
    NEW_DESIGNER,
    TRAINED,
    any_arm,
)
from vfunc.config.declared import Cases, Computed, Condition, Need, Options, option
from vfunc.config.partial import Partial
from vfunc.errors import UserError
from vfunc.language.conditions import (
    EMBEDDED_PROBLEM,
    OF_EMBEDDED_PROBLEM,
    OWN_DATA,
    SEVERAL_TASKS,
    task_count,
)
from vfunc.language.data.streams import DEFAULT_PRESET, StreamSpec
from vfunc.language.feedback_options import FeedbackTasks, RewardOptions
from vfunc.language.soft_targets.designer import DesignerConfig

FIXED_ALPHA_ARMS = ("uniform_smoothing", "self_distillation")
OBSERVING_ARMS = tuple(name for name, arm in ARMS.items() if arm.observes)
Problem = Literal["careless_everywhere", "careless_source", "random_slips", "style_shift"]
PICTURE_ARMS = ("known_objects", "matched_uniform")
_TOGETHER = ("stream", "feedback", "eval")
_WORKED = Need(
    lambda options: options["feedback_kind"] == "worked", "it is for --feedback-kind worked"
)
_REWARD = Need(
    lambda options: options["feedback_kind"] == "reward", "it is for --feedback-kind reward"
)


def _embedded(value: Any) -> Computed:
    """The default of an option of the embedded problem; None without one."""
    return Computed(
        str(value), lambda options: value if EMBEDDED_PROBLEM.holds(options) else None, value
    )


def _check_patterns(asked: tuple[str, ...] | None, where: str) -> None:
    # imported here: options alone do without the package regex
    from vfunc.language.evaluation.measured_tokens import check_patterns

    check_patterns(asked, where)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The embedded problem, or data of your own by --stream, --feedback and --eval.

    Options of the embedded problem are None with data of one's own.
    """

    problem: Problem | None = option(
        "The embedded problem to train on: arithmetic word problems, of whose worked solutions a "
        "share is wrong. None with --stream.",
        default=_embedded(DEFAULT_PRESET),
        needs=(OF_EMBEDDED_PROBLEM,),
    )
    spec: Partial[StreamSpec] = option(needs=(OF_EMBEDDED_PROBLEM,))
    stream_size: int | None = option(
        "Embedded: distinct problems in the stream; it is read again from the start when it ends.",
        default=_embedded(10_000),
        least=1,
        needs=(OF_EMBEDDED_PROBLEM,),
    )
    eval_split: Literal["validation", "test"] | None = option(
        "Embedded: what to evaluate on. Choose settings on validation, report test.",
        default=_embedded("test"),
        needs=(OF_EMBEDDED_PROBLEM,),
    )
    stream: tuple[str, ...] | None = option(
        "Unlabeled text to train on: a .jsonl, .json, .csv, .parquet or .txt file, or a Hub data "
        "set ID[:CONFIG[:SPLIT]]. Several are read in turn, a sequence of each.",
        default=None,
        shown="the embedded problem's",
        metavar="SOURCE [SOURCE ...]",
        reads=True,
    )
    feedback: tuple[str, ...] | None = option(
        "Labelled examples that only the value signal sees; with --stream. Several are as many "
        "feedback tasks.",
        default=None,
        shown="the embedded problem's",
        metavar="SOURCE [SOURCE ...]",
        reads=True,
    )
    eval: str | None = option(
        "Held-out examples to evaluate on; with --stream.",
        default=None,
        shown="the embedded problem's",
        metavar="SOURCE",
        reads=True,
    )
    stream_fields: str | None = option(
        "Which fields of every --stream to read: prompt=FIELD,completion=FIELD, text=FIELD, or "
        "messages=FIELD of a chat.",
        default=None,
        shown="recognised",
        metavar="FIELDS",
        needs=(OWN_DATA,),
    )
    feedback_fields: str | None = option(
        "The same for --feedback; with --feedback-kind reward also prompt=FIELD,answer=FIELD.",
        default=None,
        shown="recognised",
        metavar="FIELDS",
        needs=(OWN_DATA,),
    )
    eval_fields: str | None = option(
        "The same for --eval.",
        default=None,
        shown="recognised",
        metavar="FIELDS",
        needs=(OWN_DATA,),
    )
    stream_limit: int | None = option(
        "Use this many examples of each --stream, drawn by the seed.",
        default=None,
        shown="all",
        least=1,
        needs=(OWN_DATA,),
    )
    feedback_size: int = option(
        "Feedback examples to use, of each --feedback.", default=1024, least=1, needs=(LABELLED,)
    )
    feedback_kind: Literal["worked", "reward"] = option(
        "What feedback measures: the loss on worked solutions, or the reward of completions that "
        "the learner draws itself, right or wrong by their answer alone.",
        default="worked",
        needs=(LABELLED,),
    )
    rewards: Partial[RewardOptions] = option(needs=(LABELLED, _REWARD))
    feedback_tasks: Literal["one", "styles"] | None = option(
        "Embedded: one feedback task, or one for each style of telling.",
        default=_embedded("one"),
        needs=(OF_EMBEDDED_PROBLEM, LABELLED),
    )
    tasks: Partial[FeedbackTasks] = option(needs=(LABELLED, SEVERAL_TASKS))
    eval_size: int = option(
        "Held-out examples to evaluate on, at most.",
        default=Cases(((EMBEDDED_PROBLEM, 512),), 256),
        least=1,
    )
    solve_size: int | None = option(
        "Held-out problems that the learner solves for Pass@1 at the end of an arm, the first of "
        "them; 0 for none. Generating takes long on a large learner.",
        default=None,
        shown="all with an answer",
        least=0,
    )
    measure_tokens: tuple[str, ...] | None = option(
        "Measure tokens of the held-out completions apart, in loss and teacher-forced accuracy: "
        "results (numbers after an equals sign, and the final answer), or what a regular "
        "expression covers, its group 1 if it has one. A name makes the metrics loss_NAME and "
        "accuracy_NAME.",
        default=None,
        shown="none",
        metavar="[NAME=]REGEX [...]",
        check=_check_patterns,
    )
    seq_len: int = option(
        "Longest sequence, in tokens.", default=Cases(((EMBEDDED_PROBLEM, 128),), 512), least=2
    )
    feedback_seq_len: int = option(
        "Longest feedback sequence, in tokens: longer completions are cut.",
        default=Computed("as --seq-len", lambda options: options["seq_len"]),
        least=2,
        needs=(LABELLED, _WORKED),
    )
    batch_size: int = option(
        "Sequences in a micro-batch.",
        default=Cases(((EMBEDDED_PROBLEM, 32), (EMBEDDED_LEARNER, 8)), 4),
        least=1,
    )
    meta_batch_size: int = option(
        "Sequences of a micro-batch that an estimate takes, the first: fewer are cheaper, and "
        "noisier.",
        default=Computed("as --batch-size", lambda options: options["batch_size"]),
        least=1,
        needs=(DESIGNED,),
    )
    feedback_batch_size: int = option(
        "Feedback examples in an estimate, shared by the tasks.",
        default=Computed("as --batch-size", lambda options: options["batch_size"]),
        least=1,
        needs=(LABELLED,),
    )


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The soft targets that the designer makes of each text, and those of arms without one."""

    design: Partial[DesignerConfig] = option(needs=(DESIGNED, NEW_DESIGNER))
    top_k: int = option(
        "Candidate tokens at each position: the text's own, and the learner's best others.",
        default=Cases(((EMBEDDED_PROBLEM, 16),), 64),
        least=2,
        needs=(Need(any_arm(OBSERVING_ARMS), "the baseline has no candidates; see --arms"),),
    )
    gate_penalty: float = option(
        "Penalty on the mean gate, in units of a token's typical value: the mean over tokens of "
        "the absolute value of opening the gate, in the same estimate. A gate stays closed where "
        "less than this share of it speaks for opening.",
        default=0.0,
        least=0,
        needs=(DESIGNED, TRAINED),
    )
    gate_penalty_absolute: float | None = option(
        "The same in units of the objective, whose size changes with the feedback's.",
        default=Cases(
            (
                (
                    Condition(
                        "for bounded without --gate-penalty",
                        lambda o: o["targets"] == "bounded" and not o["gate_penalty"],
                    ),
                    0.3,
                ),
            ),
            None,
        ),
        shown="0.3 for bounded without --gate-penalty, else 0",
        least=0,
        needs=(DESIGNED, TRAINED),
    )
    moved_penalty: float = option(
        "Weight of the penalty on the mean target mass that is off the text's own token.",
        default=0.0,
        least=0,
        needs=(DESIGNED, TRAINED),
    )
    fixed_alpha: float = option(
        "Share of target mass that uniform_smoothing and self_distillation move.",
        default=0.5,
        above=0,
        most=1,
        needs=(
            Need(any_arm(FIXED_ALPHA_ARMS), f"it is for the arms {' and '.join(FIXED_ALPHA_ARMS)}"),
        ),
    )
    tilt: float = option(
        "How far tilted_oracle goes from the learner's own distribution: the nats by which a "
        "candidate of typical value is raised.",
        default=0.1,
        above=0,
        needs=(Need(any_arm(("tilted_oracle",)), "it is for the arm tilted_oracle"),),
    )
    mixing_share: float = option(
        "Share of feedback examples among the texts of the arm mixing.",
        default=0.25,
        above=0,
        below=1,
        needs=(Need(any_arm(("mixing",)), "it is for the arm mixing"),),
    )


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
    _check_estimate(options)
    _check_arms_with_labels(options)
    _check_feedback_tasks(options)
    _check_feedback_bank(options)
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


def _check_arms_with_labels(options: Options) -> None:
    """Arms that step on labels need solutions; values by formula are of one feedback loss."""
    direct = [name for name in options["arms"] if ARMS[name].direct]
    if direct and options["feedback_kind"] != "worked":
        raise UserError(
            f"the arm {direct[0]} trains on the feedback's solutions, of which --feedback-kind "
            "reward has none; take it out of --arms"
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
    if size < whole and options["estimate_mode"] == "train":
        raise UserError(
            "--estimate-mode train repeats the dropout of whole micro-batches; leave it or "
            f"--meta-batch-size {size} out"
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
    if not embedded and len(options["stream"]) != count:
        raise UserError(
            f"--feedback-combine matched needs a --stream for each --feedback, in the same order; "
            f"there are {len(options['stream'])} and {count}"
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
