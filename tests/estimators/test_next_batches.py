"""Deflation by the mean gradient of the next batches at this theta: what it is of, and held."""

from __future__ import annotations

from dataclasses import replace

import cases
import conformance
import measures
import pytest
import torch
from conformance import EXACT

import vfunc
from vfunc.estimators import held_at

BOTH = ("deflated", "deflated_preconditioned")
pytestmark = pytest.mark.usefixtures("float64")


def ask(made, value, **options):
    return vfunc.FirstOrder(value, **options)(made.problem, made.theta, made.phi)


def mean_by_hand(made, count):
    found = []
    for batch in made.problem.batches[:count]:
        task = made.problem.construct(made.phi, batch)
        task = {n: x.detach() for n, x in task.items()}
        found.append(vfunc.pretrain_gradient(made.problem, made.theta, task))
    return {n: sum(g[n] for g in found) / count for n in made.theta}


@pytest.mark.parametrize("value", BOTH)
@pytest.mark.parametrize(("count", "running"), [(1, 0), (3, 0), (4, 2)])
def test_the_mean_of_the_first_batches_is_one_mean_more(value, count, running):
    made = cases.with_means(cases.situation("mlp view", 5, "adamw"), 2)
    mean = mean_by_hand(made, count)
    given = replace(made.problem, means=(*made.problem.means[:running], mean))
    given = replace(given, batches=given.batches[:1])
    found = ask(made, value, means=running, mean_batches=count)
    want = ask(replace(made, problem=given), value, means=running + 1)
    assert measures.apart(found.grad, want.grad) < 1e-9
    assert float(found.value) == pytest.approx(float(want.value), abs=1e-14)
    assert found.scale == want.scale
    told, expected = found.diagnostics, want.diagnostics
    assert told["means_used"] == running + 1
    assert told["in_span"] == pytest.approx(expected["in_span"])
    last = "mean_cosine" if not running else f"mean_cosine_{running + 1}"
    assert told["mean_batches_cosine"] == pytest.approx(expected[last])
    assert "mean_batches_cosine" not in expected


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", ["mlp", "layernorm view"])
def test_the_present_batch_alone_gives_cosine_s_direction(case, seed):
    made = cases.situation(case, seed)
    found, cosine = ask(made, "deflated", means=0, mean_batches=1), ask(made, "cosine")
    size = measures.size(found.grad)
    assert measures.inner(found.grad, cosine.grad) == pytest.approx(
        size * measures.size(cosine.grad), rel=1e-9
    )
    assert size > 0 and abs(float(found.value)) < 1e-15


def test_the_values_of_the_batches_sum_to_zero():
    """At beta = 1 <w, mean> = 0, and a part of it is left at another."""
    made = cases.situation("mlp", 3)
    turns = [made.problem.batches[k:] + made.problem.batches[:k] for k in range(4)]
    for beta in (1.0, 0.25):
        found = [
            float(ask(replace(made, problem=replace(made.problem, batches=one)), "deflated",
                      means=0, mean_batches=4, beta=beta).value)
            for one in turns
        ]  # fmt: skip
        plain = [
            float(ask(replace(made, problem=replace(made.problem, batches=one)), "dot").value)
            for one in turns
        ]
        assert sum(found) == pytest.approx((1 - beta) * sum(plain), abs=1e-14)
        assert max(map(abs, found)) > 1e-4


@pytest.mark.parametrize("value", BOTH)
def test_means_of_narrow_parameters_are_summed_in_single_precision(value):
    seen = []
    real = vfunc.estimators.first_order.deflate

    def noted(g, span, *rest):
        seen.append([{x.dtype for x in v.values()} for v in span])
        return real(g, span, *rest)

    rows = torch.ones(2, dtype=torch.bfloat16)
    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: {"c": phi["c"] * batch},
        pretrain_loss=lambda theta, task: (theta["x"] * task["c"]).sum(),
        feedback_loss=lambda theta: (theta["x"] * rows).sum() + theta["x"][0] ** 2,
        batches=tuple(torch.tensor([1.0, k], dtype=torch.bfloat16) for k in (1.0, 1.0078125)),
        rule=vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    theta, phi = {"x": rows.clone()}, {"c": rows.clone()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vfunc.estimators.first_order, "deflate", noted)
        vfunc.FirstOrder(value, means=0, mean_batches=2, engine="reverse")(problem, theta, phi)
    (dtypes,) = seen[0]
    assert dtypes <= {torch.float32, torch.float64} and dtypes


def test_a_problem_with_fewer_batches_is_refused_in_a_line():
    made = cases.situation("mlp", 3)
    for count in (5, 9):
        with pytest.raises(
            vfunc.UserError, match=rf"^mean_batches {count} needs as many .*; the problem has 4$"
        ):
            ask(made, "deflated", mean_batches=count)


@pytest.mark.parametrize("value", ["dot", "cosine", "preconditioned"])
def test_other_values_refuse_it(value):
    with pytest.raises(vfunc.UserError, match=f"mean_batches does nothing with value {value}"):
        vfunc.FirstOrder(value, mean_batches=1)


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_counts_that_are_none(count):
    with pytest.raises(vfunc.UserError, match="mean_batches"):
        vfunc.FirstOrder("deflated", mean_batches=count)


@pytest.mark.parametrize("value", BOTH)
def test_beta_does_something_where_either_mean_is_taken(value):
    made = cases.situation("mlp", 3)
    half, none, whole = (
        ask(made, value, means=0, mean_batches=2, beta=beta) for beta in (0.5, 0.0, 1.0)
    )
    plain = {"deflated": "dot", "deflated_preconditioned": "preconditioned"}[value]
    assert measures.apart(none.grad, ask(made, plain).grad) == 0
    assert measures.apart(half.grad, whole.grad) > 1e-3
    with pytest.raises(vfunc.UserError, match="beta does nothing with means 0"):
        vfunc.FirstOrder(value, means=0, beta=0.5)


def test_held_at_one_phi_the_objective_s_slope_is_the_gradient_and_else_it_is_not():
    """With the batch's own mean the objective is zero wherever it is asked."""
    made = cases.situation("mlp view", 4)
    estimator = vfunc.FirstOrder("deflated", means=0, mean_batches=1)
    held = held_at(estimator, made.problem, made.theta, made.phi)
    along = measures.direction(made.phi, 1)

    def slope(asked):
        return measures.slope(
            lambda h: float(
                asked(made.problem, made.theta, measures.moved(made.phi, h, along)).objective
            )
        )

    grad = estimator(made.problem, made.theta, made.phi).grad
    want = measures.inner(grad, along)
    assert abs(slope(held) - want) <= EXACT * measures.size(grad) < abs(slope(estimator) - want)
    assert held_at(vfunc.FirstOrder("deflated"), made.problem, made.theta, made.phi) == (
        vfunc.FirstOrder("deflated")
    )


def test_it_is_certified():
    made = cases.situation("mlp view", 4)
    estimator = vfunc.FirstOrder("deflated", means=0, mean_batches=1)
    found = vfunc.certify(made.problem, made.theta, made.phi, estimator, directions=1, quiet=True)
    (row,) = found.estimators
    assert row.verdict == "exact"


def test_it_is_among_what_is_certified_by_every_engine():
    """In `conformance.VARIANTS` too, whose objectives are held likewise."""
    assert any(options.get("mean_batches") for options in conformance.VARIANTS["first_order"])
    assert any(options.get("mean_batches")
               for options in vfunc.certification.subjects.VARIANTS["first_order"])  # fmt: skip
