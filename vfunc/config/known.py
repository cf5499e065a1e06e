"""Finds the options of a run in the dataclasses that declare them, each by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from vfunc.config.declared import Need, Option, Options
from vfunc.config.fields import Field, fields_of
from vfunc.errors import UserError


@dataclass(frozen=True)
class Choice:
    """The choices with which an option does something: `--solver cg` or `neumann`."""

    option: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """An option as it was found.

    Attributes:
        name: the option's.
        kind: the type of its values.
        said: what is declared of it.
        field: where it was found.
        default: its default: a value, one that depends on other options, or `dataclasses.MISSING`.
        needs: its own, after those of the fields that hold it.
        group: what it is listed under.
        choice: the choice that it belongs to, or None.
        opened: the option that chooses among variants of which users can name their own
            (`estimator`), where it belongs to one of these; "" for all others.
        of: the variants (`unrolled`, `my_values:Sparse`) that have it.
    """

    name: str
    kind: Any
    said: Option
    field: Field
    default: Any
    needs: tuple[Need, ...] = ()
    group: str = ""
    choice: Choice | None = None
    opened: str = ""
    of: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """What it does."""
        return self.field.help

    @property
    def settings(self) -> tuple[str, ...] | None:
        """Of a switch what it takes beside yes and no; None of what is no switch."""
        choices = get_args(self.kind) if get_origin(self.kind) is Literal else ()
        if self.kind is bool or any(isinstance(choice, bool) for choice in choices):
            return tuple(choice for choice in choices if not isinstance(choice, bool))
        return None

    def useless(self, options: Options) -> str | None:
        """Why it does nothing in the company of these options; None where it does something."""
        for need in self.needs:
            if self.name not in need.spares and not need.holds(options):
                return need.reason
        if self.choice is not None and options[self.choice.option] not in self.choice.labels:
            return f"it is for {flag(self.choice.option)} {' and '.join(self.choice.labels)}"
        return None


RESERVED = {
    "help": "every command",
    **dict.fromkeys(
        ("seeds", "primary", "vary", "estimators", "jobs", "score", "from", "output"), "compare"
    ),
    **dict.fromkeys(("sizes", "weights"), "curve"),
}
"""Names that no option of a run may have, and the command that reads each of them itself."""

Catalogue = Mapping[str, Known]
"""The options of a kind of run by name."""


def flag(name: str) -> str:
    """An option's flag."""
    return "--" + name.replace("_", "-")


def known_options(
    groups: Mapping[str, Callable[..., Any]], own: Mapping[str, Callable[..., Any]] | None = None
) -> dict[str, Known]:
    """The options of groups of fields.

    Args:
        groups: dataclasses or the like, by what their options are listed under.
        own: variants that users have named (an estimator of their own), by these names.

    Raises:
        UserError: a variant's option has the name of another option of the run, of a switch's
            `no_` form, or of an option that a command keeps for itself.
    """
    found: dict[str, Known] = {}
    for group, made in groups.items():
        for known in _walk(made, _Place(group), own or {}):
            before = found.get(known.name)
            found[known.name] = known if before is None else _merged(before, known)
    for known in found.values():
        if known.opened:
            _refuse_taken(known, found)
    return found


def _refuse_taken(known: Known, found: Catalogue) -> None:
    """Refuse a variant's option whose flag would be another's: `--no-certify` turns certify off."""
    bare = known.name.removeprefix("no_")
    taken = ""
    if known.name in RESERVED:
        taken = f"which is an option of {RESERVED[known.name]}"
    elif bare != known.name and bare in found and found[bare].settings is not None:
        taken = f"and {flag(known.name)} turns {flag(bare)} off"
    if taken:
        raise UserError(_clash(known, taken))


def _clash(known: Known, taken: str) -> str:
    whose = f"{known.opened} {known.of[0]!r}"
    return f"the {whose} has a field {known.field.name!r}, {taken} already; rename the field"


@dataclass(frozen=True)
class _Place:
    """Where among nested dataclasses the walk is: what their options have in common."""

    group: str
    needs: tuple[Need, ...] = ()
    choice: Choice | None = None
    opened: str = ""
    of: tuple[str, ...] = ()


def _walk(
    made: Callable[..., Any], place: _Place, own: Mapping[str, Callable[..., Any]]
) -> Iterator[Known]:
    for field in fields_of(made):
        if field.said.hidden:
            continue
        inside = replace(place, needs=(*place.needs, *field.said.needs))
        if field.said.variants is not None:
            yield from _variants(field, field.said.variants, inside, own)
        elif field.parts is not None:
            yield from _walk(field.parts, inside, own)
        elif field.kind is not None:
            yield _known(field, field.kind, field.default, inside)


def _variants(
    field: Field,
    variants: Mapping[str, Callable[..., Any]],
    place: _Place,
    own: Mapping[str, Callable[..., Any]],
) -> Iterator[Known]:
    """The option that chooses, and those of each variant."""
    free = field.said.find is not None
    kind = str if free else Literal[tuple(variants)]
    yield _known(field, kind, variant_of(field.default, variants), place)
    if free:  # what users name comes first: where it shares an option, its type holds
        others = {k: made for k, made in variants.items() if made not in own.values()}
        variants = {**own, **others}
    for label, made in variants.items():
        if free:
            inside = replace(place, opened=field.option, of=(label,))
        else:
            inside = replace(place, choice=Choice(field.option, (label,)))
        yield from _walk(made, inside, {})


def variant_of(default: Any, variants: Mapping[str, Callable[..., Any]]) -> Any:
    """The name of the variant that a default is: named, a class, an instance or a `Partial`."""
    made = getattr(default, "make", type(default))
    return next((k for k, v in variants.items() if v is made or v is default), default)


def _known(field: Field, kind: Any, default: Any, place: _Place) -> Known:
    said = field.said
    return Known(
        field.option,
        kind,
        said,
        field,
        default if said.default is None else said.default,
        place.needs,
        place.group,
        place.choice,
        place.opened,
        place.of,
    )


def _merged(first: Known, second: Known) -> Known:
    """One option that several fields share: the first tells what it is, any may need it."""
    if first.opened != second.opened:
        variant = first if first.opened else second
        raise UserError(_clash(variant, "which is an option of the run"))
    choice = None
    if first.choice and second.choice and first.choice.option == second.choice.option:
        labels = dict.fromkeys((*first.choice.labels, *second.choice.labels))
        choice = Choice(first.choice.option, tuple(labels))
    return replace(first, choice=choice, of=tuple(dict.fromkeys((*first.of, *second.of))))
