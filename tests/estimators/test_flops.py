"""What a lookahead costs, in operations of matrix products: counts, which do not drift."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optimizers import Optimizer
from reference.unrolled import unrolled
from test_memory import network
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import vfunc

pytestmark = pytest.mark.usefixtures("float64")


class Flops(TorchDispatchMode):
    """Counts by operation, without the module hooks of torch's own counter."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


def flops(function):
    function()  # a first call looks at the functions
    with Flops() as counter:
        function()
    return counter.total


@pytest.mark.parametrize(("steps", "most"), [(1, 1.1), (2, 1.25), (8, 4 / 3)])
def test_a_lookahead_over_the_autograd_loop(steps, most):
    """A replay's floor is 4/3 a step, and of the last step nothing is computed twice."""
    made, optimizer = network(), Optimizer(momentum=0.9, lr=0.01)
    problem = replace(made.problem, batches=made.problem.batches * steps, rule=optimizer.rule())
    ask = vfunc.Unrolled(steps, engine="reverse")
    own = flops(lambda: ask(problem, made.theta, made.phi))
    naive = flops(lambda: unrolled(problem, made.theta, made.phi, optimizer, steps))
    assert 0.8 < own / naive <= most
