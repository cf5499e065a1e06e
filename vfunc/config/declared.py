"""Declares options: a dataclass field with its bounds, its default and what it needs, in one place.

The fields of any dataclass are options. What there is to say beyond name, type and default stands
in `option(...)`, beside the field; the help is `option`'s, or else the field's line under
`Attributes:` in the class's docstring, so that a plain dataclass with a docstring is a group of
options already. Nothing here imports the rest of the package, so that a value estimator of the
core and a vision objective declare theirs alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Options = Mapping[str, Any]
"""Every option of a run by name; what was not given is computed when it is asked for."""


@dataclass(frozen=True)
class Condition:
    """A question about the other options, in words for `--help` and as a function.

    Attributes:
        words: as it continues a value: `for the embedded learner`, `with LoRA`.
        holds: the question.
    """

    words: str
    holds: Callable[[Options], bool]


@dataclass(frozen=True)
class Need:
    """When an option does something, and why it does nothing elsewhere.

    Attributes:
        holds: whether the option does something in the company of these options.
        reason: continues `--x does nothing here: `, and says what to do.
    """

    holds: Callable[[Options], bool]
    reason: str


@dataclass(frozen=True)
class Cases:
    """A default that depends on the other options: that of the first condition that holds.

    Attributes:
        cases: conditions and their values, tried in turn.
        otherwise: the value where none holds; a dataclass made in Python has it too.
    """

    cases: tuple[tuple[Condition, Any], ...]
    otherwise: Any

    def value(self, options: Options) -> Any:
        """The default in this company."""
        return next((v for c, v in self.cases if c.holds(options)), self.otherwise)

    def words(self) -> str:
        """The default, for `--help`: made from the values themselves."""
        told = [f"{in_words(value)} {condition.words}" for condition, value in self.cases]
        return ", ".join([*told, f"else {in_words(self.otherwise)}"])


@dataclass(frozen=True)
class Computed:
    """A default computed from the other options.

    Attributes:
        said: the computation, in words.
        compute: the same as a function.
        otherwise: what a dataclass made in Python has.
    """

    said: str
    compute: Callable[[Options], Any]
    otherwise: Any = dataclasses.MISSING

    def value(self, options: Options) -> Any:
        """The default in this company."""
        return self.compute(options)

    def words(self) -> str:
        """The default, for `--help`."""
        return self.said


Default = Cases | Computed


@dataclass(frozen=True)
class Option:
    """What there is to say of an option beyond the name, type and default of its field.

    Attributes:
        help: what it does, with its unit; "" takes the docstring's line.
        default: a default that depends on other options; None where the field's own holds.
        shown: the default in words, where the value does not say it (None is "all"); "" shows it.
        name: the option's name where it is not the field's (`designer_width` for `width`).
        needs: when it does something; all have to hold.
        metavar: placeholder of the value; None takes it from the type.
        above: values must be above this.
        least: values must be at least this.
        below: values must be below this.
        most: values must be at most this.
        check: refuses a value that type and bounds let pass, by (value, where it was given).
        parse: reads the value from text, where it has a grammar of its own.
        variants: the field holds one of several dataclasses, chosen by these names; their fields
            are options too, which need that choice.
        hidden: the field is not an option: it is made from others when a run is built.
    """

    help: str = ""
    default: Default | None = None
    shown: str = ""
    name: str | None = None
    needs: tuple[Need, ...] = ()
    metavar: str | None = None
    above: float | int | None = None
    least: float | int | None = None
    below: float | int | None = None
    most: float | int | None = None
    check: Callable[[Any, str], None] | None = None
    parse: Callable[[str], Any] | None = None
    variants: Mapping[str, type] | None = None
    hidden: bool = False


def option(help: str = "", *, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """A dataclass field that is an option.

    Args:
        help: see `Option.help`.
        default: a value; or `Cases` or `Computed`, whose `otherwise` is the field's own default.
            Left out, the field has to be given.
        **more: the other attributes of `Option`.
    """
    depends = isinstance(default, Cases | Computed)
    declared = Option(help, default if depends else None, **more)
    value = default.otherwise if depends else default
    return dataclasses.field(default=value, metadata={"option": declared})


def declaration(field: dataclasses.Field) -> Option:
    """What a field declares; a plain field declares nothing beyond itself."""
    return field.metadata.get("option", Option())


def in_words(value: object) -> str:
    """A value as `--help` shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(in_words, value)) if isinstance(value, tuple) else str(value)
