"""The parts of `bench` that make what they measure: each with its shapes and its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vfunc.studies.cost_model import Prediction, predictions, scaling_markdown
from vfunc.studies.engines_bench import EngineCosts, engine_costs, engines_markdown
from vfunc.studies.peers.mlp_problem import SIZES
from vfunc.studies.peers_bench import QUESTIONS, PeerCost, peer_costs, peers_markdown
from vfunc.studies.shapes import SHAPES
from vfunc.studies.training_bench import TrainingCost, training_cost, training_markdown

SUBSETS = ("last:2", "all")
"""The subsets S that a learner is measured at."""


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        shapes: names of the shapes that it has.
        measure: (shape, repeats) -> costs, dataclasses all.
        markdown: (shape, costs) -> a table for people.
    """

    shapes: Sequence[str]
    measure: Callable[[str, int], Sequence[Any]]
    markdown: Callable[[str, Sequence[Any]], str]


def _engines(shape: str, repeats: int) -> list[EngineCosts]:
    return [engine_costs(SHAPES[shape], align, repeats) for align in SUBSETS]


def _training(shape: str, repeats: int) -> list[TrainingCost]:
    return [training_cost(SHAPES[shape], align, repeats) for align in SUBSETS]


def _peers(shape: str, repeats: int) -> list[PeerCost]:
    return [
        row
        for optimizer, tuned, lookaheads in QUESTIONS
        for steps in lookaheads
        for row in peer_costs(SIZES[shape], optimizer, tuned, steps, repeats)
    ]


def _scaling(shape: str, repeats: int) -> list[Prediction]:
    return predictions()


PARTS = {
    "engines": Part(tuple(SHAPES), _engines, engines_markdown),
    "training": Part(tuple(SHAPES), _training, training_markdown),
    "peers": Part(tuple(SIZES), _peers, peers_markdown),
    "scaling": Part(("scaled",), _scaling, lambda shape, rows: scaling_markdown(rows)),
}
"""The parts by name."""


def as_json(shape: str, costs: Sequence[Any]) -> str:
    """The measurements as JSON, with what they were made on.

    Args:
        shape: name of the shape.
        costs: dataclasses.
    """
    where = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    table = {"shape": shape, **where, "costs": [asdict(cost) for cost in costs]}
    return json.dumps(table, indent=2) + "\n"
