"""Options of the command, the run and its data, for both modalities."""

# ruff: noqa: RUF009 (`option` returns a dataclass field, as `field` does)

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfunc.config.option import option
from vfunc.language.data.mistakes import Mistakes
from vfunc.training.arms import ARMS
from vfunc.training.budget import Budget

VISION = "vision"
Modality = Literal["language", "vision"]
Problem = Literal["careless_everywhere", "careless_source", "random_slips", "style_shift"]


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """This command. Not part of a run's configuration, so not in TOML files."""

    preset: str | None = option(
        "Start from a TOML file of vfunc/presets, by its name.", default=None, metavar="NAME"
    )
    config: str | None = option(
        "Read options from a TOML file: the names of this list, with _ for -. It wins over the "
        "preset, and the command line wins over both. Every run writes one that repeats it.",
        default=None,
        metavar="FILE",
    )
    name: str | None = option(
        "Name of the run, and of its directory.",
        default=None,
        shown="made from data, estimator and seed, with a number if taken",
        metavar="NAME",
    )
    runs_dir: str = option("Directory that holds the runs.", default="runs", metavar="DIR")
    overwrite: bool = option("Replace the run of that name, if there is one.", default=False)
    resume: str | None = option(
        "Go on with an interrupted run: its name or directory. Its own options hold; only "
        "--budget, --device, --threads, --runs-dir, --dry-run and --debug go with it.",
        default=None,
        metavar="RUN",
    )
    dry_run: bool = option("Check everything, print the configuration and stop.", default=False)
    debug: bool = option("Show the traceback of an error.", default=False)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to compare, for how long."""

    modality: Modality = option(
        "What is learned on: text, or pictures. Options of the other one are refused.",
        default="language",
    )
    arms: tuple[str, ...] = option(
        "Ways of training to compare, separated by commas, each from the same start: "
        + ", ".join(ARMS)
        + " (known_wrong only on the embedded problem; vision has the first four).",
        default=("baseline", "vpretraining"),
        shown="baseline,vpretraining",
        metavar="ARM,ARM",
    )
    budget: Budget = option(
        "What each arm may spend: 500steps, 2Mtokens, 50kimages, 60s, 10min, 1h. Evaluation and "
        "saving do not count.",
        default=Budget(300, "steps"),
        shown="300steps; vision: 120steps for the embedded learner",
        metavar="BUDGET",
    )
    seed: int = option("Of everything that is drawn.", default=0, least=0)
    fixed_alpha: float = option(
        "Share of target mass that uniform_smoothing and self_distillation move; vision: share of "
        "the blurred picture in every view of uniform_smoothing.",
        default=0.5,
        above=0,
        most=1,
    )
    eval_every: float = option(
        "Fraction of the budget between evaluations on held-out data; 0 evaluates at the end only.",
        default=0.1,
        least=0,
        most=1,
    )
    save_every: float = option(
        "Fraction of the budget between checkpoints; 0 saves at the end only.",
        default=0.25,
        least=0,
        most=1,
    )
    probe_batches: int = option(
        "Batches of the one-step probe, which compares predicted with realised decrease; 0 skips "
        "it.",
        default=16,
        least=0,
    )
    certify: bool = option(
        "Check the designer's gradient against finite differences before training: seconds, or not "
        "at all where it would take longer, and the run says so.",
        default=True,
    )
    threads: int = option("CPU threads; 0 leaves the choice to torch.", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The embedded problem, or data of your own by --stream, --feedback and --eval."""

    problem: Problem | None = option(
        "The embedded problem to train on: arithmetic word problems, of whose worked solutions a "
        "share is wrong. None with --stream.",
        shown="careless_everywhere",
    )
    wrong_share: float | None = option(
        "Embedded: share of wrong solutions, within the careless styles.",
        shown="the problem's",
        least=0,
        most=1,
    )
    mistakes: Mistakes | None = option(
        "Embedded: how a wrong solution goes wrong.", shown="the problem's"
    )
    careless_styles: Literal["both", "textbook", "forum"] | None = option(
        "Embedded: the styles whose authors err.", shown="the problem's"
    )
    forum_share: float | None = option(
        "Embedded: share of the stream in forum style, the rest being textbook.",
        shown="the problem's",
        least=0,
        most=1,
    )
    eval_forum_share: float | None = option(
        "Embedded: the same for feedback, validation and test.",
        shown="the problem's",
        least=0,
        most=1,
    )
    levels: tuple[float, float, float] | None = option(
        "Embedded: weights of problems with 1, 2 and 3 events.",
        shown="the problem's",
        metavar="W1 W2 W3",
        least=0,
    )
    stream_size: int | None = option(
        "Embedded: distinct problems in the stream; it is read again from the start when it ends.",
        shown="10000; vision: 4096 scenes",
        least=1,
    )
    eval_split: Literal["validation", "test"] | None = option(
        "Embedded: what to evaluate on. Choose settings on validation, report test.", shown="test"
    )
    stream: tuple[str, ...] | None = option(
        "Unlabeled text to train on: a .jsonl, .jsonl.gz or .txt file, or a Hub data set "
        "ID[:CONFIG[:SPLIT]]. Several are read in turn, a sequence of each. Vision: a folder of "
        "pictures, or ade20k, nyuv2 or imagenet: from the Hub, or with :DIR from a copy.",
        default=None,
        shown="the embedded problem's; vision: the training pictures of --feedback",
        metavar="SOURCE [SOURCE ...]",
    )
    feedback: tuple[str, ...] | None = option(
        "Labelled examples that only the value signal sees; with --stream. Several are as many "
        "feedback tasks. Vision: a folder of pictures with label or depth maps, or a public data "
        "set as above; it is enough by itself.",
        default=None,
        shown="the embedded problem's",
        metavar="SOURCE [SOURCE ...]",
    )
    eval: str | None = option(
        "Held-out examples to evaluate on; with --stream. Vision: a folder like --feedback's.",
        default=None,
        shown="the embedded problem's; vision: held-out pictures of --feedback",
        metavar="SOURCE",
    )
    stream_fields: str | None = option(
        "Which fields of every --stream to read: prompt=FIELD,completion=FIELD or text=FIELD.",
        default=None,
        shown="recognised",
        metavar="FIELDS",
    )
    feedback_fields: str | None = option(
        "The same for --feedback; with --feedback-kind reward also prompt=FIELD,answer=FIELD.",
        default=None,
        shown="recognised",
        metavar="FIELDS",
    )
    eval_fields: str | None = option(
        "The same for --eval.", default=None, shown="recognised", metavar="FIELDS"
    )
    stream_limit: int | None = option(
        "Use this many examples of each --stream, drawn by the seed.",
        default=None,
        shown="all",
        least=1,
    )
    feedback_size: int = option(
        "Feedback examples to use, of each --feedback.",
        default=1024,
        shown="1024; vision: 512",
        least=1,
    )
    feedback_kind: Literal["worked", "reward"] = option(
        "What feedback measures: the loss on worked solutions, or the reward of completions that "
        "the learner draws itself, right or wrong by their answer alone.",
        default="worked",
    )
    reward_samples: int = option(
        "With --feedback-kind reward: completions of each prompt.", default=4, least=2
    )
    reward_temperature: float = option(
        "With --feedback-kind reward: temperature at which they are drawn.", default=1.0, above=0
    )
    feedback_tasks: Literal["one", "styles"] | None = option(
        "Embedded: one feedback task, or one for each style of telling.", shown="one"
    )
    feedback_weights: tuple[float, ...] | None = option(
        "Weights of the feedback tasks in the sum of their losses.",
        default=None,
        shown="all the same, adding up to 1",
        metavar="W [W ...]",
        least=0,
    )
    feedback_combine: Literal["sum", "matched"] = option(
        "Several feedback tasks: sum their losses; or match each with the text of its own domain "
        "(the style, or the --stream in the same place) and take the mean of the values.",
        default="sum",
    )
    normalise_feedback: bool = option(
        "Several feedback tasks (vision: --labels): divide each one's loss by its gradient's norm.",
        default=False,
    )
    eval_size: int = option(
        "Held-out examples to evaluate on, at most.",
        shown="512 embedded, else 256; vision: 256 embedded, else 2000",
        least=1,
    )
    seq_len: int | None = option(
        "Longest sequence, in tokens.", shown="128 on the embedded problem, else 512", least=2
    )
    batch_size: int = option(
        "Sequences, or pictures, in a micro-batch.",
        shown="32 on the embedded problem; else 4, or 8 for the embedded learner; vision: 32 for "
        "the embedded learner, else 256",
        least=1,
    )
    feedback_batch_size: int = option(
        "Feedback examples in an estimate, shared by the tasks.",
        shown="as --batch-size; vision: 64 for the embedded learner, else 32",
        least=1,
    )
