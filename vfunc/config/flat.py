"""From options by name to the dataclasses that declare them, and back.

A dataclass may hold others, one of several `variants` each: `Implicit` holds a solver. The
variants' own fields are options beside it, so that `{"solver": "nystrom", "nystrom_rank": 5}`
becomes `Implicit(solver=Nystrom(rank=5))`. An option's name is its field's, or the one it declares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from vfunc.config.declared import Option, declaration
from vfunc.errors import UserError

_T = TypeVar("_T")


def option_name(field: dataclasses.Field) -> str:
    """The name by which a field is given as an option."""
    return declaration(field).name or field.name


def option_names(kind: type) -> tuple[str, ...]:
    """Names of all options of a dataclass, those of its variants included, each once."""
    return tuple(dict.fromkeys(name for name, _ in _options(kind)))


def built(kind: type[_T], options: Mapping[str, Any]) -> _T:
    """An instance of `kind` with these options; what is not among them keeps its default.

    Args:
        kind: a dataclass.
        options: values by option name, all of them options of `kind`. A variant is given by its
            name, or made already.

    Raises:
        UserError: an unknown variant, an option of a variant that is not chosen, or what the
            dataclasses themselves refuse.
    """
    return kind(**_given(kind, options, {f.name: f.default for f in _fields(kind)}))


def changed(instance: _T, options: Mapping[str, Any]) -> _T:
    """The same dataclass with some options changed; see `built`.

    Where another variant is chosen, it takes over what it has in common with the present one.
    """
    current = {f.name: getattr(instance, f.name) for f in _fields(type(instance))}
    given = _given(type(instance), options, current)
    return dataclasses.replace(cast("Any", instance), **given)  # a dataclass


def options_set(instance: object) -> dict[str, Any]:
    """The options of a dataclass that are not at their defaults, by name, in order."""
    found: dict[str, Any] = {}
    for field in _fields(type(instance)):
        value, variants = getattr(instance, field.name), declaration(field).variants
        chosen = _variant_name(variants, value) if variants else None
        if chosen is None:
            same = value is field.default or value == field.default
            found |= {} if same else {option_name(field): value}
            continue
        same = variants is not None and type(field.default) is variants[chosen]
        found |= {} if same else {option_name(field): chosen}
        found |= options_set(value)
    return found


def _fields(kind: type) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _options(kind: type) -> Iterator[tuple[str, Option]]:
    for field in _fields(kind):
        declared = declaration(field)
        yield option_name(field), declared
        for variant in (declared.variants or {}).values():
            yield from _options(cast("type", variant))  # all of a field's variants are dataclasses


def _given(kind: type, options: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `kind`: those that the options change."""
    given: dict[str, Any] = {}
    outer = {option_name(f) for f in _fields(kind) if not declaration(f).variants}
    for field in _fields(kind):
        name, declared = option_name(field), declaration(field)
        if declared.variants:
            inner = _Choice(name, declared.variants, frozenset(outer))
            variant = inner.made(options, current[field.name])
            if variant is not current[field.name]:
                given[field.name] = variant
        elif name in options:
            given[field.name] = options[name]
    return given


@dataclass(frozen=True)
class _Choice:
    """A field that holds one of several variants.

    Attributes:
        name: of the option that chooses.
        variants: by name.
        outer: options of the dataclass that holds it, which a variant may share.
    """

    name: str
    variants: Mapping[str, Callable[..., Any]]
    outer: frozenset[str]

    def made(self, options: Mapping[str, Any], current: Any) -> Any:
        """The variant that the options choose, with its own options."""
        asked = options.get(self.name, current)
        chosen = asked if isinstance(asked, str) else _variant_name(self.variants, asked)
        if chosen is None:
            return asked
        if chosen not in self.variants:
            raise UserError(f"unknown {self.name} {chosen!r}; known: {', '.join(self.variants)}")
        kind = cast("type[Any]", self.variants[chosen])
        own = {option_name(field): field.name for field in _fields(kind)}
        self._refuse_foreign(options, own, chosen)
        given = {own[option]: x for option, x in options.items() if option in own}
        if type(asked) is kind:
            return dataclasses.replace(cast("Any", asked), **given) if given else asked
        before = _fields(type(current)) if dataclasses.is_dataclass(current) else []
        kept = {option_name(f): getattr(current, f.name) for f in before}
        return kind(**({own[n]: x for n, x in kept.items() if n in own} | given))

    def _refuse_foreign(
        self, options: Mapping[str, Any], own: Collection[str], chosen: str
    ) -> None:
        for option in options:
            having = [
                n for n, kind in self.variants.items() if option in option_names(cast("type", kind))
            ]
            if having and option not in own and option not in self.outer:
                known = f"{self.name}{'s' if len(having) > 1 else ''} {' and '.join(having)}"
                raise UserError(f"{option} is for the {known}, not for {chosen}")


def _variant_name(variants: Mapping[str, Callable[..., Any]], value: object) -> str | None:
    return next((name for name, kind in variants.items() if type(value) is kind), None)
