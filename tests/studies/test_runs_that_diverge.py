"""compare with a run that diverges: the others are made and compared, and a note says so."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from test_compare import compare, config_of, error_of, fake_run, write_run  # noqa: F401 (fixtures)

from vfunc.errors import NonFiniteError
from vfunc.printable import SafeConsole
from vfunc.studies import comparison, side_by_side
from vfunc.studies.comparison import carried_out
from vfunc.studies.repetition import plan
from vfunc.training.build.configuration import to_toml
from vfunc.training.run_directory import RunDirectory

LINE = "--vary lr=1e-3,1e12 --seeds 0 1 --name d --stream-size 64 --feedback-size 32 --eval-size 2"
GONE = "runs/d/lr=1e12/seed0"


def mark(path: Path, config, reason: str = "the held-out loss is nan") -> None:
    """A run's directory as one leaves it that diverged."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.toml").write_text(to_toml(config))
    RunDirectory(path).diverged.write_text(json.dumps({"reason": reason}))


@pytest.fixture
def diverging(fake_run, monkeypatch):  # noqa: F811
    """In place of training: one that diverges with a large learning rate and seed 0."""

    def run(config, **how) -> None:
        if config.options["lr"] > 1 and config.run.seed == 0:
            fake_run.made.append(config)
            mark(Path(config.command.runs_dir) / config.command.name, config)
            raise NonFiniteError("the held-out loss is nan")
        fake_run(config, **how)

    monkeypatch.setattr(comparison, "run", run)
    return fake_run


def test_the_others_are_made_and_compared(compare, diverging, capsys):  # noqa: F811
    for made in (4, 4):  # the second time there is nothing left to make
        assert compare.main(LINE.split()) == 1
        assert len(diverging.made) == made
        said = error_of(capsys)
        assert said == (
            f"error: 1 of 4 runs diverged and are left out: {GONE} (the held-out loss is nan)"
        )
        content = json.loads(Path("runs/d/comparison.json").read_text())
        assert {(arm["setting"], *arm["seeds"]) for arm in content["arms"]} == {
            ("lr=1e-3", 0, 1),
            ("lr=1e12", 1),
        }
        (note,) = content["notes"]
        assert note.startswith(f"{GONE} is left out, since it diverged: the held-out loss is nan.")
        assert "not made again unless its folder is removed, or --overwrite" in note
    assert compare.main([*LINE.split(), "--overwrite"]) == 1
    assert len(diverging.made) == 8


def test_a_comparison_of_nothing_but_diverged_runs_is_an_error(compare, diverging, capsys):  # noqa: F811
    line = LINE.replace("lr=1e-3,1e12", "lr=1e12,1e13").replace("0 1", "0")
    assert compare.main(line.split()) == 1
    assert "2 of 2 runs diverged" in (said := error_of(capsys)) and "and 1 more" in said
    assert not Path("runs/d/comparison.json").exists()


def test_existing_runs_are_compared_without_those_that_diverged(compare, capsys):  # noqa: F811
    for seed in (0, 1):
        write_run(Path(f"x/s{seed}"), config_of(seed=seed))
    mark(Path("x/s2"), config_of(seed=2))
    assert compare.main(["--from", "x"]) == 1
    assert "1 of 3 runs diverged and are left out: x/s2" in error_of(capsys)
    content = json.loads(Path("x/comparison.json").read_text())
    assert content["arms"][0]["seeds"] == [0, 1]
    assert content["notes"][0].startswith("x/s2 is left out, since it diverged")
    assert compare.main(["--from", "x/s2"]) == 1
    assert "1 of 1 runs diverged" in error_of(capsys)


def test_other_studies_stop_at_a_run_that_diverges(diverging):
    _, planned = plan([0], ["lr=1e12,1e-3"], ["--name", "d"])
    with pytest.raises(NonFiniteError):
        carried_out(planned, 1, SafeConsole(quiet=True))
    assert [one.state for one in planned] == ["diverged", "to do"]
    with pytest.raises(NonFiniteError):  # gone on with, as an interrupted one
        carried_out(planned, 1, SafeConsole(quiet=True))
    assert diverging.made[-1].command.resume == GONE


@pytest.mark.parametrize("leave_out", [True, False])
def test_side_by_side_the_others_go_on(leave_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, planned = plan([0], ["lr=1e12,1e11"], ["--name", "d"])

    def start(one, jobs, folder):
        mark(one.directory.path, one.config)
        printed = (folder / one.directory.path.parent.name).open("wb+")
        printed.write(b"error: the held-out loss is nan\n")
        return side_by_side._Started(one, subprocess.Popen(["false"]), printed)

    monkeypatch.setattr(side_by_side, "_start", start)
    monkeypatch.setattr(side_by_side, "PAUSE", 0.0)
    told: list[str] = []
    if not leave_out:
        with pytest.raises(side_by_side.UserError, match="seed0: the held-out loss is nan"):
            side_by_side.carry_out(planned, 1, told.append)
        return
    side_by_side.carry_out(planned, 1, told.append, leave_out=True)
    assert told[1] == f"1 of 2 diverged   {GONE}" and told[-1].startswith("2 of 2 diverged")


def test_side_by_side_a_run_that_is_killed_is_told_as_that_and_not_by_its_progress(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _, planned = plan([0], ["lr=1e12,1e11"], ["--name", "d"])

    def start(one, jobs, folder):
        printed = (folder / "printed").open("wb+")
        printed.write(b"baseline: 60 % of it\n")
        process = subprocess.Popen(["sh", "-c", "kill -9 $$"])
        return side_by_side._Started(one, process, printed)

    monkeypatch.setattr(side_by_side, "_start", start)
    monkeypatch.setattr(side_by_side, "PAUSE", 0.0)
    with pytest.raises(side_by_side.UserError, match="seed0: it was ended by SIGKILL, as for want"):
        side_by_side.carry_out(planned, 1, lambda _: None)
