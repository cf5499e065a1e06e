"""The mixed Hessian-vector product that takes a direction in learner space to the designer.

grad_phi < w , grad_theta L_pre(theta; c_phi(B_u)) >, w held constant: an engine computes its
learner part, `pull_back` adds the plain vector-Jacobian product through the designer. Engines are
interchangeable and equal to rounding (`finite_difference`: to its truncation error).
"""

from vfunc.pullback.choice import ENGINES, Chosen, choose_engine
from vfunc.pullback.engine import (
    GRADIENT,
    Engine,
    EngineName,
    JointGradient,
    MixedProduct,
    Passes,
    ProductRequest,
)
from vfunc.pullback.finite_difference import FiniteDifference
from vfunc.pullback.forward import Forward
from vfunc.pullback.linear import Linear
from vfunc.pullback.product import attention_for, kept_gradient, mixed_product
from vfunc.pullback.pullback import DIFFERENCES, Pullback, differenced, pull_back
from vfunc.pullback.reverse import Reverse

__all__ = [
    "DIFFERENCES",
    "ENGINES",
    "GRADIENT",
    "Chosen",
    "Engine",
    "EngineName",
    "FiniteDifference",
    "Forward",
    "JointGradient",
    "Linear",
    "MixedProduct",
    "Passes",
    "ProductRequest",
    "Pullback",
    "Reverse",
    "attention_for",
    "choose_engine",
    "differenced",
    "kept_gradient",
    "mixed_product",
    "pull_back",
]
