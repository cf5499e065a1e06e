"""What is certified: estimators with their options, and the engines that each can be given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vfunc.estimators import ESTIMATORS, Estimator, make_estimator, option_names
from vfunc.pullback import ENGINES, Engine

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "first_order": ({"value": "dot"}, {"value": "cosine"}, {"value": "preconditioned"}),
    "unrolled": ({"lookahead_steps": 1}, {"lookahead_steps": 3}),
}
"""Options to certify a registered estimator with; the others as they come."""

SOLVED = 1e-9
"""The solver tolerance at which an estimator that solves systems is exact."""


@dataclass(frozen=True)
class Subject:
    """An estimator under one name, by every engine that it is certified with.

    Attributes:
        label: its name and options.
        estimator: it, with the engine that it chooses itself.
        engines: names to give it in turn; empty leaves it as it is.
    """

    label: str
    estimator: Estimator
    engines: tuple[str, ...] = ()

    def by(self, engine: str) -> Estimator:
        """The same estimator with that engine."""
        return replace(self.estimator, engine=engine)  # type: ignore[type-var]


def all_subjects() -> Iterator[Subject | tuple[str, str]]:
    """Every registered estimator by every engine; a name and a reason where one cannot be made."""
    for name, factory in ESTIMATORS.items():
        for options in VARIANTS.get(name, ({},)):
            label = " ".join([name, *map(str, options.values())])
            try:
                estimator = make_estimator(name, options)
            except Exception as error:  # whatever a user's own factory asks for
                yield label, f"it cannot be made without options of its own: {error}"
                continue
            has_engine = dataclasses.is_dataclass(factory) and "engine" in option_names(factory)
            yield Subject(label, estimator, tuple(ENGINES) if has_engine else ())


def label_of(estimator: Estimator) -> str:
    """A name for an estimator: as registered, or its own, with the options that it was given."""
    names = {factory: name for name, factory in ESTIMATORS.items()}
    kind = type(estimator)
    own = getattr(estimator, "__name__", kind.__name__)
    parts = [names.get(kind, own)]
    if dataclasses.is_dataclass(estimator):
        options = {f.name: getattr(estimator, f.name) for f in dataclasses.fields(estimator)}
        defaults = {f.name: f.default for f in dataclasses.fields(estimator)}
        given = [x for n, x in options.items() if n != "engine" and x != defaults[n]]
        # an estimator may ask another one
        parts += [label_of(x) if dataclasses.is_dataclass(x) else str(x) for x in given]
    return " ".join(parts)


def engines_of(estimator: Estimator, named: str) -> list[Engine]:
    """The engines that an estimate went through.

    Args:
        estimator: holds its engine, if it is an engine and not a name.
        named: what the estimate's diagnostics call it, several separated by commas.
    """
    held = getattr(estimator, "engine", None)
    known = ENGINES | ({} if isinstance(held, str | None) else {held.name: held})
    return [known[name] for name in named.split(", ") if name in known]


def tighter(estimator: Estimator) -> Estimator | None:
    """The same estimator with its systems solved, if it was told to stop short of that."""
    given = getattr(estimator, "solver_tolerance", None)
    if given is None or given <= SOLVED or not dataclasses.is_dataclass(estimator):
        return None
    return replace(estimator, solver_tolerance=SOLVED)  # type: ignore[type-var]
