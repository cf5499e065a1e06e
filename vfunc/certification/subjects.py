"""Lists what is certified: estimators with their options, and their engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, cast

from vfunc.config.build import changed
from vfunc.config.instance import options_set
from vfunc.errors import UserError
from vfunc.estimators import ESTIMATORS, Estimator, make_estimator, option_names
from vfunc.problem import ValueEstimate
from vfunc.pullback import ENGINES, Engine, ProductRequest

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "first_order": (
        {"value": "dot"},
        {"value": "cosine"},
        {"value": "preconditioned"},
        {"value": "deflated"},
        {"value": "deflated_preconditioned"},
        {"value": "deflated", "means": 0, "mean_batches": 2},
    ),
    "unrolled": (
        {"lookahead_steps": 1},
        {"lookahead_steps": 3},
        {"lookahead_steps": 3, "truncate": 1},
    ),
    "implicit": (
        {},
        {"curvature": "gauss_newton"},
        {"solver": "neumann"},
        {"solver": "nystrom"},
    ),
}
"""Options with which registered estimators are certified; others get their defaults."""

EXACT: dict[str, Any] = {
    "truncate": None,
    "curvature": "hessian",
    "solver": "cg",
    "solver_tolerance": None,
    "solver_steps": None,
    "inner_steps": None,
}
"""Options of an estimator without truncation or any other approximation."""

SHORT: dict[str, dict[str, Any]] = {
    "unrolled": {"truncate": 1, "checkpoint_every": 1, "states": "memory"},
    "implicit": {"solver": "cg", "solver_steps": 1},
}
"""Options that shorten the adjoint, and leave the objective bit for bit as it is."""


@dataclass(frozen=True)
class Subject:
    """An estimator and the engines that it is certified with.

    Attributes:
        label: name and options.
        estimator: the estimator, with its own choice of engine.
        engines: names of engines to certify in turn; empty for its own choice alone.
    """

    label: str
    estimator: Estimator
    engines: tuple[str, ...] = ()

    def with_engine(self, engine: str) -> Estimator:
        """The same estimator with that engine."""
        return replace(cast("Any", self.estimator), engine=engine)  # a dataclass: it has engines


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
            # by one engine what differs from another variant in its arithmetic alone
            every = _declares_engine(factory) and exact_sibling(estimator) is None
            yield Subject(label, estimator, tuple(ENGINES) if every else ())


def _declares_engine(factory: Callable[..., Estimator]) -> bool:
    """Whether a factory is a dataclass with an option `engine`."""
    kind = cast("object", factory)
    return isinstance(kind, type) and is_dataclass(kind) and "engine" in option_names(factory)


def label_of(estimator: object) -> str:
    """The name of an estimator, or of an object among its options, with its own options."""
    names: dict[object, str] = {factory: name for name, factory in ESTIMATORS.items()}
    kind = type(estimator)
    own = getattr(estimator, "__name__", kind.__name__)
    words = [names.get(kind, own)]
    if is_dataclass(estimator):
        given = [x for name, x in options_set(estimator).items() if name != "engine"]
        # an estimator may wrap another one
        words += [label_of(x) if is_dataclass(x) else str(x) for x in given]
    return " ".join(words)


def engines_named(estimate: ValueEstimate, key: str = "engine") -> str:
    """The engines in an estimate's diagnostics, those of its domains (`domain/engine`) too."""
    fields = [str(x) for k, x in estimate.diagnostics.items() if k.rpartition("/")[2] == key]
    return ", ".join(dict.fromkeys(name for names in fields for name in names.split(", ")))


def engines_of(estimator: Estimator, estimate: ValueEstimate) -> list[Engine]:
    """The engines that an estimate used, those of its Hessian products too.

    Args:
        estimator: the estimator, which may hold an engine of its own.
        estimate: the estimate, whose diagnostics name engines.
    """
    held = getattr(estimator, "engine", None)
    known = ENGINES | ({} if isinstance(held, str | None) else {held.name: held})
    names = [engines_named(estimate), engines_named(estimate, "hessian_engine")]
    return [known[n] for n in dict.fromkeys(", ".join(names).split(", ")) if n in known]


def takes_hessians(
    estimator: Estimator, estimate: ValueEstimate, engine: Engine, request: ProductRequest
) -> bool:
    """Whether the estimate used the engine's Hessian products, by its own account.

    Args:
        estimator: the estimator.
        estimate: the estimate, whose diagnostics name engines.
        engine: one of these engines.
        request: a request for Hessian products of the same problem.
    """
    inner = getattr(estimator, "estimator", estimator)  # one that wraps another
    if getattr(inner, "lookahead_steps", 1) > 1:
        return engine.refusal(request) is None
    if getattr(inner, "curvature", "hessian") != "hessian":
        return False
    return engine.name in engines_named(estimate, "hessian_engine").split(", ")


def exact_sibling(estimator: Estimator) -> Estimator | None:
    """The same estimator without its approximations; None if it has none."""
    return _other(estimator, EXACT)


def same_objective(estimator: Estimator) -> Estimator:
    """An estimator with the same objective and a cheaper gradient, where there is one."""
    inner = getattr(estimator, "estimator", estimator)  # one that wraps another
    for name, options in SHORT.items():
        if type(inner) is ESTIMATORS.get(name):
            return _other(estimator, options) or estimator
    return estimator


def _other(estimator: Estimator, options: Mapping[str, Any]) -> Estimator | None:
    """The estimator with those of the options that it has, or None if nothing changes."""
    if not is_dataclass(estimator) or isinstance(estimator, type):
        return None
    own = option_names(type(estimator))
    if "estimator" in own:  # one that wraps another
        inner = _other(getattr(estimator, "estimator"), options)  # noqa: B009
        return None if inner is None else replace(estimator, estimator=inner)
    try:
        other = changed(estimator, {n: x for n, x in options.items() if n in own})
    except UserError:  # options that exclude each other
        return None
    return None if other == estimator else other
