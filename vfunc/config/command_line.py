"""The command line that options make, by tyro: in groups, each with its help.

A group of options becomes a typed dictionary in which nothing is required, so that what comes
back holds what was given, and nothing else.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from vfunc.config.declared import Options, default_words
from vfunc.config.known import Catalogue, Known, flag
from vfunc.config.refusals import refuse_stray, refuse_unknown, refused_in_a_line
from vfunc.errors import UserError
from vfunc.extras import needs

with needs("run", "tyro"):
    import tyro


def given_words(words: Sequence[str]) -> list[str]:
    """The names of the options that a command line seems to give, `no_` before a switch's too."""
    flags = (word[2:].partition("=")[0] for word in words if word.startswith("--") and word[2:])
    return [name.replace("-", "_") for name in flags]


def refuse_repeated(words: Sequence[str], *names: str) -> None:
    """Refuse options that are given twice, of which the last would win without a word.

    Raises:
        UserError: one of these options is.
    """
    given = given_words(words)
    for name in names:
        if given.count(name) > 1:
            raise UserError(f"{flag(name)} is given {given.count(name)} times; give one")


def last_value(words: Sequence[str], name: str) -> str | None:
    """What a command line gives an option of one value, before anything is parsed."""
    found = None
    for place, word in enumerate(words):
        spelled, equals, value = word.partition("=")
        if spelled.replace("_", "-") == flag(name):
            found = value if equals else " ".join(words[place + 1 : place + 2])
    return found


def wrapped(description: str) -> str:
    """A description for `--help`: its paragraphs as wide as the terminal, indented lines kept."""
    width = shutil.get_terminal_size().columns
    return "\n\n".join(_paragraph(text, width) for text in description.split("\n\n"))


def _paragraph(text: str, width: int) -> str:
    if "\n  " in text or len(text) <= width:
        return text
    # indented: tyro joins lines that start with a letter, and does not wrap them again
    return textwrap.fill(
        text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )


def parse_words(
    words: Sequence[str],
    catalogue: Catalogue,
    *,
    program: str,
    description: str,
    titles: Mapping[str, str],
    known: Options,
) -> dict[str, Any]:
    """Exactly the options that a command line gives, by name.

    Args:
        words: the command line.
        catalogue: the options that there are.
        program: its name, for `--help`.
        description: what `--help` starts with.
        titles: what `--help` says of each group, and of each variant that has a group of its own.
        known: options that are known before the line is parsed (the modality), for the defaults.

    Raises:
        SystemExit: `--help`.
        UserError: a word that belongs to no option, or a value that an option does not take.
    """
    refuse_unknown(words, catalogue)
    words = _spelled_out(words, catalogue)
    with refused_in_a_line(words, catalogue):
        groups, rest = tyro.cli(
            _surface(catalogue, titles, known),
            args=list(words),
            prog=program,
            description=description,
            config=(tyro.conf.OmitArgPrefixes,),
            return_unknown_args=True,
        )
    refuse_stray(rest, catalogue)
    return {
        name: _SWITCHED.get(value, value) if catalogue[name].settings else value
        for group in groups.values()
        for name, value in group.items()
    }


_SWITCHED: Mapping[Any, Any] = {"yes": True, "no": False}


def _spelled_out(words: Sequence[str], catalogue: Catalogue) -> list[str]:
    """The words with a value after each switch that has further settings: `--x`, `--no-x`."""
    switches = {
        flag(name): flag(f"no_{name}") for name, known in catalogue.items() if known.settings
    }
    found: list[str] = []
    for place, word in enumerate(words):
        spelled = word.replace("_", "-")
        bare = place + 1 == len(words) or words[place + 1].startswith("--")
        if spelled in switches and bare:
            found += [spelled, "yes"]
        elif spelled in switches.values():
            found += [next(on for on, off in switches.items() if off == spelled), "no"]
        else:
            found.append(word)
    return found


_typed_dict: Any = TypedDict  # a checker wants its name and fields written out


def _surface(catalogue: Catalogue, titles: Mapping[str, str], known: Options) -> Any:
    groups: dict[str, dict[str, Any]] = {}
    for name, option in catalogue.items():
        groups.setdefault(_listed(option), {})[name] = _argument(option, known)
    kinds = {
        group: Annotated[
            _typed_dict(group, found, total=False),
            tyro.conf.arg(help=titles.get(group, "")),
        ]
        for group, found in groups.items()
    }
    return _typed_dict("Options", kinds)


def _listed(option: Known) -> str:
    """The group of `--help`: a variant's own where it alone has the option."""
    return option.of[0] if len(option.of) == 1 else option.group


def _argument(option: Known, known: Options) -> Any:
    said = option.said
    words = said.shown or default_words(option.default, known)
    choice = option.choice
    notes = [
        ", ".join(option.of) if len(option.of) > 1 else "",
        "" if choice is None else f"{flag(choice.option)} {' and '.join(choice.labels)}",
        f"default: {words}" if words else "",
    ]
    shown = "; ".join(filter(None, notes))
    argument = tyro.conf.arg(
        help=option.help[:1].upper() + option.help[1:],
        metavar=said.metavar,
        help_behavior_hint=f"({shown})" if shown else "",
    )
    kind = option.kind if said.parse is None else str
    if option.settings:
        kind = Literal[("yes", "no", *option.settings)]
    return Annotated[kind, argument]
