"""What a double backward needs, what the device has, and what auto makes of it."""

from __future__ import annotations

import re
from dataclasses import replace

import cases
import measures
import pytest
import torch
from torch import nn

import vfunc
from vfunc.evaluation.peak_bytes import PeakBytes
from vfunc.pullback import choice, memory, mixed_product

pytestmark = pytest.mark.usefixtures("float64")


def asked(made, *, hessian=False, problem=None):
    """The mixed product by auto."""
    problem = problem or made.problem
    construction = vfunc.construct_task(problem, made.phi, problem.batches[0])
    _, w = vfunc.feedback_gradient(problem, made.theta)
    return mixed_product(problem, made.theta, construction, w, "auto", hessian=hessian)


def test_saved_bytes_are_those_of_the_graph():
    x = torch.randn(100, 10)
    w = torch.randn(10, 10, requires_grad=True)
    assert memory.saved_bytes(x.sum()) == 0
    h = torch.tanh(x @ w)  # tanh saves its output; x is an input
    assert memory.saved_bytes(h.sum()) == h.nbytes
    assert memory.saved_bytes((h * torch.tanh(h)).sum()) == 2 * h.nbytes  # h once
    assert memory.saved_bytes((x @ w.detach()).sum() + w.sum()) == 0


@pytest.mark.parametrize("hessian", [False, True])
def test_what_a_double_backward_needs_is_not_underestimated(hessian):
    """Its growth beyond the forward, counted, against the estimate: below, and not by far."""
    net = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(16, 16), nn.Tanh())])
    learner = vfunc.functional(net)
    theta = vfunc.trees.leaves(learner.theta)
    x, c = torch.randn(400, 16), torch.ones((), requires_grad=True)
    with PeakBytes() as counter:
        loss = (learner(theta, x * c) ** 2).mean()
        estimate, before = memory.JOINT_GROWTH * memory.saved_bytes(loss), counter.live
        counter.peak = before
        g = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        wanted = [c, *theta.values()] if hessian else [c]
        torch.autograd.grad(sum((x * x).sum() for x in g), wanted)
        grown = counter.peak - before
    assert 0.4 * estimate <= grown <= estimate


@pytest.mark.parametrize("hessian", [False, True])
def test_auto_takes_finite_differences_where_memory_is_short(monkeypatch, hessian):
    made = cases.situation("mlp view", 0)
    exact = asked(made, hessian=hessian)
    assert exact.engine == "reverse"
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    got = asked(made, hessian=hessian)
    assert got.engine == "finite_difference"
    assert re.search(r"needs about \S+ GiB more and 0 GiB are free", got.why)
    assert got.passes == vfunc.pullback.Passes(forwards=5, backwards=4)  # one forward to find out
    assert measures.apart(dict(got.task), dict(exact.task)) <= 1e-6
    assert not hessian or measures.apart(got.hessian, exact.hessian) <= 1e-6


def test_auto_stays_exact_in_coarse_precision_and_says_so(monkeypatch):
    made = cases.situation("mlp view", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    problem = replace(made.problem, compute_dtype=torch.bfloat16)
    got = asked(made, problem=problem)
    assert got.engine == "reverse"
    assert "GiB are free, but finite differences need a round-off near 1e-07" in got.why
    monkeypatch.undo()
    assert measures.apart(dict(got.task), dict(asked(made).task)) == 0


def test_memory_is_no_matter_where_no_graph_is_made_or_an_engine_is_asked_for(monkeypatch):
    made = cases.situation("mlp", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert asked(made).engine == "linear"
    estimate = vfunc.FirstOrder(engine="reverse")(made.problem, made.theta, made.phi)
    assert estimate.diagnostics["engine_why"] == "asked for"


def test_kernels_without_second_order_decide_before_all_else():
    made = cases.situation("mlp", 0)
    problem = replace(made.problem, no_second_order="flash attention of its own")
    estimate = vfunc.FirstOrder()(problem, made.theta, made.phi)
    assert estimate.diagnostics["engine"] == "finite_difference"
    assert estimate.diagnostics["engine_why"] == "auto: flash attention of its own"
    exact = vfunc.FirstOrder()(made.problem, made.theta, made.phi)
    assert measures.apart(estimate.grad, exact.grad) <= 1e-6
    with pytest.raises(vfunc.UserError, match="'linear' does not apply here: flash attention"):
        vfunc.FirstOrder(engine="linear")(problem, made.theta, made.phi)


def test_a_machine_has_memory():
    free = memory.free_bytes(torch.device("cpu"))
    assert 2**20 < free < 2**50


def test_a_control_group_s_limit_counts(monkeypatch):
    files = {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable:    3000 kB"],
        "/sys/fs/cgroup/memory.max": ["5000000"],
        "/sys/fs/cgroup/memory.current": ["4000000"],
    }
    monkeypatch.setattr(memory, "_lines", files.__getitem__)
    assert memory.free_bytes(torch.device("cpu")) == 1_000_000
    files["/sys/fs/cgroup/memory.max"] = ["max"]
    assert memory.free_bytes(torch.device("cpu")) == 3000 * 1024


def test_half_precision_is_coarse_and_single_is_not():
    eps = {dtype: torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16)}
    assert min(eps.values()) > choice.COARSE > torch.finfo(torch.float32).eps
