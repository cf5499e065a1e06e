"""What is wrong is found, and named."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import cases
import pytest
import torch
import torch.nn.functional as F
from test_certify import ask, scaled
from torch import nn
from torch.utils.checkpoint import checkpoint

import vfunc
from vfunc import trees
from vfunc.problem import CompositeForm, LinearForm
from vfunc.pullback import MixedProduct, Passes

pytestmark = pytest.mark.usefixtures("float64")


def changed(made, **fields):
    return replace(made, problem=replace(made.problem, **fields))


@dataclass(frozen=True)
class ReverseOverForward:
    """grad(jvp(...)): wrong through layer_norm (pytorch issue 196700), which is why it is here."""

    name: str = "reverse_over_forward"
    differentiates_attention: bool = True

    def refusal(self, request):
        return "no Hessian products" if request.hessian else None

    def __call__(self, request):
        def inner(made):
            pretrain_loss, task = request.problem.pretrain_loss, request.task
            loss = lambda theta: pretrain_loss(theta, task | made)  # noqa: E731
            return trees.tangent_along(loss, request.theta, request.w)[1]

        products, value = torch.func.grad_and_value(inner)(request.made)
        return MixedProduct(value.detach(), products, None, Passes(backwards=1, tangents=1))


@dataclass(frozen=True)
class HalfLinear:
    """`linear` with a wrong factor: no operation of the loss is to blame."""

    name: str = "half_linear"
    differentiates_attention: bool = True

    def refusal(self, request):
        return "no linear form" if request.problem.linear is None else None

    def __call__(self, request):
        product = vfunc.ENGINES["linear"](request)
        return replace(product, task={n: x / 2 for n, x in product.task.items()})


def test_reverse_over_forward_through_layer_norm():
    made = cases.situation("layernorm view", 3)  # S = all: the first norm's own parameters too
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(made, vfunc.FirstOrder(engine=ReverseOverForward()))
    said = str(caught.value)
    assert "engine 'reverse_over_forward': wrong by " in said
    assert said.endswith("at blocks.0.norm: torch.nn.functional.layer_norm")
    assert caught.value.certification.failed[0].gap > 1e-3
    plain = cases.situation("mlp view", 3)  # without a norm it is right
    (row,) = ask(plain, vfunc.FirstOrder(engine=ReverseOverForward())).estimators
    assert row.verdict == "exact"


def test_an_engine_that_is_wrong_everywhere():
    made = cases.situation("mlp", 3)
    with pytest.raises(vfunc.CertificationError, match=r"engine 'half_linear': wrong by 0\.5"):
        ask(made, vfunc.FirstOrder(engine=HalfLinear()))


class Forgetful(nn.Module):
    """A network with dropout in its second block."""

    def __init__(self):
        super().__init__()
        self.inner = cases.NormedNetwork()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.Dropout(0.5))])

    def forward(self, x):
        x = self.inner(x)
        for block in self.blocks:
            x = block(x)
        return x


def forgetful(training):
    module = cases.seeded(Forgetful, 1).train(training)
    learner = vfunc.functional(module)
    made = cases._supervised(learner, cases.generator(1), learner.theta, view=True)
    return made


def test_dropout_left_in_train_mode():
    assert not ask(forgetful(False), vfunc.FirstOrder()).failed
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(forgetful(True), vfunc.FirstOrder())
    said = str(caught.value)
    assert "pretrain_loss does not repeat itself" in said
    assert "blocks.1.1: torch.nn.functional.dropout" in said


def test_a_construct_or_a_feedback_that_draws():
    made = cases.situation("mlp", 2)
    problem = made.problem
    noisy = changed(
        made,
        construct=lambda phi, batch: {
            n: F.dropout(x, 0.5) if n == "q" else x
            for n, x in problem.construct(phi, batch).items()
        },
    )
    with pytest.raises(vfunc.CertificationError, match=r"construct does not .* 'q': .*dropout"):
        ask(noisy, vfunc.FirstOrder())
    count = itertools.count()
    counting = changed(made, feedback_loss=lambda t: problem.feedback_loss(t) + next(count))
    with pytest.raises(vfunc.CertificationError, match="feedback_loss does not repeat itself"):
        ask(counting, vfunc.FirstOrder())


def test_a_task_that_depends_differentiably_on_the_learner():
    module = cases.seeded(cases.NormedNetwork, 0)
    learner = vfunc.functional(module, "all")
    made = cases._supervised(learner, cases.generator(0), learner.theta, view=False)

    def construct(phi, batch):
        mine = F.softmax(module(batch[0]), -1)
        task = made.problem.construct(phi, batch)
        return task | {"q": 0.5 * task["q"] + 0.5 * (mine.detach() if held else mine)}

    held = True
    assert not ask(changed(made, construct=construct), vfunc.FirstOrder()).failed
    held = False
    with pytest.raises(vfunc.CertificationError, match=r"'q' depends differentiably .*differs by"):
        ask(changed(made, construct=construct), vfunc.FirstOrder())


def test_a_designer_that_shares_no_parameter_may_have_a_graph_of_its_own():
    made = cases.situation("layernorm", 0)
    frozen = torch.zeros(cases.CLASSES, requires_grad=True)  # not in phi, and not the learner's
    with_graph = changed(
        made,
        construct=lambda phi, b: (
            (task := made.problem.construct(phi, b)) | {"q": task["q"] + 0 * frozen}
        ),
    )
    assert not ask(with_graph, vfunc.FirstOrder()).failed


def tangent(form, theta, w, task):
    return trees.tangent_along(lambda at: form.coefficients(at, task), theta, w)[1]


def wrong_forms(made):
    problem, form = made.problem, made.problem.linear
    return {
        "linear: <q, coefficients> is not": {
            "linear": LinearForm("q", lambda t, c: 1.01 * form.coefficients(t, c))
        },
        "coefficients read 'q'": {
            "linear": LinearForm("q", lambda t, c: form.coefficients(t, c) * c["q"])
        },
        "no such entry; it has x, q": {"linear": LinearForm("targets", form.coefficients)},
        "is of shape": {"linear": LinearForm("q", lambda t, c: form.coefficients(t, c).sum(0))},
        "its tangent is not that of its coefficients": {
            "linear": LinearForm(
                "q", form.coefficients, lambda t, w, c: 1.01 * tangent(form, t, w, c)
            )
        },
        "linear.tangent is of shape": {
            "linear": LinearForm(
                "q", form.coefficients, lambda t, w, c: tangent(form, t, w, c).sum(0)
            )
        },
        "parts: their sum": {"parts": lambda t, c: (c["q"] * form.coefficients(t, c)).mean(0)},
        "composite: loss": {
            "composite": CompositeForm(form.coefficients, lambda y, c: 0.9 * (c["q"] * y).sum())
        },
        "not convex": {
            "composite": CompositeForm(
                lambda t, c: problem.pretrain_loss(t, c).pow(2)[None],
                lambda y, c: y.abs().sqrt()[0],
            )
        },
    }


def test_a_tangent_through_an_operation_without_one_is_no_mistake():
    """A mixture of experts' grouped products have no forward mode: `linear` is passed by."""
    made = cases.situation("mlp", 1)

    def without(theta, w, task):
        raise NotImplementedError(
            "Trying to use forward AD with _grouped_mm that does not support it because it has not "
            "been implemented yet."
        )

    form = LinearForm("q", made.problem.linear.coefficients, without)
    found = ask(changed(made, linear=form), vfunc.FirstOrder(engine="reverse"))
    assert not found.failed

    def broken(theta, w, task):
        raise RuntimeError("shapes do not fit")

    form = LinearForm("q", made.problem.linear.coefficients, broken)
    with pytest.raises(RuntimeError, match="do not fit"):
        ask(changed(made, linear=form), vfunc.FirstOrder(engine="reverse"))


@pytest.mark.parametrize("which", range(9))
def test_a_declared_form_that_is_not_the_loss(which):
    made = cases.situation("mlp", 1)
    said, fields = list(wrong_forms(made).items())[which]
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(changed(made, **fields), vfunc.FirstOrder(engine="reverse"))
    assert said in str(caught.value)


def test_right_forms_hold():
    made = cases.situation("mlp", 1)
    form = made.problem.linear
    right = changed(
        made,
        linear=replace(form, tangent=lambda t, w, c: tangent(form, t, w, c)),
        composite=CompositeForm(form.coefficients, lambda y, c: (c["q"] * y).sum()),
        parts=lambda t, c: (c["q"] * form.coefficients(t, c)).sum(-1),
    )
    found = ask(right, vfunc.FirstOrder())
    forms = [row.subject for row in found.rows if "declared" in row.subject]
    assert len(forms) == 3 and not found.failed


class Stale:
    """An estimator that keeps the task of the first batch it sees."""

    def __call__(self, problem, theta, phi):
        other = replace(problem, batches=problem.batches[1:])
        answer = vfunc.FirstOrder()(problem, theta, phi)
        return replace(answer, grad=vfunc.FirstOrder()(other, theta, phi).grad)


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (scaled(vfunc.FirstOrder(), -1.0), "-1 times the objective's slope"),
        (scaled(vfunc.Unrolled(2), 1.001), "1.001 times the objective's slope"),
        (Stale(), "Stale: <grad, direction> is"),
        (scaled(vfunc.FirstOrder(), 0.0), "0 times the objective's slope"),
        (scaled(vfunc.FirstOrder(), float("nan")), "not finite"),
    ],
    ids=["sign", "scale", "stale", "zero", "nan"],
)
def test_an_estimator_of_ones_own_that_is_wrong(estimator, said):
    made = cases.situation("mlp", 2)
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(made, estimator, directions=2)
    assert said in str(caught.value)
    if "finite" not in said:
        assert "right on this problem" in str(caught.value)


def test_an_estimator_that_draws_or_writes():
    made = cases.situation("mlp", 2)

    def drawing(problem, theta, phi):
        return scaled(vfunc.FirstOrder(), 1 + 0.1 * float(torch.rand(())))(problem, theta, phi)

    with pytest.raises(vfunc.CertificationError, match="answers otherwise"):
        ask(made, drawing)

    def writing(problem, theta, phi):
        answer = vfunc.FirstOrder()(problem, theta, phi)
        next(iter(theta.values())).mul_(1.5)
        return answer

    before = {n: x.clone() for n, x in made.theta.items()}
    with pytest.raises(vfunc.CertificationError, match="in place"):
        ask(made, writing)
    assert all(torch.equal(x, before[n]) for n, x in made.theta.items())


class Doubled(torch.autograd.Function):
    """The identity, with a backward that forgets a factor."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_a_backward_of_ones_own_that_is_wrong():
    made = cases.situation("mlp", 2)
    wrong = changed(
        made,
        linear=None,
        composite=None,
        parts=None,
        pretrain_loss=lambda t, c: Doubled.apply(made.problem.pretrain_loss(t, c)),
    )
    with pytest.raises(vfunc.CertificationError, match=r"pretrain_loss: .*wrong by .*Doubled"):
        ask(wrong, vfunc.FirstOrder(engine="reverse"))


def test_recomputation_after_the_parameters_are_back():
    module = cases.seeded(cases.NormedNetwork, 0)
    theta = {n: p.detach().clone() for n, p in module.named_parameters()}

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    whole = Checkpointed()

    def learner(theta, x):  # with torch alone: the package's own learner refuses to
        named = {f"inner.{n}": p for n, p in theta.items()}
        return torch.func.functional_call(whole, named, (x,))

    made = cases._supervised(learner, cases.generator(0), theta, view=False)
    with pytest.raises(vfunc.CertificationError, match="gradient checkpointing"):
        ask(made, vfunc.FirstOrder(engine="reverse"))
