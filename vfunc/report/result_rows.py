"""Turns what a run wrote about its arms into rows of `arms_table`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfunc.report.arms_table import Against, ArmRow
from vfunc.report.measures import Measures
from vfunc.typecheck import typed

_ERROR = "_standard_error"


@typed
def start_row(metrics: Mapping[str, Any], measures: Measures) -> ArmRow:
    """The line of the learner that all arms start from."""
    return ArmRow("start", 0, 0, 0.0, *_figures(metrics, measures))


@typed
def result_row(
    result: Mapping[str, Any], compared: Mapping[str, Any], measures: Measures
) -> ArmRow:
    """An arm's line.

    Args:
        result: the arm's results, as in arms/<arm>.json and metrics.json.
        compared: its comparisons with the baseline by metric, as in metrics.json.
        measures: the run's metrics.
    """
    seconds, units = result["seconds"], result[measures.unit]
    return ArmRow(
        result["arm"],
        result["steps"],
        units,
        units / seconds if seconds else 0.0,
        *_figures(result["metrics"], measures),
        {
            name: Against(d["difference"], d["standard_error"], d["p_value_holm"])
            for name, d in compared.items()
        },
    )


def _figures(
    metrics: Mapping[str, Any], measures: Measures
) -> tuple[dict[str, float], dict[str, float]]:
    """Of every metric that was measured the figure, and its standard error where there is one."""
    names = [m.name for m in measures.metrics if metrics.get(m.name) is not None]
    errors = {name: metrics.get(f"{name}{_ERROR}") for name in names}
    return (
        {name: metrics[name] for name in names},
        {name: error for name, error in errors.items() if error is not None},
    )
