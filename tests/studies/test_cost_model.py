"""The formulas of cost against FLOPs counted by operation, and parameters of real modules."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from vfunc.studies import bench_command, cost_model
from vfunc.studies.cost_model import Machine, cost, forward, head
from vfunc.studies.shapes import SHAPES, learner_of, shaped_run
from vfunc.studies.training_bench import TrainingCost, training_cost

SCALED = SHAPES["scaled"]
# its proportions, in a short look
SMALL = dataclasses.replace(
    SHAPES["scaled"],
    width=64,
    layers=6,
    inner=320,
    vocabulary=4000,
    batch=2,
    length=32,
    feedback=(24, 16),
    designer_width=32,
    designer_layers=2,
    top_k=16,
    period=2,
)


@pytest.mark.parametrize("shape", [SMALL, SHAPES["tiny"]], ids=["small", "tiny"])
def test_the_learners_steps_are_what_is_counted(shape):
    assert cost(shape, 2).baseline == training_cost_of(shape, "last:2").baseline_flops


@pytest.mark.parametrize(("align", "last"), [("last:2", 2), ("all", None)])
def test_designing_is_the_floor_and_nearly_what_is_counted(align, last):
    found = training_cost_of(SMALL, align)
    predicted = cost(SMALL, last)
    added = predicted.designing + predicted.estimate
    assert added == pytest.approx((found.floor - 1) * found.baseline_flops, rel=1e-9)
    assert added == pytest.approx((found.flops - 1) * found.baseline_flops, rel=0.03)


@functools.cache
def training_cost_of(shape, align) -> TrainingCost:
    return training_cost(shape, align, repeats=0)


def test_numbers_are_those_of_the_modules():
    learner = learner_of(SMALL)
    counted = sum(p.numel() for p in learner.parameters() if p.dim() > 1)
    assert cost_model.learner_numbers(SMALL) == counted
    designer = shaped_run(SMALL, "vpretraining", "all").state.designer
    counted = sum(p.numel() for p in designer.parameters())
    assert cost_model.designer_numbers(SMALL) == pytest.approx(counted, rel=0.05)


def test_a_forward_is_linear_in_blocks_and_texts():
    assert forward(SCALED, 4, (10, 10)) == 2 * forward(SCALED, 2, (10, 10))
    assert forward(SCALED, 2, (10, 10)) == 2 * forward(SCALED, 2, (10,))
    assert head(SCALED, (7, 3)) == 2 * 14 * SCALED.vocabulary * SCALED.width


def test_predictions_say_what_does_not_fit_and_what_sums_cost():
    rows = {(r.size, r.align, r.gpus): r for r in cost_model.predictions()}
    assert rows["0.5B", "all", 1].fits and not rows["70B", "last:2", 256].fits
    for size in cost_model.SIZES:
        one, several = rows[size, "last:2", 1], rows[size, "last:2", 8]
        assert one.steps == 0 and one.lost == pytest.approx(one.flops_lost)
        assert several.steps > 0 and several.flops_lost == one.flops_lost
        assert rows[size, "all", 1].lost > one.lost
    slow = cost_model.predictions(Machine(near=4e10))
    assert slow[1].steps > rows["0.5B", "last:2", 8].steps
    said = cost_model.scaling_markdown(cost_model.predictions())
    assert said.count("\n| ") == 18 + 1 and "not measured" in said


def test_a_sum_sends_each_number_nearly_twice():
    machine = Machine(near=10.0, far=1.0, together=4)
    assert cost_model.sum_seconds(80.0, 1, machine) == 0
    assert cost_model.sum_seconds(80.0, 4, machine) == pytest.approx(2 * 3 / 4 * 8)
    assert cost_model.sum_seconds(80.0, 5, machine) == pytest.approx(2 * 4 / 5 * 80)


def test_the_command_prints_and_writes_the_predictions(tmp_path, capsys):
    assert bench_command.main(["--part", "scaling", "--output", str(tmp_path)]) == 0
    assert "| 70B | all | 256 |" in capsys.readouterr().out
    assert "| 0.5B | last:2 | 1 |" in (tmp_path / "bench.md").read_text()
    for idle in ("--repeats=3", "--shape=tiny", "--quick"):
        assert bench_command.main(["--part", "scaling", idle]) == 2
        assert "does nothing here" in capsys.readouterr().err
