"""What V-pretraining costs the loop: counts that do not drift, and the command's table."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest

from vfunc.studies import bench_command, shaped_parts
from vfunc.studies.engines_bench import EngineCost, EngineCosts
from vfunc.studies.peers.mlp_problem import SIZES
from vfunc.studies.peers_bench import peer_costs
from vfunc.studies.shapes import SHAPES
from vfunc.studies.training_bench import Spread, training_cost


@pytest.mark.parametrize("align", ["last:2", "all"])
def test_the_flops_of_a_designers_update_are_near_their_floor(align):
    cost = training_cost(SHAPES["tiny"], align, 0)
    assert cost.speed is None and not cost.pieces
    assert cost.floor > 1 and cost.memory > 1
    # what is spent over the baseline, over what the arithmetic takes
    spent = (cost.flops - 1) / (cost.floor - 1)
    assert 0.9 < spent < 1.35


def test_the_median_and_the_extremes():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert str(Spread(0.5, 0.25, 1.0)) == "0.50 (0.25-1.00)"


def test_the_command_writes_its_table(tmp_path, capsys):
    line = ["--part", "training", "--shape", "tiny", "--repeats", "1", "--output", str(tmp_path)]
    assert bench_command.main(line) == 0
    table = (tmp_path / "bench.md").read_text()
    assert table.strip() in capsys.readouterr().out
    for piece in ("tokens a second", "g_down", "pullback", "candidates", "peak memory"):
        assert f"| {piece} | " in table
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["shape"] == "tiny" and [c["align"] for c in found["costs"]] == ["last:2", "all"]
    assert found["costs"][0]["speed"]["least"] > 0


@pytest.mark.parametrize("part", ["engines", "peers"])
def test_a_part_writes_its_counts(monkeypatch, tmp_path, capsys, part):
    small = {
        "engines": lambda shape, repeats: [EngineCosts("all", [EngineCost("x")], None, 0.0)],
        "peers": lambda shape, repeats: peer_costs(SIZES[shape], "sgd", "designer", 1, repeats),
    }
    known = shaped_parts.PARTS[part]
    monkeypatch.setitem(shaped_parts.PARTS, part, replace(known, measure=small[part]))
    assert bench_command.main(["--part", part, "--quick", "--output", str(tmp_path)]) == 0
    table = (tmp_path / "bench.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert "| FLOPs" in table.replace("FLOPs,", "| FLOPs")
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["shape"] == "tiny" and found["costs"]


def test_the_shapes_of_the_command_are_those_there_are():
    hints = get_type_hints(bench_command.BenchOptions)
    assert get_args(hints["shape"]) == tuple(SHAPES)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--quick", "--quick does nothing here: it is for --part engines, training and peers"),
        (
            "--output x",
            "--output does nothing here: it is for --part engines, training, peers and scaling",
        ),
        ("--part training --lr 1", "--part training has a shape of its own, and no --lr"),
        ("--part training --only x", "--only does nothing here: it is for --part estimators"),
        (
            "--part training --steps 3",
            "--steps does nothing here: it is for --part estimators and fidelity",
        ),
        (
            "--part fidelity --quick",
            "--quick does nothing here: it is for --part engines, training and peers",
        ),
        ("--part engines --lr 1", "--part engines has a shape of its own, and no --lr"),
        (
            "--part peers --steps 3",
            "--steps does nothing here: it is for --part estimators and fidelity",
        ),
        (
            "--part peers --quick --repeats 2",
            "--repeats does nothing here: --quick takes no times, of the tiny shape",
        ),
        (
            "--part peers --shape qwen2.5-0.5b",
            "--part peers has no --shape qwen2.5-0.5b: tiny, scaled",
        ),
        ("--part fidelity --only x", "--only does nothing here: it is for --part estimators"),
        (
            "--part training --quick --shape tiny",
            "--shape does nothing here: --quick takes no times, of the tiny shape",
        ),
        (
            "--part training --quick --repeats 2",
            "--repeats does nothing here: --quick takes no times, of the tiny shape",
        ),
    ],
)
def test_what_does_nothing_is_refused(capsys, line, said):
    assert bench_command.main(line.split()) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
