"""What users bring by mistake, and the one line that tells it."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import vfunc
from vfunc.errors import NonFiniteError

LEARNER = vfunc.functional(torch.nn.Linear(3, 2))
PHI = {"a": torch.tensor([1.0, 2.0, 0.5])}


def problem(construct=None, loss=None, batch=None):
    batch = torch.linspace(-1, 1, 12).reshape(4, 3) if batch is None else batch
    return vfunc.ValueProblem(
        construct or (lambda phi, x: {"x": x, "y": x * phi["a"]}),
        loss or (lambda th, t: (LEARNER(th, t["y"]) - t["x"][:, :2]).square().mean()),
        lambda th: LEARNER(th, torch.ones(2, 3)).square().mean(),
        (batch, batch),
        vfunc.UpdateRule(vfunc.SGD(0.1)),
    )


def made_under_inference():
    with torch.inference_mode():
        return torch.ones(4, 3)


@pytest.mark.parametrize("where", ["batch", "loss", "construct"])
def test_a_tensor_of_inference_mode_is_told(where):
    frozen = made_under_inference()
    asked = {
        "batch": problem(batch=frozen),
        "loss": problem(loss=lambda th, t: (LEARNER(th, t["y"] * frozen)).square().mean()),
        "construct": problem(lambda phi, x: {"x": x, "y": x * phi["a"] * frozen}),
    }[where]
    for ask in (vfunc.FirstOrder(), vfunc.Unrolled(lookahead_steps=2)):
        with pytest.raises(vfunc.UserError, match=r"made under torch.inference_mode.*clone"):
            ask(asked, LEARNER.theta, PHI)


def test_certify_names_a_teacher_under_inference_mode():
    teacher = torch.nn.Sequential(torch.nn.Linear(3, 2)).requires_grad_(False)

    def loss(th, t):
        with torch.inference_mode():
            target = teacher(t["y"])
        return (LEARNER(th, t["x"] * t["y"]) - target.clone()).square().mean()

    with pytest.raises(vfunc.CertificationError, match=r"0: torch\.nn\.functional\.linear"):
        vfunc.certify(problem(loss=loss), LEARNER.theta, PHI, quiet=True)


def test_a_sparse_entry_of_a_task_is_told():
    sparse = problem(lambda phi, x: {"x": x, "y": (x * phi["a"]).to_sparse()})
    with pytest.raises(vfunc.UserError, match=r"sparse tensor as 'y'.*to_dense"):
        vfunc.FirstOrder()(sparse, LEARNER.theta, PHI)


def test_a_designer_takes_no_step_along_what_is_not_a_number():
    asked = problem(loss=lambda th, t: (LEARNER(th, t["y"]) * float("nan")).sum())
    estimate = vfunc.FirstOrder()(asked, LEARNER.theta, PHI)
    live = {"a": PHI["a"].clone().requires_grad_()}
    with pytest.raises(NonFiniteError, match="gradient in 'a' is not finite"):
        estimate.descend(live)
    assert live["a"].grad is None


def test_certify_says_that_phi_has_no_effect():
    asked = problem(lambda phi, x: {"x": x, "y": x + 0 * phi["a"]})
    with pytest.raises(
        vfunc.CertificationError, match="what phi makes of the task changes no step"
    ):
        vfunc.certify(asked, LEARNER.theta, PHI, quiet=True)


class Wrapper:
    """As Accelerate and others wrap an optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_wrappers_and_options_that_cannot_be_read():
    live = LEARNER.live
    optimizer = torch.optim.SGD(live.values(), lr=0.1)
    with pytest.raises(vfunc.UserError, match=r"wraps SGD: give its \.optimizer"):
        vfunc.from_optimizer(Wrapper(optimizer), live)
    with pytest.raises(vfunc.UserError, match="and there are none"):
        vfunc.from_optimizer(optimizer, {})
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(vfunc.UserError, match="option of SGD cannot be read"):
        vfunc.from_optimizer(optimizer, live)


class Shrinking(torch.nn.Linear):
    """Writes to its own weight, which no version counter sees."""

    def forward(self, x):
        self.weight.data.mul_(0.5)
        return super().forward(x)


class Recomputing(torch.nn.Linear):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=True)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Shrinking, "the live parameter 'weight' of Shrinking"),
        (Recomputing, "recomputes activations.*switch it"),
    ],
)
def test_what_a_layer_does_to_its_weights_is_told(layer, said):
    learner = vfunc.functional(layer(3, 2))
    before = {n: x.clone() for n, x in learner.theta.items()}
    asked = problem(loss=lambda th, t: (learner(th, t["y"]) - t["x"][:, :2]).square().mean())
    with pytest.raises(vfunc.UserError, match=said):
        vfunc.FirstOrder()(asked, learner.theta, PHI)
    assert all(torch.equal(x, before[n]) for n, x in learner.live.items())
