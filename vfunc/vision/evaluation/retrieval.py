"""Scores instance retrieval under the revisited Oxford and Paris protocol.

Radenović, Iscen, Tolias, Avrithis and Chum, "Revisiting Oxford and Paris: Large-Scale Image
Retrieval Benchmarking", CVPR 2018 (arXiv 1803.11285); the numbers are those of `evaluate.py` and
`example_evaluate.py` in github.com/filipradenovic/revisitop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vfunc.errors import NonFiniteError, UserError
from vfunc.typecheck import typed

POSITIVES = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}
"""Positives at each difficulty; the others of easy and hard are ignored like junk."""


@dataclass(frozen=True)
class Relevant:
    """Relevant pictures of a query, as indices into the database; the rest are negatives.

    Attributes:
        easy: pictures that show its object clearly.
        hard: pictures that show it badly.
        junk: pictures that count neither for nor against.
    """

    easy: tuple[int, ...] = ()
    hard: tuple[int, ...] = ()
    junk: tuple[int, ...] = ()


class RetrievalScores(NamedTuple):
    """Mean average precision, from 0 to 1, at each difficulty; None if no query has positives."""

    easy: float | None
    medium: float | None
    hard: float | None


@typed
def average_precision(positions: Int[Tensor, " p"], positives: int) -> float:
    """The area under the precision-recall curve, by trapezoids: `compute_ap` of revisitop.

    Args:
        positions: positions of the positives in the ranking without ignored pictures, ascending
            from 0.
        positives: number of positives in the database.

    Raises:
        UserError: there are none, or more positions than positives.
    """
    if not positives > 0 or len(positions) > positives:
        raise UserError(f"average precision of {len(positions)} found among {positives} positives")
    found = torch.arange(len(positions), dtype=torch.float64)
    rank = positions.to(torch.float64).cpu()
    # nothing has been returned before the first of the ranking: precision 1, by convention
    before = torch.where(rank == 0, 1.0, found / rank.clamp(min=1))
    after = (found + 1) / (rank + 1)
    return float(((before + after) / 2).sum() / positives)


@typed
def mean_average_precision(
    similarity: Float[Tensor, "q n"], truth: Sequence[Relevant]
) -> RetrievalScores:
    """mAP of a ranking by similarity, easy, medium and hard.

    Junk, and positives of the other difficulty, are taken out of the ranking; a query without
    positives does not count. Equal similarities rank in the database's order.

    Args:
        similarity: similarities of queries to pictures of the database.
        truth: relevant pictures of each query.

    Raises:
        UserError: not as many queries, or indices beyond the database or named twice.
        NonFiniteError: a similarity is not a number.
    """
    queries, size = similarity.shape
    if len(truth) != queries:
        raise UserError(f"similarities of {queries} queries, but the truth of {len(truth)}")
    if not torch.isfinite(similarity).all():
        raise NonFiniteError("a similarity of the retrieval is not finite")
    for query, relevant in enumerate(truth):
        _require_sound(query, relevant, size)
    ranking = similarity.argsort(dim=1, descending=True, stable=True).cpu()
    rows = list(zip(ranking, truth, strict=True))
    return RetrievalScores(
        **{
            name: _mean([_precision(*row, kinds) for row in rows])
            for name, kinds in POSITIVES.items()
        }
    )


@typed
def cosine_similarity(
    queries: Float[Tensor, "q d"], database: Float[Tensor, "n d"]
) -> Float[Tensor, "q n"]:
    """Cosine of every pair, in float32 at least; a descriptor of zeros is like nothing."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    a, b = (torch.nn.functional.normalize(x.to(dtype), dim=-1) for x in (queries, database))
    return a @ b.T


def _precision(
    ranking: Int[Tensor, " n"], relevant: Relevant, kinds: tuple[str, ...]
) -> float | None:
    positives = [i for kind in kinds for i in getattr(relevant, kind)]
    if not positives:
        return None
    others = [i for kind in ("easy", "hard") if kind not in kinds for i in getattr(relevant, kind)]
    ignored = _marked([*relevant.junk, *others], len(ranking))
    counted = ranking[~ignored[ranking]]
    positions = _marked(positives, len(ranking))[counted].nonzero().flatten()
    return average_precision(positions, len(positives))


def _marked(indices: list[int], size: int) -> Bool[Tensor, " n"]:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.tensor(indices, dtype=torch.long)] = True
    return mask


def _mean(values: list[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None


def _require_sound(query: int, relevant: Relevant, size: int) -> None:
    named = [*relevant.easy, *relevant.hard, *relevant.junk]
    if any(not 0 <= i < size for i in named):
        raise UserError(
            f"query {query}: the truth names picture {max(named, key=abs)}, but there are {size}"
        )
    if len(set(named)) != len(named):
        twice = next(i for i in named if named.count(i) > 1)
        raise UserError(f"query {query}: the truth names picture {twice} twice")
