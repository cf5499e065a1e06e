"""Metasmoothness: whether what training comes to is smooth in the task that it is trained on.

Engstrom et al. (2025), "Optimizing ML Training with Metagradient Descent", arXiv 2503.13751,
section 3: of a training that maps z to parameters A(z), along a direction v with a step h,

    S = sign(A(z + h v) - A(z))^T diag(d / |d|_1) sign(A(z + 2 h v) - A(z + h v)),
    d = |A(z + 2 h v) - A(z)|:

1 where every parameter goes on as it began, 0 where its second move says nothing of its first,
from three trainings and no gradient of them. Here z is phi at the text as it is, v a task, and A
the next H learner steps; outcomes are treated as parameters are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.studies.score.doing import MEASURES, Workbench
from vfunc.studies.score.sides import Candidate
from vfunc.trees import Params

STEP = 0.1
"""h, as a share of a task: the authors' code probes data weights by tenths, too."""


@dataclass(frozen=True)
class Smoothness:
    """Metasmoothness at one state, once a horizon.

    Attributes:
        parameters: of the learner's parameters, mean over directions.
        outcome: of the loss on the feedback used, over directions.
    """

    parameters: tuple[float, ...]
    outcome: tuple[float, ...]


def sign_agreement(points: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """S of what three trainings came to, at z, z + h v and z + 2 h v, tensor by tensor.

    Where nothing has moved, it is 1: a constant is smooth.
    """
    agreed = whole = 0.0
    for none, once, twice in points:
        size = (twice - none).abs().double()
        agreed += float((size * torch.sign(once - none) * torch.sign(twice - once)).sum())
        whole += float(size.sum())
    return agreed / whole if whole else 1.0


def smoothness(
    bench: Workbench, directions: Sequence[Candidate], horizons: Sequence[int]
) -> Smoothness:
    """Measure it by three trainings a direction, of which that on the text as it is is shared.

    Args:
        bench: does the tasks.
        directions: tasks; their shares are not used.
        horizons: learner steps, increasing.
    """
    origin, losses = _trained(bench, None, 0.0, horizons)
    parameters = [0.0] * len(horizons)
    outcomes: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in horizons]
    for direction in directions:
        once, one = _trained(bench, direction, STEP, horizons)
        twice, two = _trained(bench, direction, 2 * STEP, horizons)
        for at in range(len(horizons)):
            triples = ((origin[at][name], once[at][name], twice[at][name]) for name in origin[at])
            parameters[at] += sign_agreement(triples) / len(directions)
            outcomes[at].append((losses[at], one[at], two[at]))
    return Smoothness(tuple(parameters), tuple(map(sign_agreement, outcomes)))


def _trained(
    bench: Workbench, direction: Candidate | None, share: float, horizons: Sequence[int]
) -> tuple[list[Params], list[Tensor]]:
    """Parameters and loss at each horizon."""
    found: list[Params] = []

    def keep(_: int, parameters: Params) -> None:
        found.append({name: x.detach().clone() for name, x in parameters.items()})

    task = None if direction is None else direction.at(share)
    losses = bench.losses(task, horizons, keep)[MEASURES.index("used")]
    if len(found) < len(horizons):  # no longer finite: chaotic by any measure
        last = found[-1] if found else bench.work.state.functional.theta
        found += [{n: torch.full_like(x, float("nan")) for n, x in last.items()}] * (
            len(horizons) - len(found)
        )
    return found, [torch.tensor(float(x)) for x in losses]
