"""Maps of where the value lies, before an arm trains and after: the same texts, by two values."""

from __future__ import annotations

import pytest
import torch
from small_run import new_run, same, train

from vfunc import trees
from vfunc.problem import feedback_gradient, step_gradient
from vfunc.training.mapping import map_values
from vfunc.training.step import value_problem

pytestmark = pytest.mark.usefixtures("shallow")

MAPPED = {"stream_size": 64, "batch_size": 2, "feedback_batch_size": 8, "probe_batches": 2}


def test_values_add_up_to_the_product_with_g_pre():
    """Of the text as it is: the mean of u over predicted tokens is <w, g_pre>, for both w."""
    run = new_run(**MAPPED, align="last:1", wrong_share=0.0)  # so that all texts are mapped
    before = {n: p.clone() for n, p in run.state.learner.named_parameters()}
    drawn = torch.get_rng_state()
    map_values(run, "start")
    assert same(dict(run.state.learner.named_parameters()), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    (event,) = (e for e in run.log.events if e["kind"] == "value_map")
    theta = run.state.functional.theta
    phi = trees.detach(dict(run.state.designer.named_parameters()))
    g_down, mean, g_pre = 0.0, 0.0, None
    for k in range(2):
        observed = run.workload.look_ahead(run.state.learner, run.workload.batch(k))
        problem = value_problem(run, (observed,), k)
        g_down = g_down + trees.flatten(feedback_gradient(problem, theta)[1]) / 2
        task = trees.detach(problem.construct(phi, problem.batches[0]))
        mean = mean + trees.flatten(step_gradient(problem, theta, task)) / 2
        plain = {**task, "q": torch.zeros_like(task["q"])}
        plain["q"][..., 0] = 1.0
        if k == 0:
            g_pre = trees.flatten(step_gradient(problem, theta, plain))
    deflated = g_down - (g_down @ mean) / (mean @ mean) * mean
    for w, found in ((g_down, event), (deflated, event["others"]["deflated"])):
        of_tokens = [v for text in found["values"] for v in text if v is not None]
        assert sum(of_tokens) / len(of_tokens) == pytest.approx(float(w @ g_pre), rel=1e-4)


def test_the_same_texts_before_and_after():
    trained = train(**MAPPED)
    start, end = (e for e in trained.log.events if e["kind"] == "value_map")
    assert [(e["when"], e["at_step"]) for e in (start, end)] == [("start", 0), ("end", 3)]
    assert start["tokens"] == end["tokens"] and start["wrong"] == end["wrong"]
    assert start["values"] != end["values"]
    assert set(start["others"]) == {"deflated"}


def test_no_map_without_a_probe():
    trained = train(**(MAPPED | {"probe_batches": 0}))
    assert not [e for e in trained.log.events if e["kind"] == "value_map"]
