"""Reads what a class or function takes: names, types, defaults, and the words that explain them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vfunc.config.declared import Option, declaration
from vfunc.config.partial import Partial

_PLAIN = (bool, int, float, str)
_ENTRY = re.compile(r" {4}(\w+)(?: \([^)]*\))?: ?(.*)")


@dataclass(frozen=True)
class Field:
    """A field of a dataclass, or a parameter of anything else that makes a component.

    Attributes:
        name: its name in Python.
        hint: its type; None where the annotation is missing or cannot be evaluated.
        default: its default in Python, or `dataclasses.MISSING`.
        said: what it declares.
        owner: what it is a field of.
    """

    name: str
    hint: Any
    default: Any
    said: Option
    owner: Callable[..., Any]

    @property
    def option(self) -> str:
        """The name of the option: the one that it declares, or else its own."""
        return self.said.name or self.name

    @property
    def help(self) -> str:
        """The help that it declares, or else its line in the docstring."""
        return self.said.help or _explained(self.owner).get(self.name, "")

    @property
    def parts(self) -> type | None:
        """The dataclass whose fields are options in place of this one, if it holds one."""
        if self.said.kind is not None or self.said.parse is not None:
            return None
        made = get_args(self.hint)[0] if self.deferred else self.hint
        return made if inspect.isclass(made) and dataclasses.is_dataclass(made) else None

    @property
    def deferred(self) -> bool:
        """Whether it holds a `Partial`."""
        return get_origin(self.hint) is Partial or any(
            get_origin(member) is Partial for member in _members(self.hint)
        )

    @property
    def kind(self) -> Any:
        """The type of the option's values; None if text can give none."""
        if self.said.kind is not None or self.said.parse is not None:
            return self.said.kind or required(self.hint)
        return readable(self.hint)


@functools.lru_cache(maxsize=512)
def fields_of(made: Callable[..., Any]) -> tuple[Field, ...]:
    """What a dataclass, another class or a function takes by name, in order."""
    is_data = inspect.isclass(made) and dataclasses.is_dataclass(made)
    return tuple(_of_dataclass(made) if is_data else _of_callable(made))


def _of_dataclass(made: Any) -> Iterator[Field]:
    hints = _hints(made)
    for field in dataclasses.fields(made):
        if field.init:
            said = declaration(field)
            yield Field(field.name, hints.get(field.name), _default(field), said, made)


def _of_callable(made: Any) -> Iterator[Field]:
    hints = _hints(made.__init__ if inspect.isclass(made) else made)
    for name, taken in inspect.signature(made).parameters.items():
        if taken.kind in (taken.POSITIONAL_OR_KEYWORD, taken.KEYWORD_ONLY):
            default = dataclasses.MISSING if taken.default is taken.empty else taken.default
            yield Field(name, hints.get(name), default, Option(), made)


def required(hint: Any) -> Any:
    """X of `X | None`."""
    rest = [kind for kind in _members(hint) if kind is not type(None)]
    return rest[0] if len(rest) == 1 else hint


def readable(hint: Any) -> Any:
    """The part of a type that text can give: numbers, text, choices, and tuples of them.

    Args:
        hint: a type.

    Returns:
        The type, the first such member of a union, or None.
    """
    for kind in _members(hint):
        if kind in _PLAIN:
            return kind
        if get_origin(kind) is Literal and all(isinstance(c, str) for c in get_args(kind)):
            return kind
        entries = [entry for entry in get_args(kind) if entry is not ...]
        if get_origin(kind) is tuple and entries and all(entry in _PLAIN for entry in entries):
            return kind
    return None


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _hints(made: Any) -> dict[str, Any]:
    """Annotations, evaluated; those that cannot be, one by one, are left out."""
    try:
        return get_type_hints(made)
    except Exception:  # whatever a user's annotation raises: it is no option then
        found: dict[str, Any] = {}
    for owner in reversed(inspect.getmro(made)) if inspect.isclass(made) else (made,):
        names: Mapping[str, Any] = vars(sys.modules.get(owner.__module__, types))
        for name, written in getattr(owner, "__annotations__", {}).items():
            try:
                found[name] = eval(written, dict(names)) if isinstance(written, str) else written
            except Exception:
                found.pop(name, None)
    return found


@functools.lru_cache(maxsize=512)
def _explained(made: Any) -> dict[str, str]:
    """What the docstring says under `Attributes:` and `Args:`, by name (Google's style)."""
    found: dict[str, str] = {}
    section, name = False, ""
    for line in inspect.cleandoc(made.__doc__ or "").splitlines():
        if line and not line[0].isspace():
            section = line.strip() in ("Attributes:", "Args:")
        elif section and (entry := _ENTRY.fullmatch(line)):
            name, found[entry[1]] = entry[1], entry[2]
        elif section and name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
