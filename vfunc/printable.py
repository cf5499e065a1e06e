r"""Prints text from outside as it stands: never as markup, never as a command to the terminal.

A file's name, an error of a library or a learner's own text may hold `[/x]`, which rich would read
as a tag and refuse, or `\x1b[2J`, which would clear the screen. Whatever the package prints goes
through `printable`, or through a `SafeConsole`, which calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# control characters but tab and newline, what turns the direction of text, ends of lines that are
# not newlines, and bytes of names that are no UTF-8
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with every character that a terminal might obey written as its escape, `\x1b`."""
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)


def one_line(text: str) -> str:
    """The same in one line: every run of white space is a space."""
    return printable(" ".join(text.split()))


class SafeConsole(Console):
    """A console to which text is text: no markup, no emoji codes, no control characters."""

    def __init__(
        self,
        *,
        file: Any = None,  # a text stream, or what is like one
        width: int | None = None,
        color_system: Literal["auto"] | None = "auto",
        no_color: bool | None = None,
        force_terminal: bool | None = None,
        quiet: bool = False,
    ) -> None:
        super().__init__(
            file=file,
            width=width,
            color_system=color_system,
            no_color=no_color,
            force_terminal=force_terminal,
            quiet=quiet,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See rich; what tables and their cells hold comes by here too."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
