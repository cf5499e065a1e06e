"""What a value estimator is asked, a `ValueProblem`; and what it answers, a `ValueEstimate`."""

from vfunc.problem.arguments import entry
from vfunc.problem.construction import Construction, construct_task
from vfunc.problem.estimate import ValueEstimate
from vfunc.problem.gradients import feedback_gradient, pretrain_gradient, step_gradient
from vfunc.problem.loss_forms import CompositeForm, LinearForm, Task
from vfunc.problem.question import ValueProblem

__all__ = [
    "CompositeForm",
    "Construction",
    "LinearForm",
    "Task",
    "ValueEstimate",
    "ValueProblem",
    "construct_task",
    "entry",
    "feedback_gradient",
    "pretrain_gradient",
    "step_gradient",
]
