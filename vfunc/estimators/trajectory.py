"""K simulated learner steps, kept so that an adjoint can go back over them without activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators.shelf import IN_MEMORY, Shelf
from vfunc.problem import Construction, ValueProblem, construct_task, step_gradient
from vfunc.pullback import Engine, JointGradient, kept_gradient
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.simulate.windows import Taken
from vfunc.trees import Params


@dataclass(frozen=True)
class Point:
    """s_k: the learner's parameters theta_k and its optimizer state, before step k."""

    theta: Params
    state: OptimizerState


@dataclass(frozen=True, repr=False)
class Opened:
    """A step's gradient with its graph, and that of the task it was taken on."""

    construction: Construction
    joint: JointGradient


@dataclass(frozen=True)
class Simulation:
    """The learner's next steps, step k on the tasks c_phi(B) of its window's batches B.

    Attributes:
        problem: the question.
        phi: the designer's parameters.
        taken: the batches of each step.
    """

    problem: ValueProblem
    phi: Params
    taken: Taken

    def rule(self, k: int) -> UpdateRule:
        """U of step k: the first belongs to the window that is open now."""
        return self.problem.rule.summed(k)

    def gradient(self, k: int, point: Point) -> Params:
        """g_k; the tasks are made again on the way back, so that their graphs are not kept."""
        total: Params = {}
        for position, share in self.taken.of_step(k):
            task = construct_task(self.problem, self.phi, self.problem.batches[position]).task
            g = step_gradient(self.problem, point.theta, task)
            g = g if share == 1.0 else trees.scale(g, share)
            total |= {name: total[name] + x if name in total else x for name, x in g.items()}
        return total

    def opened(self, k: int, point: Point, engine: str | Engine, *, hessian: bool) -> Opened | None:
        """g_k with the graph that an adjoint starts from; None where that saves nothing.

        For the last step: its graph is the first to be gone through, and one exists at a time in
        any case. A window of several micro-batches would need several.

        Args:
            k: which step.
            point: the state before it.
            engine: what the adjoint is computed by.
            hessian: whether it goes on to a step before, and so needs a Hessian product here.
        """
        parts = self.taken.of_step(k)
        if len(parts) > 1:
            return None
        construction = construct_task(self.problem, self.phi, self.problem.batches[parts[0][0]])
        joint = kept_gradient(self.problem, point.theta, construction, engine, hessian=hessian)
        return None if joint is None else Opened(construction, joint)

    def summed(self, opened: Opened, point: Point) -> Params:
        """An opened step's gradient, of all processes."""
        return self.problem.processes.summed(opened.joint.step_gradient(), like=point.theta)

    def step(self, k: int, point: Point, g: Params) -> Point:
        """s_{k+1} = U(s_k, g_k)."""
        return Point(*self.rule(k).step(point.theta, point.state, g))


STATES_APART = 8
"""Steps from one kept state to the next. With a gradient for each step that is, with AdamW,
1 + 3 / 8 copies of theta a step; a state is made again by 3.5 updates of theta on average."""


@dataclass(frozen=True)
class Stretch:
    """Steps from `first` on with (s_k, g_k) of each, in little more than a copy of theta a step.

    Of `STATES_APART` states one is kept, unless the shelf has room, and the last; the others are
    made again from it and the gradients since: arithmetic on theta alone, the same to the last bit;
    what a rule of the user's own draws by random numbers (Langevin dynamics) is kept. Where the
    step is affine its pullback reads no gradient: states are kept then, and zeros that take no
    memory stand for gradients.
    """

    simulation: Simulation
    first: int
    shelf: Shelf = IN_MEMORY
    points: list[Callable[[], Point] | None] = field(default_factory=list)
    gradients: list[Callable[[], Params]] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)

    def extended(
        self,
        point: Point,
        stop: int,
        engine: str | Engine | None = None,
        *,
        hessian: bool = False,
    ) -> Point:
        """Take the steps up to `stop` from `point`, keep them, and return s_stop.

        Args:
            point: s_first.
            stop: the step before which to stop.
            engine: what an adjoint that begins at `stop` is computed by: the step before it keeps
                its graph. None where none does.
            hessian: whether that step's part of the adjoint needs a Hessian product.
        """
        drawn = False
        for k in range(self.first, stop):
            opened = None
            if engine is not None and k == stop - 1:
                opened = self.simulation.opened(k, point, engine, hessian=hessian)
            if opened is None:
                g = self.simulation.gradient(k, point)
            else:
                self.opened.append(opened)
                share = self.simulation.taken.of_step(k)[0][1]
                g = self.simulation.summed(opened, point)
                g = g if share == 1.0 else trees.scale(g, share)
            affine = self.simulation.rule(k).affine
            # the last is asked for first, while the graph of its step is there
            due = (k - self.first) % STATES_APART == 0 or k == stop - 1
            kept = affine or drawn or self.shelf.roomy or due
            self.points.append(self._put(k, point) if kept else None)
            self.gradients.append(self.shelf(_shape_of(g) if affine else g))
            before = _random_states()
            point = self.simulation.step(k, point, g)
            drawn = any(map(_differ, before, _random_states()))
        return point

    def backwards(self) -> Iterator[tuple[int, Point, Params]]:
        """(k, s_k, g_k) from the last step to the first, each let go of once it is passed on."""
        while self.points:  # no name here holds on to what has been passed on
            k = self.first + len(self.points) - 1
            yield k, *self._popped()

    def _popped(self) -> tuple[Point, Params]:
        """(s_k, g_k) of the last step that is left."""
        kept, g = self.points.pop(), self.gradients.pop()()
        return self._made_again() if kept is None else kept(), g

    def _put(self, k: int, point: Point) -> Callable[[], Point]:
        """s_k on the shelf; s_0 is the learner's own and there anyway."""
        return self.shelf(point) if k else IN_MEMORY(point)

    def _made_again(self) -> Point:
        """The state after the steps that are left, from the latest that is kept."""
        at = max(i for i, kept in enumerate(self.points) if kept is not None)
        kept = self.points[at]
        assert kept is not None
        point = kept()
        for i in range(at, len(self.points)):
            point = self.simulation.step(self.first + i, point, self.gradients[i]())
        return point


@dataclass(frozen=True)
class Trajectory:
    """A simulation's last steps: states at some of them, and all since the latest of these.

    Attributes:
        simulation: the steps.
        marks: (k, s_k) from which later steps are made again, learner gradients included.
        spacing: steps from one mark to the next.
        latest: the steps since the last mark.
    """

    simulation: Simulation
    marks: list[tuple[int, Callable[[], Point]]]
    spacing: int
    latest: Stretch

    @property
    def made_again(self) -> int:
        """How many of the micro-batches' gradients `backwards` computes a second time."""
        steps = [k for first, _ in self.marks for k in range(first, first + self.spacing)]
        return sum(len(self.simulation.taken.shares[k]) for k in steps)

    def opened(self) -> Opened | None:
        """The last step's gradient with its graph, let go of once it is passed on."""
        return self.latest.opened.pop() if self.latest.opened else None

    def backwards(self) -> Iterator[tuple[int, Point, Params]]:
        """(k, s_k, g_k) from the last step to the first that is kept. Can be gone over once."""
        yield from self.latest.backwards()
        while self.marks:
            first, kept = self.marks.pop()
            stretch = Stretch(self.simulation, first, self.latest.shelf)
            stretch.extended(kept(), first + self.spacing)
            del kept
            yield from stretch.backwards()


def simulate(
    simulation: Simulation,
    start: Point,
    steps: int,
    *,
    first: int = 0,
    every: int = 1,
    engine: str | Engine | None = None,
    shelf: Shelf = IN_MEMORY,
) -> tuple[Trajectory, Point]:
    """Take K steps, keeping what an adjoint over steps `first` to K - 1 needs.

    Args:
        simulation: the steps.
        start: the state before the first step, s_0.
        steps: how many steps there are, K.
        first: the first step that the adjoint goes through; nothing is kept of those before.
        every: steps between kept states; 1 keeps (s_k, g_k) of every step.
        engine: what an adjoint that comes at once is computed by: the last step keeps its graph for
            it. None where none does.
        shelf: where states and gradients are kept.

    Returns:
        The trajectory, and s_K.

    Raises:
        UserError: steps that would be made again draw random numbers.
    """
    spacing = steps - first if every == 1 else every
    latest = first + (steps - first - 1) // spacing * spacing
    stretch = Stretch(simulation, latest, shelf)
    marks: list[tuple[int, Callable[[], Point]]] = []
    point = start
    for k in range(latest):
        if k >= first and (k - first) % spacing == 0:
            marks.append((k, shelf(point) if k else IN_MEMORY(point)))
        g, before = simulation.gradient(k, point), _random_states()
        point = simulation.step(k, point, g)
        if marks and any(map(_differ, before, _random_states())):
            raise UserError(
                "checkpoint_every makes steps again, and this optimizer's draw random numbers: "
                "take checkpoint_every=1, with states='disk' where memory is short"
            )
    end = stretch.extended(point, steps, engine, hessian=steps - 1 > first)
    return Trajectory(simulation, marks, spacing, stretch), end


def _random_states() -> list[Tensor]:
    """Where torch's own random numbers are; no device is waited for."""
    of_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *of_devices]


def _differ(one: Tensor, other: Tensor) -> bool:
    return not torch.equal(one, other)


def _shape_of(g: Params) -> Params:
    return {name: x.new_zeros(()).expand_as(x) for name, x in g.items()}
