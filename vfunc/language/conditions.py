"""Conditions on the options of a language run that several declarations share."""

from __future__ import annotations

from vfunc.config.declared import Condition, Need, Options
from vfunc.language.data.arithmetic import STYLES

EMBEDDED_PROBLEM = Condition("on the embedded problem", lambda options: options["stream"] is None)
OF_EMBEDDED_PROBLEM = Need(
    EMBEDDED_PROBLEM.holds,
    "it belongs to the embedded problem, and --stream brings data of your own",
)
OWN_DATA = Need(
    lambda options: options["stream"] is not None,
    "it is for data of your own; give --stream, --feedback and --eval",
)


def task_count(options: Options) -> int:
    """How many feedback tasks there are."""
    if options["stream"] is None:
        return len(STYLES) if options["feedback_tasks"] == "styles" else 1
    return len(set(options["feedback_domains"] or options["feedback"] or ())) or 1


SEVERAL_TASKS = Need(
    lambda options: task_count(options) > 1,
    "there is one feedback task; give several --feedback, or --feedback-tasks styles on the "
    "embedded problem",
)
