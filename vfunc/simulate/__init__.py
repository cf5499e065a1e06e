"""Simulates the learner's optimizer step: a pure function, with its exact pullback.

U: (theta, state, g) -> (theta+, state+) equals the next step of the live `torch.optim` optimizer
to rounding; `UpdateRule.vjp` is (dU)^T, in closed form.
"""

from vfunc.simulate.adam import Adam, AdamW
from vfunc.simulate.clip import Clip
from vfunc.simulate.live import from_optimizer
from vfunc.simulate.rule import OptimizerState, Rule, TensorState
from vfunc.simulate.sgd import SGD
from vfunc.simulate.update import UpdateRule

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Clip",
    "OptimizerState",
    "Rule",
    "TensorState",
    "UpdateRule",
    "from_optimizer",
]
