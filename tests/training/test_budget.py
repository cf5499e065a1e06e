from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfunc.errors import UserError
from vfunc.training.assemble import arm_plan
from vfunc.training.budget import Budget, Schedule, parse_budget, spent_fraction
from vfunc.training.build.configuration import resolve


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("500steps", 500, "steps"),
        ("1 step", 1, "steps"),
        ("2Mtokens", 2_000_000, "tokens"),
        ("2.5e6tokens", 2_500_000, "tokens"),
        ("2.3Mtokens", 2_300_000, "tokens"),
        ("4.35ktokens", 4350, "tokens"),
        ("1Btokens", 10**9, "tokens"),
        ("5ksteps", 5000, "steps"),
        ("5kimages", 5000, "images"),
        ("1 image", 1, "images"),
        ("60s", 60, "seconds"),
        ("1.5s", 1.5, "seconds"),
        ("10min", 600, "seconds"),
        ("10 MIN", 600, "seconds"),
        ("1h", 3600, "seconds"),
        ("0.5h", 1800, "seconds"),
    ],
)
def test_budgets_are_read(text, amount, unit):
    budget = parse_budget(text)
    assert (budget.amount, budget.unit) == (amount, unit)
    assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize(
    "text",
    ["", "500", "steps", "-5steps", "0steps", "0s", "1.5steps", "1.5images", "1e-3tokens", "5M", "5ks", "5kmin",
     "5parsecs", "1e400steps", "nansteps", "5 steps 3"],
)  # fmt: skip
def test_what_is_no_budget_is_refused_by_name(text):
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text)


@given(
    st.one_of(
        st.builds(Budget, st.integers(1, 10**14), st.sampled_from(["steps", "tokens", "images"])),
        st.builds(Budget, st.floats(1e-6, 1e9), st.just("seconds")),
    )
)
def test_a_budget_is_read_back_from_its_text(budget):
    assert parse_budget(str(budget)) == budget


def test_a_budget_made_by_hand_is_checked_too():
    for amount, unit in ((0, "steps"), (1.5, "tokens"), (float("inf"), "seconds")):
        with pytest.raises(UserError):
            Budget(amount, unit)


@given(st.integers(1, 10**6), st.data())
def test_a_step_budget_is_spent_exactly_at_its_last_step(total, data):
    steps = data.draw(st.integers(0, total))
    fraction = spent_fraction(Budget(total, "steps"), steps, units=10**9, seconds=1e9)
    assert fraction == steps / total
    assert (fraction == 1.0) == (steps == total)


def test_each_unit_looks_at_its_own_count():
    counts = {"steps": 1, "units": 20, "seconds": 60.0}
    assert spent_fraction(Budget(10, "steps"), **counts) == 0.1
    assert spent_fraction(Budget(100, "tokens"), **counts) == 0.2
    assert spent_fraction(Budget(100, "images"), **counts) == 0.2
    assert spent_fraction(Budget(100, "seconds"), **counts) == 0.6
    assert spent_fraction(Budget(30, "seconds"), **counts) == 1.0


def test_the_schedule_rises_to_its_peak_and_falls_to_its_end():
    schedule = Schedule(warmup=0.25, final=0.2, start=0.1)
    assert schedule.factor(0.0) == 0.1
    assert schedule.factor(0.125) == pytest.approx(0.55, abs=1e-15)
    assert schedule.factor(0.25) == 1.0
    assert schedule.factor(0.625) == pytest.approx(0.6, abs=1e-15)
    assert schedule.factor(1.0) == 0.2
    assert schedule.factor(1.5) == 0.2
    assert Schedule().factor(0.0) == Schedule().factor(0.7) == 1.0


def test_the_cosine_is_torchs():
    schedule = Schedule(warmup=0.2, final=0.1, shape="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    wanted = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=80, eta_min=0.1)
    for step in range(20, 101):
        assert schedule.factor(step / 100) == pytest.approx(wanted.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        wanted.step()
    assert schedule.factor(0.1) == Schedule(warmup=0.2, final=0.1).factor(0.1)


def test_a_stable_rate_falls_over_the_last_part():
    schedule = Schedule(warmup=0.1, final=0.2, shape="wsd", decay=0.25)
    assert schedule.factor(0.05) == pytest.approx(0.55, abs=1e-15)
    assert schedule.factor(0.1) == schedule.factor(0.5) == schedule.factor(0.75) == 1.0
    assert schedule.factor(0.875) == pytest.approx(0.6, abs=1e-15)
    assert schedule.factor(1.0) == schedule.factor(1.5) == 0.2
    whole = Schedule(warmup=0.1, shape="wsd", decay=0.9, final=0.0)
    assert whole.factor(0.4) == pytest.approx(Schedule(0.1, 0.0).factor(0.4), abs=1e-15)


def test_a_run_s_options_are_its_schedule():
    plan = arm_plan(resolve({"schedule": "wsd", "decay": 0.4, "warmup": 0.1, "final_lr": 0.5}))
    assert plan.schedule == Schedule(0.1, 0.5, shape="wsd", decay=0.4)
    assert arm_plan(resolve({"schedule": "cosine"})).schedule.shape == "cosine"
    with pytest.raises(UserError, match="it is for --schedule wsd"):
        resolve({"schedule": "cosine", "decay": 0.4})
    with pytest.raises(UserError, match=r"--decay 0\.95 must be above 0, and at most 0\.9 with"):
        arm_plan(resolve({"schedule": "wsd", "decay": 0.95, "warmup": 0.1}))


@pytest.mark.parametrize("shape", ["linear", "cosine", "wsd"])
@given(st.floats(0, 0.75), st.floats(0, 1), st.floats(0.001, 1), st.integers(1, 5000))
def test_no_step_of_a_budget_has_size_zero(shape, warmup, final, start, total):
    schedule = Schedule(warmup, final, start, shape)
    factors = [schedule.factor(step / total) for step in {0, total // 2, total - 1}]
    assert all(0 < factor <= 1 + 1e-12 for factor in factors)


@pytest.mark.parametrize(
    ("values", "flag"), [((1.0, 0.1), "--warmup"), ((-0.1, 0.1), "--warmup"), ((0.1, 2.0), "--final-lr"),
                         ((0.1, 0.1, 0.0), "warm-up")]
)  # fmt: skip
def test_schedules_out_of_bounds_are_refused(values, flag):
    with pytest.raises(UserError, match=flag):
        Schedule(*values)
