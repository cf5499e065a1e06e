"""Unrolled lookahead: K simulated learner steps, differentiated by their adjoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.config.declared import option
from vfunc.errors import UserError
from vfunc.estimators.estimator import register_estimator
from vfunc.estimators.shelf import Shelf, States, shelf_of
from vfunc.estimators.trajectory import Point, Simulation, Trajectory, simulate
from vfunc.problem import (
    ValueEstimate,
    ValueProblem,
    construct_task,
    entry,
    feedback_gradient,
    feedback_value,
)
from vfunc.problem.arguments import require_engine
from vfunc.pullback import GRADIENT, Engine, EngineName, Passes, Pullback, pull_back
from vfunc.simulate.rule import Buffers
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed


@register_estimator("unrolled")
@dataclass(frozen=True)
class Unrolled:
    """L_down(theta_0) - L_down(theta_K) after K simulated optimizer steps on B_0, B_1, ...

    A step takes one batch, or, where the learner accumulates gradients, its whole window of
    micro-batches, if the problem holds as many batches (`UpdateRule.taken`); the diagnostics say
    where it does not.

    The gradient is exact: lambda_K = (grad L_down(theta_K), 0) is carried back by
    lambda_k = (d s_{k+1} / d s_k)^T lambda_{k+1}, s = (theta, optimizer state), the total
    derivative, through g_k too. Per micro-batch one second-order pass over the joint gradient (in
    theta and in the task) along w_k = -(dU / dg_k)^T lambda_{k+1} gives both the Hessian product
    that moves the adjoint and the pullback that the designer needs. The earliest step needs the
    pullback alone. Activations of one micro-batch exist at a time.

    With `truncate` = k < K the sum of pullbacks, sum over j of grad_phi <w_j, g_j(theta_j, phi)>,
    keeps its last k terms, j = K - k ... K - 1: the slope of the same value with s_{K-k}, and so
    the tasks of the steps before it, held constant. The scale is the sum of these steps' eta.

    With `series`, diagnostics in units of L_down, with D = theta_K - theta_0: `first_order_value`,
    -<g_down(theta_0), D>; `second_order_predicted`, -1/2 <g_down(theta_K) - g_down(theta_0), D>
    (the trapezoidal rule: the value is their sum up to O(|D|^3)); `second_order_actual`, the value
    less the first. They need a backward pass through L_down(theta_0), which nothing else does.
    What an engine says of its passes is the worst (largest) over the steps.

    What is kept is a gradient a step, and of some steps the state, from which the others are made
    again (`Stretch`): with AdamW 1.4 copies of theta_S a step.

    With `checkpoint_every` = c, gradients between the stored states are made again on the way back,
    once: memory is that of K / c states and c gradients; the result is the same to the last bit.

    With `states` = disk, states and gradients are files until the adjoint asks for them, and the
    last step's gradient is computed once more for its graph: K changes the memory no more, and the
    result is the same to the last bit.

    Attributes:
        lookahead_steps: learner steps to look ahead.
        truncate: steps to differentiate through, counted from the last; approximate below
            --lookahead-steps.
        checkpoint_every: steps between stored states; those between are made again.
        states: where states are kept until the adjoint asks for them; on disk, in the folder for
            temporary files.
        series: whether the diagnostics tell how much of the value is of first and second order, for
            a backward pass more.
        engine: how the value is differentiated in the designer.
    """

    lookahead_steps: int = option(default=1, least=1)
    truncate: int | None = option(default=None, shown="all", least=1)
    checkpoint_every: int = option(default=1, shown="1, every step is stored", least=1)
    states: States = "memory"
    series: bool = option(default=False)
    engine: EngineName | Engine = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        require_engine("engine", self.engine)
        steps = self.lookahead_steps
        if self.truncate is not None and self.truncate > steps:
            raise UserError(
                f"truncate must be from 1 to lookahead_steps, {steps}, not {self.truncate}"
            )
        if self.checkpoint_every > self._reach:
            raise UserError(
                f"checkpoint_every must be from 1 to the {self._reach} steps that are "
                f"differentiated, not {self.checkpoint_every}"
            )

        if self.states == "disk" and self._reach == 1:
            raise UserError("states disk does nothing where one step is differentiated")

    @entry
    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the problem's batches are used in turn."""
        with shelf_of(self.states) as shelf:
            return self._estimate(problem, theta, phi, shelf)

    def _estimate(
        self, problem: ValueProblem, theta: Params, phi: Params, shelf: Shelf
    ) -> ValueEstimate:
        steps = self.lookahead_steps
        if len(problem.batches) < steps:
            raise UserError(
                f"lookahead_steps {steps} needs as many unlabeled batches; "
                f"the problem has {len(problem.batches)}"
            )
        taken = problem.rule.taken(steps, len(problem.batches))
        g_down: Params | None = None
        if self.series:
            before, g_down = feedback_gradient(problem, theta)
        else:
            before = feedback_value(problem, theta)
        trajectory, last = simulate(
            Simulation(problem, phi, taken),
            Point(theta, problem.state),
            steps,
            first=steps - self._reach,
            every=self.checkpoint_every,
            # where room is short, a graph that waits for the adjoint is made again instead
            engine=None if shelf.roomy else self.engine,
            shelf=shelf,
        )
        end = last.theta
        del last  # with its moments
        gradients = taken.batches + trajectory.made_again
        after, theta_bar = feedback_gradient(problem, end)
        theta_bar = dict(theta_bar)  # where no step moves anything it is what is known
        value = before - after
        notes = lookahead_notes(g_down, theta_bar, trees.axpy(-1.0, theta, end), value)
        del g_down, end
        pulled = self._adjoint(trajectory, theta_bar)
        spent = (GRADIENT if self.series else Passes(forwards=1)) + GRADIENT  # of L_down
        for _ in range(gradients):
            spent = spent + GRADIENT
        cut = f"the adjoint runs through the last {self._reach} of {steps} steps"
        estimate = pulled.estimate(
            value,
            problem.rule.eta_over(steps - self._reach, steps) or 1.0,  # where the rates are zero
            notes,
            spent=spent,
            approximations=(cut,) if self._reach < steps else (),
        )
        said = {**estimate.diagnostics, **problem.rule.notes(steps, len(problem.batches))}
        return replace(estimate, diagnostics=said)

    @property
    def _reach(self) -> int:
        """How many steps the adjoint runs through."""
        return self.lookahead_steps if self.truncate is None else self.truncate

    def _adjoint(self, trajectory: Trajectory, theta_bar: Params) -> Pullback:
        """The sum of the steps' pullbacks.

        Args:
            trajectory: gone over once.
            theta_bar: grad L_down(theta_K); emptied, so that nobody holds it throughout.
        """
        bar = dict(theta_bar)
        theta_bar.clear()
        problem, phi = trajectory.simulation.problem, trajectory.simulation.phi
        first = self.lookahead_steps - self._reach
        state_bar: dict[str, Buffers] = {}
        total = Pullback.zero(phi)
        for k, point, g in trajectory.backwards():
            at, state = point.theta, dict(point.state)
            del point  # moments are needed no more, nor any of it where the next is brought
            bar, state_bar, g_bar = trajectory.simulation.rule(k).vjp(
                at, state, g, bar, state_bar, emptied=True
            )
            del g, state
            taken = trajectory.simulation.taken.of_step(k)
            for i, (position, share) in enumerate(taken):
                opened = trajectory.opened()  # of the last step alone
                if opened is None:
                    construction = construct_task(problem, phi, problem.batches[position])
                else:
                    construction = opened.construction
                w = trees.scale(g_bar, -share)
                if i == len(taken) - 1:
                    g_bar.clear()
                pulled = pull_back(
                    problem,
                    at,
                    construction,
                    w,
                    self.engine,
                    hessian=k > first,
                    joint=None if opened is None else opened.joint,
                )
                if pulled.hessian is not None:
                    bar = trees.axpy(-1.0, pulled.hessian, bar)
                    pulled = replace(pulled, hessian=None)
                total = total + pulled
                del construction, opened, w, pulled  # one designer's graph at a time
            del at, g_bar
        return total


def lookahead_notes(
    g_down: Params | None, theta_bar: Params, moved: Params, value: Scalar
) -> dict[str, float]:
    """How far the steps lead, and the value against its Taylor series (see `Unrolled`).

    Args:
        g_down: grad L_down(theta_0); None leaves the series out.
        theta_bar: grad L_down(theta_K).
        moved: theta_K - theta_0.
        value: L_down(theta_0) - L_down(theta_K).
    """
    step = {"step_norm": float(trees.norm(moved))}
    if g_down is None:
        return step
    slopes = float(trees.dot(g_down, moved)), float(trees.dot(theta_bar, moved))
    return {
        "g_down_norm": float(trees.norm(g_down)),
        **step,
        "first_order_value": -slopes[0],
        "second_order_predicted": -0.5 * (slopes[1] - slopes[0]),
        "second_order_actual": float(value) + slopes[0],
    }
