"""The console command: it hands over to its commands, and says what it does not know."""

from __future__ import annotations

import re
import runpy
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

import vfunc
from vfunc import console
from vfunc.config.small_command import small_command
from vfunc.console import COMMANDS, main

SCRIPTS = Path(vfunc.__file__).parents[1] / "experiments"


def test_it_says_its_version_and_its_commands(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vfunc {metadata.version('vfunc')}\n"
    shown = []
    for words in (["--help"], ["-h"], []):
        assert main(words) == 0
        shown.append(capsys.readouterr().out)
    assert len(set(shown)) == 1
    assert all(f"\n  {name} " in shown[0] for name in COMMANDS)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rnu", "error: vfunc has no command 'rnu'; did you mean run? (vfunc --help)"),
        (
            "train",
            "error: vfunc has no command 'train'; there are run, foresee, compare, ",
        ),
        ("--seed", "error: vfunc has no option '--seed'; there are run, foresee, compare, "),
    ],
)
def test_what_it_does_not_know_is_one_line(capsys, word, said):
    assert main([word, "--help"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said) and captured.err.count("\n") == 1 and not captured.out


def interrupted(*args):
    raise KeyboardInterrupt


def test_an_interrupt_while_a_command_is_imported_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(console, "import_module", interrupted)
    assert main(["compare", "--seeds", "0"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_interrupt_of_a_small_command_is_one_line(capsys):
    assert small_command(Nothing, interrupted, [], "none", "Does nothing.") == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@dataclass(frozen=True)
class Nothing:
    """No options."""


@pytest.mark.parametrize("words", [[], ["a", "b"]])
def test_get_smollm2_wants_one_directory(capsys, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["experiments/get_smollm2.py", *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS / "get_smollm2.py"), run_name="__main__")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: name one directory to write the learner to: get_smollm2.py OUT\n"


SMALL = ("make-careless", "make-crawl", "decontaminate")
OF_RUNS = [name for name in COMMANDS if name not in SMALL]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_itself_as_it_was_called(capsys, monkeypatch, name):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: vfunc {name} ")
    assert f"  vfunc {name}" in shown and ".py" not in shown
    script = f"{name.replace('-', '_')}.py"
    monkeypatch.setattr(sys, "argv", [f"experiments/{script}", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {script} ")
    others = r"vfunc (run|compare|bench|report|score)\b"
    assert f"  {script}" in shown and not re.search(others, shown)


@pytest.mark.parametrize("name", OF_RUNS)
def test_the_commands_errors_come_through(capsys, name):
    if name == "evaluate":
        assert main([name, "--benchmarks", "mmul:x"]) == 2
        assert "there is no benchmark 'mmul'; did you mean mmlu?" in capsys.readouterr().err
        return
    if name == "report":  # it takes no option of a run
        assert main([name, "no-run"]) == 2
        assert capsys.readouterr().err.startswith("error: there is no run 'no-run'")
        return
    kind, where = (["feedback-size"], "feedback_size=256: ") if name == "curve" else ([], "")
    assert main([name, *kind, "--optimizer", "sgd"]) == 2
    said = f"error: {where}--optimizer sgd has no learning rate"
    assert capsys.readouterr().err.startswith(said)
