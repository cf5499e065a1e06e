"""Builds components from options: each dataclass from the options that are its fields.

A dataclass may hold others, one of several `variants` each: `Implicit` holds a solver. The
variants' own fields are options beside it, so that `{"solver": "nystrom", "nystrom_rank": 5}`
becomes `Implicit(solver=Nystrom(rank=5))`. An option's name is its field's, or the one it declares.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from vfunc.config.fields import Field, fields_of
from vfunc.config.instance import options_of
from vfunc.config.known import variant_of
from vfunc.config.partial import Partial
from vfunc.errors import UserError, VfuncError

_REFUSALS = (ValueError, TypeError, AssertionError, LookupError, ArithmeticError, AttributeError)
"""What a component's own code raises where it does not like its options, or has a mistake."""


def option_names(made: Callable[..., Any]) -> tuple[str, ...]:
    """Names of all options of a dataclass, those of what it holds included, each once."""
    return tuple(dict.fromkeys(_names(made)))


def _names(made: Callable[..., Any]) -> Iterator[str]:
    for field in fields_of(made):
        yield field.option
        held = [*(field.said.variants or {}).values()] if field.parts is None else [field.parts]
        for part in held:
            yield from _names(part)


def arguments(
    made: Callable[..., Any],
    options: Mapping[str, Any],
    of: object | None = None,
    *,
    hidden: bool = False,
) -> dict[str, Any]:
    """What a component is made with, by field; fields that no option gives are left out.

    Args:
        made: a dataclass, or anything else that makes a component from named arguments.
        options: values by option name. A variant is given by its name, or made already. One of a
            user's own is made from the given ones of a `ResolvedOptions` alone.
        of: the component that the arguments change; None if they make a new one.
        hidden: whether fields that are hidden from users of the command line are given too. A
            run's options may have their names and mean something else.

    Raises:
        UserError: see `built`.
    """
    asked = _Asked(options, hidden)
    found = {
        field.name: _value(field, asked, of)
        for field in fields_of(made)
        if hidden or not field.said.hidden
    }
    return {name: value for name, value in found.items() if value is not dataclasses.MISSING}


def built(
    made: Callable[..., Any], options: Mapping[str, Any], name: str = "", *, hidden: bool = False
) -> Any:
    """A component from options.

    Args:
        made: see `arguments`.
        options: see `arguments`.
        name: what users call it, for messages.
        hidden: see `arguments`.

    Raises:
        UserError: an unknown variant, a component that refuses its options, or an option that it
            cannot do without is missing.
    """
    given = arguments(made, options, hidden=hidden)
    missing = [
        field.option
        for field in fields_of(made)
        if field.name not in given and field.default is dataclasses.MISSING
    ]
    if missing:
        flags = " and ".join("--" + option.replace("_", "-") for option in missing)
        raise UserError(f"{name or getattr(made, '__name__', made)} needs {flags}")
    with refusing(name or getattr(made, "__name__", str(made))):
        return made(**given)


@contextlib.contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn what a component raises where it is made into one line: it refuses what it was given.

    Raises:
        UserError: the component raised; the message names it.
    """
    try:
        yield
    except VfuncError:
        raise
    except _REFUSALS as error:
        worded = isinstance(error, ValueError | TypeError) and str(error)
        said = str(error) if worded else ": ".join(filter(None, (type(error).__name__, str(error))))
        raise UserError(f"{name}: {said}") from error


def changed(component: Any, options: Mapping[str, Any]) -> Any:
    """The same dataclass with some options changed; fields that they do not give stay.

    Where another variant is chosen, it takes over what it has in common with the present one.

    Args:
        component: an instance of a dataclass.
        options: see `arguments`.

    Raises:
        UserError: see `built` and `refuse_foreign`.
    """
    refuse_foreign(type(component), options, component)
    given = arguments(type(component), options, component, hidden=True)
    return dataclasses.replace(component, **given) if given else component


def refuse_foreign(
    made: Callable[..., Any], options: Mapping[str, Any], of: object | None = None
) -> None:
    """Refuse options of variants that are not chosen, which would do nothing.

    Args:
        made: see `arguments`.
        options: those that were given; nothing else is looked at.
        of: see `arguments`.

    Raises:
        UserError: the message names the variants that have the option.
    """
    for field in fields_of(made):
        variants = field.said.variants or {}
        chosen = variant_of(options.get(field.option, _current(field, of)), variants)
        if not isinstance(chosen, str) or chosen not in variants:  # `built` answers for these
            continue
        common = {f.option for f in fields_of(made)} | {*_names(variants[chosen])}
        for option in options.keys() - common:
            having = [name for name, variant in variants.items() if option in _names(variant)]
            if having:
                known = f"{field.option}{'s' if len(having) > 1 else ''} {' and '.join(having)}"
                raise UserError(f"{option} is for the {known}, not for {chosen}")


@dataclass(frozen=True)
class _Asked:
    """What components are built from.

    Attributes:
        options: values by option name.
        hidden: whether hidden fields are among them.
    """

    options: Mapping[str, Any]
    hidden: bool

    def of(self, made: Callable[..., Any], component: object | None = None) -> dict[str, Any]:
        """Arguments of a component."""
        return arguments(made, self.options, component, hidden=self.hidden)

    def build(self, made: Callable[..., Any], **kept: Any) -> Any:
        """A component, from what is kept of another one too."""
        return built(made, {**kept, **self.options} if kept else self.options, hidden=self.hidden)

    def altered(self, component: Any) -> Any:
        """The component with what the options give; MISSING if they give nothing of it."""
        given = self.of(type(component), component)
        return dataclasses.replace(component, **given) if given else dataclasses.MISSING


def _current(field: Field, of: object | None) -> Any:
    return field.default if of is None else getattr(of, field.name)


def _value(field: Field, asked: _Asked, of: object | None) -> Any:
    if field.said.variants is not None:
        return _variant(field, field.said.variants, asked, of)
    if field.parts is not None:
        return _part(field, field.parts, asked, of)
    if field.option not in asked.options:
        return dataclasses.MISSING
    value = asked.options[field.option]
    return value if field.said.make is None or value is None else field.said.make(value)


def _part(field: Field, made: type, asked: _Asked, of: object | None) -> Any:
    """A dataclass in a dataclass."""
    if isinstance(asked.options.get(field.option), made):  # the component itself, from Python
        return asked.options[field.option]
    if of is not None:
        return asked.altered(getattr(of, field.name))
    if field.deferred:
        return Partial(made, tuple(asked.of(made).items()))
    return asked.build(made) if asked.of(made) else dataclasses.MISSING


def _variant(
    field: Field, variants: Mapping[str, Callable[..., Any]], asked: _Asked, of: object | None
) -> Any:
    """One of several dataclasses."""
    name, options, current = field.option, asked.options, _current(field, of)
    chosen = options.get(name, variant_of(current, variants))
    if field.said.find is not None:
        return built(field.said.find(chosen), getattr(options, "given", options), repr(chosen))
    if not isinstance(chosen, str):  # the component itself, from Python
        known = type(chosen) in variants.values()
        altered = asked.altered(chosen) if known else dataclasses.MISSING
        return chosen if altered is dataclasses.MISSING else altered
    if chosen not in variants:
        raise UserError(f"unknown {name} {chosen!r}; known: {', '.join(variants)}")
    made = variants[chosen]
    if of is not None:
        if type(current) is made:
            return asked.altered(current)
        return asked.build(made, **(options_of(current) if is_dataclass(current) else {}))
    if name not in options and not asked.of(made):
        return dataclasses.MISSING
    return Partial(made, tuple(asked.of(made).items())) if field.deferred else asked.build(made)
