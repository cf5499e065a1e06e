"""Other packages beside this one on one problem: rows that are right, wrong, or not there."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from vfunc import trees
from vfunc.studies.peers.mlp_problem import SIZES, Step, lookahead
from vfunc.studies.peers.plain_loops import naive_autograd
from vfunc.studies.peers_bench import NAIVE, PEERS, QUESTIONS, peer_costs, peers_markdown
from vfunc.studies.training_bench import Spread

TINY = SIZES["tiny"]
OWN = [name for name in PEERS if name.startswith("vfunc")]


def asked_of(names, optimizer="sgd", tuned="designer", steps=2, more=None):
    peers = {name: PEERS[name] for name in (NAIVE, *names)} | (more or {})
    return {r.peer: r for r in peer_costs(TINY, optimizer, tuned, steps, 0, peers)}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("tuned", ["designer", "weights"])
def test_ours_and_the_plain_loops_agree_with_float64(optimizer, tuned):
    rows = asked_of([*OWN, "nested torch.func"], optimizer, tuned, steps=5)
    for row in rows.values():
        assert row.said == "" and row.error < 1e-3
    naive = rows[NAIVE]
    assert (naive.memory, naive.flops, naive.over_naive) == (1.0, 1.0, Spread(1.0, 1.0, 1.0))
    over = rows["vfunc"].over_naive
    assert over is not None and 0.2 < over.least <= over.median <= over.most < 5
    assert optimizer == "sgd" or over.least < over.most  # of several draws
    # a replay's floor over autograd is 4/3
    assert 1 < rows["vfunc"].flops < 1.4
    assert rows["vfunc, checkpoint_every=4"].flops > rows["vfunc"].flops


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_loop_steps_as_torch_does(optimizer):
    """The reference itself: its last theta, by way of L_down's slope along the tasks."""
    step = Step(optimizer)
    asked = lookahead(TINY, 3, step, "designer", torch.float64)
    theta = {n: torch.nn.Parameter(x.clone()) for n, x in asked.theta.items()}
    live = {
        "sgd": lambda p: torch.optim.SGD(p, step.lr, step.momentum),
        "adam": lambda p: torch.optim.Adam(p, step.lr, step.betas, step.eps),
        "adamw": lambda p: torch.optim.AdamW(p, step.lr, step.betas, step.eps, step.decay),
    }[optimizer](theta.values())

    def after(phi):
        with torch.no_grad():
            for n, p in theta.items():
                p.copy_(asked.theta[n])
        live.state.clear()
        for k in range(asked.steps):
            live.zero_grad()
            asked.inner(theta, trees.detach(asked.task(phi, k))).backward()
            live.step()
        return asked.outer(theta).item()

    h, along = 1e-6, trees.normal_like(asked.phi, torch.Generator().manual_seed(1))
    slope = (after(trees.axpy(h, along, asked.phi)) - after(trees.axpy(-h, along, asked.phi))) / (
        2 * h
    )
    assert float(trees.dot(naive_autograd(asked), along)) == pytest.approx(slope, rel=1e-4)


def test_what_is_wrong_or_fails_says_so():
    def halved(asked):
        return trees.scale(naive_autograd(asked), 0.5)

    def lost(asked):
        return trees.scale(naive_autograd(asked), float("nan"))

    def broken(asked):
        raise RuntimeError("no such | operator")

    rows = asked_of([], more={"halved": halved, "lost": lost, "broken": broken})
    assert rows["halved"].error == pytest.approx(0.5, rel=1e-3)
    assert rows["halved"].said.startswith("wrong: its error is 0.5 of the gradient")
    assert rows["lost"].said.startswith("wrong")
    assert rows["broken"].error is None
    assert rows["broken"].said == "does not run: RuntimeError: no such | operator"
    table = peers_markdown("tiny", list(rows.values()))
    assert "does not run: RuntimeError: no such / operator" in table and "wrong" in table


def test_an_error_in_another_draw_is_seen():
    seen = set()

    def spoiled(asked):
        seen.add(float(asked.feedback.sum()))
        return trees.scale(naive_autograd(asked), 1.0 if len(seen) <= 2 else float("nan"))

    row = asked_of([], more={"spoiled": spoiled})["spoiled"]
    assert row.error < 1e-5 and row.said == "wrong: its error is nan of the gradient"
    assert len(seen) == 4  # a shorter question comes first


def test_a_failure_in_another_draw_is_a_row():
    seen = set()

    def fails(asked):
        seen.add(float(asked.feedback.sum()))
        if len(seen) > 3:
            raise RuntimeError("out of scratch")
        return naive_autograd(asked)

    row = asked_of([], more={"fails": fails})["fails"]
    assert row.said == "of draw 3: does not run: RuntimeError: out of scratch"
    assert row.over_naive is not None and row.over_naive.most == pytest.approx(1.0)


def test_a_package_that_is_not_there_is_a_row(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = asked_of(["TorchOpt", "higher", "bergson"], tuned="weights")
    assert rows[NAIVE].said == ""
    for name, module in (("TorchOpt", "torchopt"), ("higher", "higher"), ("bergson", "bergson")):
        assert rows[name].said == f"not installed: pip install 'vfunc[peers]' ({module})"


OTHERS = [
    ("torchopt", "TorchOpt", "sgd", "designer", True),
    ("torchopt", "TorchOpt", "adamw", "designer", True),
    ("higher", "higher", "sgd", "designer", True),
    ("higher", "higher", "adam", "designer", False),
    ("bergson", "bergson", "adamw", "weights", True),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "name", "optimizer", "tuned", "right"), OTHERS)
def test_others_where_they_are(module, name, optimizer, tuned, right):
    pytest.importorskip(module, reason=f"{module} is not installed")
    steps = 4 if right else 1
    row = asked_of([name], optimizer, tuned, steps)[name]
    if right:
        assert row.said == "" and row.error < 1e-3
    else:  # epsilon is added before the bias correction
        assert row.said.startswith("wrong") and row.error > 1


def test_what_a_package_cannot_be_asked_is_its_row(monkeypatch):
    monkeypatch.setattr("vfunc.studies.peers.other_packages.needs", lambda *names: None)
    monkeypatch.setattr("importlib.import_module", lambda name: None)
    rows = asked_of(["higher", "bergson"], "adamw")
    assert rows["higher"].said == "higher has no AdamW"
    assert "no designer" in rows["bergson"].said


def test_the_questions_are_of_all_the_kinds():
    assert {q[0] for q in QUESTIONS} == {"sgd", "adam", "adamw"}
    assert {q[1] for q in QUESTIONS} == {"designer", "weights"}
    assert (1, 4, 16) in {q[2] for q in QUESTIONS}
