"""The token value map: where in a few texts the value lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vfunc.language.soft_targets.candidates import ObservedBatch
from vfunc.language.soft_targets.oracle import oracle_targets
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.problem import Task

MAPPED_TEXTS = 3
"""Texts in a token value map; those with known mistakes first."""

MAPPED_CANDIDATES = 8
"""Candidates of a token in a map: its own, and those with the most mass in any target."""


def map_values(
    tokenizer: PreTrainedTokenizerBase,
    observed: ObservedBatch,
    form: TargetForm,
    task: Task,
    cotangents: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Any]:
    """Values of a few texts, token by token: of the text's own, the designer's, the best target.

    u is the value of a unit of target mass on a candidate, had its position weight 1; a target q
    is worth <q, u>. What is drawn as the gate is the mass that the target moves off the true token.

    Args:
        tokenizer: the learner's.
        observed: the texts, and the learner's probabilities of their candidates.
        form: the form of the designer's targets, in whose bounds the oracle's are.
        task: the task that was made of them.
        cotangents: grad_c V for the task's entry `q`, by the name of the value: `dot` and others.

    Returns:
        A list a text, an entry a token, None where nothing is predicted: `tokens`, `values` (u of
        the true token, by dot), `gates`, `wrong`, `target_values` and `oracle_values` (<q, u> of
        the designer's and the oracle's target), and `candidates`, for each a list of [token,
        learner's probability, u, mass in the designer's target, in the oracle's, u by each other
        value]. `others` holds `values`, `target_values` and `oracle_values` by each other value,
        the oracle's target being the best by that. Nothing of texts of which nothing is
        predicted; without any other there is no map.
    """
    batch = observed.batch
    predicted = batch.predict.any(-1)  # of a text cut before its solution nothing is
    with_mistakes = (batch.wrong.any(-1) & predicted).nonzero().squeeze(-1).tolist()
    rows = (with_mistakes or predicted.nonzero().squeeze(-1).tolist())[:MAPPED_TEXTS]
    if not rows:
        return {}
    names = ("tokens", "values", "gates", "wrong", "target_values", "oracle_values", "candidates")
    fields: dict[str, Any] = {name: [] for name in names}
    with torch.no_grad():
        weight = task["weight"].clamp(min=1e-12).unsqueeze(-1)
        by_value = {name: found["q"] / weight for name, found in cotangents.items()}
        u = by_value.pop("dot")
        q = task["q"].to(u.dtype)
        own = observed.observation.log_probs.exp().to(u.dtype)
        columns = torch.stack([own, u, q, _best(form, observed, u), *by_value.values()], -1)
        maps = {"gates": (1 - task["q"][..., 0]).clamp(0, 1), **_values(form, observed, q, u)}
        others = {name: _values(form, observed, q, w) for name, w in by_value.items()}
    told_by: dict[str, dict[str, Any]] = {
        name: {kind: [] for kind in found} for name, found in others.items()
    }
    for row in rows:
        predict = batch.predict[row].tolist()
        length = max(i for i, p in enumerate(predict) if p) + 1
        ids = batch.next_tokens[row, :length].tolist()
        fields["tokens"].append([tokenizer.decode([i]) for i in ids])
        groups = ((fields, maps), *((told_by[name], others[name]) for name in others))
        for into, found in groups:
            for name, x in found.items():
                pairs = zip(x[row, :length].tolist(), predict, strict=False)
                into[name].append([value if p else None for value, p in pairs])
        fields["wrong"].append(batch.wrong[row, :length].tolist())
        told = [
            _candidates(tokenizer, task["candidates"][row, t], columns[row, t]) if p else None
            for t, p in enumerate(predict[:length])
        ]
        fields["candidates"].append(told)
    return fields | {"others": told_by}


def _best(form: TargetForm, observed: ObservedBatch, u: Tensor) -> Tensor:
    """The oracle's target by that value."""
    return oracle_targets(form, observed, u)[0].to(u.dtype)


def _values(form: TargetForm, observed: ObservedBatch, q: Tensor, u: Tensor) -> dict[str, Tensor]:
    """By one value, what the true token, the designer's target and the oracle's are worth."""
    return {
        "values": u[..., 0],
        "target_values": (q * u).sum(-1),
        "oracle_values": (_best(form, observed, u) * u).sum(-1),
    }


def _candidates(
    tokenizer: PreTrainedTokenizerBase, candidates: Tensor, columns: Tensor
) -> list[list[Any]]:
    """A position's candidates: token, own probability, u, and mass in the two targets."""
    most = columns[:, [0, 2, 3]].amax(-1)
    most[0] = torch.inf  # the text's own token comes first
    kept = most.argsort(descending=True, stable=True)[:MAPPED_CANDIDATES].tolist()
    return [
        [tokenizer.decode([int(candidates[k])]), *(float(f"{x:.5g}") for x in columns[k].tolist())]
        for k in kept
    ]


def draw_value_map(fields: Mapping[str, Any], path: Path) -> None:
    """Draw what `map_values` gave, as a PNG."""
    # imported here: training needs no plots
    from vfunc.report.token_map import token_map

    token_map(fields["tokens"], fields["values"], fields["gates"], fields["wrong"], path)
