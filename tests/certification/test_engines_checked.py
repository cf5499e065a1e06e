"""An engine is held against plain gradients before an estimate by it is believed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cases
import measures
import pytest
import torch
from test_certify import ask, scaled
from test_failures import ReverseOverForward

import vfunc
from vfunc.certification.engines import engine_is_right
from vfunc.certification.promotion import in_float64
from vfunc.certification.subjects import same_objective

pytestmark = pytest.mark.usefixtures("float64")

EXACT = vfunc.ENGINES["reverse"]


@dataclass(frozen=True)
class Changed:
    """The reference engine with something done to its direction or to its answer."""

    kind: str
    name: str = "changed"
    differentiates_attention: bool = True

    def refusal(self, request):
        return None

    def __call__(self, request):
        if self.kind == "one module":  # as a tangent left out of a collective
            w = request.w.items()
            w = {n: torch.zeros_like(x) if "blocks.0.norm" in n else x for n, x in w}
            request = replace(request, w=w)
        product = EXACT(request)
        if self.kind in ("inner", "all"):
            product = replace(product, inner=-product.inner)
        if self.kind in ("task", "all"):
            product = replace(product, task={n: -x for n, x in product.task.items()})
        if self.kind == "hessian" and request.hessian:
            product = replace(product, hessian={n: 2 * x for n, x in product.hessian.items()})
        if self.kind == "nan":
            product = replace(product, task={n: x / 0 for n, x in product.task.items()})
        return product


def refusal(made, estimator, **options):
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(made, estimator, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["inner", "task", "all"])
def test_a_sign_in_the_value_the_gradient_or_both(kind):
    made = cases.situation("layernorm view", 3)
    said = refusal(made, vfunc.FirstOrder(engine=Changed(kind)))
    assert "engine 'changed': wrong by " in said
    assert said.endswith("at every operation of the loss")


class WrongTangent(torch.autograd.Function):
    """tanh with a right backward and a wrong forward mode."""

    @staticmethod
    def forward(x):
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)

    @staticmethod
    def jvp(ctx, tangent):
        (y,) = ctx.saved_tensors
        return -2 * tangent * (1 - y)


def test_a_wrong_tangent_is_left_to_an_engine_that_takes_none():
    draw = measures.generator(1)
    theta = {"w": measures.normal(draw, cases.CLASSES, cases.FEATURES)}
    made = cases._supervised(lambda p, x: WrongTangent.apply(x @ p["w"].T), draw, theta, view=False)
    found = vfunc.FirstOrder()(made.problem, made.theta, made.phi)
    right = vfunc.FirstOrder(engine="reverse")(made.problem, made.theta, made.phi)
    assert found.diagnostics["engine"] == "reverse"
    assert "WrongTangent lacks a forward mode" in found.diagnostics["engine_why"]
    assert measures.apart(found.grad, right.grad) == 0
    for engine in ("linear", "forward"):
        with pytest.raises(vfunc.UserError, match=r"WrongTangent has none.*backward pass says"):
            ask(made, vfunc.FirstOrder(engine=engine))
    assert ask(made, vfunc.FirstOrder()).estimators[0].verdict == "exact"
    skipped = [row for row in ask(made).rows if row.verdict == "skipped"]
    assert any("WrongTangent" in row.note and row.engine == "linear" for row in skipped)


@pytest.mark.parametrize("estimator", [vfunc.FirstOrder, vfunc.RandomDirection])
def test_a_module_whose_tangent_an_engine_drops_is_named(estimator):
    made = cases.situation("layernorm view", 3)
    said = refusal(made, estimator(engine=Changed("one module")))
    assert "the learner's 'blocks.0.norm': with w zero there it is right" in said


def test_hessian_products_count_where_an_estimator_takes_them():
    made = cases.situation("layernorm", 3)
    engine = Changed("hessian")
    assert "wrong by 0.5 in the Hessian product" in refusal(made, vfunc.Unrolled(2, engine=engine))
    assert "the Hessian product" in refusal(made, vfunc.Implicit(damping=10.0, engine=engine))
    for estimator in (vfunc.FirstOrder(engine=engine), vfunc.Unrolled(1, engine=engine)):
        assert ask(made, estimator).estimators[0].verdict == "exact"


def test_a_product_that_is_not_finite():
    made = cases.situation("layernorm", 3)
    assert "the mixed product is not finite" in refusal(
        made, vfunc.FirstOrder(engine=Changed("nan"))
    )


def test_an_approximation_is_no_licence():
    made = cases.situation("layernorm view", 3)
    cut = vfunc.Unrolled(3, truncate=1)
    (row,) = ask(made, cut).estimators
    assert row.verdict == "approximate" and row.gap > 1e-3
    assert "the last 1 of 3 steps; exact at " in row.note
    forced = replace(cut, engine=ReverseOverForward())
    assert "at blocks.0.norm: torch.nn.functional.layer_norm" in refusal(made, forced)
    signed = vfunc.Unrolled(3, truncate=2, engine=Changed("task"))
    assert "engine 'changed'" in refusal(made, signed)


@dataclass(frozen=True)
class Cut:
    """An estimator of one's own that may be cut short, and is wrong in either case."""

    truncate: int | None = 1

    def __call__(self, problem, theta, phi):
        answer = scaled(vfunc.Unrolled(2, truncate=self.truncate), -1.0)(problem, theta, phi)
        return replace(answer, approximations=("cut",) if self.truncate else ())


def test_an_approximation_whose_exact_form_is_wrong_fails():
    said = refusal(cases.situation("layernorm", 3), Cut(), directions=2)
    assert "also without what it approximates, the gradient is -1 times" in said


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_finite_differences_keep_a_bound_of_their_own(factor):
    made = cases.situation("layernorm", 3)
    estimator = scaled(vfunc.FirstOrder(engine="finite_difference"), factor)
    answer = estimator(made.problem, made.theta, made.phi)
    assert answer.approximations  # the engine's own phrase is no excuse either
    if factor == 1.0:
        assert ask(made, estimator).estimators[0].verdict == "approximate"
    else:
        assert "1.01 times the objective's slope" in refusal(made, estimator, directions=2)


def test_an_engine_that_is_not_at_hand():
    made = cases.situation("layernorm view", 3)

    def wrapped(problem, theta, phi):
        answer = vfunc.FirstOrder(engine=Changed("one module"))(problem, theta, phi)
        right = vfunc.FirstOrder(engine="reverse")(problem, theta, phi)
        return replace(answer, objective=right.objective)

    assert "the engine 'changed' is not at hand" in refusal(made, wrapped)


@pytest.mark.parametrize(
    "estimator",
    [
        vfunc.Unrolled(3),
        vfunc.Unrolled(3, checkpoint_every=2),
        vfunc.Implicit(damping=10.0, solver=vfunc.Nystrom(rank=3)),
        vfunc.Implicit(damping=10.0, solver=vfunc.ConjugateGradient(precondition="optimizer")),
    ],
    ids=["unrolled", "checkpointed", "nystrom", "preconditioned"],
)
def test_slopes_are_of_the_estimators_own_objective(estimator):
    made = cases.situation("mlp", 3, "adamw")
    cheaper = same_objective(estimator)
    assert cheaper != estimator
    answers = [e(made.problem, made.theta, made.phi) for e in (estimator, cheaper)]
    assert torch.equal(answers[0].objective, answers[1].objective)


@pytest.mark.parametrize(
    ("engine", "verdict"), [("reverse", "inconclusive"), ("changed", "FAILED")]
)
def test_differences_that_deceive_themselves_fail_no_engine(engine, verdict):
    theta, phi = {"t": torch.zeros(1)}, {"c": torch.ones(1)}
    rule = cases.situation("mlp", 0).problem.rule
    nothing = vfunc.ValueProblem(dict, dict, dict, (None,), rule)
    period = in_float64(nothing, theta, phi).first_step / 64  # halved steps are whole waves
    size = 1.0 if verdict == "inconclusive" else 0.0

    def loss(theta, task):
        wave = period / (2 * torch.pi) * torch.sin(2 * torch.pi * theta["t"] / period)
        return (task["c"] * (theta["t"] + size * wave)).sum()

    problem = replace(nothing, construct=lambda phi, batch: {"c": phi["c"]}, pretrain_loss=loss)
    checked = EXACT if engine == "reverse" else Changed("task")
    asked = in_float64(problem, theta, phi)
    row = engine_is_right(asked, checked, measures.generator(0), hessian=False)
    assert row.verdict == verdict
