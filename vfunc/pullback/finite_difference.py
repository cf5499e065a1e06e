"""Central differences of plain gradients: works with any attention kernel and any wrapper."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.errors import NonFiniteError, NotConvergedError, UserError
from vfunc.forward_pass import coarser, coarsest_round_off, round_off
from vfunc.pullback.engine import MixedProduct, Passes, ProductRequest, by_theta, joined
from vfunc.trees import Params

GROSS = 0.1
"""Relative disagreement above which a result is refused: of the two step sizes, or of a step and
what rounding leaves of it."""


@dataclass(frozen=True)
class FiniteDifference:
    """D(h) = (G(theta + h w) - G(theta - h w)) / (2 h), G the gradient in the task (and theta).

    Where the objective is linear in the task, G is the coefficients themselves and no backward
    pass is needed. The error is O(h^2) truncation plus O(u / h) rounding, u the unit round-off;
    h |w| = u^(1/3) / 2 balances them for networks, whose layers have norms of order 1, however
    large |theta| is over all of them.

    A second difference at 2 h says how far off that is, and takes the truncation away
    (Richardson: (4 D(h) - D(2 h)) / 3). It doubles the cost, from two samples to four, and is
    worth it: on a float32 Qwen2 of 0.33M parameters the error falls from 3.4e-4 to 1.8e-4 for the
    task and from 1.4e-3 to 9e-5 for Hessian products, and a step that is wrong for the problem is
    found out. `fd_disagreement` in the diagnostics is |D(2 h) - D(h)| / |D(h)|, the larger of the
    task's and the Hessian product's. It says how far apart two step sizes are and bounds nothing:
    rounding that both share is not in it, and in float32 the result is as often further off as not,
    up to five times as far. It is one product's: an adjoint over several steps can multiply it.

    Attributes:
        step: h |w|, the length of the (shorter) perturbation in learner space; None chooses it.
        error_estimate: whether to take the second difference. Without it, D(h) alone, as for the
            many products of a solver (`ProductRequest.repeated`), which has a residual of its own
            to go by.
    """

    step: float | None = None
    error_estimate: bool = True
    name: str = "finite_difference"
    differentiates_attention: bool = False

    def __post_init__(self) -> None:
        if self.step is not None and not self.step > 0:
            raise UserError(f"the finite-difference step must be positive, not {self.step}")

    def refusal(self, request: ProductRequest) -> str | None:
        """See `Engine.refusal`; it always applies."""
        return None

    def __call__(self, request: ProductRequest) -> MixedProduct:
        """See `Engine.__call__`.

        Raises:
            NotConvergedError: the two step sizes disagree by more than a tenth, or rounding
                changes the shorter one by that much.
            NonFiniteError: a gradient that it takes is not finite.
        """
        theta, w, designed = request.theta, request.w, request.designed
        length = float(trees.norm(w))
        if length == 0.0:
            return _no_direction(request)
        compute_dtype, linear = request.problem.compute_dtype, request.problem.linear
        step = self.step if self.step is not None else step_length(theta, compute_dtype)
        require_kept(theta, w, step, length, compute_dtype)
        in_the_target = linear is not None and set(designed) <= {linear.target}
        use_linear = in_the_target and not request.hessian
        sample = _coefficients if use_linear else _gradients

        def central(h: float) -> Params:
            plus = sample(request, trees.axpy(h, w, theta))
            minus = sample(request, trees.axpy(-h, w, theta))
            return {name: (plus[name] - minus[name]) / (2 * h) for name in plus}

        product = central(step / length)
        passes = Passes(forwards=2, backwards=0 if use_linear else 2)
        notes = {"fd_step": step}
        if self.error_estimate and not request.repeated:
            wider = central(2 * step / length)
            notes["fd_disagreement"] = _disagreement(product, wider, step)
            product = {name: (4 * x - wider[name]) / 3 for name, x in product.items()}
            passes = passes + passes
        inner = product.pop("inner")
        return MixedProduct(
            inner,
            {name: product[f"task {name}"] for name in designed},
            by_theta(product, theta) if request.hessian else None,
            passes,
            notes,
        )


def _no_direction(request: ProductRequest) -> MixedProduct:
    """The product along w = 0."""
    inner = torch.zeros((), device=next(iter(request.theta.values())).device)
    hessian = trees.zeros_like(request.theta) if request.hessian else None
    return MixedProduct(inner, trees.zeros_like(request.made), hessian, Passes())


def require_kept(
    theta: Params, w: Params, step: float, length: float, compute_dtype: torch.dtype | None
) -> None:
    """Check that a step is there in the precision that the loss goes through.

    Entries of theta that a step is too short to move drop out of the direction, at both step
    sizes alike; where none moves, the difference is zero, without disagreement. What the moving
    ones are rounded by is no loss: autocast rounds a float32 theta up as often as down, and on
    networks of 4,000 to 4,000,000 parameters in bfloat16 the gradient is then 5 to 7 % off, and
    `fd_disagreement` says so, though rounding is 10 to 50 % of the step. So the measure is
    <w, (theta + h w) - (theta - h w)> / (2 h |w|^2): 1 less the share of |w|^2 that drops out.

    Args:
        theta: the point.
        w: the direction.
        step: h |w|.
        length: |w|.
        compute_dtype: what the loss is computed in, where that is coarser than theta's own.

    Raises:
        NotConvergedError: what drops out is more than a tenth of w, in norm.
    """
    h = step / length
    kept = 0.0
    for name, x in theta.items():
        seen = coarser(x.dtype, compute_dtype)
        wide = torch.promote_types(x.dtype, torch.float32)
        plus, minus = ((x + way * w[name]).to(seen).to(wide) for way in (h, -h))
        kept += ((plus - minus) * (w[name].to(wide) / length)).sum()
    lost = math.sqrt(abs(1 - float(kept) / (2 * step)))
    if lost > GROSS:  # of what is no number, the gradient tells
        coarsest = max((coarser(x.dtype, compute_dtype) for x in theta.values()), key=round_off)
        raise NotConvergedError(
            f"engine finite_difference: {str(coarsest).removeprefix('torch.')} rounds {lost:.0%} "
            f"of a step of {step:.1e} away; use the engine reverse or linear, which have no step, "
            "or a learner in float32"
        )


def step_length(theta: Params, compute_dtype: torch.dtype | None = None) -> float:
    """h |w| = u^(1/3) / 2, u the round-off of the coarsest dtype that the loss goes through."""
    return 0.5 * coarsest_round_off(theta, compute_dtype) ** (1 / 3)


def _disagreement(product: Params, wider: Params, step: float) -> float:
    """How far two step sizes are apart, relative, in the task and in theta each."""
    found = 0.0
    for kind in ("task ", "theta "):
        near = {name: x for name, x in product.items() if name.startswith(kind)}
        size = float(trees.norm(near))
        apart = float(trees.norm(trees.axpy(-1.0, near, {name: wider[name] for name in near})))
        gap = apart / size if size else (math.inf if apart else 0.0)
        if math.isnan(gap):
            raise NonFiniteError(
                "engine finite_difference: the learner's gradient is not finite a step of "
                f"{step:.1e} along w; look at the losses, and at the step size"
            )
        found = max(found, gap)
    if found > GROSS:
        raise NotConvergedError(
            f"engine finite_difference: steps of {step:.1e} and {2 * step:.1e} disagree by "
            f"{found:.0%}; use the engine reverse or linear, which have no step"
        )
    return found


def _coefficients(request: ProductRequest, theta: Params) -> Params:
    """The task-gradient of a linear objective, with the loss as <q, b>."""
    linear = request.problem.linear
    assert linear is not None
    with torch.enable_grad():
        b = request.coefficients(theta).detach()
        inner = trees.dot({"q": request.task[linear.target]}, {"q": b})
        return {"inner": inner} | {f"task {n}": b for n in request.designed}


def _gradients(request: ProductRequest, theta: Params) -> Params:
    """Plain gradients of the loss in the designed entries (and theta), with the loss itself."""
    theta = trees.leaves(theta) if request.hessian else theta
    made, held = trees.leaves(request.made), {}
    if request.hessian and request.problem.stop_gradient:
        held = trees.leaves(request.theta)
    wrt = joined(made, theta if request.hessian else {}, held)
    with torch.enable_grad():
        loss = request.loss(theta, made, held or None)
        return {"inner": loss.detach(), **trees.gradient(loss, wrt)}
