"""Small saved runs that curves are made of: on text, finished and interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_run import SMALL, shallow, shallow_learner, words

from vfunc.studies.curves import curve_command
from vfunc.training import loop, summary
from vfunc.training.build import language_assembly
from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded

__all__ = ["shallow"]

SAVED = SMALL | {"arms": "baseline,vpretraining", "budget": "4steps", "eval_every": 0.25,
                 "save_every": 0.5, "meta_period": 2, "accumulate": 2, "feedback_batch_size": 4,
                 "solve_size": 0}  # fmt: skip
"""Options of the saved runs: evaluated after each step, saved after the second."""


@pytest.fixture(autouse=True)
def _shallow(shallow):
    """Whatever reads a run builds the learner that it was made with."""


def make_run(path: Path, **options) -> None:
    """A run of the command, without its pictures and page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_assembly, "EMBEDDED_LEARNER", shallow_learner())
        patch.setattr(summary, "_plots", lambda *_: [])
        patch.setattr(summary, "_paged", lambda *_: [])
        line = words(SAVED | {"runs_dir": path.parent, "name": path.name} | options)
        assert run_guarded(run, line) in (0, 130)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Two finished runs, seeds 0 and 1, of which the first has kept its checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    make_run(folder / "s0", leave_checkpoints=True)
    make_run(folder / "s1", seed=1)
    return folder


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory):
    """A run that was stopped behind its probe: its checkpoint is the state that was probed."""
    path = tmp_path_factory.mktemp("interrupted") / "s0"
    taken = loop.optimizer_step

    def signalled(arm):
        if (arm.arm.name, arm.state.counters.step) == ("vpretraining", 2):
            # the checkpoint of step 2 is the newest, and the arm goes no further
            raise RuntimeError("stopped")
        return taken(arm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "optimizer_step", signalled)
        with pytest.raises(RuntimeError, match="stopped"):
            make_run(path, arms="vpretraining", probe_batches=5)
    return path


@pytest.fixture
def run_of_its_own():
    """Makes a run that no other test reads: (its directory, options)."""
    return make_run


@pytest.fixture
def curve(monkeypatch, tmp_path):
    """The command, in an empty folder; takes a line or words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*argv) -> int:
        return curve_command.main([str(word) for word in argv])

    return call


@pytest.fixture
def refused(curve, capsys):
    """The one line that a command ends with."""

    def call(*argv) -> str:
        capsys.readouterr()
        assert curve(*argv) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0]

    return call
