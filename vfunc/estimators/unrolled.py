"""Unrolled lookahead: K simulated learner steps, differentiated by their adjoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators.estimator import register_estimator
from vfunc.estimators.trajectory import Point, Simulation, Trajectory, simulate
from vfunc.problem import ValueEstimate, ValueProblem, construct_task, feedback_gradient
from vfunc.pullback import GRADIENT, Engine, Passes, differenced, mixed_product
from vfunc.simulate.rule import Buffers
from vfunc.trees import Params
from vfunc.typecheck import typed

Notes = dict[str, float | int | bool | str]


@register_estimator("unrolled")
@dataclass(frozen=True)
class Unrolled:
    """L_down(theta_0) - L_down(theta_K) after K simulated optimizer steps on B_0 ... B_{K-1}.

    The gradient is exact: lambda_K = (grad L_down(theta_K), 0) is carried back by
    lambda_k = (d s_{k+1} / d s_k)^T lambda_{k+1}, s = (theta, optimizer state), the total
    derivative, through g_k too. Per step one second-order pass over the joint gradient (in theta
    and in the task) along w_k = -(dU / dg_k)^T lambda_{k+1} gives both the Hessian product that
    moves the adjoint and the pullback that the designer needs. The earliest step needs the
    pullback alone. Activations of one step exist at a time.

    With `truncate` = k < K the sum of pullbacks, sum over j of grad_phi <w_j, g_j(theta_j, phi)>,
    keeps its last k terms, j = K - k ... K - 1: the slope of the same value with s_{K-k}, and so
    the tasks of the steps before it, held constant.

    Diagnostics, in units of L_down, with D = theta_K - theta_0: `first_order_value`,
    -<g_down(theta_0), D>; `second_order_predicted`, -1/2 <g_down(theta_K) - g_down(theta_0), D>
    (the trapezoidal rule: the value is their sum up to O(|D|^3)); `second_order_actual`, the value
    less the first. What an engine says of its passes is the worst (largest) over the steps.

    Attributes:
        lookahead_steps: K.
        truncate: the adjoint runs through the last `truncate` steps; None runs through all K.
            The scale counts these steps.
        checkpoint_every: steps between stored states, of those that the adjoint runs through;
            states and gradients between are made again on the way back, once. Memory is that of
            K / c + c copies of theta_S and optimizer state instead of K, least at c = sqrt(K);
            the result is the same to the last bit.
        engine: `auto`, an engine's name, or an engine.
    """

    lookahead_steps: int = 1
    truncate: int | None = None
    checkpoint_every: int = 1
    engine: str | Engine = "auto"

    def __post_init__(self) -> None:
        steps = self.lookahead_steps
        if steps < 1:
            raise UserError(f"lookahead_steps must be at least 1, not {steps}")
        if self.truncate is not None and not 1 <= self.truncate <= steps:
            raise UserError(
                f"truncate must be from 1 to lookahead_steps, {steps}, not {self.truncate}"
            )
        if not 1 <= self.checkpoint_every <= self._reach:
            raise UserError(
                f"checkpoint_every must be from 1 to the {self._reach} steps that are "
                f"differentiated, not {self.checkpoint_every}"
            )

    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first K of the problem's batches are used in turn."""
        steps = self.lookahead_steps
        if len(problem.batches) < steps:
            raise UserError(
                f"lookahead_steps {steps} needs as many unlabeled batches; "
                f"the problem has {len(problem.batches)}"
            )
        before, g_down = feedback_gradient(problem, theta)
        trajectory = simulate(
            Simulation(problem, phi),
            Point(theta, problem.state),
            steps,
            first=steps - self._reach,
            every=self.checkpoint_every,
        )
        end = trajectory.end.theta
        gradients = steps + trajectory.made_again
        after, theta_bar = feedback_gradient(problem, end)
        value = before - after
        moved = trees.axpy(-1.0, theta, end)
        slopes = float(trees.dot(g_down, moved)), float(trees.dot(theta_bar, moved))
        notes: Notes = {
            "g_down_norm": float(trees.norm(g_down)),
            "step_norm": float(trees.norm(moved)),
            "first_order_value": -slopes[0],
            "second_order_predicted": -0.5 * (slopes[1] - slopes[0]),
            "second_order_actual": float(value) + slopes[0],
        }
        del g_down, moved
        grad, spent, engine_notes = self._adjoint(trajectory, theta_bar)
        spent = spent + GRADIENT + GRADIENT  # of L_down
        for _ in range(gradients):
            spent = spent + GRADIENT
        cut = f"the adjoint runs through the last {self._reach} of {steps} steps"
        return ValueEstimate(
            value,
            value,
            grad,
            self._reach * problem.rule.eta,
            {**notes, **spent.as_diagnostics(), **engine_notes, **problem.rule.notes(steps)},
            (
                *((cut,) if self._reach < steps else ()),
                *differenced(str(engine_notes["engine"]), engine_notes),
            ),
        )

    @property
    def _reach(self) -> int:
        """How many steps the adjoint runs through."""
        return self.lookahead_steps if self.truncate is None else self.truncate

    def _adjoint(
        self, trajectory: Trajectory, theta_bar: Params
    ) -> tuple[Params, Passes, Mapping[str, float | int | bool | str]]:
        """The sum of pullbacks, what the second-order passes spent, and what engines say."""
        problem, phi = trajectory.simulation.problem, trajectory.simulation.phi
        first = self.lookahead_steps - self._reach
        state_bar: dict[str, Buffers] = {}
        grad, spent = trees.zeros_like(phi), Passes()
        engines: dict[str, str] = {}  # `auto` may take another one where no Hessian is needed
        notes: Notes = {}
        for k, point, g in trajectory.backwards():
            construction = construct_task(problem, phi, problem.batches[k])
            direct, state_bar, g_bar = trajectory.simulation.rule(k).vjp(
                point.theta, point.state, g, theta_bar, state_bar
            )
            w = trees.scale(g_bar, -1.0)
            product, chosen = mixed_product(
                problem, point.theta, construction, w, self.engine, hessian=k > first
            )
            grad = trees.axpy(1.0, construction.pull(product.task), grad)
            if product.hessian is not None:
                theta_bar = trees.axpy(-1.0, product.hessian, direct)
            spent = spent + product.passes
            for name, said in product.diagnostics.items():
                notes[name] = max(notes.get(name, said), said, key=_nan_last)
            engines.setdefault(chosen.engine.name, chosen.why)
            del construction, product  # one designer's graph at a time
        return (
            grad,
            spent,
            notes | {"engine": ", ".join(engines), "engine_why": "; ".join(engines.values())},
        )


def _nan_last(number: float) -> tuple[bool, float]:
    """A key under which the largest is a NaN, if there is one."""
    return math.isnan(number), number
