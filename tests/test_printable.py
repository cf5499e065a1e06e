"""Text from outside is printed as it stands: no markup, no command to the terminal."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from vfunc.printable import SafeConsole, one_line, printable
from vfunc.report.table import markdown
from vfunc.training.run_command_line import run_guarded

MARKUP = ["runs/[/x]", "[bold]a[/bold]", "[red", "a [link=x]b", ":smile:", "[[/]]"]
COMMANDS = {
    "\x1b[2J": "\\x1b[2J",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "a\rb": "a\\rb",
    "\x9b31m": "\\x9b31m",
    "\u202egpj.exe": "\\u202egpj.exe",
    "bad\udcff": "bad\\udcff",
    "\x00": "\\x00",
}


def written(*things):
    out = io.StringIO()
    console = SafeConsole(file=out, width=200)
    for thing in things:
        console.print(thing)
    return out.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_text(text):
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    assert written(text) == text + "\n"
    assert written(table).count(text) == 4


@pytest.mark.parametrize(("text", "shown"), COMMANDS.items())
def test_a_terminals_commands_are_shown_and_not_obeyed(text, shown):
    table = Table("name")
    table.add_row(text)
    for out in (written(text), written(table), markdown(table), printable(text), one_line(text)):
        assert not set(out) & set("\x1b\x07\r\x9b\u202e\udcff\x00")
        out.encode()
    assert printable(text) == shown
    assert printable("tab\tnewline\nμ ½ 漢 😀") == "tab\tnewline\nμ ½ 漢 😀"


@pytest.mark.parametrize("text", [*MARKUP, *COMMANDS])
def test_an_error_is_one_line_whatever_it_quotes(text, capsys):
    assert run_guarded(lambda config: None, ["--stream", f"{text}.jsonl\n"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and said[:-1].isprintable()


def test_a_name_that_is_not_utf8_is_refused_at_the_start(capsys):
    for words in (["--runs-dir", "runs/\udcff"], ["--feedback", "a.jsonl", "\udce4.jsonl"]):
        assert run_guarded(lambda config: 0, words) == 2
        assert "is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--modality", "\x1b[2J"],
        ["--seed", "\x1b[2J"],
        ["--no\x1b[2Jsuch", "3"],
        ["--seed", "1", "\x1b[2J"],
    ],
)
def test_a_command_line_that_is_refused_is_not_echoed_as_commands(words, capsys):
    assert run_guarded(lambda config: None, words) == 2
    found = capsys.readouterr()
    assert "\x1b[2J" not in found.out + found.err and "\\x1b[2J" in found.out + found.err
