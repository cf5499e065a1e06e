"""A run ends on a signal with its state on disk, and nothing at its end loses what was trained."""

from __future__ import annotations

import io
import json
import math
import os
import signal

import pytest
from baseline_run import BASELINE

from vfunc.errors import UserError
from vfunc.evaluation.probe import ProbePoint, summarise
from vfunc.report.events import EventLog, read_events
from vfunc.report.probe_events import probe_points
from vfunc.report.progress import Status, progress
from vfunc.training import run, summary
from vfunc.training.interrupt import ENDING, Interrupted, ending_at_once, noting_interrupts
from vfunc.training.run_command_line import run_guarded

ALL = [signal.SIGINT, *ENDING]


@pytest.fixture(autouse=True)
def _handlers():
    before = {s: signal.signal(s, signal.default_int_handler) for s in (signal.SIGINT,)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", ALL)
def test_the_first_signal_is_a_request_and_the_second_one_ends_at_once(signum):
    before = signal.getsignal(signum)
    with noting_interrupts() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signum)
        assert stop.requested and stop.raised("x").signum == signum
        with pytest.raises(Interrupted) as second:
            os.kill(os.getpid(), signal.SIGTERM)
        assert second.value.signum == signal.SIGTERM
    assert signal.getsignal(signum) is before


@pytest.mark.parametrize("signum", ENDING)
def test_a_signal_that_is_ignored_stays_ignored(signum):
    before = signal.signal(signum, signal.SIG_IGN)  # as nohup starts a process
    try:
        with ending_at_once(), noting_interrupts() as stop:
            os.kill(os.getpid(), signum)
            assert not stop.requested
        assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("signum", ALL)
def test_between_steps_a_signal_ends_with_its_own_code_and_a_line(signum, capsys):
    def main(config):
        os.kill(os.getpid(), signum)

    assert run_guarded(main, []) == 128 + signum
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_signal_while_the_start_is_evaluated_says_how_to_go_on(command, monkeypatch, capsys):
    monkeypatch.setattr(run, "_evaluate_start", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert command("--name", "x", **BASELINE) == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: interrupted: stopped; go on with --resume x"


class Closed(io.StringIO):
    """A terminal that is closed."""

    def write(self, text):
        raise OSError(5, "Input/output error")

    def flush(self):
        self.write("")

    def isatty(self):
        return self.live


@pytest.mark.parametrize("live", [True, False])
def test_a_closed_terminal_does_not_end_a_run(live):
    stream = Closed()
    stream.live = live
    with progress("baseline", stream=stream) as display:
        display.update(0.5, Status(1, loss=1.0))
        display.message("engine")


def test_a_runs_name_is_no_markup(command, tmp_path, capsys):
    name = "[/x] [bold]b $x_$ \x1b[2J"  # in one run: each alone would do
    options = BASELINE | {"runs_dir": f"runs/{name}"}
    assert command("--name", "x", **options) == 0
    assert (tmp_path / "runs" / name / "x/metrics.json").exists()
    shown = name.replace("\x1b", "\\x1b")
    out = capsys.readouterr().out
    assert f"run      runs/{shown}/x" in out and "\x1b[2J" not in out


def test_a_probe_that_is_not_finite_is_left_out_and_counted():
    points = [ProbePoint("small", "same", float(k), 2.0 * k) for k in range(6)]
    points += [
        ProbePoint("small", "same", math.nan, 1.0),
        ProbePoint("small", "same", 1.0, math.inf),
    ]
    points += [ProbePoint("real", "same", math.nan, math.nan)]
    (found,) = summarise(points)
    assert (found.count, found.left_out, found.predicted) == (6, 2, 2.5)
    assert found.pearson == pytest.approx(1)
    events = [{"kind": "probe", "arm": "a", "step_kind": p.step, "feedback": p.feedback,
               "predicted": str(p.predicted), "realised": str(p.realised)}
              for p in points]  # fmt: skip
    (drawn,) = probe_points(events).values()
    assert drawn == ([0, 1, 2, 3, 4, 5], [0, 2, 4, 6, 8, 10])


def test_what_cannot_be_drawn_does_not_end_a_run(command, monkeypatch, tmp_path, capsys):
    def refused(path):
        raise UserError("not finite")

    monkeypatch.setattr(summary, "_plots", lambda *given: [(given[-1] / "probe.png", refused)])
    assert command("--name", "x", **BASELINE) == 0
    assert "warning: runs/x/plots/probe.png is not drawn: not finite" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/x/metrics.json").read_text())["arms"]


def test_a_page_that_cannot_be_written_does_not_end_a_run(command, monkeypatch, tmp_path, capsys):
    def broken(*given):
        raise RuntimeError("no such thing")

    monkeypatch.setattr("vfunc.report.page.page.page_of", broken)
    assert command("--name", "x", **BASELINE) == 0
    said = capsys.readouterr().out
    assert said.count("warning:") == 1
    assert "warning: runs/x/report.html is not written: RuntimeError: no such thing" in said
    assert json.loads((tmp_path / "runs/x/metrics.json").read_text())["arms"]
    assert not list((tmp_path / "runs/x").glob("*report*"))


def test_a_name_that_is_no_text_is_logged_all_the_same(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write({"kind": "value_map", "name": "bad\udcff.png", "μ": 1})
    assert read_events(tmp_path / "events.jsonl")[0]["name"] == "bad\udcff.png"
