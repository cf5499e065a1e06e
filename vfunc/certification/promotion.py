"""Computes a value problem in float64, whatever precision its own code was written for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.float64 import promote_float64
from vfunc.problem import ValueProblem, construct_task
from vfunc.problem.arguments import blaming, scalar
from vfunc.pullback import ProductRequest
from vfunc.trees import Params


@dataclass(frozen=True)
class Question:
    """A value problem and a point, in the precision in which it is certified.

    Attributes:
        problem: the value problem.
        theta: copies of the learner's parameters.
        phi: copies of the designer's parameters.
        unit: unit round-off of the coarsest dtype that the numbers go through.
        precision: that dtype's name, and the reason where it is not float64.
        stopped: what L_pre holds constant of theta alone, in words; "" if nothing.
        losses: what `pretrain_loss` (of the first batch's task) and `feedback_loss` are there,
            where they have been asked.
    """

    problem: ValueProblem
    theta: Params
    phi: Params
    unit: float
    precision: str
    stopped: str = ""
    losses: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def double(self) -> bool:
        """Whether all numbers are in float64."""
        return self.unit == torch.finfo(torch.float64).eps

    @property
    def tolerance(self) -> float:
        """Largest relative error of an exact gradient: 1e-6, or 3 sqrt(u) in its own dtype."""
        return 1e-6 if self.double else 3 * self.unit**0.5

    @property
    def enough(self) -> float:
        """Relative error at which finite differences stop."""
        return self.tolerance / 2

    @property
    def first_step(self) -> float:
        """Largest step of finite differences: larger where rounding is coarse."""
        return 0.0005 if self.double else 0.1

    def request(self, *, hessian: bool) -> ProductRequest:
        """A request for an engine on the first batch's task, by which it says whether it applies.

        Args:
            hessian: whether for its Hessian products too.
        """
        construction = construct_task(self.problem, self.phi, self.problem.batches[0])
        task, designed = construction.task, construction.designed
        direction = self.theta  # any one will do
        return ProductRequest(self.problem, self.theta, task, designed, direction, hessian)


def most_exact(problem: ValueProblem, theta: Params, phi: Params) -> Question:
    """The question in float64 if its functions can be computed so, else in its own precision."""
    try:
        question = in_float64(problem, theta, phi)
        losses = _losses(question)
    except Exception as error:  # whatever stands against float64: its own precision shows if real
        own = _as_it_is(problem, theta, phi, str(error).strip().partition("\n")[0])
        return replace(own, losses=_losses(own))
    coarse = [f"{name} returns {x.dtype}" for name, x in losses.items() if x.itemsize < 8]
    if coarse:
        return _as_it_is(problem, theta, phi, ", ".join(coarse))
    return replace(question, losses=losses)


def in_float64(problem: ValueProblem, theta: Params, phi: Params) -> Question:
    """The question with every number of its point in float64, its functions promoted to it."""
    return Question(
        _double_problem(problem),
        {name: x.detach().to(torch.float64, copy=True) for name, x in theta.items()},
        {name: x.detach().to(torch.float64, copy=True) for name, x in phi.items()},
        torch.finfo(torch.float64).eps,
        "float64",
    )


def _as_it_is(problem: ValueProblem, theta: Params, phi: Params, why: str) -> Question:
    theta = {name: x.detach().clone() for name, x in theta.items()}
    phi = {name: x.detach().clone() for name, x in phi.items()}
    dtypes = {x.dtype for x in [*theta.values(), *phi.values()]}
    dtypes |= {problem.compute_dtype} if problem.compute_dtype else set()
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    # never taken for float64: something in it computes in less
    unit = max(torch.finfo(coarsest).eps, torch.finfo(torch.float32).eps)
    precision = f"{str(coarsest).removeprefix('torch.')} (not float64: {why})"
    return Question(problem, theta, phi, unit, precision)


def _losses(question: Question) -> dict[str, Tensor]:
    with torch.enable_grad():
        task = construct_task(question.problem, question.phi, question.problem.batches[0]).task
        with blaming("pretrain_loss", theta=question.theta, task=task):
            pretrain = question.problem.pretrain(question.theta, task)
        with blaming("feedback_loss", theta=question.theta):
            feedback = question.problem.feedback_loss(question.theta)
        return {
            "pretrain_loss": scalar("pretrain_loss", pretrain).detach(),
            "feedback_loss": scalar("feedback_loss", feedback).detach(),
        }


def _double_problem(problem: ValueProblem) -> ValueProblem:
    """The problem's functions promoted, its optimizer's state and domains in float64."""
    fields = {
        field.name: _double(getattr(problem, field.name))
        for field in dataclasses.fields(problem)
        if field.name not in ("batches", "compute_dtype", "known")
    }
    return replace(problem, **fields, compute_dtype=None, known=None)


def _double(x: Any) -> Any:
    if isinstance(x, ValueProblem):
        return _double_problem(x)
    if isinstance(x, Tensor):
        return x.to(torch.float64) if x.is_floating_point() else x
    if isinstance(x, tuple):
        return tuple(_double(item) for item in x)
    if isinstance(x, Mapping):
        return {name: _double(item) for name, item in x.items()}
    if callable(x) and not isinstance(x, type):
        return _promoted(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        made = {f.name: _double(getattr(x, f.name)) for f in dataclasses.fields(x) if f.init}
        return replace(x, **made)
    return x


def _promoted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def promoted(*args: Any, **kwargs: Any) -> Any:
        with promote_float64():
            return function(*args, **kwargs)

    return promoted


def moved(point: Params, step: float, along: Params) -> Params:
    """point + step * along, in the point's own dtypes."""
    return {n: x.to(point[n].dtype) for n, x in trees.axpy(step, along, point).items()}
