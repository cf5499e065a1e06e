"""The token value map: where in a few texts the value lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vfunc.language.data.examples import TokenBatch
from vfunc.problem import Task

MAPPED_TEXTS = 3
"""Texts in a token value map; those with known mistakes first."""


def map_values(
    tokenizer: PreTrainedTokenizerBase,
    batch: TokenBatch,
    task: Task,
    cotangent: Mapping[str, Tensor],
) -> dict[str, Any]:
    """u of the true token, and the gate beside it, for each predicted token of a few texts.

    u is the value of a unit of target mass on the true token, had its position weight 1; what is
    drawn as the gate is the mass that the target moves off the true token.

    Args:
        tokenizer: the learner's.
        batch: the texts.
        task: the task that was made of them.
        cotangent: grad_c V for the task's entry `q`.

    Returns:
        `tokens`, `values`, `gates` and `wrong`, a list a text; None where nothing is predicted.
    """
    with_mistakes = batch.wrong.any(-1).nonzero().squeeze(-1).tolist()
    rows = (with_mistakes or list(range(len(batch.tokens))))[:MAPPED_TEXTS]
    fields: dict[str, Any] = {"tokens": [], "values": [], "gates": [], "wrong": []}
    u = cotangent["q"][..., 0] / task["weight"].clamp(min=1e-12)
    moved = 1 - task["q"][..., 0]
    for row in rows:
        predict = batch.predict[row].tolist()
        length = max(i for i, p in enumerate(predict) if p) + 1
        ids = batch.next_tokens[row, :length].tolist()
        fields["tokens"].append([tokenizer.decode([i]) for i in ids])
        for name, x in (("values", u), ("gates", moved)):
            known = x[row, :length].clamp(0, 1) if name == "gates" else x[row, :length]
            pairs = zip(known.tolist(), predict, strict=False)
            fields[name].append([value if p else None for value, p in pairs])
        fields["wrong"].append(batch.wrong[row, :length].tolist())
    return fields


def draw_value_map(fields: Mapping[str, Any], path: Path) -> None:
    """Draw what `map_values` gave, as a PNG."""
    # imported here: training needs no plots
    from vfunc.report.token_map import token_map

    token_map(fields["tokens"], fields["values"], fields["gates"], fields["wrong"], path)
