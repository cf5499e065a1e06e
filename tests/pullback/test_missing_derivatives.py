"""Operations without the derivatives that an engine needs: another engine, or one line."""

from __future__ import annotations

import re
import warnings

import measures
import pytest
import torch
from cases import Cube
from torch import nn
from torch.autograd.function import once_differentiable

import vfunc
from vfunc import trees
from vfunc.pullback.missing import MissingDerivativeError, missing_told


class OnceCube(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner, self.function = nn.Linear(8, 8), function

    def forward(self, x):
        return self.function(self.inner(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner = kind(8, 8, batch_first=True)

    def forward(self, x):
        return self.inner(x)[0]


class Embedded(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.inner, self.out = kind(11, 8, **options), nn.Linear(8, 8)

    def forward(self, i):
        return self.out(self.inner(i))


def ctc(x):
    lengths = torch.tensor([5, 5, 5]), torch.tensor([2, 2, 2])
    labels = torch.tensor([[1, 2], [3, 4], [1, 1]])
    scores = x.log_softmax(-1).transpose(0, 1)
    return nn.functional.ctc_loss(scores, labels, *lengths, reduction="none")[:, None, None]


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 1)


PICTURES = measures.normal(measures.generator(2), 3, 5, 8).float()
WORDS = torch.randint(0, 11, (3, 5), generator=measures.generator(2))
# the learner, what it reads, and the engines that it has no derivatives for
LEARNERS = {
    "encoder": (encoder, PICTURES, set()),
    "attention": (Attention, PICTURES, set()),
    "lstm": (lambda: Recurrent(nn.LSTM), PICTURES, {"forward"}),
    "gru": (lambda: Recurrent(nn.GRU), PICTURES, set()),
    "no jvp": (lambda: Applied(Cube.apply), PICTURES, {"forward"}),
    "once": (lambda: Applied(OnceCube.apply), PICTURES, {"forward", "reverse"}),
    "bag": (lambda: Embedded(nn.EmbeddingBag), WORDS, {"forward", "reverse"}),
    "sparse": (lambda: Embedded(nn.Embedding, sparse=True), WORDS, set()),
    "ctc": (lambda: Applied(ctc), PICTURES, {"forward", "reverse"}),
}


def asked(module, x, **more):
    """A value problem in which the learner's outputs are near designed targets."""
    learner = vfunc.functional(module.eval())
    shape, x_dtype = module(x).shape, module(x).dtype
    draw = measures.generator(1)
    wanted, batch = (torch.randn(shape, generator=draw, dtype=x_dtype) for _ in range(2))
    problem = vfunc.ValueProblem(
        lambda phi, batch: {"t": batch + phi["a"] * batch.sin()},
        lambda th, t: (learner(th, x) - t["t"]).square().mean(),
        lambda th: (learner(th, x) - wanted).square().mean(),
        (batch, batch.cos()),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
        **more,
    )
    return problem, learner.theta, {"a": torch.tensor(0.3)}


@pytest.mark.parametrize("name", LEARNERS)
def test_auto_finds_an_engine_and_a_named_one_says_what_is_missing(name):
    make, x, lacking = LEARNERS[name]
    torch.manual_seed(0)
    problem, theta, phi = asked(make(), x)
    for steps in (1, 2):
        by = {e: vfunc.Unrolled(steps, engine=e) for e in ("finite_difference", "auto")}
        wanted, found = (ask(problem, theta, phi) for ask in by.values())
        assert measures.apart(found.grad, wanted.grad) < 2e-3
        engine = found.diagnostics["engine"]
        assert engine not in lacking and (
            engine == "reverse" or "lacks" in found.diagnostics["engine_why"]
        )
        for engine in ("forward", "reverse"):
            ask = vfunc.Unrolled(steps, engine=engine)
            if engine in lacking:
                with pytest.raises(MissingDerivativeError) as caught:
                    ask(problem, theta, phi)
                said = str(caught.value)
                assert caught.value.operation and "\n" not in said and "take the engine" in said
                assert caught.value.operation not in ("aten", "one")
            elif name != "sparse":  # its Hessian products by forward mode are told so
                assert measures.apart(ask(problem, theta, phi).grad, wanted.grad) < 2e-3


def test_the_function_that_is_differentiated_once_is_named():
    problem, theta, phi = asked(Applied(OnceCube.apply), PICTURES)
    with pytest.raises(MissingDerivativeError, match="OnceCube has none"):
        vfunc.FirstOrder(engine="reverse")(problem, theta, phi)
    with pytest.raises(MissingDerivativeError, match="OnceCube has none"):
        vfunc.FirstOrder(engine="forward")(problem, theta, phi)


def test_in_coarse_precision_no_engine_is_taken_unasked():
    problem, theta, phi = asked(Applied(OnceCube.apply), PICTURES, compute_dtype=torch.bfloat16)
    with pytest.raises(vfunc.UserError, match="take float32, or ask for the engine finite_diff"):
        vfunc.FirstOrder()(problem, theta, phi)


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(nn.Linear(8, 8))


@pytest.mark.parametrize("engine", ["reverse", "forward", "auto"])
@pytest.mark.parametrize(
    "layer",
    [old_weight_norm, lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8), dim=1)],
    ids=["hook", "parametrization"],
)
def test_weight_norm_has_right_second_derivatives(layer, engine, float64):
    """torch's fused kernel is .1 to .2 % off in Hessian products."""
    torch.manual_seed(0)
    module = nn.Sequential(layer(), nn.Tanh(), nn.Linear(8, 8))
    problem, theta, phi = asked(module, PICTURES.double())
    phi = trees.scale(phi, 1.0)
    ask = vfunc.Unrolled(3, engine=engine)
    problem = vfunc.ValueProblem(**{**vars(problem), "batches": (problem.batches[0],) * 3,
                                    "rule": vfunc.UpdateRule(vfunc.SGD(2.0))})  # fmt: skip
    grad = ask(problem, theta, phi).grad["a"]
    slope = measures.slope(lambda h: float(ask(problem, theta, {"a": phi["a"] + h}).objective))
    assert float(grad) == pytest.approx(slope, rel=1e-8)


def test_a_compiled_learner_runs():
    module = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    problem, theta, phi = asked(torch.compile(module, backend="aot_eager"), PICTURES)
    found = vfunc.FirstOrder()(problem, theta, phi)
    wanted = vfunc.FirstOrder(engine="finite_difference")(problem, theta, phi)
    assert measures.apart(found.grad, wanted.grad) < 2e-3


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("not supported here"),
     vfunc.UserError("no derivative for you"), RuntimeError('"addmm" not implemented for Half')],
    ids=str,
)  # fmt: skip
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(type(error), match=re.escape(str(error))), missing_told("reverse"):
        raise error


def test_gauss_newton_goes_on_by_differences():
    problem, theta, phi = asked(Applied(Cube.apply), PICTURES)
    learner = problem.pretrain_loss.__closure__[0].cell_contents
    form = vfunc.CompositeForm(
        lambda th, t: learner(th, PICTURES), lambda z, t: (z - t["t"]).square().mean()
    )
    problem = vfunc.ValueProblem(**{**vars(problem), "composite": form})
    found = vfunc.Implicit(10.0, curvature="gauss_newton")(problem, theta, phi)
    assert found.diagnostics["hessian_engine"] == "finite_difference"
    with pytest.raises(MissingDerivativeError, match="forward mode"):
        vfunc.Implicit(10.0, curvature="gauss_newton", engine="forward")(problem, theta, phi)


def test_parts_need_a_forward_mode():
    problem, theta, phi = asked(Applied(Cube.apply), PICTURES)
    learner = problem.pretrain_loss.__closure__[0].cell_contents
    problem = vfunc.ValueProblem(
        **{
            **vars(problem),
            "parts": lambda th, t: (learner(th, PICTURES) - t["t"]).square().mean(-1),
        }
    )
    with pytest.raises(vfunc.UserError, match="value_of_parts needs forward mode"):
        vfunc.value_of_parts(problem, theta, phi)
