"""vfunc: value gradients for self-supervised task design.

How should a self-supervised task change so that the learner's next update lowers a downstream
loss? A `ValueProblem` asks, an estimator answers with a `ValueEstimate`.
"""

from vfunc.certification import Certification, certify
from vfunc.errors import (
    CertificationError,
    NonFiniteError,
    NotConvergedError,
    UserError,
    VfuncError,
)
from vfunc.estimators import (
    ESTIMATORS,
    Estimator,
    FirstOrder,
    Implicit,
    RandomDirection,
    Unrolled,
    Zero,
    make_estimator,
    register_estimator,
    value_of_parts,
)
from vfunc.feedback import DomainMatched, weighted_feedback
from vfunc.float64 import keep_float64
from vfunc.learner import FunctionalLearner, functional
from vfunc.problem import (
    CompositeForm,
    LinearForm,
    Task,
    ValueEstimate,
    ValueProblem,
    construct_task,
    feedback_gradient,
    pretrain_gradient,
)
from vfunc.pullback import ENGINES, pull_back
from vfunc.simulate import SGD, Adam, AdamW, Clip, UpdateRule, from_optimizer
from vfunc.solvers import Solution, conjugate_gradient
from vfunc.trees import Params

__all__ = [
    "ENGINES",
    "ESTIMATORS",
    "SGD",
    "Adam",
    "AdamW",
    "Certification",
    "CertificationError",
    "Clip",
    "CompositeForm",
    "DomainMatched",
    "Estimator",
    "FirstOrder",
    "FunctionalLearner",
    "Implicit",
    "LinearForm",
    "NonFiniteError",
    "NotConvergedError",
    "Params",
    "RandomDirection",
    "Solution",
    "Task",
    "Unrolled",
    "UpdateRule",
    "UserError",
    "ValueEstimate",
    "ValueProblem",
    "VfuncError",
    "Zero",
    "certify",
    "conjugate_gradient",
    "construct_task",
    "feedback_gradient",
    "from_optimizer",
    "functional",
    "keep_float64",
    "make_estimator",
    "pretrain_gradient",
    "pull_back",
    "register_estimator",
    "value_of_parts",
    "weighted_feedback",
]
