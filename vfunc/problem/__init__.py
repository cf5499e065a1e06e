"""What a value estimator is asked, a `ValueProblem`; and what it answers, a `ValueEstimate`."""

from vfunc.problem.arguments import entry
from vfunc.problem.contract import KnownFeedback, ValueEstimate, ValueProblem
from vfunc.problem.evaluation import (
    Construction,
    construct_task,
    feedback_gradient,
    feedback_value,
    held_feedback,
    known_feedback,
    pretrain_gradient,
    step_gradient,
)
from vfunc.problem.loss_forms import CompositeForm, InParts, LinearForm, Task

__all__ = [
    "CompositeForm",
    "Construction",
    "InParts",
    "KnownFeedback",
    "LinearForm",
    "Task",
    "ValueEstimate",
    "ValueProblem",
    "construct_task",
    "entry",
    "feedback_gradient",
    "feedback_value",
    "held_feedback",
    "known_feedback",
    "pretrain_gradient",
    "step_gradient",
]
