"""The protocol that every value estimator follows, and the registry that finds it by name."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeGuard, TypeVar, cast, runtime_checkable

from vfunc.config.build import built, refuse_foreign, refusing
from vfunc.config.build import option_names as declared_names
from vfunc.config.known import flag
from vfunc.errors import UserError
from vfunc.problem import ValueEstimate, ValueProblem
from vfunc.trees import Params


@runtime_checkable
class Estimator(Protocol):
    """A way to estimate the value of a designer's tasks, and its gradient in phi.

    One that begins with `feedback_gradient(problem, theta)` may say so by an attribute
    `takes_g_down`, True: a run then computes that before the learner's own forward, and the two
    graphs are never there together. One to which g_down at theta is all that the feedback says may
    say `g_down_alone`, True: a run can then hold g_down over several updates. One with an attribute
    `running_means`, a whole number, is given as many running means of the learner's own gradients
    (`ValueProblem.means`), from the learner's first step on; one with an attribute `mean_batches`,
    at least as many unlabeled batches. One that holds something constant which phi makes has a
    method `held_at` (see the function of that name).
    """

    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """The estimate at (theta, phi); nothing that is passed in is changed."""
        ...


def held_at(estimator: Estimator, problem: ValueProblem, theta: Params, phi: Params) -> Estimator:
    """The estimator with what it holds constant held at this phi, whatever phi it is asked at.

    Its objective is then the function of phi of which its gradient at this phi is the slope. Most
    estimators hold nothing constant that phi makes, and are that already; others have a method
    `held_at`, of these arguments.

    Args:
        estimator: any estimator.
        problem: the question that it will be asked.
        theta: the learner's parameters.
        phi: the designer's parameters.
    """
    own = getattr(estimator, "held_at", None)
    return estimator if own is None else own(problem, theta, phi)


_Factory = TypeVar("_Factory", bound=Callable[..., Estimator])

ESTIMATORS: dict[str, Callable[..., Estimator]] = {}
"""Estimators by name; the keyword arguments are the estimator's options."""


def register_estimator(name: str) -> Callable[[_Factory], _Factory]:
    """Class decorator: make an estimator known by `name`, on the command line too.

    Raises:
        UserError: the name is taken.
    """

    def register(factory: _Factory) -> _Factory:
        if name in ESTIMATORS:
            raise UserError(f"an estimator named {name!r} is already registered")
        ESTIMATORS[name] = factory
        return factory

    return register


def find_estimator(name: str) -> Callable[..., Estimator]:
    """What makes the estimator of that name.

    Args:
        name: a registered name, or `package.module:Name` for one's own.

    Raises:
        UserError: an unknown name (the known ones are listed), a module that does not import, or
            something that makes no estimators, such as a function that is one.
    """
    factory = _imported(name) if ":" in name else ESTIMATORS.get(name)
    if factory is None:
        near = difflib.get_close_matches(name, ESTIMATORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"unknown estimator {name!r}{hint} Known: {', '.join(ESTIMATORS)}, "
            "or package.module:Name"
        )
    if inspect.isfunction(factory) and {"theta", "phi"} & {*inspect.signature(factory).parameters}:
        raise UserError(
            f"{name!r} is a function of theta and phi, so it has no place for options: write a "
            "class whose instances are called with (problem, theta, phi), or a function that takes "
            "the options and makes such an object"
        )
    if not _makes_estimators(factory):
        raise UserError(
            f"{name!r} is no estimator: it has to be a class, or a function that makes one, whose "
            "instances are called with (problem, theta, phi)"
        )
    return factory


def make_estimator(name: str, options: Mapping[str, Any] | None = None) -> Estimator:
    """The estimator of that name with these options.

    Args:
        name: a registered name, or `package.module:Name` for one's own.
        options: by their names; one that the estimator does not take is refused.

    Returns:
        The estimator.

    Raises:
        UserError: an unknown name (the known ones are listed), a module that does not import, or
            an option that the estimator does not take or does not accept.
    """
    options, factory = dict(options or {}), find_estimator(name)
    require_options(name, options, option_names(factory))
    if _declares(factory):
        refuse_foreign(factory, options)
        estimator = built(factory, options, repr(name), hidden=True)
    else:
        with refusing(repr(name)):
            estimator = cast("Any", factory)(**options)
    if not callable(estimator):
        raise UserError(f"{name!r} makes a {type(estimator).__name__}, which cannot be called")
    return cast("Estimator", estimator)


def _makes_estimators(factory: object) -> bool:
    """A function, or a class whose instances are called (an exception or a module is neither)."""
    if inspect.isclass(factory):
        return any("__call__" in vars(base) for base in factory.__mro__)
    return inspect.isfunction(factory) or isinstance(factory, functools.partial)


def option_names(factory: Callable[..., Estimator]) -> tuple[str, ...]:
    """Names of the options that an estimator takes."""
    if _declares(factory):
        return declared_names(factory)
    return tuple(inspect.signature(factory).parameters)


def _declares(factory: object) -> TypeGuard[type]:
    """Whether the options are a dataclass's fields."""
    return inspect.isclass(factory) and dataclasses.is_dataclass(factory)


def require_options(name: str, given: Iterable[str], accepted: Collection[str]) -> None:
    """Refuse options that an estimator does not take.

    Args:
        name: the estimator's.
        given: names of options.
        accepted: names of those that it takes.

    Raises:
        UserError: the message says which it takes.
    """
    refused = [option for option in given if option not in accepted]
    if refused:
        raise UserError(
            f"the estimator {name!r} does not use {', '.join(map(flag, refused))}; "
            f"it takes {', '.join(map(flag, accepted)) or 'no options'}"
        )


@contextlib.contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """A script's own folder is on Python's path, the folder that the user stands in is not."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _imported(name: str) -> Any:  # whatever the user names: `make_estimator` looks at it
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith("."):
        raise UserError(f"the estimator {name!r} cannot be imported: write package.module:Name")
    try:
        with _working_directory_on_path():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"the estimator {name!r} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"the estimator {name!r} cannot be imported: {said}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = [n for n in dir(module) if not n.startswith("_") and n[0].isupper()]
        raise UserError(
            f"{module_name} has no {attribute!r}; it has {', '.join(public[:8])}"
        ) from None
