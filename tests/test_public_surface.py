"""What `import vfunc` gives a notebook: names, a version, short reprs, a descent."""

from __future__ import annotations

import ast
import sys
import types
from dataclasses import replace
from pathlib import Path

import cases
import pytest
import torch
from torch import nn

import vfunc
from vfunc.pullback import ProductRequest

pytestmark = pytest.mark.usefixtures("float64")


def test_every_public_name_is_listed_once_and_sorted():
    # it is made with others, which a dunder or a type checker wants
    own = {"PackageNotFoundError", "version", "import_module", "TYPE_CHECKING", "Any"}
    public = {
        name
        for name in dir(vfunc)
        if not name.startswith("_") and not isinstance(getattr(vfunc, name), types.ModuleType)
    }
    assert (public - own) | {"__version__"} == set(vfunc.__all__)
    assert len(vfunc.__all__) == len(set(vfunc.__all__))
    constants = [n for n in vfunc.__all__ if n.isupper()]
    kinds = [n for n in vfunc.__all__ if n[0].isupper() and n not in constants]
    functions = [n for n in vfunc.__all__ if not n[0].isupper()]
    assert vfunc.__all__ == [*sorted(constants), *sorted(kinds), *sorted(functions)]


def test_the_solvers_and_the_pullback_are_at_hand():
    for name in ("ConjugateGradient", "Neumann", "Nystrom", "Dense", "mixed_product", "Engine"):
        assert name in vfunc.__all__
    assert set(vfunc.SOLVERS.values()) == {
        vfunc.ConjugateGradient,
        vfunc.Neumann,
        vfunc.Nystrom,
        vfunc.Dense,
    }
    assert all(isinstance(engine, vfunc.Engine) for engine in vfunc.ENGINES.values())
    assert all(isinstance(kind(), vfunc.Solver) for kind in vfunc.SOLVERS.values())


def test_a_type_checker_sees_the_names_that_are_there():
    """What is imported for it alone, and what is imported when it is asked for."""
    (block,) = (
        node for node in ast.parse(Path(vfunc.__file__).read_text("utf-8")).body
        if isinstance(node, ast.If)
    )  # fmt: skip
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: f"{node.module}" for node in imports for alias in node.names}
    assert seen == {name: f"vfunc.{module}" for name, module in vfunc._MODULE_OF.items()}
    assert all(getattr(vfunc, name) is getattr(sys.modules[seen[name]], name) for name in seen)
    with pytest.raises(AttributeError, match="'vfunc' has no attribute 'certifi'"):
        _ = vfunc.certifi


def test_there_is_a_version():
    assert vfunc.__version__[0].isdigit()


def test_reprs_are_short_and_hold_no_tensor():
    made = cases.situation("mlp", 0, "adamw")
    problem, theta, phi = made.problem, made.theta, made.phi
    construction = vfunc.construct_task(problem, phi, problem.batches[0])
    learner = vfunc.functional(cases.seeded(cases.NormedNetwork, 0), "last:1")
    optimizer = torch.optim.AdamW(learner.live.values(), lr=0.1)
    rule, _ = vfunc.from_optimizer(optimizer, learner.live, accumulated=learner.theta)
    request = ProductRequest(problem, theta, construction.task, construction.designed, theta)
    found = {
        "ValueProblem(4 batches; UpdateRule(Adam(": problem,
        "ValueEstimate(value=0.00687048, objective=0.00687048, grad={r (3, 3)": vfunc.FirstOrder()(
            problem, theta, phi
        ),
        "Construction({x (5, 3), q (5, 3)}, designed=('q',)": construction,
        "FunctionalLearner(NormedNetwork, 6 of 14 parameters, 36 numbers)": learner,
        "Certification(": vfunc.certify(problem, theta, phi, "first_order", quiet=True),
        "Pullback(grad={r (3, 3), bias (3), gate ()}": vfunc.pull_back(
            problem, theta, construction, theta
        ),
        "MixedProduct(inner=": vfunc.mixed_product(problem, theta, construction, theta),
        "ProductRequest(in its task, ": request,
        "UpdateRule(Adam(": rule,
        "Solution({": vfunc.conjugate_gradient(lambda x: x, theta),
        "TensorState(step=2, buffers={": next(iter(problem.state.values())),
    }
    for said, thing in found.items():
        assert repr(thing).startswith(said), repr(thing)
        assert len(repr(thing)) < 400 and "tensor(" not in repr(thing), repr(thing)
    assert "approximate: " in repr(vfunc.Unrolled(2, truncate=1)(problem, theta, phi))
    assert "domains one" in repr(replace(problem, domains={"one": problem}))


def designer_and_estimate():
    module = nn.Linear(2, 3)
    grad = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    value = torch.ones(())
    return module, vfunc.ValueEstimate(value, value, grad, 0.25, {})


def test_descend_is_minus_the_gradient_in_units_of_the_scale():
    module, estimate = designer_and_estimate()
    estimate.descend(dict(module.named_parameters()))
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, -estimate.grad[name] / 0.25)


def test_a_step_along_it_raises_the_objective():
    made = cases.situation("mlp", 1)
    phi = {name: x.clone() for name, x in made.phi.items()}
    estimate = vfunc.FirstOrder("cosine")(made.problem, made.theta, phi)
    estimate.descend(phi)
    torch.optim.SGD(phi.values(), lr=1e-3).step()
    assert vfunc.FirstOrder("cosine")(made.problem, made.theta, phi).objective > estimate.objective


def test_descend_adds_up_as_a_backward_pass_does():
    module, estimate = designer_and_estimate()
    module.weight.square().sum().backward()  # a regulariser of one of the two
    estimate.descend(dict(module.named_parameters()))
    torch.testing.assert_close(
        module.weight.grad, 2 * module.weight.detach() - estimate.grad["weight"] / 0.25
    )
    torch.testing.assert_close(module.bias.grad, -estimate.grad["bias"] / 0.25)
    estimate.descend(dict(module.named_parameters()))
    torch.testing.assert_close(module.bias.grad, -2 * estimate.grad["bias"] / 0.25)
    module.zero_grad()
    estimate.descend(vfunc.functional(module).live)  # the same parameters
    torch.testing.assert_close(module.bias.grad, -estimate.grad["bias"] / 0.25)


def test_descend_keeps_the_parameters_own_dtype():
    module, estimate = designer_and_estimate()
    module = module.bfloat16()
    estimate.descend(dict(module.named_parameters()))
    assert module.weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m: m, "takes the designer's parameters by name, not a Linear"),
        (lambda m: m.parameters(), "not a generator: dict(designer.named_parameters())"),
        (lambda m: {"weight": m.weight}, "unexpected ['bias']"),
        (lambda m: dict(m.named_parameters()) | {"more": m.bias}, "missing ['more']"),
        (lambda m: {"weight": m.weight, "bias": m.weight}, "other shapes [('bias', (3,), (3, 2))]"),
        (lambda m: {"weight": m.weight, "bias": m.bias * 1}, "'bias' is computed from something"),
    ],
    ids=["a module", "an iterator", "one missing", "one more", "a shape", "no leaf"],
)
def test_descend_refuses_foreign_parameters_and_changes_nothing(wrong, said):
    module, estimate = designer_and_estimate()
    with pytest.raises(vfunc.UserError) as raised:
        estimate.descend(wrong(module))
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert all(p.grad is None for p in module.parameters())
