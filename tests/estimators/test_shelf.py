"""States on disk: what comes back, what is left behind, and what is said where there is no room."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import cases
import pytest
import torch

import vfunc
from vfunc.estimators.shelf import OnDisk, shelf_of
from vfunc.estimators.trajectory import Point
from vfunc.simulate import AdamW, TensorState, UpdateRule


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def lookahead(**options):
    made = cases.situation("mlp", 0)
    problem = replace(
        made.problem, batches=made.problem.batches[:1] * 4, rule=UpdateRule(AdamW(0.01))
    )
    return vfunc.Unrolled(4, **options)(problem, made.theta, made.phi)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_state_comes_back_as_it_was(tmp_path, dtype):
    x = torch.randn(3, 4, dtype=dtype).t()
    state = TensorState(3, {"exp_avg": x + 1}, {"product": torch.tensor(0.5)})
    back = OnDisk(tmp_path)(Point({"w": x}, {"w": state}))
    for point in (back(), back()):  # as often as it is asked for
        assert torch.equal(point.theta["w"], x) and point.theta["w"].stride() == x.stride()
        assert point.theta["w"].dtype is dtype and point.state["w"].step == 3
        assert torch.equal(point.state["w"].buffers["exp_avg"], x + 1)


def test_a_folder_is_made_for_a_call_and_is_gone_after_it(folder):
    seen = []
    with shelf_of("disk") as shelf:
        shelf({"w": torch.zeros(2)})
        seen = [path for path in folder.rglob("*") if path.is_file()]
    assert len(seen) == 1 and list(folder.iterdir()) == []
    lookahead(states="disk")
    assert list(folder.iterdir()) == []


def test_in_memory_nothing_is_written(folder, monkeypatch):
    monkeypatch.setattr(torch, "save", None)
    lookahead()
    assert list(folder.iterdir()) == []


def test_it_is_gone_after_an_error_too(folder, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *given, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lookahead(states="disk")
    assert list(folder.iterdir()) == []


def test_no_room_is_a_line_that_says_what_to_do(folder, monkeypatch):
    def full(kept, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(vfunc.UserError, match=r"No space left .* set TMPDIR .* --states memory"):
        lookahead(states="disk")


def test_a_kind_that_there_is_not_is_refused():
    with pytest.raises(vfunc.UserError, match="states"):
        vfunc.Unrolled(4, states="tape")
