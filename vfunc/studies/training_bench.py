"""Measures what V-pretraining costs the training loop: speed, memory, FLOPs, and where they go.

An arm with a designer and the baseline take blocks of optimizer steps in turns, one designer update
a block, so that a machine whose speed drifts slows both. FLOPs are counted by operation, and do not
drift. The floor is what the update's arithmetic takes at this very setting:

    designer's forward for every task, its forward and backward in the estimate;
    g_down: the feedback's forward, and the backward of S: two products a matrix, and one for the
    head's activations, two where its weights are in S;
    the pullback: one forward of S and its tangent, two products a matrix (W dx and dW x); of the
    head the logits, p W for the normaliser's tangent, and p dW where its weights are in S.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc import trees
from vfunc.evaluation.flops import flops_of
from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.candidates import ObservedBatch, observe
from vfunc.language.soft_targets.soft_loss import position_weights, soft_cross_entropy
from vfunc.language.soft_targets.targets import mix
from vfunc.language.workload import LanguageWorkload
from vfunc.problem import construct_task, feedback_gradient
from vfunc.pullback import pull_back
from vfunc.studies.cost_model import head
from vfunc.studies.shapes import Shape, shaped_run
from vfunc.training.arm_run import ArmRun
from vfunc.training.loop import one_step
from vfunc.training.step import value_problem


@dataclass(frozen=True)
class Spread:
    """A measurement's median, least and most."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        """The spread of some values, at least one."""
        return Spread(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.most:.2f})"


@dataclass(frozen=True)
class TrainingCost:
    """What an arm with a designer costs, over the baseline, at one subset S.

    Attributes:
        align: the subset S.
        speed: its tokens a second over the baseline's; None where time is not measured.
        memory: its peak memory over the baseline's.
        baseline_flops: FLOPs of the baseline's block.
        flops: FLOPs of its block over those of the baseline's.
        floor: the same by the floor.
        pieces: seconds of each piece of a block over those of a baseline block; empty where time
            is not measured.
    """

    align: str
    speed: Spread | None
    memory: float
    baseline_flops: int
    flops: float
    floor: float
    pieces: Mapping[str, Spread]


def training_cost(
    shape: Shape,
    align: str,
    repeats: int,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> TrainingCost:
    """Measure an arm with a designer against the baseline.

    Args:
        shape: sizes of the learner, its batches and the designer.
        align: the subset S.
        repeats: paired repeats of each time; 0 measures none.
        device: the device; None is the CPU.
        dtype: of mixed precision; None is float32 throughout.
    """
    device = device or torch.device("cpu")
    baseline, designed = (shaped_run(shape, arm, align, device, dtype) for arm in _ARMS)
    memory = [_peak(run, shape, device) for run in (baseline, designed)]
    flops = [flops_of(lambda run=run: _block(run, shape)) for run in (baseline, designed)]
    ratios, pieces = [], {}
    for _ in range(repeats):
        plain = seconds_of(lambda: _block(baseline, shape), device)
        ratios.append(plain / seconds_of(lambda: _block(designed, shape), device))
    if repeats:
        pieces = _pieces(designed, baseline, shape, repeats, device)
    return TrainingCost(
        align,
        Spread.of(ratios) if ratios else None,
        memory[1] / memory[0],
        flops[0],
        flops[1] / flops[0],
        1 + floor_flops(designed, shape) / flops[0],
        pieces,
    )


def training_markdown(shape: str, costs: Sequence[TrainingCost]) -> str:
    """The measurements as a table for people.

    Args:
        shape: name of the shape.
        costs: one for each subset S.
    """
    lines = [
        f"Shape {shape}; ratios to the baseline, median (least-most) of paired repeats.",
        "",
        "| | " + " | ".join(f"S = {cost.align}" for cost in costs) + " |",
        "|---|" + "---|" * len(costs),
        _row("tokens a second", ("" if c.speed is None else str(c.speed) for c in costs)),
        _row("the same by FLOPs, as counted", (f"{1 / c.flops:.2f}" for c in costs)),
        _row("the same by FLOPs, the floor", (f"{1 / c.floor:.2f}" for c in costs)),
        _row("peak memory", (f"{c.memory:.2f}" for c in costs)),
        *(_row(name, (str(c.pieces[name]) for c in costs)) for name in costs[0].pieces),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


_ARMS = ("baseline", "vpretraining")


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall-clock of a call, to the end of the work that it leaves to the device."""
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def floor_flops(run: ArmRun, shape: Shape) -> int:
    """FLOPs that a block's designer update and tasks take at least; see the module's head."""
    workload, learner = run.workload, run.estimated
    observed = workload.look_ahead(run.state.learner, workload.batch(0), estimated=learner)
    theta, designer = run.state.functional.theta, run.state.designer
    assert designer is not None and isinstance(workload, LanguageWorkload)
    feedback = workload.feedback(0)
    assert isinstance(feedback, TokenBatch)

    def above(inputs: Tensor, edge: Tensor | None) -> int:
        with torch.no_grad():
            return flops_of(lambda: learner.logits(theta, inputs, dropout=False, edge=edge))

    with torch.no_grad():
        designing = flops_of(lambda: designer(observed.batch, observed.observation))
    labelled = learner.at_edge(ObservedBatch(feedback, observed.observation))
    # the embedding is the head's own, and in S where all is
    tied = int(any("embed" in name for name in theta))
    heads = [head(shape, texts) for texts in (shape.feedback, (shape.length,) * shape.batch)]
    inside = above(feedback.inputs, labelled.edge) - heads[0]
    gradient = above(feedback.inputs, None) + 2 * inside + (1 + tied) * heads[0]
    inside = above(observed.batch.inputs, learner.at_edge(observed).edge) - heads[1]
    pullback = 3 * inside + (2 + tied) * heads[1]
    return shape.period * designing + 3 * designing + gradient + int(pullback)


def _block(run: ArmRun, shape: Shape) -> None:
    for _ in range(shape.period):
        one_step(run)


def _peak(run: ArmRun, shape: Shape, device: torch.device) -> int:
    """Peak of a block, with what lives throughout: parameters and the optimizer's state."""
    _block(run, shape)  # the optimizer's state is made
    with counting_peak(device) as counter:
        _block(run, shape)
    held = [*run.state.learner.parameters(), *_tensors(run.state.optimizer)]
    if run.state.designer is not None and run.state.designer_optimizer is not None:
        held += [*run.state.designer.parameters(), *_tensors(run.state.designer_optimizer)]
    return counter.peak + sum(x.numel() * x.element_size() for x in held)


def _tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [x for held in optimizer.state.values() for x in held.values() if x.dim()]


def _pieces(
    run: ArmRun, baseline: ArmRun, shape: Shape, repeats: int, device: torch.device
) -> dict[str, Spread]:
    """Each piece of a block over a baseline block, taken in turns."""
    workload, state = run.workload, run.state
    forward = workload.forward(
        state.learner, workload.batch(0), observe=True, estimated=run.estimated
    )
    assert forward.output is not None and forward.observed is not None
    logits, seen = forward.output.detach(), forward.observed
    problem = value_problem(run, (seen,), 0)
    theta = state.functional.theta
    designer = state.designer
    assert designer is not None
    phi = trees.detach(dict(designer.named_parameters()))
    _, g_down = feedback_gradient(problem, theta)
    with torch.no_grad():
        q = mix(*reversed(designer(seen.batch, seen.observation)))
    weight = position_weights(seen.batch.predict)
    construction = construct_task(problem, phi, seen)
    known = (seen.observation.log_probs, seen.observation.normaliser)

    def task() -> None:
        with torch.no_grad():
            designer(seen.batch, seen.observation)

    def loss() -> None:
        x = logits.requires_grad_()
        torch.autograd.grad(soft_cross_entropy(x, seen.observation.candidates, q, weight, known), x)

    whole = {
        "candidates": (shape.period, lambda: observe(logits, seen.batch, shape.top_k)),
        "soft loss": (shape.period, loss),
        "designer, for tasks": (shape.period, task),
        "designer, in the estimate": (
            1,
            lambda: construct_task(problem, phi, seen).pull(
                {"q": torch.ones_like(construction.task["q"])}
            ),
        ),
        "g_down": (1, lambda: feedback_gradient(problem, theta)),
        "pullback": (1, lambda: pull_back(problem, theta, construction, g_down)),
    }
    found: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(repeats):
        plain = seconds_of(lambda: _block(baseline, shape), device)
        for name, (times, piece) in whole.items():
            found[name].append(times * seconds_of(piece, device) / plain)
    return {name: Spread.of(values) for name, values in found.items()}
