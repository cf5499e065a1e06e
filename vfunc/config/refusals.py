"""One line for a command line that tyro refuses, in place of the box that it prints."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from vfunc.config.known import Known, flag
from vfunc.config.values import checked_value, nearest, type_in_words
from vfunc.errors import UserError

_FLAG = re.compile(r"--[\w-]*\w")
_HELP = "--help lists what there is"


@contextlib.contextmanager
def refused_in_a_line(
    words: Sequence[str], options: Mapping[str, Known] | None = None
) -> Iterator[None]:
    """While tyro reads a command line: what it refuses is a `UserError`, not a box and an exit.

    Args:
        words: the command line.
        options: the options that there are, for the words and the near misses of the error.

    Raises:
        UserError: tyro exits with code 2; what it printed says which word it stumbled over.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except SystemExit as stop:
        if stop.code != 2:
            raise
        said = _plain(printed.getvalue())
        printed = io.StringIO()
        raise UserError(_refusal(said, words, options or {})) from None
    finally:
        print(printed.getvalue(), end="", file=sys.stderr)


def refuse_unknown(words: Sequence[str], options: Mapping[str, Known]) -> None:
    """Refuse an option that there is not, with the nearest that there is.

    Raises:
        UserError: a word that starts with `--` names no option.
    """
    for word in words:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name == "help" or {name, _bare(name)} & options.keys():
            continue
        near = nearest(name, options) or nearest(_bare(name), options)
        raise UserError(f"{word.partition('=')[0]} is no option{_flagged(near)}; {_HELP}")


def refuse_stray(words: Sequence[str], options: Mapping[str, Known]) -> None:
    """Refuse words that follow no option which could take them.

    Args:
        words: what is left of a command line.
        options: the options that there are, for near misses.

    Raises:
        UserError: there is such a word.
    """
    for word in words:
        near = nearest(word.lstrip("-").replace("-", "_"), options)
        raise UserError(f"{word!r} belongs to no option{_flagged(near)}; {_HELP}")


def _refusal(said: str, words: Sequence[str], options: Mapping[str, Known]) -> str:
    """What is wrong, from what tyro says."""
    given = {word.partition("=")[0] for word in words}
    named = next((name for name in _FLAG.findall(said) if name in given), None)
    if named is None:
        return f"{said.partition(' For full helptext')[0]}; {_HELP}"
    if "Unrecognized options" in said:
        near = [name for name in _FLAG.findall(said.partition("meant:")[2]) if name not in given]
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{named} is no option{hint}; {_HELP}"
    values = _values(words, named)
    option = options.get(named[2:].replace("-", "_"))
    if not values:
        wanted = type_in_words(option) if option else "a value"
        return f"{named} wants {wanted}, and nothing follows it; {_HELP}"
    if option is not None:
        if len(values) == 1 and option.settings is None:
            checked_value(option, values[0], named)  # in the words of a TOML file's mistakes
        return f"{named} must be {type_in_words(option)}, not {' '.join(values)!r}"
    return f"{named} does not take {' '.join(values)!r}; {_HELP}"


def _values(words: Sequence[str], name: str) -> list[str]:
    """The words that follow an option, where it is last given."""
    found: list[str] = []
    for place, word in enumerate(words):
        spelled, equals, value = word.partition("=")
        if spelled == name:
            rest = words[place + 1 :]
            ends = next((i for i, w in enumerate(rest) if w.startswith("--")), len(rest))
            found = [value] if equals else list(rest[:ends])
    return found


def _plain(box: str) -> str:
    """What stands in a box, as one line."""
    return " ".join(re.sub(r"[╭╮╰╯│─]", " ", box).split())


def _bare(name: str) -> str:
    return name.removeprefix("no_")


def _flagged(near: str) -> str:
    """A near miss with the option's name as it is typed."""
    return re.sub(r"(?<=did you mean )\w+", lambda found: flag(found.group()), near)
