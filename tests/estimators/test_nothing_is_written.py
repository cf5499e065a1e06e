"""An estimate changes nothing: functions that write to live state are refused, and it is put back."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import vfunc
from vfunc.problem import known_feedback, pieces_of_code

WORDS = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(0))


class Words(nn.Module):
    def __init__(self, kind=nn.Embedding, **options):
        super().__init__()
        self.inner, self.out = kind(11, 8, **options), nn.Linear(8, 3)

    def forward(self, i):
        return self.out(self.inner(i))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.out = nn.Embedding(11, 8), nn.BatchNorm1d(5), nn.Linear(8, 3)

    def forward(self, i):
        return self.out(self.norm(self.inner(i)))


class Counting(Words):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, i):
        self.seen += 1
        return super().forward(i)


class InPlace(Words):
    def forward(self, i):
        with torch.no_grad():
            self.out.bias.mul_(0.5)
        return super().forward(i)


def by_functional(module):
    return vfunc.functional(module)


def by_call(module):
    def call(theta, *args):
        return torch.func.functional_call(module, theta, args)

    return call


def problem(call, shape=(4, 5, 3)):
    return vfunc.ValueProblem(
        lambda phi, batch: {"q": phi["q"] + batch},
        lambda theta, task: (call(theta, WORDS) - task["q"]).square().mean(),
        lambda theta: call(theta, WORDS).square().mean(),
        (torch.ones(shape),) * 2,
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )


REFUSED = {
    "max_norm": (lambda: Words(max_norm=0.5), by_functional, "feedback_loss writes to"),
    "max_norm by hand": (lambda: Words(max_norm=0.5), by_call, "feedback_loss writes to"),
    "bag": (lambda: Words(nn.EmbeddingBag, max_norm=0.5), by_functional, "writes to"),
    "batch norm by hand": (Normed, by_call, "buffer 'running_mean' of BatchNorm1d"),
    "a counter by hand": (Counting, by_call, "buffer 'seen' of Counting"),
    "in place": (InPlace, by_functional, "writes to"),
}


@pytest.mark.parametrize("estimator", [vfunc.FirstOrder(), vfunc.Unrolled(2),
                                       vfunc.FirstOrder(engine="finite_difference")], ids=repr)  # fmt: skip
@pytest.mark.parametrize("name", REFUSED)
def test_what_writes_is_refused_and_put_back(name, estimator):
    make, seen_as, said = REFUSED[name]
    module = make()
    asked = problem(seen_as(module), (4, 3) if name == "bag" else (4, 5, 3))
    theta = vfunc.functional(module).theta
    before = {n: x.clone() for n, x in module.state_dict().items()}
    with pytest.raises(vfunc.UserError, match=said):
        estimator(asked, theta, {"q": torch.zeros(3)})
    after = module.state_dict()
    assert all(torch.equal(x, before[n]) for n, x in after.items())


@pytest.mark.parametrize("make", [Normed, Counting], ids=["batch norm", "counter"])
def test_buffers_are_copies_where_a_learner_is_seen_as_a_function(make):
    module = make()
    before = {n: x.clone() for n, x in module.state_dict().items()}
    vfunc.FirstOrder()(problem(vfunc.functional(module)), vfunc.functional(module).theta,
                       {"q": torch.zeros(3)})  # fmt: skip
    assert all(torch.equal(x, before[n]) for n, x in module.state_dict().items())


def test_a_construct_that_writes_to_phi_is_refused():
    def construct(phi, batch):
        with torch.no_grad():
            phi["q"].add_(1.0)
        return {"q": phi["q"] + batch}

    call = vfunc.functional(Words())
    asked = problem(call)
    asked = vfunc.ValueProblem(**{**vars(asked), "construct": construct})
    phi = {"q": torch.zeros(3)}
    with pytest.raises(vfunc.UserError, match=r"construct writes to phi\['q'\]"):
        vfunc.FirstOrder()(asked, call.theta, phi)
    assert not phi["q"].any()


@pytest.mark.parametrize(
    ("hold", "said"),
    [
        (lambda x: x, "construct writes to batch, "),
        (lambda x: {"x": x, "at": 3}, r"construct writes to batch\['x'\]"),
        (lambda x: (7, x), r"construct writes to batch\[1\]"),
        (lambda x: SimpleNamespace(x=x), r"construct writes to batch\['x'\]"),
    ],
    ids=["a tensor", "a dict", "a tuple", "an object"],
)
@pytest.mark.parametrize("write", [lambda x: x.add_(1.0), lambda x: x.data.add_(1.0)])
def test_a_construct_that_writes_to_its_batch_is_refused(hold, said, write):
    x = torch.zeros(3)

    def construct(phi, batch):
        write(x)
        return {"q": phi["q"] + x}

    call = vfunc.functional(Words())
    asked = vfunc.ValueProblem(
        **{**vars(problem(call)), "construct": construct, "batches": (hold(x),)}
    )
    with pytest.raises(vfunc.UserError, match=said):
        vfunc.FirstOrder()(asked, call.theta, {"q": torch.zeros(3)})
    assert not x.any()


class Own(nn.Module):
    """An embedding of one's own, whose class says how long a row may be."""

    max_norm = 0.5

    def __init__(self, *_, **__):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(11, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, i):
        return nn.functional.embedding(i, self.weight, max_norm=self.max_norm)


@pytest.mark.parametrize("kind", [nn.Embedding, Own])
def test_rows_below_the_subset_are_rescaled_in_a_copy(kind):
    module = Words(kind, max_norm=0.5)
    call = vfunc.functional(module, "re:out")
    before = module.inner.weight.detach().clone()
    vfunc.FirstOrder()(problem(call), call.theta, {"q": torch.zeros(3)})
    assert torch.equal(module.inner.weight, before)
    assert float(before.norm(dim=-1).max()) > 0.5  # there was something to rescale


@pytest.mark.parametrize(
    ("held", "path"),
    [
        (lambda x: {"views": {"first": x}}, "batch['views']['first']"),
        (lambda x: ([x],), "batch[0][0]"),
        (lambda x: SimpleNamespace(views=[x]), "batch['views'][0]"),
    ],
)
def test_a_batch_is_looked_through(held, path):
    x = torch.ones(4, 5, 3)

    def construct(phi, batch):
        return {"q": phi["q"] + x.mul_(2.0)}

    asked = vfunc.ValueProblem(
        construct,
        lambda theta, task: (theta["w"] - task["q"]).square().mean(),
        lambda theta: theta["w"].square().mean(),
        (held(x),),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    with pytest.raises(vfunc.UserError) as refused:
        vfunc.FirstOrder()(asked, {"w": torch.ones(3)}, {"q": torch.ones(3)})
    assert f"construct writes to {path}" in str(refused.value)
    assert torch.equal(x, torch.ones(4, 5, 3))


ADJACENCY = torch.eye(3)
UNCOMPARED = {
    "sparse": ADJACENCY.to_sparse,
    "compressed": ADJACENCY.to_sparse_csr,
    "nested": lambda: torch.nested.nested_tensor([ADJACENCY, ADJACENCY[:2]]),
}


@pytest.mark.filterwarnings("ignore:.*(nested tensors|Sparse CSR)")
@pytest.mark.parametrize("kind", UNCOMPARED)
@pytest.mark.parametrize("deep", [False, True])
def test_a_batch_may_hold_what_has_no_comparison(deep, kind, monkeypatch):
    x = UNCOMPARED[kind]()
    call = vfunc.functional(Words())

    def construct(phi, batch):
        return {"q": phi["q"] + batch["x"]}

    batch = {"x": torch.ones(4, 5, 3), "graph": [x] if deep else x}
    asked = vfunc.ValueProblem(
        **{**vars(problem(call)), "construct": construct, "batches": (batch,)}
    )
    monkeypatch.setattr(pieces_of_code, "_watched", OrderedDict())  # a first call is looked at
    assert vfunc.FirstOrder()(asked, call.theta, {"q": torch.zeros(3)}).grad["q"].any()


def test_what_is_known_is_not_emptied_where_no_step_moves_anything():
    """Then theta_K is the very theta that g_down is known at, and its gradient the caller's."""
    theta, phi = {"a": torch.ones(3)}, {"p": torch.ones(3)}
    asked = vfunc.ValueProblem(
        lambda phi, x: {"q": x * phi["p"]},
        lambda theta, task: task["q"].square().sum(),  # reaches no parameter
        lambda theta: theta["a"].square().sum(),
        (torch.ones(3),),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )
    asked = replace(asked, known=known_feedback(asked.feedback_loss, theta))
    for _ in range(2):
        vfunc.Unrolled(1)(asked, theta, phi)
        assert torch.equal(asked.known.gradient["a"], 2 * theta["a"])
