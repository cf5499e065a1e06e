"""Metrics of a modality's runs, and the format of their figures.

Tables, pictures and comparisons know no metric by name but `loss`, which every modality has.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from vfunc.errors import UserError
from vfunc.modality import Metric
from vfunc.typecheck import typed

LOSS = "loss"
UP, DOWN = "↑", "↓"
_EXAMPLES = {"tokens": "problem", "images": "picture"}
_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("name", "title", "unit"), str),
    **dict.fromkeys(("higher_is_better", "apart"), bool),
    "outcomes": str | None,
    "scale": int | float,
    "digits": int,
}
"""Types of the fields of a `Metric`, as a file has them."""
_UNITS_IN_WORDS = {("nat", "tokens"): "nats per token", ("nat", "images"): "nats"}


@dataclass(frozen=True)
class Measures:
    """The metrics of a modality's runs.

    Attributes:
        unit: the unit of budgets: "tokens" or "images".
        metrics: the metrics, `loss` first, the primary one last.
    """

    unit: str
    metrics: tuple[Metric, ...]

    @property
    def primary(self) -> Metric:
        """The metric that a comparison is about, unless another one is asked for."""
        return self.metrics[-1]

    @property
    def example(self) -> str:
        """The word for an example: "problem" or "picture"."""
        return _EXAMPLES.get(self.unit, "example")

    @property
    def loss_unit(self) -> str:
        """The unit of the loss, and so of every value; empty where it has none."""
        return self.metric(LOSS).unit

    @typed
    def metric(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            UserError: there is none.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        known = ", ".join(metric.name for metric in self.metrics)
        raise UserError(f"no metric {name!r}; there are {known}.")

    @typed
    def among(self, names: Container[str]) -> tuple[Metric, ...]:
        """The metrics with these names, in their own order."""
        return tuple(metric for metric in self.metrics if metric.name in names)

    @typed
    def unit_in_words(self, metric: Metric) -> str:
        """A metric's unit for the axis of a picture; empty where it has none."""
        return _UNITS_IN_WORDS.get((metric.unit, self.unit), metric.unit)


def read_measures(unit: Any, metrics: Any) -> Measures:
    """What a metrics.json says that its run was measured in.

    Args:
        unit: its `unit`, as it stands there.
        metrics: its `metrics`.

    Raises:
        TypeError: a metric has other fields.
        ValueError: they are no such thing, or `loss` is not among them.
    """
    if not isinstance(unit, str):
        raise ValueError(f"the unit is {unit!r}")
    if not isinstance(metrics, list) or not all(isinstance(one, dict) for one in metrics):
        raise ValueError("the metrics are no list of objects")
    for fields in metrics:
        for name, value in fields.items():
            if not isinstance(value, _KINDS.get(name, object)):
                raise ValueError(f"the {name} of a metric is {value!r}")
    made = tuple(Metric(**fields) for fields in metrics)
    if LOSS not in [one.name for one in made]:
        raise ValueError(f"the metric {LOSS} is missing")
    return Measures(unit, made)


@typed
def name_of(metric: Metric) -> str:
    """A metric's title in one line, without its unit: "Pass@1"."""
    words = metric.title.split()
    return " ".join(words[:-1] if len(words) > 1 and words[-1] == metric.unit else words)


@typed
def arrow(metric: Metric) -> str:
    """Which way is better."""
    return UP if metric.higher_is_better else DOWN


@typed
def written(metric: Metric, value: float | int, sign: str = "") -> str:
    """Formats a figure, scaled and rounded, without its unit.

    Args:
        metric: the metric.
        value: a figure as measured, or a difference of two.
        sign: "+" to show the sign of positive figures too.
    """
    return f"{metric.scale * value:{sign}.{metric.digits}f}"
