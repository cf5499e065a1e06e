"""What engines cost over a plain step: floors by hand, counts near them, rows that say why not."""

from __future__ import annotations

import pytest

from vfunc import trees
from vfunc.errors import NotConvergedError
from vfunc.evaluation.flops import flops_of
from vfunc.problem import construct_task
from vfunc.pullback import mixed_product
from vfunc.studies import engines_bench
from vfunc.studies.bench import question, warm
from vfunc.studies.engines_bench import Counts, counted, engine_costs, engines_markdown
from vfunc.studies.shapes import SHAPES, shaped_run

TINY = SHAPES["tiny"]


def by_hand(layers, trained_head):
    """(F, B) of the tiny shape above an edge that is `layers` below the head."""
    tokens, width, inner, head = TINY.batch * TINY.length, 16, 32, 8
    linear = 2 * tokens * (width * (width + head + head + width) + 3 * width * inner)
    attention = 2 * (2 * TINY.batch * TINY.heads * TINY.length**2 * head)
    vocabulary = 2 * tokens * width * TINY.vocabulary
    blocks = layers * (linear + attention)
    return blocks + vocabulary, 2 * blocks + (2 if trained_head else 1) * vocabulary


@pytest.fixture(scope="module", params=["last:2", "all"])
def asked(request):
    """The subset, a run at it with its problem and designer, and the counts of its passes."""
    run = warm(shaped_run(TINY, "vpretraining", request.param), 1)
    problem, _ = question(run, 1)
    phi = trees.detach(dict(run.state.designer.named_parameters()))
    return request.param, run, problem, phi, counted(run, problem, phi)


@pytest.fixture(scope="module")
def costs():
    """All rows of the tiny shape."""
    return engine_costs(TINY, "last:2", 0, steps=(1, 3))


def test_the_counted_passes_are_those_of_the_formula(asked):
    align, *_, counts = asked
    layers = 2 if align == "last:2" else 3
    assert (counts.forward, counts.backward) == by_hand(layers, align == "all")
    assert counts.construct > 0 and counts.pull > counts.construct and counts.feedback > 0


def test_a_double_backward_takes_what_the_floor_says(asked):
    _, run, problem, phi, counts = asked
    construction, theta = (
        construct_task(problem, phi, problem.batches[0]),
        run.state.functional.theta,
    )

    def product(hessian):
        ask = lambda: mixed_product(  # noqa: E731
            problem, theta, construction, theta, "reverse", hessian=hessian
        )
        ask()  # the first looks at the functions
        return flops_of(ask)

    assert product(False) == counts.gradient + counts.backward
    assert product(True) == pytest.approx(counts.gradient + counts.double, rel=0.02)


def test_floors_of_lookaheads_add_up():
    counts = Counts(forward=10, backward=20, construct=1, pull=2, feedback=100)
    assert counts.double == 60
    assert counts.unrolled(1) == 1 + 2 + 100 + 30 + 30
    assert counts.unrolled(2) == 3 + 4 + 100 + 2 * 30 + 60 + 30
    assert counts.unrolled(3) == 5 + 6 + 100 + 3 * 30 + 60 + (30 + 60) + 30
    # two of L_down, two gradients, two graphs, three products, two values
    passes = {"forwards": 8, "backwards": 9}
    assert counts.implicit(passes) == 3 + 100 + 2 * 30 + 2 * 10 + 3 * 60 + 2 * 30 + 30


def test_every_engine_is_near_its_floor(costs):
    rows = {row.name: row for row in costs.rows}
    assert not any(row.failed for row in rows.values()) and costs.time is None
    over = {name: row.over_floor for name, row in rows.items()}
    for name in ("linear", "forward", "reverse", "finite_difference"):
        assert over[f"first_order, {name}"] == pytest.approx(1, abs=0.01)
    assert 0.98 < over["g_down"] < 1.05
    assert all(1 <= over[f"unrolled, K = {k}"] < 1.15 for k in (1, 3))
    # every product of a solver makes its graph anew
    assert 1 < over["implicit, 8 steps of CG"] < 1.5


def test_what_holds_no_graph_holds_less(costs):
    rows = {row.name: row for row in costs.rows}
    assert costs.memory < 0.5
    assert rows["first_order, linear"].memory < rows["first_order, reverse"].memory


def test_a_row_that_fails_says_why(monkeypatch):
    def failing(name, options):
        def ask(problem, theta, phi):
            raise NotConvergedError("negative | curvature")

        return ask

    monkeypatch.setattr(engines_bench, "make_estimator", failing)
    costs = engine_costs(TINY, "last:2", 0, steps=(1,))
    assert {row.failed for row in costs.rows} == {"", "negative | curvature"}
    assert "| first_order, linear | negative / curvature |  |  |  |" in engines_markdown(
        "x", [costs]
    )


def test_what_takes_long_is_timed_less_often():
    assert engines_bench._times(2.0, 5) == 5
    assert engines_bench._times(40.0, 5) == 1
    assert engines_bench._times(24.0, 5) == 2
    assert engines_bench._times(40.0, 0) == 0
