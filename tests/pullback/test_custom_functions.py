"""Custom functions whose backward pass is right once and not twice, or that lose tangents."""

from dataclasses import replace

import measures
import numpy as np
import pytest
import torch
from test_missing_derivatives import PICTURES, Applied, asked

import vfunc
from vfunc.pullback.missing import MissingDerivativeError


class Sine(torch.autograd.Function):
    """Right however often it is differentiated, by reverse."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos()


class SavesInBetween(Sine):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.cos())
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (slope,) = ctx.saved_tensors
        return g * slope


class KeepsAnAttribute(Sine):
    @staticmethod
    def forward(ctx, x):
        ctx.slope = x.cos()
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class UnderNoGrad(Sine):
    @staticmethod
    def backward(ctx, g):
        with torch.no_grad():
            slope = ctx.saved_tensors[0].cos()
        return g * slope


class ByNumpy(Sine):
    @staticmethod
    def backward(ctx, g):
        return g * torch.as_tensor(np.cos(ctx.saved_tensors[0].detach().numpy()))


class WithATangent(torch.autograd.Function):
    """Both engines lose the slope: it is a constant of the forward pass."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.slope = inputs[0].cos().detach()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * ctx.slope


@torch.library.custom_op("vfunc_tests::tangled", mutates_args=())
def tangled(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


@torch.library.custom_op("vfunc_tests::tangled_backward", mutates_args=())
def tangled_backward(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return g * x.cos()


tangled.register_autograd(
    lambda ctx, g: tangled_backward(g, ctx.saved_tensors[0]),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)

LOST = {
    "saved in between": (SavesInBetween, "SavesInBetween"),
    "an attribute": (KeepsAnAttribute, "KeepsAnAttribute"),
    "no_grad": (UnderNoGrad, "UnderNoGrad"),
    "numpy": (ByNumpy, "ByNumpy"),
    "with a tangent": (WithATangent, "WithATangent"),
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def wide(request):
    """Both precisions of a learner."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield PICTURES.to(request.param)
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", LOST)
def test_a_second_derivative_that_is_lost_is_refused(name, wide):
    function, said = LOST[name]
    torch.manual_seed(0)
    # bound before anything is looked at, as users write it
    problem, theta, phi = asked(Applied(function.apply), wide)
    right, _, _ = asked(Applied(torch.sin), wide)
    for ask in (vfunc.FirstOrder(), vfunc.Unrolled(lookahead_steps=2)):
        wanted = ask(right, theta, phi)
        found = ask(problem, theta, phi)
        assert found.diagnostics["engine"] == "finite_difference"
        assert f"{said} lacks" in found.diagnostics["engine_why"]
        assert measures.apart(found.grad, wanted.grad) < 2e-2
    engines = ("reverse", "forward") if function is WithATangent else ("reverse",)
    for engine in engines:
        with pytest.raises(MissingDerivativeError, match=f"{said} has none.*attributes"):
            vfunc.FirstOrder(engine=engine)(problem, theta, phi)
    assert "_Calls" not in function.forward.__qualname__  # put back


def test_one_that_keeps_it_is_right_by_reverse(wide):
    torch.manual_seed(0)
    problem, theta, phi = asked(Applied(Sine.apply), wide)
    right, _, _ = asked(Applied(torch.sin), wide)
    for ask in (vfunc.FirstOrder(), vfunc.Unrolled(lookahead_steps=2)):
        found = ask(problem, theta, phi)
        assert found.diagnostics["engine"] == "reverse"
        assert measures.apart(found.grad, ask(right, theta, phi).grad) < 1e-5


def test_what_theta_does_not_reach_needs_no_second_derivative():
    learner = vfunc.functional(torch.nn.Linear(3, 3))
    batch = torch.randn(4, 3)
    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "y": x * phi["a"]},
        lambda th, t: (learner(th, t["x"]) - KeepsAnAttribute.apply(t["y"])).square().mean(),
        lambda th: learner(th, batch).square().mean(),
        (batch,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    found = vfunc.FirstOrder()(problem, learner.theta, {"a": torch.rand(3)})
    assert found.diagnostics["engine"] == "reverse"


def test_an_operator_of_torch_library_without_a_double_backward_is_named():
    problem, theta, phi = asked(Applied(tangled), PICTURES)
    assert vfunc.FirstOrder()(problem, theta, phi).diagnostics["engine"] == "finite_difference"
    with pytest.raises(MissingDerivativeError, match=r"vfunc_tests\.tangled_backward has none"):
        vfunc.FirstOrder(engine="reverse")(problem, theta, phi)


@pytest.mark.parametrize("engine", ["forward", "linear", "auto"])
def test_forward_mode_through_an_operator_of_torch_library_is_refused(engine):
    # torch takes the operator for a constant there: value and gradient were zero, without a word
    problem, theta, phi = asked(Applied(tangled), PICTURES)
    learner = vfunc.functional(Applied(tangled).eval())
    x = PICTURES
    form = vfunc.LinearForm("t", lambda th, t: learner(th, x))
    linear = replace(
        problem,
        pretrain_loss=lambda th, t: (t["t"] * learner(th, x)).sum(),
        linear=form if engine != "forward" else None,
    )
    if engine == "auto":
        found = vfunc.FirstOrder()(linear, theta, phi)
        assert found.diagnostics["engine"] == "finite_difference" and float(found.value)
        return
    with pytest.raises(MissingDerivativeError, match=r"vfunc_tests_tangled has none.*tangent"):
        vfunc.FirstOrder(engine=engine)(linear, theta, phi)


def test_so_are_gauss_newton_products_and_parts_by_it():
    problem, theta, phi = asked(Applied(tangled), PICTURES)
    learner = problem.pretrain_loss.__closure__[0].cell_contents
    form = vfunc.CompositeForm(
        lambda th, t: learner(th, PICTURES), lambda z, t: (z - t["t"]).square().mean()
    )
    problem = replace(problem, composite=form, parts=lambda th, t: form.outputs(th, t).square())
    found = vfunc.Implicit(10.0, curvature="gauss_newton")(problem, theta, phi)
    assert found.diagnostics["hessian_engine"] == "finite_difference"
    with pytest.raises(MissingDerivativeError, match="vfunc_tests_tangled has none"):
        vfunc.Implicit(10.0, curvature="gauss_newton", engine="forward")(problem, theta, phi)
    with pytest.raises(vfunc.UserError, match="vfunc_tests_tangled of the learner has none"):
        vfunc.value_of_parts(problem, theta, phi)


def test_parts_that_hold_theta_constant_under_no_grad_are_refused():
    learner = vfunc.functional(torch.nn.Linear(3, 3))
    batch = torch.randn(4, 3)

    def parts(th, t):
        with torch.no_grad():
            target = learner(th, t["x"])
        return (learner(th, t["x"] * t["a"]) - target).square()

    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "a": phi["a"]},
        lambda th, t: parts(th, t).sum(),
        lambda th: learner(th, batch).square().mean(),
        (batch,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        parts=parts,
    )
    with pytest.raises(vfunc.UserError, match="a stop-gradient in theta of the learner has none"):
        vfunc.value_of_parts(problem, learner.theta, {"a": torch.full((3,), 2.0)})
