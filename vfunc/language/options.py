"""The options of a language run: its data, and the targets that are designed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vfunc.arms import ARMS
from vfunc.conditions import (
    DESIGNED,
    EMBEDDED_LEARNER,
    LABELLED,
    NEW_DESIGNER,
    TRAINED,
    any_arm,
)
from vfunc.config.declared import Cases, Computed, Condition, Need, Options, option
from vfunc.config.partial import Partial
from vfunc.language.conditions import (
    EMBEDDED_PROBLEM,
    OF_EMBEDDED_PROBLEM,
    OWN_DATA,
    SEVERAL_TASKS,
)
from vfunc.language.data.mixture import WINDOW, without_weight
from vfunc.language.data.records import is_file
from vfunc.language.data.streams import DEFAULT_PRESET, StreamSpec
from vfunc.language.feedback_options import FeedbackTasks, RewardOptions
from vfunc.language.soft_targets.designer import DesignerConfig

FIXED_ALPHA_ARMS = ("uniform_smoothing", "self_distillation")
OBSERVING_ARMS = tuple(name for name, arm in ARMS.items() if arm.observes)
Problem = Literal["careless_everywhere", "careless_source", "random_slips", "style_shift"]
_WORKED = Need(
    lambda options: options["feedback_kind"] == "worked", "it is for --feedback-kind worked"
)
_REWARD = Need(
    lambda options: options["feedback_kind"] == "reward", "it is for --feedback-kind reward"
)


_MATCHED = Need(
    lambda options: options["feedback_combine"] == "matched",
    "domains of the stream are asked for by --feedback-combine matched alone",
)
_SEVERAL_FEEDBACK = Need(
    lambda options: len(options["feedback"] or ()) > 1,
    "one --feedback is one task; give several",
)


def _window(options: Options) -> int:
    """A source of the Hub may have no end that can be waited for."""
    if not options["stream"] or options["stream_cap"] or options["stream_limit"]:
        return 0
    names = map(without_weight, options["stream"])
    return 0 if all(map(is_file, names)) else WINDOW


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
        "set ID[:CONFIG[:SPLIT]], which is read as it comes. Several are read in turn, a sequence "
        "of each; or drawn by weight, given as a number behind each, A:0.7 B:0.3.",
        default=None,
        shown="the embedded problem's",
        metavar="SOURCE[:WEIGHT] [...]",
        reads=True,
    )
    feedback: tuple[str, ...] | None = option(
        "Labelled examples that only the value signal sees; with --stream. Several are as many "
        "feedback tasks, unless --feedback-domains makes some of them one.",
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
        "messages=FIELD of a chat; or those of each in turn, with ; between (nothing between two "
        "has them recognised).",
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
        "Use this many examples of each --stream, drawn by the seed from all of it.",
        default=None,
        shown="all",
        least=1,
        needs=(OWN_DATA,),
    )
    stream_cap: tuple[int, ...] | None = option(
        "Read this many examples of each --stream at most, the first, and nothing behind them; one "
        "number for all, or one for each.",
        default=None,
        shown="all",
        metavar="N [N ...]",
        least=1,
        needs=(OWN_DATA,),
    )
    pack: bool = option(
        "Join documents of raw text, the end-of-text token after each, and cut them into sequences "
        "of --seq-len predictions; examples with a prompt stay as they are.",
        default=False,
        needs=(OWN_DATA,),
    )
    shuffle_window: int = option(
        "Read each --stream as it comes, no further than the run needs, and shuffle it within "
        "windows of so many sequences; 0 reads and tokenises it to its end first, and shuffles it "
        "as a whole.",
        default=Computed(
            "8192 where a --stream of the Hub has neither --stream-cap nor --stream-limit, else 0",
            _window,
            0,
        ),
        least=0,
        needs=(OWN_DATA,),
    )
    data_cache: str | None = option(
        "Folder in which the tokenised stream is kept, for all runs and arms; no keeps it in "
        "memory. It changes no number.",
        default=None,
        shown="the folder vfunc/tokens of the user's cache",
        metavar="DIR|no",
        needs=(OWN_DATA,),
    )
    stream_domains: tuple[str, ...] | None = option(
        "The domain of each --stream for --feedback-combine matched: the name of a feedback task, "
        "or none. A domain may be of several.",
        default=None,
        shown="that of the --feedback in the same place",
        metavar="NAME [NAME ...]",
        needs=(OWN_DATA, SEVERAL_TASKS, _MATCHED),
    )
    feedback_domains: tuple[str, ...] | None = option(
        "The task of each --feedback; those of one name are one pool of examples.",
        default=None,
        shown="each its own",
        metavar="NAME [NAME ...]",
        needs=(OWN_DATA, LABELLED, _SEVERAL_FEEDBACK),
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
    solve_on_the_way: bool = option(
        "Solve these problems at the evaluations on the way, too: Pass@1 against tokens.",
        default=False,
        needs=(
            Need(lambda options: options["solve_size"] != 0, "--solve-size 0 solves none"),
            Need(lambda options: options["eval_every"] > 0, "--eval-every 0 evaluates at the end"),
        ),
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
    meta_seq_len: int = option(
        "Tokens of a sequence that an estimate takes, the first: fewer are cheaper, and what comes "
        "after them has no value.",
        default=Computed("as --seq-len", lambda options: options["seq_len"]),
        least=2,
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
