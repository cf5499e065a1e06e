"""An estimate repeated at another designer: the same numbers as one made there, without a pass."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vfunc
from vfunc import trees
from vfunc.estimators import RandomDirection, Zero
from vfunc.feedback import DomainMatched

SEEDS = st.integers(0, 10_000)
REPEATED = {
    "dot": vfunc.FirstOrder("dot"),
    "dot by reverse": vfunc.FirstOrder("dot", engine="reverse"),
    "deflated": vfunc.FirstOrder("deflated"),
    "random": RandomDirection(),
}
NEVER = {
    "cosine": vfunc.FirstOrder("cosine"),
    "preconditioned": vfunc.FirstOrder("preconditioned"),
    "deflated by the batches' mean": vfunc.FirstOrder("deflated", mean_batches=2),
    "deflated_preconditioned": vfunc.FirstOrder("deflated_preconditioned"),
    "unrolled": vfunc.Unrolled(2),
    "implicit": vfunc.Implicit(),
    "zero": Zero(),
}
pytestmark = pytest.mark.usefixtures("float64")


def situation(seed, *, view=False):
    """A problem, another phi for it, and a mean gradient for what takes one."""
    made, draw = cases.mlp(seed, view=view), measures.generator(seed + 1)
    mean = {n: measures.normal(draw, *x.shape) for n, x in made.theta.items()}
    other = {n: x + 0.3 * measures.normal(draw, *x.shape) for n, x in made.phi.items()}
    return replace(made.problem, means=(mean,)), made.theta, made.phi, other


def alike(one, other):
    gap = abs(float(one.objective) - float(other.objective))
    assert gap < 1e-12 * max(1.0, abs(float(other.objective)))
    assert measures.apart(one.grad, other.grad) < 1e-10
    assert one.scale == other.scale


def linear_problem(construct, coefficients, x):
    """<q, coefficients> for L_pre, on one batch x."""
    return vfunc.ValueProblem(
        construct,
        lambda theta, task: (coefficients(theta, task) * task["q"]).sum(),
        lambda theta: (x @ theta["W"]).square().mean(),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        linear=vfunc.LinearForm("q", coefficients),
    )


@pytest.mark.parametrize("name", REPEATED)
@given(seed=SEEDS)
def test_it_is_the_estimate_that_is_made_there(name, seed):
    problem, theta, phi, other = situation(seed)
    first = REPEATED[name](problem, theta, phi)
    assert first.again is not None
    repeated, anew = first.again(other), REPEATED[name](problem, theta, other)
    alike(repeated, anew)
    assert measures.apart(first.grad, anew.grad) > 1e-6  # another one indeed
    assert torch.equal(repeated.value, first.value)
    assert repeated.diagnostics == first.diagnostics
    assert repeated.again is not None  # and on from there
    alike(repeated.again(phi), first)


@pytest.mark.parametrize("name", NEVER)
def test_a_direction_that_follows_the_designer_is_not_repeated(name):
    problem, theta, phi, _ = situation(0)
    assert NEVER[name](problem, theta, phi).again is None


@pytest.mark.parametrize("kept", ["places", "mask"])
def test_a_task_that_moved_without_a_graph_is_refused(kept):
    """Places of the best tokens follow phi and carry no graph: what they are worth is another."""
    made = measures.generator(0)
    theta = {"W": measures.normal(made, 4, 5)}
    phi = {"p": measures.normal(made, 4, 5)}
    x = measures.normal(made, 6, 4)

    def construct(phi, x):
        scores, places = (x @ phi["p"]).topk(2, 1)
        entries = {"places": {"i": places}, "mask": {"m": phi["p"].detach().sum(0) > 0}}[kept]
        return {"x": x, "q": scores.softmax(1), "same": x.new_tensor([0.0, torch.nan])} | entries

    def coefficients(theta, task):
        logits = (task["x"] @ theta["W"]).log_softmax(1)
        if kept == "mask":
            logits = torch.where(task["m"], logits, 0.5 * logits)
        return -logits.gather(1, task.get("i", torch.zeros(6, 2, dtype=torch.long))) / 6

    problem = linear_problem(construct, coefficients, x)
    first = vfunc.FirstOrder("dot")(problem, theta, phi)
    near = {"p": phi["p"] * (1 + 1e-9)}  # nothing changes places
    alike(first.again(near), vfunc.FirstOrder("dot")(problem, theta, near))
    far = {"p": -phi["p"]}
    with pytest.raises(vfunc.UserError, match="changed with phi, without a graph to it"):
        first.again(far)


def test_memory_that_is_used_again_is_refused():
    """A mask is written where the last one was: the first one's worth goes with what is gone."""
    draw = measures.generator(0)
    theta, phi = {"W": measures.normal(draw, 4, 5)}, {"p": measures.normal(draw, 4, 5)}
    x, mask = measures.normal(draw, 6, 4), torch.zeros(5)

    def construct(phi, x):
        mask.copy_((phi["p"].detach().sum(0) > 0).to(mask))
        return {"x": x, "q": (x @ phi["p"]).softmax(1), "m": mask}

    def coefficients(theta, task):
        return -task["m"] * (task["x"] @ theta["W"]).log_softmax(1)

    problem = linear_problem(construct, coefficients, x)
    first = vfunc.FirstOrder("dot")(problem, theta, phi)
    with pytest.raises(vfunc.UserError, match="'m' has been written over since the estimate"):
        first.again({"p": -phi["p"]})
    # a batch that the next one was read into
    steady = replace(problem, construct=lambda phi, x: construct(phi, x) | {"m": torch.ones(5)})
    first = vfunc.FirstOrder("dot")(steady, theta, phi)
    first.again(phi)
    x.mul_(2.0)
    with pytest.raises(vfunc.UserError, match="'x' has been written over since the estimate"):
        first.again(phi)


def test_nor_is_an_objective_that_is_not_linear_in_what_is_made():
    problem, theta, phi, _ = situation(0, view=True)
    assert REPEATED["dot"](problem, theta, phi).again is None
    problem, theta, phi, _ = situation(0)
    undeclared = replace(problem, linear=None)
    assert REPEATED["dot"](undeclared, theta, phi).again is None


def test_the_learner_has_no_part_in_it():
    problem, theta, phi, other = situation(3)
    passes = []

    def counted(loss):
        def asked(*args):
            passes.append(1)
            return loss(*args)

        return asked

    linear = replace(problem.linear, coefficients=counted(problem.linear.coefficients))
    problem = replace(
        problem,
        pretrain_loss=counted(problem.pretrain_loss),
        feedback_loss=counted(problem.feedback_loss),
        linear=linear,
    )
    first = REPEATED["dot"](problem, theta, phi)
    made = len(passes)
    first.again(other)
    assert made and len(passes) == made


def test_a_mean_over_domains_is_repeated_where_each_is():
    problem, theta, phi, other = situation(5)
    domains = {
        "one": replace(problem, batches=problem.batches[:1]),
        "two": replace(problem, batches=problem.batches[1:2], seed=7),
    }
    whole = replace(problem, domains=domains)
    matched = DomainMatched(REPEATED["dot"])
    alike(matched(whole, theta, phi).again(other), matched(whole, theta, other))
    assert DomainMatched(NEVER["cosine"])(whole, theta, phi).again is None


def test_the_task_at_the_other_designer_is_made_of_the_same_batch():
    """A pullback's own, with the direction given: by hand."""
    problem, theta, phi, other = situation(9)
    draw = measures.generator(2)
    w = {n: measures.normal(draw, *x.shape) for n, x in theta.items()}
    batch = problem.batches[2]
    found = vfunc.pull_back(problem, theta, vfunc.construct_task(problem, phi, batch), w)
    assert found.again is not None
    inner, grad = found.again(other)
    leaves, at = trees.leaves(other), trees.leaves(theta)
    loss = problem.pretrain_loss(at, problem.construct(leaves, batch))
    g_pre = torch.autograd.grad(loss, list(at.values()), create_graph=True)
    by_hand = trees.dot(w, dict(zip(at, g_pre, strict=True)))
    assert float(inner) == pytest.approx(float(by_hand.detach()), rel=1e-12)
    assert measures.apart(grad, trees.gradient(by_hand, leaves)) < 1e-10
