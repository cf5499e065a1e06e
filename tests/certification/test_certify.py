"""What is right is certified: every estimator, every engine, also for a float32 learner."""

from __future__ import annotations

import random
from dataclasses import replace

import cases
import measures
import numpy as np
import optimizers
import pytest
import torch
import torch.nn.functional as F

import vfunc
from vfunc.certification import certify

APPROXIMATE = ("unrolled 3 1", "implicit gauss_newton", "implicit nystrom")


def ask(made, estimator=None, **more):
    options = {"quiet": True, "directions": 1} | more
    return certify(made.problem, made.theta, made.phi, estimator, **options)


def verdicts(certification):
    return {(row.subject, row.engine): row.verdict for row in certification.estimators}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["mlp", "mlp view"])
def test_every_estimator_by_every_engine(case):
    made = cases.with_means(cases.situation(case, 4, "adamw"))
    found = ask(made)
    assert not found.failed
    by = verdicts(found)
    values = ("dot", "cosine", "preconditioned", "deflated", "deflated_preconditioned")
    assert {f"first_order {value}" for value in values} <= {name for name, _ in by}
    for (name, engine), verdict in by.items():
        if engine == "linear" and (case == "mlp view" or name == "unrolled 3"):
            expected = {"skipped"}
        elif engine == "finite_difference" or name in APPROXIMATE:
            expected = {"approximate"}
        else:
            expected = {"exact"}
        if name.split()[0] in ("first_order", "unrolled", "random", "zero", "implicit"):
            assert verdict in expected, (name, engine)


@pytest.mark.parametrize("value", ["deflated", "deflated_preconditioned"])
def test_means_are_brought_to_float64_with_the_problem(value):
    made = cases.with_means(cases.situation("mlp view", 5, "adamw"), 2)
    narrow = tuple({n: x.float() for n, x in mean.items()} for mean in made.problem.means)
    made = replace(made, problem=replace(made.problem, means=narrow))
    (row,) = ask(made, vfunc.FirstOrder(value, means=2)).estimators
    assert (row.verdict, row.subject) == ("exact", f"first_order {value} 2")


def test_deflation_is_not_certified_where_there_is_nothing_to_take_out(monkeypatch):
    only = {"first_order": vfunc.FirstOrder}
    monkeypatch.setattr("vfunc.certification.subjects.ESTIMATORS", only)
    found = ask(cases.situation("mlp", 4))
    (row,) = (row for row in found.estimators if row.subject == "first_order deflated")
    assert row.verdict == "skipped" and "no means" in row.note


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "estimator",
    [vfunc.FirstOrder(), vfunc.FirstOrder("cosine"), vfunc.Unrolled(2), vfunc.RandomDirection()],
    ids=["dot", "cosine", "unrolled", "random"],
)
def test_a_transformer(estimator):
    found = ask(cases.situation("qwen2", 3, "momentum"), estimator)
    (row,) = found.estimators
    assert row.verdict == "exact" and row.gap < 1e-8 and row.resolution < 1e-6


def single(seed, *, view=False):
    """A float32 learner, data, designer and optimizer state: nothing in it knows of float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = cases.NormedNetwork()
        designer = torch.nn.Linear(cases.FEATURES, cases.CLASSES)
        x, fx = torch.randn(5, cases.FEATURES), torch.randn(6, cases.FEATURES)
        fy = torch.randint(0, cases.CLASSES, (6,))
    learner = vfunc.functional(module, "last:1")
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)

    def construct(phi, x):
        q = F.softmax(torch.func.functional_call(designer, phi, (x,)).float(), -1)
        return {"x": x, "q": q.to(torch.float32)}

    def pretrain_loss(theta, task):
        return -(task["q"] * F.log_softmax(learner(theta, task["x"]), -1)).mean()

    def feedback_loss(theta):
        return F.cross_entropy(learner(theta, fx), fy)

    for _ in range(2):
        optimizer.zero_grad()
        feedback_loss(learner.live).backward()
        optimizer.step()
    rule, state = vfunc.from_optimizer(optimizer, learner.live)
    problem = vfunc.ValueProblem(construct, pretrain_loss, feedback_loss, (x, x), rule, state)
    phi = {n: p.detach() for n, p in designer.named_parameters()}
    return cases.Situation(problem, learner.theta, phi, optimizers.PLAIN), module, optimizer


@pytest.mark.parametrize(
    "estimator", [vfunc.FirstOrder("preconditioned"), vfunc.Unrolled(2), vfunc.Implicit()]
)
def test_a_float32_learner_is_certified_in_float64(estimator):
    made, _, _ = single(2)
    found = ask(made, estimator)
    assert found.precision == "float64"
    assert found.estimators[0].verdict == "exact" and found.estimators[0].gap < 1e-6


def test_a_learner_that_refuses_float64_is_certified_in_its_own_precision():
    made, _, _ = single(2)

    def stubborn(theta, task):
        if any(x.dtype != torch.float32 for x in theta.values()):
            raise TypeError("this kernel takes float32 alone")
        return made.problem.pretrain_loss(theta, task)

    refusing = replace(made, problem=replace(made.problem, pretrain_loss=stubborn))
    found = ask(refusing, vfunc.FirstOrder())
    assert "this kernel takes float32 alone" in found.precision
    (row,) = found.estimators
    assert row.verdict in ("exact", "inconclusive") and row.resolution > 1e-7
    wrong = scaled(vfunc.FirstOrder(), -1.0)
    with pytest.raises(vfunc.CertificationError, match="-1 times"):
        ask(refusing, wrong, directions=2)


def scaled(estimator, factor):
    def estimate(problem, theta, phi):
        answer = estimator(problem, theta, phi)
        return replace(answer, grad={n: factor * g for n, g in answer.grad.items()})

    return estimate


@pytest.mark.parametrize(
    "estimator", [vfunc.Unrolled(1), vfunc.FirstOrder("preconditioned")], ids=["unrolled", "step"]
)
def test_adam_in_a_fresh_state_is_certified_where_its_step_is_smooth(estimator):
    made, _, _ = single(2)
    rule = vfunc.UpdateRule(vfunc.AdamW(lr=1e-3, eps=1e-8))
    fresh = replace(made, problem=replace(made.problem, rule=rule, state={}))
    found = ask(fresh, estimator)
    assert found.estimators[0].verdict == "exact"
    assert any("second moments were raised" in note for note in found.notes)
    with pytest.raises(vfunc.CertificationError, match=r"2 times the objective's slope"):
        ask(fresh, scaled(estimator, 2.0), directions=2)


@pytest.mark.usefixtures("float64")
def test_a_warm_adam_keeps_its_state():
    assert not ask(cases.situation("mlp", 4, "adamw"), vfunc.Unrolled(1)).notes


@pytest.mark.usefixtures("float64")
def test_finite_differences_that_are_wrong_fail_though_they_say_that_they_approximate():
    made = cases.situation("mlp view", 4)
    by_differences = vfunc.FirstOrder(engine="finite_difference")
    (row,) = ask(made, by_differences).estimators
    assert row.verdict == "approximate" and "two step sizes disagree by" in row.note
    with pytest.raises(vfunc.CertificationError, match=r"0\.9 times the objective's slope"):
        certify(made.problem, made.theta, made.phi, scaled(by_differences, 0.9), quiet=True)


@pytest.mark.usefixtures("float64")
def test_declared_approximations_and_loose_solvers_do_not_fail():
    made = cases.situation("mlp", 4)

    def declared(problem, theta, phi):
        answer = scaled(vfunc.FirstOrder(), 0.9)(problem, theta, phi)
        return replace(answer, approximations=("nine tenths of it",))

    (row,) = ask(made, declared).estimators
    assert row.verdict == "approximate" and row.note == "nine tenths of it"
    assert row.gap == pytest.approx(0.1, rel=0.5)
    loose = vfunc.Implicit(damping=10.0, solver_tolerance=1e-2)
    (row,) = ask(made, loose).estimators
    assert row.verdict == "approximate" and row.gap > 1e-6
    assert "solved loosely" in row.note and "exact at" in row.note


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("most", [1, 1000])
def test_what_does_not_converge_is_marked_so(most):
    """In the table beside the rest, with what was not solved; without a failure, or a passing."""
    found = ask(cases.situation("mlp", 4), vfunc.Implicit(damping=10.0, max_iterations=most))
    (row,) = found.estimators
    assert (row.verdict == "not converged") == (most == 1)
    assert bool(found.certified) == (most > 1)
    if most == 1:
        assert "not converged (1)" in str(found) and "not converged (" in found.line()
        assert f"(1) {row.note}" in str(found) and "implicit" in row.note


@pytest.mark.usefixtures("float64")
def test_what_an_estimator_needs_and_the_problem_lacks():
    made = cases.situation("mlp", 4)
    short = replace(made, problem=replace(made.problem, batches=made.problem.batches[:1]))
    found = ask(short)
    skipped = [row for row in found.rows if row.verdict == "skipped"]
    assert any(row.subject == "unrolled 3" and "batches" in row.note for row in skipped)
    with pytest.raises(vfunc.UserError, match="batches"):
        ask(short, vfunc.Unrolled(3))


def test_nothing_changes():
    made, module, optimizer = single(1)
    tensors = lambda: [  # noqa: E731
        *module.parameters(),
        *module.buffers(),
        *made.phi.values(),
        *(x for s in optimizer.state.values() for x in s.values()),
        torch.get_rng_state(),
    ]
    before = [x.detach().clone() for x in tensors()]
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    modes = [m.training for m in module.modules()]
    drawing = replace(
        made.problem,
        construct=lambda phi, x: (
            torch.rand(1),
            random.random(),
            np.random.rand(),  # noqa: NPY002
            made.problem.construct(phi, x),
        )[-1],
    )
    certify(drawing, made.theta, made.phi, vfunc.Unrolled(2), directions=1, quiet=True)
    assert all(torch.equal(x, y) for x, y in zip(before, tensors(), strict=True))
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert modes == [m.training for m in module.modules()]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.usefixtures("float64")
def test_the_table_and_the_line(capsys):
    made = cases.situation("mlp", 4)
    found = ask(made, "first_order", quiet=False)
    printed = capsys.readouterr().out
    assert printed.strip() == str(found).strip()
    assert "first_order" in printed and "linear" in printed and "exact" in printed
    assert found.line().startswith("first_order by linear, gap ")
    assert found.line().endswith(", float64")
    with pytest.raises(vfunc.UserError, match="directions"):
        ask(made, vfunc.FirstOrder(), directions=0)


@pytest.mark.usefixtures("float64")
def test_the_same_seed_the_same_figures():
    made = cases.situation("mlp", 4)
    assert ask(made, vfunc.FirstOrder()) == ask(made, vfunc.FirstOrder())
    assert measures.size(made.theta) > 0
