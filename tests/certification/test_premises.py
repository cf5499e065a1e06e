"""What is taken for granted of a problem: no false alarm, and the right part named."""

from __future__ import annotations

import copy
from dataclasses import replace

import cases
import measures
import pytest
import torch
import torch.nn.functional as F
from test_certify import ask
from test_failures import changed

import vfunc
from vfunc.certification.plain_gradients import check_gradient
from vfunc.certification.promotion import in_float64

pytestmark = pytest.mark.usefixtures("float64")


def distilled(teacher, module, *, copied=False):
    """A problem whose targets are half the teacher's, at the module's own point."""
    learner = vfunc.functional(module, "all")
    theta = {n: x.clone() for n, x in learner.theta.items()} if copied else learner.theta
    made = cases._supervised(learner, cases.generator(0), theta, view=True)
    construct = made.problem.construct

    def with_teacher(phi, batch):
        task = construct(phi, batch)
        return task | {"q": 0.5 * task["q"] + 0.5 * F.softmax(teacher(task["x"]), -1)}

    return changed(made, construct=with_teacher)


@pytest.mark.parametrize("copied", [False, True], ids=["views", "copies"])
def test_a_teacher_that_equals_the_learner_is_not_the_learner(copied):
    module = cases.seeded(cases.NormedNetwork, 0)
    teacher = copy.deepcopy(module)  # as DINO's at its start; its parameters require gradients
    (row,) = ask(distilled(teacher, module, copied=copied), vfunc.FirstOrder()).estimators
    assert row.verdict == "exact"
    live = distilled(module, module, copied=copied)
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(live, vfunc.FirstOrder())
    said = str(caught.value)
    assert "depends differentiably on the learner's" in said
    assert "detach the learner's parameters" in said and "no_grad" not in said


@pytest.mark.parametrize(("cut", "names"), [("gate", "'q' in phi's 'gate'"), ("mask", "'x'")])
def test_a_designer_that_is_cut_off_is_named(cut, names):
    made = cases.situation("layernorm view", 3)
    construct = made.problem.construct
    cutting = changed(made, construct=lambda phi, b: construct(phi | {cut: phi[cut].detach()}, b))
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(cutting, vfunc.FirstOrder())
    assert "construct: the gradient of the task's " in str(caught.value)
    assert names in str(caught.value)
    everything = changed(made, construct=lambda phi, b: construct(vfunc.trees.detach(phi), b))
    with pytest.raises(vfunc.CertificationError, match="construct: the gradient"):
        ask(everything, vfunc.FirstOrder())


def test_an_objective_that_is_not_a_number():
    made = cases.situation("mlp", 3)
    flat = changed(made, feedback_loss=lambda theta: 0.0 * made.problem.feedback_loss(theta))
    with pytest.raises(vfunc.CertificationError) as caught:
        ask(flat, vfunc.FirstOrder("cosine"))
    said = str(caught.value)
    assert "the cosine of g_down and g_pre is undefined: |g_down| is 0 and |g_pre| 0." in said


@pytest.mark.parametrize(
    ("waves", "claimed", "verdict"),
    [(0.0, 1.0, "holds"), (0.0, 1.01, "FAILED"), (0.0, -1.0, "FAILED"), (1.0, 2.0, "inconclusive")],
)
def test_differences_that_deceive_themselves_fail_nothing(waves, claimed, verdict):
    made = cases.situation("mlp", 0)
    asked = in_float64(made.problem, made.theta, made.phi)
    period = asked.first_step / 64  # every halved step is whole waves: their slope is not seen

    def wavy(step, along):
        t = step * along["x"].sum()
        return t + waves * period / (2 * torch.pi) * torch.sin(2 * torch.pi * t / period)

    held = check_gradient(wavy, {"x": torch.tensor([claimed])}, asked, measures.generator(0))
    assert held.verdict == verdict


def test_an_estimator_whose_objective_is_wavy_is_not_failed():
    made = cases.situation("mlp", 2)
    period = in_float64(made.problem, made.theta, made.phi).first_step / 64

    def waves(size):
        def estimate(problem, theta, phi):
            t = phi["gate"] - made.phi["gate"]
            wave = size * period * torch.sin(2 * torch.pi * t / period)
            grad = {n: torch.zeros_like(x) for n, x in phi.items()}
            slope = 1 + size * 2 * torch.pi * torch.cos(2 * torch.pi * t / period)
            return vfunc.ValueEstimate(t + wave, t + wave, grad | {"gate": slope}, 1.0, {})

        return estimate

    assert ask(made, waves(0.0)).estimators[0].verdict == "exact"
    alone = replace(made, phi={"gate": made.phi["gate"]})
    construct = changed(
        alone, construct=lambda phi, batch: made.problem.construct(made.phi | phi, batch)
    )
    assert ask(construct, waves(1.0)).estimators[0].verdict == "inconclusive"


def test_relu_learners_raise_no_alarm():
    for seed in range(6):
        draw = measures.generator(seed)
        width = 64
        weights = {
            "w1": measures.normal(draw, width, cases.FEATURES),
            "w2": measures.normal(draw, width, width) / width**0.5,
            "w3": measures.normal(draw, cases.CLASSES, width) / width**0.5,
        }

        def logits(p, x):
            return torch.relu(torch.relu(x @ p["w1"].T) @ p["w2"].T) @ p["w3"].T

        made = cases._supervised(logits, draw, weights, view=True)
        found = ask(made, vfunc.FirstOrder())
        assert {row.verdict for row in found.rows} <= {"holds", "exact", "inconclusive"}
