"""What the probe of saved runs prints, writes and draws, of made-up decreases."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from shown import cells

from vfunc.errors import UserError
from vfunc.evaluation.probe import ProbePoint
from vfunc.studies.curves import probe_curve
from vfunc.studies.curves.correlation import correlated
from vfunc.studies.curves.curve_files import as_csv, folder_of, require_writable
from vfunc.studies.curves.curve_options import ProbeOptions
from vfunc.studies.curves.probe_curve import Decrease, Probed, curve_of
from vfunc.studies.curves.saved_probe import decreases_of
from vfunc.studies.finished_runs import run_places

SMALL = "small, held-out"
OPTIONS = ProbeOptions(from_=("x",), batches=8, resamples=150)


def probed(seed, *, step=2, whole=True, left_out=0):
    draw = np.random.default_rng(seed)
    x = draw.standard_normal(8) / 100
    y = x + draw.standard_normal(8) / 200
    of = tuple(Decrease(k, float(a), float(b)) for k, (a, b) in enumerate(zip(x, y, strict=True)))
    return Probed(Path(f"r/s{seed}"), step, whole, "nat", {SMALL: of}, left_out)


def r_of(one):
    return stats.pearsonr(*zip(*[d[1:] for d in one.points[SMALL]], strict=True)).statistic


def test_the_table_of_one_run():
    one = probed(0)
    curve = curve_of([one], OPTIONS)
    x, y = zip(*[d[1:] for d in one.points[SMALL]], strict=True)
    low, high = correlated(x, y, 150).interval
    assert cells(curve.tables[0]) == [
        ["step", "tasks", "predicted 10⁻³ nat", "realised 10⁻³ nat", "Pearson r", "95 %", "Spearman"],
        [SMALL, "8", f"{1e3 * np.mean(x):+.3g}", f"{1e3 * np.mean(y):+.3g}", f"{r_of(one):.3f}",
         f"{low:.3f} to {high:.3f}", f"{stats.spearmanr(x, y).statistic:.3f}"],
    ]  # fmt: skip
    assert (low, high) != pytest.approx(correlated(x, y, 2000).interval)  # --resamples
    assert curve.notes == [] and curve.content["interval_over"] == "tasks"
    assert curve.content["points"][0]["decreases"][SMALL][3] == {"task": 3, "predicted": x[3], "realised": y[3]}  # fmt: skip


def test_of_several_runs_r_is_by_fisher_s_z_and_steps_that_differ_are_told(monkeypatch):
    runs = [probed(0), probed(1, step=4, whole=False, left_out=2), probed(2, left_out=1)]
    curve = curve_of(runs, OPTIONS)
    z = np.arctanh([r_of(one) for one in runs])
    reach = stats.t.ppf(0.975, 2) * stats.sem(z)
    mean, low, high = np.tanh([z.mean(), z.mean() - reach, z.mean() + reach])
    (row,) = cells(curve.tables[0])[1:]
    assert row[1] == "24" and row[4:6] == [f"{mean:.3f}", f"{low:.3f} to {high:.3f}"]
    assert [note.split(".")[0] for note in curve.notes] == [
        "The runs are not equally far: r/s0 at 2, r/s1 at 4, r/s2 at 2",
        "The optimizer's moments are gone of: r/s1",
        "3 decreases are not finite, and left out",
    ]
    said = {}
    monkeypatch.setattr(probe_curve, "probe_scatter", lambda *a, **k: said.update(k, pooled=a[0]))
    curve.draw(Path("x.png"))
    ends = f"[{low:.2f}, {high:.2f}]"
    assert said["told"][SMALL] == f"Pearson r = {mean:.3f} {ends}\nn = 24, r by Fisher's z of 3 runs"  # fmt: skip
    assert said["pooled"][SMALL][0][8:16] == [d.predicted for d in runs[1].points[SMALL]]
    assert said["pooled"][SMALL][1][8:16] == [d.realised for d in runs[1].points[SMALL]]


def test_a_decrease_that_is_not_finite_leaves_the_other_tasks_their_numbers():
    tasks = [
        [ProbePoint("small", "same", float(k), math.nan if k == 1 else float(k)),
         ProbePoint("real", "same", math.inf, 0.5)]
        for k in range(6)
    ]  # fmt: skip
    points, left_out = decreases_of(tasks, whole=False)
    assert left_out == 1 and list(points) == ["small, same feedback"]
    curve = curve_of([Probed(Path("r"), 7, False, "nat", points, left_out)], OPTIONS)
    rows = list(csv.DictReader(as_csv(curve.rows).splitlines()))
    assert [(row["task"], row["predicted"]) for row in rows] == [
        (str(k), str(float(k))) for k in (0, 2, 3, 4, 5)
    ]
    assert decreases_of(tasks, whole=True)[1] == 7


# --- where curves are written


def test_a_folder_that_cannot_be_made_is_refused_at_the_start(tmp_path, monkeypatch):
    (tmp_path / "f").write_text("")
    require_writable(None)
    require_writable(str(tmp_path / "new" / "deep"))
    with pytest.raises(UserError, match="f is a file; give a folder"):
        require_writable(str(tmp_path / "f"))
    with pytest.raises(UserError, match=r"cannot be made: .*/f is a file"):
        require_writable(str(tmp_path / "f" / "deep" / "er"))
    monkeypatch.setattr("os.access", lambda place, _: place != tmp_path)
    with pytest.raises(UserError, match="may not be written to"):
        require_writable(str(tmp_path / "new"))


def test_a_curve_is_beside_one_run_and_in_the_folder_of_several(tmp_path, monkeypatch):
    for name in ("c/s0", "c/s1", "d/s0"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    runs = Path("runs")
    assert folder_of([runs / "c/s0"], None) == runs / "c/s0-curves"
    assert folder_of([runs / "c/s0", runs / "c/s1"], None) == runs / "c"
    assert folder_of([runs / "c/s0", runs / "d/s0"], None) == runs
    assert folder_of([runs / "c/s0"], "o") == Path("o")
    monkeypatch.chdir(tmp_path / "runs/c/s0")
    assert folder_of([Path()], None) == tmp_path / "runs/c/s0-curves"
    assert run_places([Path("."), Path("../s0"), Path("..")]) == [Path("."), Path("../s1")]
