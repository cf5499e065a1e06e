"""Measures what every engine costs over a plain learner step, beside the floor of its arithmetic.

All estimates are of one state, after some steps of AdamW, and are given g_down, which has a row of
its own. The gradient of L_down at theta_K or theta* is not known before, and is in its estimate's
row. Times are taken in turns with the plain step. FLOPs and tensors are counted and do not drift.

Floors are computed from two counts of the learner above the lower edge of S, a forward F and its
backward B in theta (two products for one of the forward; one where the weight is frozen, or where
nothing below is trained). A tangent takes as much as B: W dx + dW x for W^T dy and dy x^T. A double
backward for the task alone does, too. One that gives a Hessian product besides takes D = 4 B - 2 F:
six products where B has two of them, and two where it has one. With C and P, the designer's forward
and backward, and G, the gradient of L_down:

    first_order: C + P, and by
        linear, forward: F + B, one forward and its tangent;
        reverse: F + 2 B;
        finite_difference: 4 F, the four samples of the coefficients (two, and two to check them);
    unrolled, one step: C + P + G, its gradient F + B, and the linear engine's F + B again;
    unrolled, K steps: each has a gradient, F + B; the last goes on from its graph, D; those
        between are replayed, F + B + D; the first needs no Hessian, F + B by the linear engine;
        K tasks are made, K - 1 of them again, and pulled back: (2 K - 1) C + K P; and G;
    implicit: C + P + G, two gradients of L_pre, one forward each for the values of the line search,
        a graph F + B at theta_t and at theta*, D a Hessian product, and F + B for the pullback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc import trees
from vfunc.errors import NotConvergedError, UserError
from vfunc.estimators import Estimator, Unrolled, make_estimator
from vfunc.evaluation.flops import Flops, flops_of
from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.candidates import ObservedBatch
from vfunc.language.workload import LanguageWorkload
from vfunc.problem import ValueEstimate, ValueProblem, construct_task, known_feedback
from vfunc.pullback import mixed_product
from vfunc.studies.bench import question, warm
from vfunc.studies.shapes import Shape, shaped_run
from vfunc.studies.training_bench import Spread, seconds_of
from vfunc.training.arm_run import ArmRun
from vfunc.trees import Params

LONG = 12
"""Plain steps' FLOPs above which a row is timed less often than `repeats`, once at least."""

DAMPING = 10.0
"""Of the implicit row: at 1 / eta, 10,000, two steps would solve its systems to rounding."""


@dataclass(frozen=True)
class Counts:
    """FLOPs of the pieces that floors are made of; see the module's head."""

    forward: int
    backward: int
    construct: int
    pull: int
    feedback: int

    @property
    def gradient(self) -> int:
        """F + B."""
        return self.forward + self.backward

    @property
    def double(self) -> int:
        """D: a double backward for the task and the Hessian product."""
        return 4 * self.backward - 2 * self.forward

    @property
    def designer(self) -> int:
        """C + P."""
        return self.construct + self.pull

    def unrolled(self, steps: int) -> int:
        """The floor of K replayed steps."""
        tasks = (2 * steps - 1) * self.construct + steps * self.pull
        outside = tasks + self.feedback + steps * self.gradient
        if steps == 1:
            return outside + self.gradient
        between = (steps - 2) * (self.gradient + self.double)
        return outside + self.double + between + self.gradient

    def implicit(self, passes: Mapping[str, int | float | str | bool]) -> int:
        """The floor of an implicit estimate of one Newton step, by the passes that it reports.

        Its backward passes are two of L_down, two gradients, two graphs that products share, and
        one a Hessian product, its forward ones the first three, and the values.
        """
        products = int(passes["backwards"]) - 6
        values = int(passes["forwards"]) - 6
        solved = values * self.forward + products * self.double + 2 * self.gradient
        return self.designer + self.feedback + 2 * self.gradient + solved + self.gradient


@dataclass(frozen=True)
class EngineCost:
    """What one row costs over a plain learner step.

    Attributes:
        name: the row.
        time: seconds; None where time is not measured.
        flops: FLOPs.
        over_floor: its FLOPs over its own floor.
        memory: peak bytes of tensors.
        failed: why there is none of this, or "".
    """

    name: str
    time: Spread | None = None
    flops: float = 0.0
    over_floor: float = 0.0
    memory: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class EngineCosts:
    """All rows at one subset S.

    Attributes:
        align: the subset S.
        rows: the costs.
        time: seconds of the linear engine's product alone over a double backward's, without
            designer and g_down; None where time is not measured.
        memory: the same of peak bytes.
    """

    align: str
    rows: Sequence[EngineCost]
    time: Spread | None
    memory: float


@dataclass(frozen=True)
class _Asked:
    """A row that is to be measured: what it does, and its floor when it has done it."""

    name: str
    call: Callable[[], object]
    floor: Callable[[object], int]


def engine_costs(
    shape: Shape,
    align: str,
    repeats: int,
    steps: Sequence[int] = (1, 4, 16),
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> EngineCosts:
    """Measure every engine against the plain learner step.

    Args:
        shape: sizes of the learner, its batches and the designer.
        align: the subset S.
        repeats: paired repeats of each time, fewer of what takes long; 0 measures none.
        steps: of `unrolled`, a row each.
        device: the device; None is the CPU.
        dtype: of mixed precision; None is float32 throughout.
    """
    device = device or torch.device("cpu")
    run = warm(shaped_run(shape, "vpretraining", align, device, dtype), 2)
    problem, plain = question(run, max(steps))
    theta = run.state.functional.theta
    assert run.state.designer is not None
    phi = trees.detach(dict(run.state.designer.named_parameters()))
    problem = replace(problem, known=known_feedback(problem.feedback_loss, theta))
    counts = counted(run, problem, phi)
    plain()  # gradients' first buffers
    own = _counted(plain, device)
    rows = [
        _row(asked, plain, own, repeats, device)
        for asked in _rows(run, problem, theta, phi, counts, steps, own[0])
    ]
    time, memory = _linear_over_reverse(problem, theta, phi, repeats, device)
    return EngineCosts(align, rows, time, memory)


def counted(run: ArmRun, problem: ValueProblem, phi: Params) -> Counts:
    """FLOPs of the learner's and the designer's passes, from which floors are computed.

    Args:
        run: the arm, for its learner and its feedback.
        problem: the question; its first batch is used.
        phi: the designer's parameters.
    """
    batch, learner, workload = problem.batches[0], run.estimated, run.workload
    assert isinstance(batch, ObservedBatch) and isinstance(workload, LanguageWorkload)
    feedback = workload.feedback(0)
    assert isinstance(feedback, TokenBatch)
    theta = trees.leaves(run.state.functional.theta)

    def passes(tokens: Tensor, edge: Tensor | None) -> tuple[int, int]:
        found: list[Tensor] = []
        forward = flops_of(
            lambda: found.append(learner.logits(theta, tokens, dropout=False, edge=edge))
        )
        along = torch.ones_like(found[0])
        return forward, flops_of(lambda: torch.autograd.grad(found[0], list(theta.values()), along))

    with sdpa_kernel(SDPBackend.MATH):
        forward, backward = passes(batch.batch.inputs, batch.edge)
        feedback_forward, _ = passes(feedback.inputs, None)
        labelled = learner.at_edge(replace(batch, batch=feedback, edge=None))
        _, feedback_backward = passes(feedback.inputs, labelled.edge)
    made = []
    construct = flops_of(lambda: made.append(construct_task(problem, phi, batch)))
    along = {"q": torch.ones_like(made[0].task["q"])}
    pull = flops_of(lambda: made[0].pull(along))
    return Counts(forward, backward, construct, pull, feedback_forward + feedback_backward)


def _rows(
    run: ArmRun,
    problem: ValueProblem,
    theta: Params,
    phi: Params,
    counts: Counts,
    steps: Sequence[int],
    plain: int,
) -> list[_Asked]:
    one = replace(problem, batches=problem.batches[:1])
    product = counts.designer + counts.gradient

    def asked(name: str, estimator: Estimator, asks: ValueProblem, floor: int | None) -> _Asked:
        def own(answer: object) -> int:
            if floor is not None:
                return floor
            assert isinstance(answer, ValueEstimate)
            return counts.implicit(answer.diagnostics)

        return _Asked(name, lambda: estimator(asks, theta, phi), own)

    floors = {
        "linear": product,
        "forward": product,
        "reverse": product + counts.backward,
        "finite_difference": counts.designer + 4 * counts.forward,
    }
    options = {"damping": DAMPING, "inner_steps": 1, "solver": "cg", "solver_steps": 8}
    implicit = make_estimator("implicit", options)
    known = problem.feedback_loss
    return [
        _Asked("g_down", lambda: known_feedback(known, theta), lambda _: counts.feedback),
        *(
            asked(f"first_order, {e}", make_estimator("first_order", {"engine": e}), one, n)
            for e, n in floors.items()
        ),
        asked("implicit, 8 steps of CG", implicit, one, None),
        *(asked(f"unrolled, K = {k}", Unrolled(k), problem, counts.unrolled(k)) for k in steps),
    ]


def _counted(function: Callable[[], object], device: torch.device) -> tuple[int, int, object]:
    """FLOPs and peak bytes of a call, and what it returns."""
    with counting_peak(device) as peak, Flops() as flops:
        answer = function()
    return flops.total, peak.peak, answer


def _row(
    asked: _Asked,
    plain: Callable[[], None],
    own: tuple[int, int, object],
    repeats: int,
    device: torch.device,
) -> EngineCost:
    try:
        if not asked.name.startswith("unrolled, K = ") or asked.name.endswith("= 1"):
            asked.call()  # the first looks at the functions, with copies
        flops, peak, answer = _counted(asked.call, device)
    except (UserError, NotConvergedError) as error:
        return EngineCost(asked.name, failed=str(error))
    cost = flops / own[0]
    ratios = []
    for _ in range(_times(cost, repeats)):
        step = seconds_of(plain, device)
        ratios.append(seconds_of(asked.call, device) / step)
    return EngineCost(
        asked.name,
        Spread.of(ratios) if ratios else None,
        cost,
        flops / asked.floor(answer),
        peak / own[1],
    )


def _times(cost: float, repeats: int) -> int:
    """How often a row is timed: fewer times where it takes long."""
    return repeats if cost <= LONG else min(repeats, max(1, int(repeats * LONG / cost)))


def _linear_over_reverse(
    problem: ValueProblem, theta: Params, phi: Params, repeats: int, device: torch.device
) -> tuple[Spread | None, float]:
    """Time and memory of the linear engine's product over those of a double backward."""
    construction = construct_task(problem, phi, problem.batches[0])
    assert problem.known is not None
    w = problem.known.gradient

    def product(engine: str) -> Callable[[], object]:
        return lambda: mixed_product(problem, theta, construction, w, engine)

    linear, reverse = product("linear"), product("reverse")
    ratios = [seconds_of(linear, device) / seconds_of(reverse, device) for _ in range(repeats)]
    peaks = [_counted(call, device)[1] for call in (linear, reverse)]
    return (Spread.of(ratios) if ratios else None), peaks[0] / peaks[1]


def engines_markdown(shape: str, costs: Sequence[EngineCosts]) -> str:
    """The measurements as a table for people.

    Args:
        shape: name of the shape.
        costs: one for each subset S.
    """
    kinds = ("time", "FLOPs", "over its floor", "memory")
    head = [f"{kind}, S = {c.align}" for c in costs for kind in kinds]
    lines = [
        f"Shape {shape}; over a plain learner step; times are median (least-most) of paired "
        "repeats. FLOPs of a row over its own floor. Estimates are given g_down.",
        "",
        "| | " + " | ".join(head) + " |",
        "|---|" + "---|" * len(head),
        _cells("plain step", ["1.00", "1.00", "", "1.00"] * len(costs)),
    ]
    for rows in zip(*(c.rows for c in costs), strict=True):
        lines.append(_cells(rows[0].name, [cell for row in rows for cell in _figures(row)]))
    alone = [
        cell
        for c in costs
        for cell in ("" if c.time is None else str(c.time), "", "", f"{c.memory:.2f}")
    ]
    lines.append(_cells("linear's product over double backward's", alone))
    return "\n".join(lines) + "\n"


def _figures(row: EngineCost) -> list[str]:
    if row.failed:
        return [row.failed.replace("|", "/"), "", "", ""]
    time = "" if row.time is None else str(row.time)
    return [time, f"{row.flops:.2f}", f"{row.over_floor:.2f}", f"{row.memory:.2f}"]


def _cells(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"
