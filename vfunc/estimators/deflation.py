"""Takes out of a feedback gradient what the stream's mean gradients teach anyway.

Inner products are those of the small Gram matrix of the gradient and the means, summed in float64
piece by piece, so that neither bfloat16 nor the size of a learner spoils them, and no copy of the
whole is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import NonFiniteError
from vfunc.problem import ValueProblem
from vfunc.trees import Params

DEPENDENT = 1e-5
"""Sine of the angle to the others below which a vector adds no direction to a span."""

ROUNDING = 16.0
"""Rounding errors of a vector in units of its dtype's epsilon: what is less than these is none."""

PIECE = 2**19
"""Numbers of each vector that are copied to float64 at a time."""


@dataclass(frozen=True)
class Deflated:
    """A vector less its projection onto a span.

    Attributes:
        rest: g - beta P g, in g's own dtypes; g itself where nothing is taken out.
        used: the span's dimension: vectors that are zero, or depend on the others, add none.
        share: |P g| / |g|, the cosine of g and the span.
        cosines: of g and each vector of the span; None where one of the two is zero.
    """

    rest: Params
    used: int
    share: float
    cosines: tuple[float | None, ...]


def deflate(g: Params, span: Sequence[Params], beta: float, rounding: float = 0.0) -> Deflated:
    """g - beta P g, P the orthogonal projection onto the span of some vectors.

    The vectors are brought to norm 1. Of their Gram matrix the eigenvectors are kept whose
    eigenvalue is above tau^2 times the largest, tau = `DEPENDENT` or, if that is more, `ROUNDING`
    units of the coarsest dtype among the vectors: what lies below is their rounding. A rest that is
    within `ROUNDING` units of g's size is rounding too, and becomes zero: a designer's optimizer
    that divides by its gradient's size would follow it.

    Args:
        g: any vector by name.
        span: vectors of the same names and shapes, of any size; zeros add nothing.
        beta: how much of the projection is taken out.
        rounding: unit of rounding of the span, where it is coarser than its dtypes say.

    Raises:
        NonFiniteError: a vector of the span is not finite.
    """
    if not span:
        return Deflated(g, 0, 0.0, ())
    scales = torch.tensor([_largest(v) or 1.0 for v in (g, *span)], dtype=torch.float64)
    gram = _gram((g, *span), scales)
    lost = [i for i, x in enumerate(gram.diagonal()[1:]) if not torch.isfinite(x)]
    if lost:
        raise NonFiniteError(f"mean gradient {lost[0] + 1} of the stream is not finite")
    if not torch.isfinite(gram[0, 0]):
        return Deflated(g, 0, 0.0, (None,) * len(span))  # the value says so
    norms = gram.diagonal().sqrt()
    unit = torch.where(norms > 0, norms, 1.0)
    gram = gram / unit[:, None] / unit
    own, along = gram[1:, 1:], gram[1:, 0]
    units = max(rounding, *(torch.finfo(x.dtype).eps for v in span for x in v.values()))
    values, vectors = torch.linalg.eigh(own)
    kept = values > max(DEPENDENT, ROUNDING * units) ** 2 * max(float(values[-1]), 1e-300)
    basis = vectors[:, kept] / values[kept].sqrt()
    parts = basis.T @ along  # of g / |g| in an orthonormal basis of the span
    share, used = float(parts.norm()), int(kept.sum())
    found = [
        float(x.clamp(-1, 1)) if norms[0] * n else None
        for n, x in zip(norms[1:], along, strict=True)
    ]
    nothing = Deflated(g, used, min(share, 1.0), tuple(found))
    if not share or not beta:
        return nothing
    factors = torch.cat([torch.ones_like(norms[:1]), -beta * norms[0] * (basis @ parts) / unit[1:]])
    fine = max(units, *(torch.finfo(x.dtype).eps for x in g.values()))
    rest, left = _combined((g, *span), scales, factors)
    if left <= ROUNDING * fine * float(norms[0]):
        rest = trees.zeros_like(g)
    return replace(nothing, rest=rest)


def learner_span(problem: ValueProblem, means: tuple[Params, ...]) -> tuple[Params, ...]:
    """What a plain step along each mean adds: eta times the mean.

    Where all parameters have one eta, these are the means themselves: the span is the same.

    Args:
        problem: holds the step.
        means: of the stream's gradients.
    """
    rule = problem.rule.at_unit
    if not means or len({rule.learning_rate(name) for name in means[0]}) == 1:
        return means
    return tuple(rule.sized(_double(mean)) for mean in means)


def step_span(
    problem: ValueProblem, theta: Params, means: tuple[Params, ...]
) -> tuple[Params, ...]:
    """What the learner's own step gains by each mean: d(mean) - d(0).

    In float64: the differences of a step are small beside the parameters.

    Args:
        problem: holds the step.
        theta: the learner's parameters.
        means: of the stream's gradients.
    """
    if not means:
        return ()
    rule, theta = problem.rule.at_unit.in_full_precision(), _double(theta)
    state = {n: replace(s, buffers=_double(dict(s.buffers))) for n, s in problem.state.items()}
    still, _ = rule.step(theta, state, trees.zeros_like(theta))

    def gained(mean: Params) -> Params:
        after, _ = rule.step(theta, state, _double(mean))
        return trees.axpy(-1.0, still, after)

    return tuple(gained(mean) for mean in means)


def coarsest(means: Sequence[Params]) -> float:
    """The unit of rounding of some means."""
    return max((torch.finfo(x.dtype).eps for mean in means for x in mean.values()), default=0.0)


def cosines_to_means(g_down: Params, means: Sequence[Params]) -> dict[str, float]:
    """cos(g_down, mean g_pre) of each mean, for the diagnostics; none where one of the two is zero.

    Args:
        g_down: the feedback's gradient.
        means: means of the stream's gradients.

    Returns:
        `mean_cosine` for the first, `mean_cosine_2` for the second, and so on.
    """
    return {
        f"mean_cosine{'' if i == 0 else f'_{i + 1}'}": cosine
        for i, cosine in enumerate(deflate(g_down, means, 0.0).cosines)
        if cosine is not None
    }


def _largest(vector: Params) -> float:
    return max((float(x.abs().max()) for x in vector.values() if x.numel()), default=0.0)


def _double(vector: Params) -> Params:
    return {name: x.to(torch.float64) for name, x in vector.items()}


def _pieces(vectors: Sequence[Params], scales: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and float64 numbers of all vectors, over their scales, a piece at a time."""
    for name, like in vectors[0].items():
        flat = [v[name].detach().reshape(-1) for v in vectors]
        over = scales.to(like.device)[:, None]
        for start in range(0, like.numel(), PIECE):
            piece = [x[start : start + PIECE].to(torch.float64) for x in flat]
            yield name, torch.stack(piece) / over


def _gram(vectors: Sequence[Params], scales: Tensor) -> Tensor:
    """Inner products of the vectors over their scales, on the CPU."""
    totals: dict[torch.device, Tensor] = {}
    for _, x in _pieces(vectors, scales):
        totals[x.device] = totals[x.device] + x @ x.T if x.device in totals else x @ x.T
    count = len(vectors)
    return sum((x.cpu() for x in totals.values()), torch.zeros(count, count, dtype=torch.float64))


def _combined(vectors: Sequence[Params], scales: Tensor, factors: Tensor) -> tuple[Params, float]:
    """sum_i factors_i v_i / scales_i, times the first one's scale; its norm before that factor."""
    flat: dict[str, list[Tensor]] = {name: [] for name in vectors[0]}
    squares: list[Tensor] = []
    for name, x in _pieces(vectors, scales):
        piece = factors.to(x) @ x
        squares.append((piece @ piece).cpu())
        flat[name].append((piece * float(scales[0])).to(vectors[0][name].dtype))
    rest = {
        name: torch.cat(flat[name]).view(like.shape) if flat[name] else torch.zeros_like(like)
        for name, like in vectors[0].items()
    }
    return rest, float(sum(squares)) ** 0.5
