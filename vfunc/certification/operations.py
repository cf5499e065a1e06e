"""Finds the operation that an engine gets wrong: each call of the loss alone, by that engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.products import check_product
from vfunc.certification.promotion import Question
from vfunc.certification.traced_calls import Operation, distinct_operations, leaves_of, with_leaves
from vfunc.problem import Construction, LinearForm, Task, ValueProblem, construct_task
from vfunc.pullback import Engine
from vfunc.trees import Params

WRONG = 1e-4
"""Relative error of an exact engine in float64 beyond rounding."""

HUGE = 1e30
"""Magnitude from which an entry of a result is taken for a mask's, and left out."""


def operation_to_blame(
    question: Question, engine: Engine, generator: torch.Generator
) -> tuple[float, str] | None:
    """Finds the first call of the loss that an engine gets wrong.

    Args:
        question: the problem and its point.
        engine: the engine; its name need not be registered.
        generator: source of the directions.

    Returns:
        The call's relative error and name ("every operation" if all fail), or None.
    """
    problem, theta = question.problem, question.theta
    construction = construct_task(problem, question.phi, problem.batches[0])
    linear = problem.linear is not None and not _needs_no_form(engine, question)
    made = trees.leaves({n: construction.task[n] for n in construction.designed})
    task = construction.task | made

    def loss() -> Tensor:
        leaves = trees.leaves(theta)
        if linear:
            assert problem.linear is not None
            return problem.linear.coefficients(leaves, construction.task, *problem.held(theta))
        return problem.pretrain(leaves, task)

    first, right = None, False
    for operation in distinct_operations(loss):
        error = _error_alone(problem, operation, engine, generator, linear=linear)
        if error is not None and error > WRONG:
            first = first or (error, operation.name)
        right = right or (error is not None and error <= WRONG)
        if first and right:
            break
    if first and not right:
        return first[0], "every operation of the loss"
    return first


def _needs_no_form(engine: Engine, question: Question) -> bool:
    without = replace(question, problem=replace(question.problem, linear=None))
    return engine.refusal(without.request(hessian=False)) is None


def _error_alone(
    problem: ValueProblem,
    operation: Operation,
    engine: Engine,
    generator: torch.Generator,
    *,
    linear: bool,
) -> float | None:
    """Relative error of the engine on one operation; None if the operation does not run alone."""
    try:
        question, theta, task = _alone(problem, operation, generator, linear=linear)
        w = trees.normal_like(theta, generator)
        w = {n: x * (theta[n].pow(2).mean().sqrt() + 1e-3) for n, x in w.items()}
        construction = Construction(task, tuple(task), {}, {})
        errors = check_product(question, theta, construction, w, engine)
        return max((error.gap for error in errors if error.wrong(WRONG)), default=0.0)
    except Exception:  # an operation that needs its surroundings tells nothing
        return None


def _alone(
    problem: ValueProblem, operation: Operation, generator: torch.Generator, *, linear: bool
) -> tuple[Question, Params, Task]:
    """A value problem of one operation: theta its arguments, the task a shift of them.

    The loss is <r, y> + <s, y^2> / 2, y = operation(theta + shift), r and s random: its mixed
    derivative is a Hessian-vector product through the operation, which the square makes telling
    where the operation is linear. For engines that need a linear form the task is the cotangent
    of y itself.
    """
    tensors = [
        x.double() if x.is_floating_point() else x
        for x in leaves_of((operation.args, operation.kwargs))
    ]
    theta = {str(i): tensors[i] for i in operation.active}

    def call(at: Params) -> Tensor:
        # copies, since an operation may write into its arguments
        given = [at[str(i)] * 1.0 if str(i) in at else x.clone() for i, x in enumerate(tensors)]
        args, kwargs = with_leaves((operation.args, operation.kwargs), iter(given))
        return _result(operation.func(*args, **kwargs))

    with torch.no_grad():
        y = call(theta)
    seen = (y.abs() < HUGE).detach()
    r, s = (trees.normal_like({"": y}, generator)[""] * seen for _ in range(2))

    def outputs(at: Params) -> Tensor:
        return torch.where(seen, call(at), 0.0)

    def pretrain_loss(at: Params, task: Task) -> Tensor:
        if linear:
            return (task["q"] * outputs(at)).sum()
        y = outputs({n: x + task[n] for n, x in at.items()})
        return (r * y + s * y * y / 2).sum()

    form = LinearForm("q", lambda at, task: outputs(at)) if linear else None
    made = ValueProblem(_nothing, pretrain_loss, _nothing, (None,), problem.rule, linear=form)
    task = {"q": r} if linear else trees.zeros_like(theta)
    question = Question(made, theta, {}, torch.finfo(torch.float64).eps, "float64")
    return replace(question, problem=made), theta, task


def _nothing(*_: Any) -> Any:
    raise NotImplementedError  # an engine sees neither phi nor the feedback


def _result(out: Any) -> Tensor:
    """All floating-point results of an operation, as one vector."""
    return torch.cat([x.reshape(-1) for x in leaves_of(out) if x.is_floating_point()])
