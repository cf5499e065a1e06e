"""Central differences of plain gradients: works with any attention kernel and any wrapper."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem import LinearForm, Task, ValueProblem
from vfunc.pullback.engine import MixedProduct, Passes
from vfunc.trees import Params


@dataclass(frozen=True)
class FiniteDifference:
    """(G(theta + eps w) - G(theta - eps w)) / (2 eps), G the gradient in the task (and theta).

    Where the objective is linear in the task, G is the coefficients themselves and no backward
    pass is needed. The error is O(eps^2) truncation plus O(u / eps) rounding, u the unit
    round-off; eps |w| = u^(1/3) / 2 balances them for networks, whose layers have norms of
    order 1, however large |theta| is over all of them: on a float32 Qwen2 of 0.33M parameters
    with |theta| = 28, relative errors of 8e-4 at that length and 0.3 at 0.1.

    Attributes:
        step: eps |w|, the length of the perturbation in learner space; None chooses it.
    """

    step: float | None = None
    name: str = "finite_difference"
    differentiates_attention: bool = False

    def __post_init__(self) -> None:
        if self.step is not None and not self.step > 0:
            raise UserError(f"the finite-difference step must be positive, not {self.step}")

    def refusal(
        self, linear: LinearForm | None, designed: tuple[str, ...], *, hessian: bool
    ) -> str | None:
        """See `Engine.refusal`; it always applies."""
        return None

    def __call__(
        self,
        problem: ValueProblem,
        theta: Params,
        task: Task,
        designed: tuple[str, ...],
        w: Params,
        *,
        hessian: bool,
    ) -> MixedProduct:
        """See `Engine.__call__`."""
        length = float(trees.norm(w))
        if length == 0.0:
            inner = torch.zeros((), device=next(iter(theta.values())).device)
            zeros = {name: torch.zeros_like(task[name]) for name in designed}
            return MixedProduct(
                inner, zeros, trees.zeros_like(theta) if hessian else None, Passes()
            )
        step = self.step if self.step is not None else step_length(theta, problem.compute_dtype)
        eps = step / length
        linear = problem.linear
        use_linear = linear is not None and not hessian and set(designed) <= {linear.target}
        sample = _coefficients if use_linear else _gradients
        plus = sample(problem, trees.axpy(eps, w, theta), task, designed, hessian)
        minus = sample(problem, trees.axpy(-eps, w, theta), task, designed, hessian)
        product = {name: (plus[name] - minus[name]) / (2 * eps) for name in plus}
        inner = product.pop("inner")
        return MixedProduct(
            inner,
            {name: product[f"task {name}"] for name in designed},
            {name: product[f"theta {name}"] for name in theta} if hessian else None,
            Passes(forwards=2, backwards=0 if use_linear else 2),
            {"fd_step": step},
        )


def step_length(theta: Params, compute_dtype: torch.dtype | None = None) -> float:
    """eps |w| = u^(1/3) / 2, u the round-off of the coarsest dtype that the loss goes through."""
    dtypes = {x.dtype for x in theta.values()} | ({compute_dtype} if compute_dtype else set())
    return 0.5 * max(torch.finfo(dtype).eps for dtype in dtypes) ** (1 / 3)


def _coefficients(
    problem: ValueProblem, theta: Params, task: Task, designed: tuple[str, ...], hessian: bool
) -> Params:
    """The task-gradient of a linear objective, with the loss as <q, b>."""
    linear = problem.linear
    assert linear is not None
    with torch.no_grad():
        b = linear.coefficients(theta, task)
        q = task[linear.target]
        return {"inner": trees.dot({"q": q}, {"q": b})} | {f"task {n}": b for n in designed}


def _gradients(
    problem: ValueProblem, theta: Params, task: Task, designed: tuple[str, ...], hessian: bool
) -> Params:
    """Plain gradients of the loss in the designed entries (and theta), with the loss itself."""
    theta = trees.leaves(theta) if hessian else theta
    made = trees.leaves({name: task[name] for name in designed})
    wrt = {f"task {n}": x for n, x in made.items()}
    if hessian:
        wrt |= {f"theta {n}": x for n, x in theta.items()}
    with torch.enable_grad():
        loss = problem.pretrain_loss(theta, task | made)
        return {"inner": loss.detach(), **trees.gradient(loss, wrt)}
