"""Figures of events go to trackers; one that is missing or fails is a line."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from unittest.mock import MagicMock

import pytest

from vfunc.errors import UserError
from vfunc.report.trackers import TRACKERS, Trackers, figures_of
from vfunc.training.options.command_options import _check_trackers

STEP = {"kind": "step", "arm": "a", "step": 3, "tokens": 10, "train_loss": 0.5, "value": "nan",
        "estimate": {"x": 1}, "engine": "linear", "final": True}  # fmt: skip


def stand_in(monkeypatch, name):
    """A package of that name that notes what it is asked."""
    module = ModuleType(name)
    module.init = MagicMock()
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("vfunc.report.trackers.needs", lambda *names: None)
    return module


def test_the_figures_of_an_event():
    assert figures_of(STEP) == ({"training/tokens": 10.0, "training/train_loss": 0.5}, 3)
    signal = {"kind": "signal", "arm": "a", "at_step": 4, "mean_cosine": 0.25}
    assert figures_of(signal) == ({"signal/mean_cosine": 0.25}, 4)
    assert figures_of({"kind": "value_map", "arm": "a", "at_step": 4}) == ({}, 0)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_an_arm_is_a_run_in_the_runs_group(monkeypatch, tmp_path, name):
    module = stand_in(monkeypatch, name)
    ids = []
    for at in (0, 5, 0):  # begun, gone on with, begun anew
        with Trackers([name], tmp_path / "x", "a", {"lr": 1}, at, pytest.fail) as trackers:
            trackers.event(STEP)
        asked = module.init.call_args.kwargs
        assert asked["group"] == "x" and asked["name"] == "x/a" and asked["config"] == {"lr": 1}
        ids.append(asked.get("id"))
        module.init.return_value.log.assert_called_with(figures_of(STEP)[0], step=3)
    assert module.init.return_value.finish.call_count == 3
    if name == "wandb":
        assert ids[0] == ids[1] != ids[2]
    else:
        assert [c.kwargs["resume"] for c in module.init.call_args_list] == [
            "never",
            "allow",
            "never",
        ]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_one_that_fails_is_a_line_and_nothing_more(monkeypatch, tmp_path, where):
    module = stand_in(monkeypatch, "trackio")
    made = module if where == "init" else module.init.return_value
    getattr(made, where).side_effect = RuntimeError("no\nnetwork")
    said = []
    with Trackers(["trackio"], tmp_path, "a", {}, 0, said.append) as trackers:
        trackers.event(STEP)
        trackers.event(STEP)
    (line,) = said
    assert line.startswith("--log trackio is left out") and "RuntimeError: no network" in line


def test_one_that_is_unknown_or_missing_is_refused(monkeypatch):
    with pytest.raises(UserError, match="no tracker 'wandbb'; did you mean wandb"):
        _check_trackers(("wandbb",), "--log")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(UserError, match=rf"needs {name}: pip install 'vfunc\[{name}\]'"):
            _check_trackers((name,), "--log")
    with pytest.raises(UserError, match="names wandb twice"):
        _check_trackers(("wandb", "wandb"), "--log")


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Trackers(["tensorboard"], tmp_path, "a", {}, 0, pytest.fail) as trackers:
        trackers.event(STEP)
    read = EventAccumulator(str(tmp_path / "tensorboard" / "a"))
    read.Reload()
    (point,) = read.Scalars("training/train_loss")
    assert (point.step, point.value) == (3, 0.5)
