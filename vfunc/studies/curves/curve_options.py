"""The options of each kind of curve, and how a command line is read into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vfunc.conditions import DESIGNED_ARMS
from vfunc.config.build import arguments
from vfunc.config.command_line import parse_words
from vfunc.config.declared import option, same
from vfunc.config.known import flag, known_options
from vfunc.config.resolved import ResolvedOptions
from vfunc.config.values import checked_value, listed, nearest
from vfunc.errors import UserError
from vfunc.training.options.command_options import CommandOptions
from vfunc.training.options.optimizer_options import LearnerOptions
from vfunc.training.options.run_options import RunOptions

Asked = TypeVar("Asked")


def _each_once(values: Sequence[Any], where: str) -> None:
    if not values or len(set(values)) < len(values):
        raise UserError(f"{where} wants at least one value, and none twice")


def _several(values: Sequence[Any], where: str) -> None:
    _each_once(values, where)
    if len(values) < 2:
        raise UserError(f"{where} wants two values or more: one is no curve")


def weights_of(text: str, where: str = "--weights") -> tuple[float, float]:
    """The weights of segmentation and depth that `1:8` stands for.

    Raises:
        UserError: two numbers are not there, one is below 0, or both are 0.
    """
    first, colon, second = text.partition(":")
    try:
        found = (float(first), float(second))
    except ValueError:
        found = (-1.0, -1.0)
    if not colon or not all(0 <= w < float("inf") for w in found) or not any(found):
        raise UserError(
            f"{where} {text}: give SEGMENTATION:DEPTH, two weights of which one is above 0, as in "
            "1:8"
        )
    return found


def _check_weights(texts: tuple[str, ...], where: str) -> None:
    _several([weights_of(text, where) for text in texts], where)


def _check_arm(arm: str, where: str) -> None:
    if arm not in DESIGNED_ARMS:
        known = " and ".join(DESIGNED_ARMS)
        raise UserError(
            f"{where} {arm}: no such arm with a designer{nearest(arm, DESIGNED_ARMS)}; {known} "
            "have one"
        )


def _check_places(places: tuple[str, ...], where: str) -> None:
    if not places or not all(place.strip() for place in places):
        raise UserError(f"{where} wants directories of runs")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What is repeated, and where the curve goes."""

    seeds: tuple[int, ...] = option(
        "A run each, at every setting.",
        default=(0, 1, 2, 3, 4),
        metavar="N ...",
        least=0,
        check=_each_once,
    )
    jobs: int = option(
        "Runs at the same time, each in a process of its own with its share of the cores. Not with "
        "a budget of seconds, in which they would slow each other.",
        default=1,
        least=1,
    )
    output: str | None = option(
        "Where the curve is written; one that is there is replaced.",
        default=None,
        shown="the folder of all runs",
        metavar="DIR",
    )
    debug: bool = same(CommandOptions, "debug")


@dataclass(frozen=True, kw_only=True)
class FeedbackSizeOptions(SweepOptions):
    """The sizes to try."""

    sizes: tuple[int, ...] = option(
        "Labelled examples that feedback is drawn from, of each --feedback (a run's "
        "--feedback-size).",
        default=(256, 512, 1024, 2048),
        metavar="N ...",
        least=1,
        check=_several,
    )
    primary: str | None = option(
        "The metric that the curve is about, as metrics.json names it; the others are drawn "
        "beside it.",
        default=None,
        shown="pass_at_1 for language, where there are problems to solve; the last in metrics.json "
        "for vision; else loss",
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class TradeOffOptions(SweepOptions):
    """The weights to try."""

    weights: tuple[str, ...] = option(
        "Weights of segmentation and depth in the feedback loss, a pair each (a run's "
        "--segmentation-weight and --depth-weight).",
        default=("1:0", "8:1", "1:1", "1:8", "0:1"),
        metavar="SEGMENTATION:DEPTH ...",
        check=_check_weights,
    )


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """The runs that are read, and where the curve goes."""

    from_: tuple[str, ...] = option(
        "Runs, or folders that hold runs, such as one of `compare`: of one setting, a seed each.",
        name="from",
        metavar="DIR ...",
        check=_check_places,
    )
    output: str | None = option(
        "Where the curve is written; one that is there is replaced.",
        default=None,
        shown="the runs' common folder; of one run DIR, DIR-curves beside it",
        metavar="DIR",
    )
    debug: bool = same(CommandOptions, "debug")


@dataclass(frozen=True, kw_only=True)
class ArmsOptions(ReadOptions):
    """Which arms of the runs are shown."""

    arms: tuple[str, ...] | None = option(
        "Arms of the runs, separated by commas.",
        default=None,
        shown="all that every run has",
        metavar="ARM,ARM",
        parse=listed,
    )


@dataclass(frozen=True, kw_only=True)
class TokenOptions(ArmsOptions):
    """The metric."""

    metric: str | None = option(
        "The metric to follow, as metrics.json names it; one that is measured in the course of "
        "training, and not at its end alone.",
        default=None,
        shown="the primary one where it is, else loss",
        metavar="NAME",
    )
    skip: int = option(
        "Evaluations of each curve that are left out, the first: 1 leaves out the start, where "
        "training makes the metric worse before it makes it better.",
        default=0,
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class PassOptions(ArmsOptions):
    """What is sampled, where a run has not sampled as much itself."""

    k: int = option("The largest k: the curve is of 1 to k.", default=16, least=1)
    samples: int | None = option(
        "Solutions sampled for each problem. A run's own samples are taken where they are at least "
        "as many.",
        default=None,
        shown="twice --k; of a run's own K are enough",
        least=1,
    )
    temperature: float = option(
        "What the logits are divided by where solutions are sampled.", default=0.8, above=0
    )
    solve_size: int | None = option(
        "Held-out problems, the first of those that the run itself solves.",
        default=None,
        shown="all of these",
        least=2,
    )
    device: str = same(LearnerOptions, "device")
    threads: int = same(RunOptions, "threads")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(ReadOptions):
    """What is probed."""

    arm: str = option(
        f"The arm whose learner and designer are probed: {' or '.join(DESIGNED_ARMS)}.",
        default="vpretraining",
        metavar="ARM",
        check=_check_arm,
    )
    batches: int = option(
        "M, micro-batches of the stream: the designer makes a task of each, and a step on each is "
        "taken, measured and undone.",
        default=64,
        least=5,
    )
    resamples: int = option("Bootstrap draws of the intervals.", default=2000, least=100)
    device: str = same(LearnerOptions, "device")
    threads: int = same(RunOptions, "threads")


def read_options(
    words: Sequence[str], made: type[Asked], *, program: str, description: str
) -> Asked:
    """The options that a command line gives.

    Args:
        words: the command line.
        made: their dataclass.
        program: name of the command, for `--help`.
        description: what `--help` starts with.

    Raises:
        UserError: an option that there is not, a value that one does not take, or one that is
            missing.
        SystemExit: `--help`.
    """
    catalogue = known_options({"curve": made})
    given = parse_words(
        words,
        catalogue,
        program=program,
        description=description,
        titles={"curve": made.__doc__ or ""},
        known={},
    )
    checked = {n: checked_value(catalogue[n], value, flag(n)) for n, value in given.items()}
    if "from" in catalogue and "from" not in checked:
        raise UserError("say which runs: --from DIR ...")
    return made(**arguments(made, ResolvedOptions(catalogue, checked)))


def split_words(words: Sequence[str], made: type) -> tuple[list[str], list[str]]:
    """A command line in two: the words of a dataclass's options (and help's), and all others.

    Args:
        words: the command line; an option's values follow it up to the next word in `--`.
        made: the dataclass.
    """
    own = {"help", *known_options({"curve": made})}
    parts: Mapping[bool, list[str]] = {True: [], False: []}
    mine = False
    for word in words:
        if word == "-h":
            mine = True
        elif word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            mine = name in own or name.removeprefix("no_") in own
        parts[mine].append(word)
    return parts[True], parts[False]
