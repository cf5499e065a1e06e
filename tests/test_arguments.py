"""A wrong argument is one line of ours, at every entry point."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import cases
import numpy as np
import pytest
import torch
from torch import nn

import vfunc
from vfunc.simulate.windows import read_windows

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def made():
    return cases.situation("mlp", 0, "adamw")


def by(name):
    return lambda problem, theta, phi: vfunc.make_estimator(name)(problem, theta, phi)


def matched(problem, theta, phi):
    return vfunc.DomainMatched(vfunc.FirstOrder())(
        replace(problem, domains={"one": problem}), theta, phi
    )


def product(function):
    """What takes a construction and a direction, asked with a good construction."""

    def call(problem, theta, phi):
        good = cases.situation("mlp", 0, "adamw")
        construction = vfunc.construct_task(problem, phi, good.problem.batches[0])
        return function(problem, theta, construction, good.theta)

    return call


BOTH = {
    **{name: by(name) for name in ("first_order", "unrolled", "implicit", "random", "zero")},
    "DomainMatched": matched,
    "certify": lambda p, theta, phi: vfunc.certify(p, theta, phi, "first_order", quiet=True),
    "value_of_parts": lambda p, theta, phi: vfunc.value_of_parts(
        replace(p, parts=parts), theta, phi
    ),
    "mixed_product": product(vfunc.mixed_product),
    "pull_back": product(vfunc.pull_back),
}
OF_PHI = BOTH | {"construct_task": lambda p, theta, phi: vfunc.construct_task(p, phi, p.batches[0])}
OF_THETA = BOTH | {"feedback_gradient": lambda p, theta, phi: vfunc.feedback_gradient(p, theta)}


def parts(theta, task):
    made = cases.situation("mlp", 0, "adamw")
    return made.problem.pretrain_loss(theta, task).reshape(1)


def one_line(call, *arguments):
    """What is said: a UserError of a single line of no more than a few."""
    with pytest.raises(vfunc.UserError) as raised:
        call(*arguments)
    said = str(raised.value)
    assert "\n" not in said and len(said) < 400, said
    return said


def changed(params, **entries):
    return params | entries


# what is wrong -> (the params made wrong, what is said of it)
WRONG = {
    "a list": (lambda p: list(p.values()), "{name} must be a dict of tensors by name, not a list"),
    "a tensor": (lambda p: torch.ones(2), "{name} must be a dict of tensors by name"),
    "none": (lambda p: None, "{name} must be a dict of tensors by name, not a NoneType"),
    "a module": (lambda p: nn.Linear(2, 2), "vfunc.functional(module).theta"),
    "a learner": (lambda p: vfunc.functional(nn.Linear(2, 2)), "give its .theta"),
    "empty": (lambda p: {}, "{name} is empty"),
    "nested": (lambda p: {"block": dict(p)}, "{name}['block'] is a dict: {name} is flat"),
    "numbers": (lambda p: p | {"a": 1.0}, "{name}['a'] must be a tensor, not a float"),
    "nothing": (lambda p: p | {"a": None}, "{name}['a'] must be a tensor, not a NoneType"),
    "integers": (lambda p: {n: x.long() for n, x in p.items()}, "is of int64"),
    "booleans": (lambda p: {n: x > 0 for n, x in p.items()}, "is of bool"),
    "complex": (lambda p: {n: x.to(torch.complex128) for n, x in p.items()}, "is of complex128"),
    "keys": (lambda p: dict(enumerate(p.values())), "{name} has the key 0"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("entry", list(OF_PHI))
def test_a_phi_that_is_none(entry, wrong, made):
    make, said = WRONG[wrong]
    assert said.format(name="phi") in one_line(
        OF_PHI[entry], made.problem, made.theta, make(made.phi)
    )


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("entry", list(OF_THETA))
def test_a_theta_that_is_none(entry, wrong, made):
    make, said = WRONG[wrong]
    assert said.format(name="theta") in one_line(
        OF_THETA[entry], made.problem, make(made.theta), made.phi
    )


@pytest.mark.parametrize("entry", list(OF_PHI))
def test_a_phi_of_other_names_or_shapes(entry, made):
    ask = OF_PHI[entry]
    lacking = {n: x for n, x in made.phi.items() if n != "r"}
    assert "construct asks for 'r', and has phi {" in one_line(
        ask, made.problem, made.theta, lacking
    )
    wide = made.phi | {"r": torch.ones(5, 7)}
    assert "construct cannot use phi {" in one_line(ask, made.problem, made.theta, wide)
    elsewhere = {n: x.to("meta") for n, x in made.phi.items()}
    if entry not in ("zero", "construct_task", "value_of_parts", "mixed_product"):
        assert "phi {" in one_line(ask, made.problem, made.theta, elsewhere)


@pytest.mark.parametrize("entry", list(OF_THETA))
def test_a_theta_of_other_names_or_shapes(entry, made):
    ask = OF_THETA[entry]
    name = next(iter(made.theta))
    turned = made.theta | {name: torch.ones(5, 7)}
    assert f"theta[{name!r}] is of shape (5, 7), the optimizer's" in one_line(
        ask, made.problem, turned, made.phi
    )
    unstarted = replace(made.problem, state={})
    wrong = {n: torch.ones(5, 7) for n in made.theta}
    said = one_line(ask, unstarted, wrong, made.phi)
    assert "cannot use theta {" in said or "w (shaped like theta) does not match" in said


@pytest.mark.parametrize("entry", list(BOTH))
def test_arguments_in_another_order(entry, made):
    ask = BOTH[entry]
    assert "the order is (problem, theta, phi)" in one_line(ask, made.problem, made.phi, made.theta)
    if entry in ("DomainMatched", "value_of_parts", "mixed_product", "pull_back"):
        return  # their wrappers here take a problem apart first
    assert "problem must be a ValueProblem, not a dict" in one_line(
        ask, made.theta, made.problem, made.phi
    )


def learner_problem(rules):
    """A problem of a functional learner and designer, as most are."""
    learner, designer = vfunc.functional(nn.Linear(3, 2)), vfunc.functional(nn.Linear(3, 3))
    x = torch.ones(4, 3)
    rule = vfunc.UpdateRule({n: vfunc.SGD(0.1) for n in learner.names} if rules else vfunc.SGD(0.1))
    problem = vfunc.ValueProblem(
        lambda phi, batch: {"x": designer(phi, batch)},
        lambda theta, task: learner(theta, task["x"]).square().mean(),
        lambda theta: (learner(theta, x) - 1).square().mean(),
        (x,),
        rule,
    )
    return problem, learner.theta, designer.theta


@pytest.mark.parametrize("rules", [False, True])
@pytest.mark.parametrize("entry", ["first_order", "unrolled", "implicit", "zero", "certify"])
def test_parameters_of_another_learner(entry, rules):
    problem, theta, phi = learner_problem(rules)
    ask = BOTH[entry]
    ask(problem, theta, phi)
    other = vfunc.functional(nn.Sequential(nn.Linear(3, 2))).theta
    said = one_line(ask, problem, other, phi)
    assert "'0.weight'" in said
    lacking = {"weight": theta["weight"]}
    assert "theta for Linear does not match: missing ['bias']" in one_line(
        ask, problem, lacking, phi
    )
    assert "other shapes [('weight'" in one_line(
        ask, problem, {n: torch.ones(3, 7) for n in theta}, phi
    )
    elsewhere = {n: x.to("meta") for n, x in theta.items()}
    assert "theta['weight'] is on meta, the Linear on cpu" in one_line(ask, problem, elsewhere, phi)
    for wrong in (phi | {"extra": torch.ones(1)}, {"weight": phi["weight"]}):
        assert "theta for Linear does not match" in one_line(ask, problem, theta, wrong)


@pytest.mark.parametrize("entry", ["mixed_product", "pull_back"])
def test_directions_and_constructions(entry, made):
    function = getattr(vfunc, entry)
    construction = vfunc.construct_task(made.problem, made.phi, made.problem.batches[0])
    name = next(iter(made.theta))
    for w, said in (
        ([], "w must be a dict"),
        ({}, "w is empty"),
        (made.phi, "w (shaped like theta) does not match: missing"),
        (made.theta | {name: torch.ones(9)}, f"other shapes [('{name}', (9,)"),
        (made.theta | {name: made.theta[name].long()}, "is of int64"),
    ):
        assert said in one_line(function, made.problem, made.theta, construction, w)
    for wrong in (made.phi, construction.task, None):
        assert "construction must be what construct_task" in one_line(
            function, made.problem, made.theta, wrong, made.theta
        )
    for engine, said in (
        ("revers", "unknown engine 'revers'"),
        (3, "engine must be auto, an engine or the name of one, not a int"),
        (vfunc.FiniteDifference, "engine is the class FiniteDifference; give one"),
        (None, "not a NoneType"),
    ):
        assert said in one_line(
            function, made.problem, made.theta, construction, made.theta, engine
        )


@pytest.mark.parametrize("engine", [3, vfunc.FiniteDifference, None, "revers"])
@pytest.mark.parametrize(
    "kind", [vfunc.FirstOrder, vfunc.Unrolled, vfunc.Implicit, vfunc.RandomDirection]
)
def test_an_estimator_s_engine(kind, engine, made):
    said = one_line(lambda: kind(engine=engine)(made.problem, made.theta, made.phi))
    assert "engine is the class" in said or "engine must be" in said or "unknown engine" in said


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (vfunc.FirstOrder, "estimator is the class FirstOrder; give one: FirstOrder()"),
        (3, "estimator must be an estimator or the name of one, not a int"),
        ("firstorder", "did you mean 'first_order'?"),
    ],
)
def test_what_is_certified(estimator, said, made):
    assert said in one_line(vfunc.certify, made.problem, made.theta, made.phi, estimator)


@pytest.mark.parametrize("engine", list(vfunc.ENGINES))
@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda loss: 1.0, "pretrain_loss returned a float"),
        (lambda loss: loss.expand(3), "pretrain_loss returned a tensor of shape (3,)"),
    ],
    ids=["a float", "a vector"],
)
def test_a_pretrain_loss_that_is_none(engine, returned, said, made):
    real = made.problem.pretrain_loss
    problem = replace(made.problem, pretrain_loss=lambda t, c: returned(real(t, c)), linear=None)
    if engine != "linear":  # it does not read the loss
        assert said in one_line(vfunc.FirstOrder(engine=engine), problem, made.theta, made.phi)


@pytest.mark.parametrize("engine", ["linear", "finite_difference"])
def test_a_linear_form_of_another_shape(engine, made):
    form = vfunc.LinearForm("q", lambda theta, task: made.problem.pretrain_loss(theta, task))
    problem = replace(made.problem, linear=form)
    assert "linear.coefficients returned a tensor of shape (); the task's 'q'" in one_line(
        vfunc.FirstOrder(engine=engine), problem, made.theta, made.phi
    )


@pytest.mark.parametrize(
    ("returned", "said"), [(lambda t, c: 1.0, "not float"), (None, "not a scalar")]
)
def test_parts_that_are_none(returned, said, made):
    problem = replace(made.problem, parts=returned or made.problem.pretrain_loss)
    assert said in one_line(vfunc.value_of_parts, problem, made.theta, made.phi)


def test_a_learner_and_its_optimizer():
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    assert "functional takes an nn.Module, not a dict" in one_line(vfunc.functional, {})
    for arguments, said in (
        ((module, vfunc.functional(module).live), "takes a torch optimizer, not a Linear"),
        ((optimizer, module.parameters()), "by name, not a generator"),
        ((optimizer, nn.Linear(2, 2).state_dict()), "does not hold 2 of the parameters in S"),
    ):
        assert said in one_line(vfunc.from_optimizer, *arguments)


ALL = [*BOTH, "feedback_gradient"]


@pytest.mark.parametrize("entry", ALL)
@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda loss: float(loss.detach()), "feedback_loss returned a float"),
        (lambda loss: loss.detach(), "without a graph to theta"),
        (lambda loss: loss.expand(3), "feedback_loss returned a tensor of shape (3,)"),
        (lambda loss: loss.to(torch.complex128), "feedback_loss returned a scalar of complex128"),
        (lambda loss: None, "feedback_loss returned a NoneType"),
    ],
    ids=["a float", "no graph", "a vector", "complex", "nothing"],
)
def test_a_feedback_loss_that_is_none(entry, returned, said, made):
    if entry in ("mixed_product", "pull_back"):
        return  # they ask for no feedback
    real = made.problem.feedback_loss
    problem = replace(made.problem, feedback_loss=lambda theta: returned(real(theta)))
    assert said in one_line(OF_THETA[entry], problem, made.theta, made.phi)


@pytest.mark.parametrize("entry", list(OF_PHI))
@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda task: task["q"], "construct returned a Tensor; it has to return a dict"),
        (lambda task: None, "construct returned a NoneType"),
        (lambda task: tuple(task.values()), "construct returned a tuple"),
        (lambda task: task | {"n": 3}, "construct returned a int as 'n'"),
        (lambda task: task | {"y": [task["q"]]}, "construct returned a list as 'y'"),
        (lambda task: {1: task["q"]}, "construct returned the key 1"),
    ],
    ids=["a tensor", "nothing", "a tuple", "a number", "a list", "a key"],
)
def test_a_task_that_is_none(entry, returned, said, made):
    real = made.problem.construct
    problem = replace(made.problem, construct=lambda phi, batch: returned(real(phi, batch)))
    assert said in one_line(OF_PHI[entry], problem, made.theta, made.phi)


@pytest.mark.parametrize(
    ("field", "wrong", "said"),
    [
        ("batches", [None], "batches must be a tuple of unlabeled batches, not a list"),
        ("batches", torch.ones(3), "not a Tensor; write (batch,)"),
        ("batches", (), "needs at least one unlabeled batch"),
        ("construct", {"x": 1}, "construct must be a function, not a dict"),
        ("pretrain_loss", torch.ones(()), "pretrain_loss must be a function, not a Tensor"),
        ("feedback_loss", 1.0, "feedback_loss must be a function, not a float"),
        ("rule", torch.optim.SGD([torch.ones(1)], lr=0.1), "take vfunc.from_optimizer"),
    ],
)
def test_a_problem_that_is_none(field, wrong, said, made):
    assert said in one_line(lambda: replace(made.problem, **{field: wrong}))


def test_inference_mode_is_no_place_for_gradients(made):
    with torch.inference_mode():
        assert "torch.inference_mode()" in one_line(
            vfunc.FirstOrder(), made.problem, made.theta, made.phi
        )
        inside = {n: x.clone() for n, x in made.theta.items()}
    assert "was made under torch.inference_mode()" in one_line(
        vfunc.FirstOrder(), made.problem, inside, made.phi
    )


def test_nor_is_a_cache_of_parametrized_weights(made):
    with nn.utils.parametrize.cached():
        assert "parametrize.cached()" in one_line(
            vfunc.FirstOrder(), made.problem, made.theta, made.phi
        )
    vfunc.FirstOrder()(made.problem, made.theta, made.phi)


@pytest.mark.parametrize("reads", [False, True])
def test_a_linear_form_that_is_not_the_loss_s(reads, made):
    """A mean forgotten; or coefficients that follow the target, whose worth at it is right."""
    form, loss = made.problem.linear, made.problem.pretrain_loss

    def coefficients(theta, task):
        found = form.coefficients(theta, task)
        return found * task["q"] if reads else found * len(task["x"])

    def square(theta, task):
        return loss(theta, task | {"q": task["q"].square()})

    problem = replace(
        made.problem,
        linear=replace(form, coefficients=coefficients),
        pretrain_loss=square if reads else loss,
    )
    for _ in range(2):  # what was refused is not taken for looked at
        said = one_line(vfunc.FirstOrder(), problem, made.theta, made.phi)
        assert "linear.coefficients are not those of pretrain_loss" in said


@pytest.mark.parametrize("engine", ["forward", "reverse", "finite_difference"])
def test_a_loss_that_works_in_place_on_its_arguments(engine, made):
    loss = made.problem.pretrain_loss

    def writing(theta, task):
        return loss(theta, task | {"q": task["q"].mul_(2.0)})

    problem = replace(made.problem, pretrain_loss=writing, linear=None)
    said = one_line(vfunc.FirstOrder(engine=engine), problem, made.theta, made.phi)
    assert "pretrain_loss works in place on" in said


@pytest.mark.parametrize("engine", ["forward", "reverse", "finite_difference"])
def test_a_loss_that_renames_within_its_dicts_has_the_gradient_of_what_it_computes(engine, made):
    loss, first = made.problem.pretrain_loss, next(iter(made.theta))

    def plain(theta, task):
        return loss(theta | {first: 2 * theta[first]}, task | {"q": 3 * task["q"]})

    def renaming(theta, task):
        theta[first] = 2 * theta[first]
        task["q"] = 3 * task["q"]
        return loss(theta, task)

    one, other = (
        vfunc.FirstOrder("cosine", engine=engine)(
            replace(made.problem, pretrain_loss=asked, linear=None), made.theta, made.phi
        )
        for asked in (plain, renaming)
    )
    assert float(one.objective) == pytest.approx(float(other.objective), rel=1e-12)
    assert all(torch.allclose(one.grad[n], other.grad[n], rtol=1e-9) for n in one.grad)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, state: {f"module.{name}": state}, "and of none of theta's"),
        (lambda name, state: {name: {"exp_avg": 1}}, "is a dict; take the state from"),
        (lambda name, state: {name: replace(state, buffers={"momentum_buffer": state.buffers["exp_avg"]})},
         "the optimizer's state holds momentum_buffer, and Adam keeps exp_avg, exp_avg_sq"),
        (lambda name, state: {name: replace(state, buffers={"exp_avg": state.buffers["exp_avg"]})},
         "the optimizer's state holds exp_avg, and Adam keeps exp_avg, exp_avg_sq"),
    ],
)  # fmt: skip
def test_a_state_of_another_optimizer_or_of_other_names(change, said, made):
    state = {k: x for n, s in made.problem.state.items() for k, x in change(n, s).items()}
    assert said in one_line(
        vfunc.FirstOrder("preconditioned"), replace(made.problem, state=state), made.theta, made.phi
    )


def test_a_layer_that_has_just_been_unfrozen_has_no_state_beside_those_of_others(made):
    """Of what one optimizer holds, theta may be the part that has taken no step."""
    head, rest = list(made.theta)[-1], list(made.theta)[:-1]
    state = {name: made.problem.state[name] for name in rest}
    theta = {head: made.theta[head]}

    def with_the_rest(loss):
        return lambda part, *task: loss(made.theta | part, *task)

    problem = replace(
        made.problem,
        pretrain_loss=with_the_rest(made.problem.pretrain_loss),
        feedback_loss=with_the_rest(made.problem.feedback_loss),
        rule=replace(made.problem.rule, rules={n: made.problem.rule.rule(n) for n in made.theta}),
        linear=None,
    )
    found, fresh = (
        vfunc.FirstOrder("preconditioned")(replace(problem, state=s), theta, made.phi)
        for s in (state, {})
    )
    assert float(found.value) == float(fresh.value) != 0.0
    assert all(torch.equal(found.grad[n], x) for n, x in fresh.grad.items())
    # under one rule for all, other names may as well be those of a wrapper
    one_rule = replace(problem, rule=vfunc.UpdateRule(made.problem.rule.rule(head)), state=state)
    assert "an empty state where none of theta has taken a step yet" in one_line(
        vfunc.FirstOrder("preconditioned"), one_rule, theta, made.phi
    )


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_a_step_size_that_is_none(lr):
    rule = vfunc.SGD(0.1)
    object.__setattr__(rule, "lr", lr)
    assert "a step size is a number" in one_line(lambda: vfunc.UpdateRule(rule))
    assert "a step size is a number" in one_line(lambda: vfunc.UpdateRule({"w": rule}))


def given_anyway(options, **given):
    """A copy with these fields, past the tests' check of annotations."""
    made = replace(options)
    for name, x in given.items():
        object.__setattr__(made, name, x)
    return made


class NoDataclass:
    """A rule of one's own, whose step size nobody can change."""

    lr = Fraction(1, 10)


@pytest.mark.parametrize("number", [Fraction, Decimal, np.float32, np.float64], ids=str)
def test_real_numbers_of_other_kinds_are_as_good_as_floats(number, made):
    """Steps in float64 take what a float would be; torch itself takes no fractions."""
    half, quarter = number(1) / number(2), number(1) / number(4)
    rule, clip = vfunc.AdamW(1 / 16, (0.5, 0.25), 0.25, 0.5), vfunc.Clip(0.25, 0.25)
    windows = read_windows([[0.5, 0.25]])
    wanted = vfunc.UpdateRule(rule, clip, weight=0.5, closes_window=False, windows=windows)
    rule, clip = (
        given_anyway(rule, lr=half / 8, betas=(half, quarter), eps=quarter, weight_decay=half),
        given_anyway(clip, max_norm=quarter, outside=quarter),
    )
    windows = read_windows([[half, quarter]])
    rules = dict.fromkeys(made.theta, rule)
    found = vfunc.UpdateRule(rules, clip, weight=half, closes_window=False, windows=windows)
    assert len({id(one) for one in found.rules.values()}) == 1
    for estimator in (vfunc.FirstOrder("preconditioned"), vfunc.Unrolled(1)):
        one, other = (
            estimator(replace(made.problem, rule=r, state={}), made.theta, made.phi)
            for r in (found, wanted)
        )
        assert float(one.value) == float(other.value) != 0.0
    assert "such as float(lr)" in one_line(vfunc.UpdateRule, NoDataclass())
    for far in (10**400, -(10**400)):
        rule = given_anyway(vfunc.SGD(0.1), lr=Fraction(far))
        assert "a step size is a number from 0" in one_line(vfunc.UpdateRule, rule)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap], ids=["grad", "vmap"])
def test_transforms_are_no_place_for_an_estimate(transform, made):
    def asked(x):
        return vfunc.FirstOrder()(made.problem, made.theta, made.phi).value * x.sum()

    assert "inside torch.func.grad, jvp or vmap" in one_line(transform(asked), torch.ones(3))


def test_an_accumulated_gradient_of_another_shape(made):
    held = {n: torch.zeros_like(x) for n, x in made.theta.items()}
    first = next(iter(held))
    held[first] = held[first][..., :1]
    rule = replace(vfunc.UpdateRule(vfunc.SGD(0.1)), accumulated=held)
    problem = replace(made.problem, rule=rule, state={})
    for estimator in (vfunc.FirstOrder(), vfunc.Unrolled(1)):
        said = one_line(estimator, problem, made.theta, made.phi)
        assert "the rule's accumulated gradient of it" in said


def test_accumulated_gradients_of_other_parameters_enter_the_norm(made):
    """theta may be a part of what the rule knows: the rest is a constant of the clipping."""
    held = {"elsewhere": torch.tensor([30.0, 40.0])}
    rule = replace(vfunc.UpdateRule(vfunc.SGD(0.1), vfunc.Clip(1.0)), accumulated=held)
    more = replace(vfunc.UpdateRule(vfunc.SGD(0.1), vfunc.Clip(1.0, 50.0)))
    found, wanted = (
        vfunc.FirstOrder("preconditioned")(
            replace(made.problem, rule=one, state={}), made.theta, made.phi
        )
        for one in (rule, more)
    )
    assert float(found.value) == pytest.approx(float(wanted.value), rel=1e-6)
    for name, x in found.grad.items():
        torch.testing.assert_close(x, wanted.grad[name], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.0,), "clips to no norm"),
        ((-1.0,), "clips to no norm"),
        ((float("nan"),), "clips to no norm"),
        ((1.0, -0.5), "the norm outside S, `outside`, is below 0"),
    ],
)
def test_a_norm_to_clip_by_that_is_none(given, said):
    assert said in one_line(vfunc.UpdateRule, vfunc.SGD(0.1), vfunc.Clip(*given))


def test_a_live_theta_leaves_no_graph_in_an_estimate(made):
    live = {n: x.clone().requires_grad_() for n, x in made.theta.items()}
    for value in ("dot", "cosine", "preconditioned", "deflated_preconditioned"):
        found = vfunc.FirstOrder(value)(made.problem, live, made.phi)
        assert not found.value.requires_grad and not found.objective.requires_grad


def test_what_a_function_raises_for_reasons_of_its_own_is_left_as_it_is(made):
    def table(theta):
        return {}["r"] + theta["nothing"]

    with pytest.raises(KeyError, match="r"):
        vfunc.feedback_gradient(
            replace(made.problem, feedback_loss=table), made.theta | {"r": torch.ones(())}
        )

    def failing(theta):
        raise RuntimeError("the file is gone")

    with pytest.raises(RuntimeError, match="the file is gone"):
        vfunc.feedback_gradient(replace(made.problem, feedback_loss=failing), made.theta)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_fault(dtype):
    problem, _, phi = learner_problem(False)
    half = vfunc.functional(nn.Linear(3, 2).to(dtype))
    x = torch.ones(4, 3, dtype=dtype)
    problem = replace(
        problem,
        construct=lambda phi, batch: {"x": x * phi["weight"].sum()},
        pretrain_loss=lambda theta, task: half(theta, task["x"]).square().mean(),
        feedback_loss=lambda theta: half(theta, x).square().mean(),
    )
    estimate = vfunc.FirstOrder(engine="reverse")(
        problem, half.theta, {n: p.to(dtype) for n, p in phi.items()}
    )
    assert estimate.grad["weight"].dtype == dtype


@pytest.mark.parametrize("entry", ["feedback_gradient", "feedback_value"])
def test_a_feedback_loss_of_the_live_module_is_refused_by_whatever_asks_first(entry):
    learner = nn.Linear(3, 2)
    f, x = vfunc.functional(learner), torch.ones(4, 3)
    ask = getattr(vfunc.problem, entry)
    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x * phi["s"]},
        lambda theta, task: f(theta, task["x"]).square().mean(),
        lambda theta: learner(x).square().mean(),
        (x,),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    assert "without a graph to theta" in one_line(ask, problem, f.theta)
    ask(replace(problem, feedback_loss=lambda theta: f(theta, x).square().mean()), f.theta)
    ask(replace(problem, feedback_loss=lambda theta: theta["bias"].sum()), f.theta)
    ask(replace(problem, feedback_loss=lambda theta: learner(x).sum(), silent=True), f.theta)
