"""Protocols of a modality for reports and files; the loop's own is `vfunc.workload`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from vfunc.workload import Workload


@dataclass(frozen=True)
class Metric:
    """A figure that arms are compared in.

    Attributes:
        name: key in `Evaluation.metrics`.
        title: the head of its column.
        unit: unit of the figures shown: "%", "m", "nat" or nothing.
        higher_is_better: direction of improvement.
        outcomes: the key in `Evaluation.outcomes` of the per-example numbers that a paired
            comparison takes; None where there are none.
        scale: factor from the number to the figure shown: 100 for a share in per cent.
        digits: decimals shown.
        apart: whether it stands in a table of its own, and not among the arms' few columns.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool = False
    outcomes: str | None = None
    scale: float = 1.0
    digits: int = 4
    apart: bool = False


@dataclass(frozen=True)
class Reporting:
    """What a run's first lines, its tables and its plots take of a modality.

    Attributes:
        unit: unit of a budget of tokens or images.
        metrics: metrics in tables, `loss` first, the primary one last.
        lines: description of the data, for the start of a run.
        data: the same as plain data, for metrics.json.
        draw_map: draws what `Workload.value_map` gave to a PNG file.
    """

    unit: str
    metrics: tuple[Metric, ...]
    lines: tuple[str, ...]
    data: Mapping[str, Any]
    draw_map: Callable[[Mapping[str, Any], Path], None]


@dataclass(frozen=True)
class Saving:
    """How a modality's modules are written.

    Attributes:
        learner: writes the trained learner to a directory, as outside tools load it.
        designer: writes the designer to a file that `--designer` takes.
    """

    learner: Callable[[nn.Module, Path], None]
    designer: Callable[[nn.Module, Path], None]


@dataclass(frozen=True)
class Modality:
    """A modality on a run's own data: a side for the loop, one for reports, one for files.

    Attributes:
        workload: the loop's side.
        reporting: the report's.
        saving: the files'.
        digests: digests of data that come from no file, by what they are: two runs on the same
            data have the same.
    """

    workload: Workload
    reporting: Reporting
    saving: Saving
    digests: Mapping[str, str] = field(default_factory=dict)
