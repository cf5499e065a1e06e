"""Products at one point share a gradient with its graph: the same numbers for fewer passes."""

from __future__ import annotations

from dataclasses import replace

import cases
import pytest
import torch

import vfunc
from vfunc.estimators.curvature import curvature_at
from vfunc.estimators.trajectory import Simulation
from vfunc.pullback import GRADIENT, Passes

pytestmark = pytest.mark.usefixtures("float64")


def hessian_of(made, engine):
    problem = made.problem
    construction = vfunc.construct_task(problem, made.phi, problem.batches[0])
    return curvature_at(problem, made.theta, construction, 0.5, "hessian", engine), construction


def along(made, seed):
    return vfunc.trees.normal_like(made.theta, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("engine", ["reverse", "linear", "auto"])
def test_hessian_products_are_those_of_a_fresh_graph_each(engine):
    made = cases.situation("mlp", 0, "adamw")
    matrix, construction = hessian_of(made, engine)
    for seed in range(3):
        x = along(made, seed)
        fresh = vfunc.mixed_product(
            made.problem, made.theta, construction, x, matrix.product.engine, hessian=True
        )
        found = matrix.undamped(x)
        assert all(torch.equal(found[name], h) for name, h in fresh.hessian.items())
    assert matrix.by == "reverse"
    assert matrix.spent == GRADIENT + Passes(backwards=3)
    matrix.forget()
    matrix.undamped(along(made, 0))
    assert matrix.spent == GRADIENT + GRADIENT + Passes(backwards=4)


@pytest.mark.parametrize("engine", ["forward", "finite_difference"])
def test_engines_without_such_a_graph_go_without(engine):
    made = cases.situation("mlp", 0, "adamw")
    matrix, _ = hessian_of(made, engine)
    matrix.undamped(along(made, 0))
    assert matrix.product.joint is None and matrix.by == engine


def test_implicit_lets_go_of_the_graph_before_it_makes_another(monkeypatch):
    import vfunc.estimators.implicit as module

    made = cases.situation("mlp", 0, "adamw")
    seen, held = [], []

    def watched(*given):
        held.append(curvature_at(*given))
        return held[-1]

    def pulled(*given, **options):
        seen.append([matrix.product.joint is None for matrix in held])
        return vfunc.pull_back(*given, **options)

    monkeypatch.setattr(module, "curvature_at", watched)
    monkeypatch.setattr(module, "pull_back", pulled)
    vfunc.Implicit(damping=2.0)(made.problem, made.theta, made.phi)
    assert len(held) > 1 and seen == [[True] * len(held)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_last_step_of_several_keeps_its_graph_though_the_loss_is_linear(steps, monkeypatch):
    made = cases.situation("mlp", 0, "adamw")
    assert made.problem.linear is not None
    opened = []
    plain = Simulation.opened

    def watched(self, k, point, engine, *, hessian):
        found = plain(self, k, point, engine, hessian=hessian)
        opened.append((k, hessian, found is not None))
        return found

    monkeypatch.setattr(Simulation, "opened", watched)
    kept = vfunc.Unrolled(steps)(made.problem, made.theta, made.phi)
    # of one step the linear engine makes the pullback, which takes no graph
    assert opened == [(steps - 1, steps > 1, steps > 1)]
    monkeypatch.setattr(Simulation, "opened", lambda *_, **__: None)
    without = vfunc.Unrolled(steps)(made.problem, made.theta, made.phi)
    for name, g in without.grad.items():
        assert torch.allclose(kept.grad[name], g, rtol=1e-10, atol=1e-14)
    fewer = without.diagnostics["forwards"] - kept.diagnostics["forwards"]
    assert fewer == (1 if steps > 1 else 0)
    assert replace(kept, diagnostics={}).value == without.value
