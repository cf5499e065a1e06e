"""g_down is computed before the learner's own forward where the estimator begins with it."""

from __future__ import annotations

import dataclasses

import measures
import pytest
import torch
from small_run import new_run, parts_of, same, small

import vfunc
from vfunc import trees
from vfunc.estimators import FirstOrder, Implicit, Unrolled, make_estimator
from vfunc.language.workload import LanguageWorkload
from vfunc.problem import evaluation, known_feedback
from vfunc.studies.shapes import SHAPES
from vfunc.studies.training_bench import training_cost
from vfunc.training import certifying, step

pytestmark = pytest.mark.usefixtures("shallow")


def order(monkeypatch, estimator, **options):
    """What one micro-batch does, in order; and the run."""
    run, calls = new_run(**options), []
    forward, gradient = LanguageWorkload.forward, evaluation._feedback_gradient

    def noting(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(LanguageWorkload, "forward", noting("forward", forward))
    monkeypatch.setattr(evaluation, "_feedback_gradient", noting("g_down", gradient))
    step.micro_batch(dataclasses.replace(run, estimator=estimator))
    return calls, run


class Late:
    """An estimator that does not say what it begins with."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, problem, theta, phi):
        return self.inner(problem, theta, phi)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (FirstOrder(), ["g_down", "forward"]),
        (FirstOrder("cosine"), ["g_down", "forward"]),
        (make_estimator("zero", {}), ["g_down", "forward"]),
        (Late(FirstOrder()), ["forward", "g_down"]),
        (Unrolled(1), ["forward", "g_down"]),  # of theta_1 alone
        (Implicit(damping=1e4), ["g_down", "forward", "g_down"]),  # at both ends
    ],
    ids=["dot", "cosine", "zero", "one that says nothing", "unrolled", "implicit"],
)
def test_the_order(monkeypatch, estimator, expected):
    assert order(monkeypatch, estimator)[0] == expected


@pytest.mark.parametrize("value", ["dot", "cosine", "preconditioned"])
def test_no_number_depends_on_it(monkeypatch, value):
    early, late = FirstOrder(value), Late(FirstOrder(value))
    runs = [order(monkeypatch, estimator)[1].state for estimator in (early, late)]
    one, two = (dict(state.designer.named_parameters()) for state in runs)
    assert same(one, two)
    assert same(*(dict(state.learner.named_parameters()) for state in runs))


def test_domains_are_asked_one_by_one(monkeypatch):
    styles = {"feedback_tasks": "styles", "feedback_combine": "matched", "batch_size": 4}
    calls, _ = order(monkeypatch, FirstOrder(), **styles)
    assert calls[0] == "forward" and calls.count("g_down") > 0


def test_what_is_known_serves_its_own_point_alone():
    run = new_run()
    observed = run.workload.look_ahead(run.state.learner, run.workload.batch(0))
    feedback = step.feedback_at(run, 0)
    known = known_feedback(feedback.downstream.loss, feedback.theta)
    problem = step.value_problem(run, (observed,), dataclasses.replace(feedback, known=known))
    assert vfunc.feedback_gradient(problem, feedback.theta)[1] is known.gradient
    elsewhere = trees.scale(feedback.theta, 1.01)
    plain = dataclasses.replace(problem, known=None)
    for theta in (elsewhere, {n: x.clone() for n, x in feedback.theta.items()}):
        found, wanted = (vfunc.feedback_gradient(p, theta)[1] for p in (problem, plain))
        assert measures.apart(found, wanted) == 0
    assert not torch.equal(
        vfunc.feedback_gradient(problem, elsewhere)[0],
        vfunc.feedback_gradient(plain, feedback.theta)[0],
    )


@pytest.mark.parametrize("change", ["a step", "another loss"])
def test_what_is_known_does_not_outlive_its_loss_or_its_point(change):
    run = new_run()
    observed = run.workload.look_ahead(run.state.learner, run.workload.batch(0))
    feedback = step.feedback_at(run, 0)
    known = known_feedback(feedback.downstream.loss, feedback.theta)
    problem = step.value_problem(run, (observed,), dataclasses.replace(feedback, known=known))
    if change == "a step":  # theta shares the live parameters' storage
        with torch.no_grad():
            for p in run.state.learner.parameters():
                p.mul_(1.01)
    else:
        loss = problem.feedback_loss
        problem = dataclasses.replace(problem, feedback_loss=lambda theta: 2 * loss(theta))
    plain = dataclasses.replace(problem, known=None)
    one, two = (vfunc.feedback_gradient(p, feedback.theta) for p in (problem, plain))
    assert float(one[0]) == float(two[0]) != float(known.loss)
    assert measures.apart(one[1], two[1]) == 0 < measures.apart(one[1], known.gradient)


def test_a_wrong_gradient_that_is_known_is_not_certified_away(monkeypatch):
    """The check at a run's start computes g_down itself."""
    parts = parts_of(small(certify=True))

    def known(loss, theta):
        found = known_feedback(loss, theta)
        return dataclasses.replace(found, gradient=trees.scale(found.gradient, 2.0))

    monkeypatch.setattr(step, "known_feedback", known)
    found = certifying.certify_start(certifying.certified_arm(parts), parts)
    assert found.estimators[0].verdict == "exact"


@pytest.mark.parametrize("align", ["last:2", "all"])
def test_two_graphs_are_never_there_together(monkeypatch, align):
    # where the vocabulary's tensors are the largest, as they are in a real learner: chunks are not
    shape = dataclasses.replace(SHAPES["tiny"], vocabulary=4000, length=128, feedback=(128, 120))
    early = training_cost(shape, align, 0).memory
    monkeypatch.setattr(FirstOrder, "takes_g_down", False)
    assert early < 0.8 * training_cost(shape, align, 0).memory
