"""vfunc: value gradients for self-supervised task design.

How should a self-supervised task change so that the learner's next update lowers a downstream
loss? A `ValueProblem` asks, an estimator answers with a `ValueEstimate`.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        Construction,
        LinearForm,
        Task,
        ValueEstimate,
        ValueProblem,
        construct_task,
        feedback_gradient,
        pretrain_gradient,
    )
    from vfunc.processes import Processes, joined
    from vfunc.pullback import (
        ENGINES,
        Engine,
        FiniteDifference,
        MixedProduct,
        Passes,
        ProductRequest,
        Pullback,
        mixed_product,
        pull_back,
    )
    from vfunc.simulate import (
        SGD,
        Adam,
        AdamW,
        AutomaticRule,
        Clip,
        UpdateRule,
        check_step,
        from_optimizer,
    )
    from vfunc.solvers import (
        SOLVERS,
        ConjugateGradient,
        Dense,
        Neumann,
        Nystrom,
        Outcome,
        Solution,
        Solver,
        conjugate_gradient,
        dense,
        largest_eigenvalue,
        neumann,
        nystrom,
        smallest_ritz_value,
    )
    from vfunc.trees import Params

_FROM = {
    "certification": "Certification certify",
    "errors": "CertificationError NonFiniteError NotConvergedError UserError VfuncError",
    "estimators": (
        "ESTIMATORS Estimator FirstOrder Implicit RandomDirection Unrolled Zero "
        "make_estimator register_estimator value_of_parts"
    ),
    "feedback": "DomainMatched weighted_feedback",
    "float64": "keep_float64",
    "learner": "FunctionalLearner functional",
    "problem": (
        "CompositeForm Construction LinearForm Task ValueEstimate ValueProblem "
        "construct_task feedback_gradient pretrain_gradient"
    ),
    "processes": "Processes joined",
    "pullback": (
        "ENGINES Engine FiniteDifference MixedProduct Passes ProductRequest Pullback "
        "mixed_product pull_back"
    ),
    "simulate": "SGD Adam AdamW AutomaticRule Clip UpdateRule check_step from_optimizer",
    "solvers": (
        "SOLVERS ConjugateGradient Dense Neumann Nystrom Outcome Solution Solver "
        "conjugate_gradient dense largest_eigenvalue neumann nystrom smallest_ritz_value"
    ),
    "trees": "Params",
}
"""Where names come from. They are imported when they are asked for, and torch with them: what a
command's help, or a mistake in its name, needs is quick."""

_MODULE_OF = {name: module for module, names in _FROM.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        found = getattr(import_module(f"vfunc.{_MODULE_OF[name]}"), name)
    elif name in _FROM:
        found = import_module(f"vfunc.{name}")
    else:
        raise AttributeError(f"module 'vfunc' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF, *_FROM})


try:
    __version__ = version("vfunc")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "ENGINES",
    "ESTIMATORS",
    "SGD",
    "SOLVERS",
    "Adam",
    "AdamW",
    "AutomaticRule",
    "Certification",
    "CertificationError",
    "Clip",
    "CompositeForm",
    "ConjugateGradient",
    "Construction",
    "Dense",
    "DomainMatched",
    "Engine",
    "Estimator",
    "FiniteDifference",
    "FirstOrder",
    "FunctionalLearner",
    "Implicit",
    "LinearForm",
    "MixedProduct",
    "Neumann",
    "NonFiniteError",
    "NotConvergedError",
    "Nystrom",
    "Outcome",
    "Params",
    "Passes",
    "Processes",
    "ProductRequest",
    "Pullback",
    "RandomDirection",
    "Solution",
    "Solver",
    "Task",
    "Unrolled",
    "UpdateRule",
    "UserError",
    "ValueEstimate",
    "ValueProblem",
    "VfuncError",
    "Zero",
    "__version__",
    "certify",
    "check_step",
    "conjugate_gradient",
    "construct_task",
    "dense",
    "feedback_gradient",
    "from_optimizer",
    "functional",
    "joined",
    "keep_float64",
    "largest_eigenvalue",
    "make_estimator",
    "mixed_product",
    "neumann",
    "nystrom",
    "pretrain_gradient",
    "pull_back",
    "register_estimator",
    "smallest_ritz_value",
    "value_of_parts",
    "weighted_feedback",
]
