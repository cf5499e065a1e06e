"""Value estimators: each is a direction in learner space, pulled back to the designer."""

from vfunc.estimators.controls import RandomDirection, Zero
from vfunc.estimators.estimator import (
    ESTIMATORS,
    Estimator,
    find_estimator,
    held_at,
    make_estimator,
    option_names,
    register_estimator,
)
from vfunc.estimators.first_order import FirstOrder
from vfunc.estimators.implicit import Implicit
from vfunc.estimators.parts import value_of_parts
from vfunc.estimators.unrolled import Unrolled

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "FirstOrder",
    "Implicit",
    "RandomDirection",
    "Unrolled",
    "Zero",
    "find_estimator",
    "held_at",
    "make_estimator",
    "option_names",
    "register_estimator",
    "value_of_parts",
]
