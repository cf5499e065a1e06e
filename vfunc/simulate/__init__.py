"""Simulates the learner's optimizer step: a pure function, with its exact pullback.

U: (theta, state, g) -> (theta+, state+) equals the next step of the live `torch.optim` optimizer
to rounding; `UpdateRule.vjp` is (dU)^T: in closed form where automatic differentiation is not
safe, automatic elsewhere.
"""

from vfunc.simulate.agreement import check_rule, check_step
from vfunc.simulate.automatic import AutomaticRule
from vfunc.simulate.clip import Clip
from vfunc.simulate.live import from_optimizer
from vfunc.simulate.optimizers.adadelta import Adadelta
from vfunc.simulate.optimizers.adafactor import Adafactor
from vfunc.simulate.optimizers.adagrad import Adagrad
from vfunc.simulate.optimizers.adam import Adam, AdamW
from vfunc.simulate.optimizers.adamax import Adamax
from vfunc.simulate.optimizers.asgd import ASGD
from vfunc.simulate.optimizers.muon import Muon
from vfunc.simulate.optimizers.nadam import NAdam
from vfunc.simulate.optimizers.radam import RAdam
from vfunc.simulate.optimizers.rmsprop import RMSprop
from vfunc.simulate.optimizers.rprop import Rprop
from vfunc.simulate.optimizers.sgd import SGD
from vfunc.simulate.rule import OptimizerState, Rule, TensorState
from vfunc.simulate.schedule import Schedule
from vfunc.simulate.update import UpdateRule

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AutomaticRule",
    "Clip",
    "Muon",
    "NAdam",
    "OptimizerState",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Rule",
    "Schedule",
    "TensorState",
    "UpdateRule",
    "check_rule",
    "check_step",
    "from_optimizer",
]
