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
        spares: names of options that do something all the same, where a whole group has the need.
    """

    holds: Callable[[Options], bool]
    reason: str
    spares: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cases:
    """A default that depends on the other options: that of the first condition that holds.

    Attributes:
        cases: conditions and their values, tried in turn.
        otherwise: the value where none holds.
        plain: what a dataclass made in Python has; `...` is `otherwise`.
    """

    cases: tuple[tuple[Condition, Any], ...]
    otherwise: Any
    plain: Any = ...

    def value(self, options: Options) -> Any:
        """The default in this company."""
        return next((v for c, v in self.cases if c.holds(options)), self.otherwise)

    def words(self, known: Options) -> str:
        """The default, for `--help`: made from the values themselves."""
        told = [f"{default_words(value, known)} {c.words}" for c, value in self.cases]
        return ", ".join([*told, f"else {default_words(self.otherwise, known)}"])


@dataclass(frozen=True)
class Computed:
    """A default computed from the other options.

    Attributes:
        said: the computation, in words.
        compute: the same as a function.
        plain: what a dataclass made in Python has; `...` asks for one.
    """

    said: str
    compute: Callable[[Options], Any]
    plain: Any = ...

    def value(self, options: Options) -> Any:
        """The default in this company."""
        return self.compute(options)

    def words(self, known: Options) -> str:
        """The default, for `--help`."""
        return self.said


@dataclass(frozen=True)
class By:
    """A default for each value of another option, such as the modality.

    Attributes:
        option: the name of the other option.
        defaults: by its value; values, or defaults that depend on further options.
        plain: what a dataclass made in Python has; `...` asks for one.
    """

    option: str
    defaults: Mapping[str, Any]
    plain: Any = ...

    def value(self, options: Options) -> Any:
        """The default in this company."""
        return default_value(self.defaults[options[self.option]], options)

    def words(self, known: Options) -> str:
        """The default, for `--help`: that of the other option's value where it is known."""
        if known.get(self.option) in self.defaults:
            return default_words(self.defaults[known[self.option]], known)
        each = (f"{k}: {default_words(value, known)}" for k, value in self.defaults.items())
        return "; ".join(each)


Depending = Cases | Computed | By


def default_value(default: Any, options: Options) -> Any:
    """A default in the company of these options."""
    return default.value(options) if isinstance(default, Depending) else default


def default_words(default: Any, known: Options) -> str:
    """A default as `--help` tells it, where these options are known; "" if there is none."""
    if isinstance(default, Depending):
        return default.words(known)
    return "" if default in (None, dataclasses.MISSING) else in_words(default)


@dataclass(frozen=True)
class Option:
    """What there is to say of an option beyond the name, type and default of its field.

    Attributes:
        help: what it does, with its unit; "" takes the docstring's line.
        default: a default that depends on other options; None where the field's own holds.
        shown: the default in words, where the value does not say it (None is "all"); "" shows it.
        name: the option's name where it is not the field's (`designer_width` for `width`).
        needs: when it does something; all have to hold. Those of a field that holds a dataclass
            are needs of all of its options.
        metavar: placeholder of the value; None takes it from the type.
        above: values must be above this.
        least: values must be at least this.
        below: values must be below this.
        most: values must be at most this.
        check: refuses a value that type and bounds let pass, by (value, where it was given).
        kind: the type of the option's values, where text cannot give the field's.
        make: the field's value from the option's, where they differ.
        parse: reads the value from text, where it has a grammar of its own.
        variants: the field holds one of several dataclasses, chosen by these names; their fields
            are options too, which need that choice.
        find: gives the variant of a name that is not among them, so that users can name their
            own; it refuses names that are none. Of such variants only options that are given are
            kept, since another variant's are not there to be left at their defaults.
        hidden: the field is not an option: it is made from others when a run is built.
        reads: the values name files or folders that a run reads. Two runs are the same if what is
            in them is, whatever they are called.
    """

    help: str = ""
    default: Depending | None = None
    shown: str = ""
    name: str | None = None
    needs: tuple[Need, ...] = ()
    metavar: str | None = None
    above: float | int | None = None
    least: float | int | None = None
    below: float | int | None = None
    most: float | int | None = None
    check: Callable[[Any, str], None] | None = None
    kind: Any = None
    make: Callable[[Any], Any] | None = None
    parse: Callable[[str], Any] | None = None
    variants: Mapping[str, Callable[..., Any]] | None = None
    find: Callable[[str], Callable[..., Any]] | None = None
    hidden: bool = False
    reads: bool = False


def option(
    help: str = "", *, default: Any = dataclasses.MISSING, compare: bool = True, **more: Any
) -> Any:
    """A dataclass field that is an option.

    Args:
        help: see `Option.help`.
        default: a value; or `Cases`, `Computed` or `By`, whose `plain` is the field's own default.
            Left out, the field has to be given.
        compare: whether the field counts where two of the dataclass are compared.
        **more: the other attributes of `Option`.
    """
    if not isinstance(default, Depending):
        said = {OPTION: Option(help, **more)}
        return dataclasses.field(default=default, compare=compare, metadata=said)
    value = dataclasses.MISSING if default.plain is ... else default.plain
    if value is dataclasses.MISSING and isinstance(default, Cases):
        value = default.otherwise
    said = {OPTION: Option(help, default, **more)}
    return dataclasses.field(default=value, compare=compare, metadata=said)


def same(owner: type, name: str) -> Any:
    """A field that is the same option as another dataclass's field: one value feeds both.

    Args:
        owner: the dataclass that declares the option.
        name: of its field; the option keeps the name that it has there.
    """
    (field,) = (f for f in dataclasses.fields(owner) if f.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


OPTION = "option"


HIDDEN = {OPTION: Option(hidden=True)}
"""Metadata of a field without a default that is no option: `field(metadata=HIDDEN)`."""


def declaration(field: dataclasses.Field) -> Option:
    """What a field declares; a plain field declares nothing beyond itself."""
    return field.metadata.get(OPTION, Option())


def in_words(value: object) -> str:
    """A value as `--help` shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    return " ".join(map(in_words, value)) if isinstance(value, tuple) else str(value)
