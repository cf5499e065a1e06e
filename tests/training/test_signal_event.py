"""The event that tells what g_down sees, of real arms."""

from __future__ import annotations

import dataclasses
import types

import pytest
import torch
from small_run import new_run, same, train

from vfunc import trees
from vfunc.problem import feedback_gradient, step_gradient
from vfunc.training import mapping, probing
from vfunc.training.probing import probe
from vfunc.training.step import value_problem
from vfunc.training.summary import signals_of

pytestmark = pytest.mark.usefixtures("shallow")

WRONG = {"stream_size": 64, "batch_size": 2, "feedback_batch_size": 4, "probe_batches": 4}
ONE = {"probe_batches": 1}


def signal(**options):
    run = new_run(**(WRONG | options))
    before = {n: p.clone() for n, p in run.state.learner.named_parameters()}
    drawn = torch.get_rng_state()
    probe(run)
    assert same(dict(run.state.learner.named_parameters()), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    (event,) = (e for e in run.log.events if e["kind"] == "signal")
    return run, event


def test_halves_of_the_feedback_and_the_stream_s_mean_by_hand():
    run, event = signal(align="last:1")
    theta = run.state.functional.theta
    phi = trees.detach(dict(run.state.designer.named_parameters()))
    g_downs, g_pres = [], []
    for k in range(4):
        observed = run.workload.look_ahead(run.state.learner, run.workload.batch(1 + k))
        problem = value_problem(run, (observed,), k)
        g_downs.append(trees.flatten(feedback_gradient(problem, theta)[1]))
        task = problem.construct(phi, problem.batches[0])
        g_pres.append(trees.flatten(step_gradient(problem, theta, trees.detach(task))))

    def cosine(a, b):
        return float(torch.cosine_similarity(a, b, dim=0))

    assert event["feedback_batches"] == 4
    halves = g_downs[0] + g_downs[1], g_downs[2] + g_downs[3]
    assert event["feedback_agreement"] == pytest.approx(cosine(*halves), abs=1e-5)
    assert event["mean_cosine"] == pytest.approx(cosine(sum(g_downs), sum(g_pres)), abs=1e-5)
    assert 0 <= event["auc_dot"] <= 1 and 0 <= event["auc_deflated"] <= 1
    assert event["wrong_tokens"] > 0


@pytest.mark.parametrize(("batch", "count"), [(32, 1), (16, 2), (12, 2), (11, 2), (10, 2)])
def test_halves_share_no_example(batch, count, monkeypatch):
    """Of 32 examples: what does not make whole batches is left out."""
    run = new_run(**(WRONG | {"feedback_batch_size": batch, "align": "last:1"}))
    held = run.workload.data.feedback
    first = [held.batch(k * batch, batch).tokens for k in range(max(1, 32 // batch))]
    rows = [tuple(row.tolist()) for tokens in first for row in tokens]
    assert len({row[:20] for row in rows}) >= len(rows) - 2  # problems may be alike
    theta, taken = run.state.functional.theta, []

    def feedback_at(run, index):
        taken.append(index)
        # gradients are another test's: here each is a direction of its own
        direction = trees.scale(theta, float(index + 1))

        def loss(point):
            return trees.dot(point, direction)

        return types.SimpleNamespace(downstream=types.SimpleNamespace(loss=loss, constant=False))

    monkeypatch.setattr(mapping, "feedback_at", feedback_at)
    event = probing._signal(run, theta, theta, [], [])
    assert taken == list(range(count))
    assert event["feedback_batches"] == count
    assert ("feedback_agreement" in event) == (count > 1)


def test_a_stream_without_known_mistakes_has_no_area():
    _, event = signal(problem="style_shift", align="last:1", **ONE)
    assert "auc_dot" not in event and "wrong_tokens" not in event and "mean_cosine" in event


def test_a_learner_without_a_forward_mode_says_why():
    run = new_run(**(WRONG | ONE), align="last:1")
    problem_of = run.workload.problem

    class Without(type(run.workload)):
        def problem(self, *args, **kwargs):
            found = problem_of(*args, **kwargs)
            return dataclasses.replace(found, no_second_order="flash attention")

    fields = {f.name: getattr(run.workload, f.name) for f in dataclasses.fields(run.workload)}
    run = dataclasses.replace(
        run,
        workload=Without(**fields),
        estimator=dataclasses.replace(run.estimator, engine="finite_difference"),
    )
    probe(run)
    (event,) = (e for e in run.log.events if e["kind"] == "signal")
    assert "flash attention" in event["auc_why"] and "auc_dot" not in event


def test_every_probed_arm_has_its_signal_in_the_summary():
    trained = train(budget="1steps", **(WRONG | ONE), align="last:1")
    found = signals_of(trained.log.events)
    assert found.keys() == {"vpretraining"} and "arm" not in found["vpretraining"]
    assert found["vpretraining"]["mean_cosine"] == trained.of("mean_cosine", kind="signal")[0]
