"""The gate's penalty in units of a token's typical value: what speaks against it decides alone."""

from __future__ import annotations

import dataclasses

import measures
import pytest
import torch
from small_run import new_run
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc import trees
from vfunc.estimators import FirstOrder, RandomDirection, Unrolled, Zero
from vfunc.language.soft_targets.soft_loss import weights_of
from vfunc.language.soft_targets.targets import mix
from vfunc.language.workload import LanguageWorkload
from vfunc.training import step
from vfunc.training.loop import one_step

pytestmark = pytest.mark.usefixtures("shallow")
MATCHED = {"feedback_tasks": "styles", "feedback_combine": "matched", "batch_size": 4}


def designer_gradient(estimator_itself=None, louder=1.0, monkeypatch=None, **options):
    """What the designer's optimizer is given at one update, and what the estimate says."""
    run = new_run(**options)
    if estimator_itself is not None:
        run = dataclasses.replace(run, estimator=estimator_itself)
    if louder != 1:
        real = step.feedback_at

        def scaled(*args):
            found = real(*args)
            loss = found.downstream.loss
            louder_loss = dataclasses.replace(
                found.downstream, loss=lambda theta: louder * loss(theta)
            )
            return dataclasses.replace(found, downstream=louder_loss)

        monkeypatch.setattr(step, "feedback_at", scaled)
    seen = {}

    def keep(optimizer, *_):
        parameters = dict(run.state.designer.named_parameters())
        seen.update({n: p.grad.clone() for n, p in parameters.items()})

    run.state.designer_optimizer.register_step_pre_hook(keep)
    done = one_step(run)
    return seen, done["estimate"], run


@pytest.mark.parametrize("value", ["dot", "deflated"])
def test_a_louder_loss_leaves_the_balance_as_it_is(monkeypatch, value):
    penalised = {"value": value, "gate_penalty": 0.5}
    one, said, _ = designer_gradient(**penalised)
    ten, loud, _ = designer_gradient(louder=10.0, monkeypatch=monkeypatch, **penalised)
    assert loud["typical_value"] == pytest.approx(10 * said["typical_value"], rel=1e-4)
    assert measures.apart(ten, trees.scale(one, 10.0)) < 1e-4
    absolute = {"value": value, "gate_penalty_absolute": 0.5 * said["typical_value"]}
    shifted, _, _ = designer_gradient(louder=10.0, monkeypatch=monkeypatch, **absolute)
    assert measures.apart(shifted, trees.scale(one, 10.0)) > 1e-2


def test_it_is_the_mean_absolute_value_of_a_token():
    """By plain autograd: the objective as a function of each token's gate."""
    found, said, _ = designer_gradient(FirstOrder("dot"), gate_penalty=0.7)
    run = new_run()
    observed = run.workload.look_ahead(run.state.learner, run.workload.batch(0))
    problem = step.value_problem(run, (observed,), 0)
    theta = trees.leaves(run.state.functional.theta)
    phi = trees.leaves(dict(run.state.designer.named_parameters()))
    g_down = trees.gradient(problem.feedback_loss(theta), theta)
    seen = (observed.batch, observed.observation)
    r, alpha = functional_call(run.state.designer, phi, seen)
    task = problem.construct(phi, problem.batches[0]) | {"q": mix(alpha, r)}
    names, leaves = zip(*theta.items(), strict=True)
    with sdpa_kernel(SDPBackend.MATH):
        loss = problem.pretrain_loss(theta, task)
        g_pre = torch.autograd.grad(loss, leaves, create_graph=True)
        v = trees.dot(g_down, dict(zip(names, g_pre, strict=True)))
        (gains,) = torch.autograd.grad(v, alpha, retain_graph=True)
    n = int(observed.batch.predict.sum())
    values = n * gains[observed.batch.predict]
    typical = float(values.abs().mean())
    assert said["typical_value"] == pytest.approx(typical, rel=1e-4)
    total = 0.7 * typical * (alpha * weights_of(observed.batch)).sum() - v
    assert measures.apart(found, trees.gradient(total, phi)) < 1e-4


class OwnGates(nn.Module):
    """A gate for each token of each domain: what is pulled back to it is the gain itself."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Parameter(torch.full((2, 4, 200), 0.3))

    def forward(self, batch, observation):
        rows = (batch.domains[None] == batch.domains[:, None]).tril(-1).sum(-1)  # in its domain
        gates = self.gates[batch.domains, rows, : batch.predict.shape[1]]
        return observation.log_probs.softmax(-1), gates


def gains_and_step(monkeypatch, estimator_itself, **options):
    """The estimate's own gradient in the gates, and the typical value that is told."""
    monkeypatch.setattr(LanguageWorkload, "new_designer", lambda self: OwnGates())
    (gains,) = (-g for g in designer_gradient(estimator_itself, **options)[0].values())
    found, said, _ = designer_gradient(estimator_itself, gate_penalty=0.3, **options)
    return gains, -found["gates"], said["typical_value"]


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (FirstOrder("dot"), {}),
        (FirstOrder("cosine", engine="reverse"), {}),
        (FirstOrder("dot"), MATCHED),
        (RandomDirection(), {}),
        (FirstOrder("dot"), {"meta_batch_size": 1}),
        (Unrolled(1), {}),
    ],
    ids=["dot", "cosine by reverse", "matched", "random", "a part of the batch", "K = 1"],
)
def test_a_gate_opens_where_its_value_is_above_its_share(monkeypatch, estimator, options):
    gains, found, typical = gains_and_step(monkeypatch, estimator, **options)
    assert typical == pytest.approx(float(gains.abs().sum()), rel=1e-4)
    there = gains != 0
    values = gains * there.sum()
    opens = values > 0.3 * values[there].abs().mean()
    clear = there & ((values - 0.3 * typical).abs() > 1e-3 * typical)
    assert 0 < opens[clear].float().mean() < (gains[clear] > 0).float().mean()
    assert torch.equal(found[clear] > 0, opens[clear])


def test_a_lookahead_is_the_mean_of_its_steps(monkeypatch):
    """Twice as many tokens in two steps, each with half of the weight: no larger a penalty."""
    one, two = (
        gains_and_step(
            monkeypatch, None, estimator="unrolled", lookahead_steps=steps, optimizer="sgd", lr=0.1
        )[2]
        for steps in (1, 2)
    )
    assert 0.5 < two / one < 1.5


def test_where_nothing_is_worth_anything_there_is_no_penalty():
    found, said, _ = designer_gradient(Zero(), gate_penalty=0.5)
    assert said["typical_value"] == 0 and trees.is_zero(found)


def test_without_it_nothing_is_watched():
    _, said, _ = designer_gradient()
    assert "typical_value" not in said
