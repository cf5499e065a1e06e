"""A low-rank curvature and its damped inverse in closed form (randomised Nystrom)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.config.declared import option
from vfunc.errors import UserError
from vfunc.solvers.solution import MatVec, Outcome, Solution, rounding
from vfunc.solvers.system import System
from vfunc.trees import Params
from vfunc.typecheck import typed


@dataclass(frozen=True)
class Nystrom:
    """The implicit estimator's solver `nystrom`: approximate, a fixed number of products.

    Attributes:
        rank: rank of the approximate curvature, and products that nystrom spends.
    """

    rank: int = option(default=20, name="nystrom_rank", least=1)

    name: ClassVar[str] = "nystrom"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(
        self,
        system: System,
        b: Params,
        *,
        tolerance: float,
        seed: int,
        preconditioner: Params | None = None,
    ) -> Solution:
        """See `Solver.__call__`; a preconditioner is not used."""
        return nystrom(
            system.undamped,
            b,
            damping=system.damping,
            rank=self.rank,
            tolerance=tolerance,
            seed=seed,
        )


@typed
def nystrom(
    matvec: MatVec,
    b: Params,
    *,
    damping: float,
    rank: int,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> Solution:
    """Solve (H_r + damping I) x = b, H_r = Y (Omega^T Y)^+ Y^T, Y = H Omega: rank r of H.

    Omega is an orthonormal basis of r Gaussian vectors. Columns of H itself (Hataya and Yamada,
    2023) cost the same r products, but depend on the coordinates: a unit that is dead gives a
    column of zeros, and what a few columns miss is unbounded, where a Gaussian sketch's error is
    bounded by H's own tail (Frangella, Tropp and Udell, 2021, proposition 2.2). Theirs is the
    stable form too: with the thin decomposition H_r = U diag(sigma^2) U^T,

        x = U (U^T b) / (sigma^2 + damping) + (b - U U^T b) / damping.

    Exact at full rank, where the core Omega^T H Omega is H itself. Below it H_r is always positive
    semi-definite: where H is not, the core has eigenvalues below zero, and the sketch is
    restricted to the eigenvectors above, so that |x| <= |b| / damping whatever H is. The core's
    smallest eigenvalue is a curvature of H; a negative one beyond the damping proves that
    H + damping I is not positive definite, and is reported as that.

    Args:
        matvec: x -> H x, without the damping, H symmetric.
        b: right-hand side.
        damping: positive.
        rank: r, products with H; at most the number n of unknowns, beyond which there is nothing
            left to approximate.
        tolerance: on |b - (H + damping I) x| / |b|.
        seed: of the sketch.

    Returns:
        The solution; `residual` is the true one and takes one product more. The outcome is
        `low_rank` where it exceeds the tolerance.

    Raises:
        UserError: a damping, rank or tolerance that is not positive.
    """
    if damping <= 0 or rank < 1 or tolerance <= 0:
        raise UserError(
            f"nystrom needs damping > 0, rank >= 1 and tolerance > 0, "
            f"not {damping}, {rank} and {tolerance}"
        )
    size = float(trees.norm(b))
    if size == 0.0:
        return Solution(trees.zeros_like(b), Outcome.converged, 0.0, 0, 0, math.inf)
    right = _vector(b, b)
    rank = min(rank, len(right))
    draw = torch.Generator().manual_seed(seed)
    columns = [_vector(trees.normal_like(b, draw), b) for _ in range(rank)]
    omega, _ = torch.linalg.qr(torch.stack(columns, -1))
    sketch = torch.stack([_vector(matvec(_params(column, b)), b) for column in omega.T], -1)
    nothing = trees.zeros_like(b)
    if not bool(torch.isfinite(sketch).all()):
        return Solution(nothing, Outcome.not_finite, 1.0, rank, rank, math.nan)
    core = omega.T @ sketch
    # both triangles hold the same numbers up to the products' rounding
    eigenvalues, vectors = torch.linalg.eigh((core + core.T) / 2)
    curvature = float(eigenvalues[0]) + damping
    if curvature <= 0:
        return Solution(nothing, Outcome.negative_curvature, 1.0, rank, rank, curvature)
    if rank == len(right):
        basis, low = omega @ vectors, eigenvalues
    else:
        basis, low = _decomposed(sketch, eigenvalues, vectors, rounding(b))
    inside = basis.T @ right
    x = _params(basis @ (inside / (low + damping)) + (right - basis @ inside) / damping, b)
    ax = trees.axpy(damping, x, matvec(x))
    residual = float(trees.norm(trees.axpy(-1.0, ax, b))) / size
    outcome = Outcome.converged if residual <= tolerance else Outcome.low_rank
    return Solution(x, outcome, residual, rank, rank + 1, curvature)


def _decomposed(
    sketch: Tensor, eigenvalues: Tensor, vectors: Tensor, relative: float
) -> tuple[Tensor, Tensor]:
    """U and sigma^2 of B B^T = U diag(sigma^2) U^T, B = Y V E^{-1/2}.

    E are the core's eigenvalues that stand above zero and rounding, V their vectors.
    """
    kept = eigenvalues > relative * len(eigenvalues) * eigenvalues.abs().max()
    root = sketch @ (vectors[:, kept] / eigenvalues[kept].sqrt())
    basis, sigma, _ = torch.linalg.svd(root, full_matrices=False)
    return basis, sigma**2


def _vector(a: Params, like: Params) -> Tensor:
    """One vector in `like`'s order, in float32 at least: decompositions have no coarser form."""
    flat = trees.flatten({name: a[name] for name in like})
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def _params(vector: Tensor, like: Params) -> Params:
    """The inverse of `_vector`, each entry in its own dtype."""
    return {name: x.to(like[name].dtype) for name, x in trees.unflatten(vector, like).items()}
