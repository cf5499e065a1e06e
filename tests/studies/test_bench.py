from __future__ import annotations

from pathlib import Path

import pytest

from vfunc.studies import bench_command

SMALL_DATA = [
    "--stream-size",
    "64",
    "--feedback-size",
    "32",
    "--eval-size",
    "4",
    "--batch-size",
    "4",
    "--threads",
    "1",
    "--device",
    "cpu",
]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The command's module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return bench_command


def rows_of(script, capsys, *argv):
    assert script.main(["--steps", "2", "--repeats", "1", *SMALL_DATA, *argv]) == 0
    return capsys.readouterr().out


def test_the_exact_one_step_lookahead_is_its_own_reference(script, capsys):
    out = rows_of(script, capsys, "--only", "unrolled lookahead_steps=1")
    line = next(x for x in out.splitlines() if x.lstrip().startswith("unrolled"))
    assert line.split()[-2:] == ["1.000", "1.00"]
    # L_down at both ends, L_pre, a backward of the last two, one tangent pass
    assert "3F 2B 1T" in line


def test_the_engines_agree_on_the_direction_and_differ_in_passes(script, capsys):
    out = rows_of(script, capsys, "--only", "first_order engine")
    cosines = {line.split()[-2] for line in out.splitlines() if "first_order engine" in line}
    assert len(cosines) == 1 and -1 <= float(cosines.pop()) <= 1
    assert "1F 1B 1T" in out and "2F 3B 0T" in out and "1F 2B 1T" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "second_order"], "matches none; there are first_order, unrolled"),
        (["--repeats", "0"], "--repeats at least 1"),
        (["--steps", "-1"], "--steps must be at least 0"),
    ],
)
def test_mistakes_are_one_line(script, capsys, argv, said):
    assert script.main(argv) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--estimator implicit", "--estimator does nothing here: estimators are measured with"),
        ("--engine forward", "--engine does nothing here: estimators are measured with"),
        ("--resume x", "--resume does nothing here: no run is made or gone on with"),
        ("--dry-run", "--dry-run does nothing here: no run"),
        ("--arms baseline", "--arms does nothing here: no run"),
        ("--part fidelity --name x", "--name does nothing here: no run"),
        ("--part scaling --output file", "--output file is a file; give a folder"),
    ],
)
def test_options_that_do_nothing_or_cannot_be_are_refused(script, capsys, argv, said):
    Path("file").touch()
    assert script.main(argv.split()) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
