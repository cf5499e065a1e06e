"""The same lookahead by this package's `Unrolled`."""

from __future__ import annotations

from collections.abc import Callable

from vfunc import trees
from vfunc.estimators import Unrolled
from vfunc.estimators.shelf import States
from vfunc.problem import ValueProblem
from vfunc.pullback import EngineName
from vfunc.simulate import SGD, Adam, AdamW, UpdateRule
from vfunc.studies.peers.mlp_problem import Lookahead, Step
from vfunc.trees import Params


def own_lookahead(
    engine: EngineName = "auto", checkpoint_every: int = 1, states: States = "memory"
) -> Callable[[Lookahead], Params]:
    """The lookahead by `Unrolled` with these options, as a function of the question."""

    def gradient(asked: Lookahead) -> Params:
        every = min(checkpoint_every, asked.steps)
        kept = states if asked.steps > 1 else "memory"
        ask = Unrolled(asked.steps, checkpoint_every=every, states=kept, engine=engine)
        # a value is a decrease of L_down
        return trees.scale(ask(own_problem(asked), asked.theta, asked.phi).grad, -1.0)

    return gradient


def own_problem(asked: Lookahead) -> ValueProblem:
    """The question as a `ValueProblem`; its batches are their numbers."""
    batches = tuple(range(asked.steps))
    return ValueProblem(
        asked.task, asked.inner, asked.outer, batches, UpdateRule(_rule(asked.step))
    )


def _rule(step: Step) -> SGD | Adam:
    if step.kind == "sgd":
        return SGD(step.lr, step.momentum)
    if step.kind == "adam":
        return Adam(step.lr, step.betas, step.eps)
    return AdamW(step.lr, step.betas, step.eps, step.decay)
