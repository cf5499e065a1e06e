"""The invariants of the method, on pictures: labels reach nothing but the designer's parameters.

1. Labels exist only inside `feedback_loss`. 2. Their gradient is never added to the learner's, nor
does fitting the heads leave one there. 3. Tasks are detached before the learner steps on them.
4. With a designer whose output ignores phi, the learner's trajectory is the same whatever the
labels say. And of the teacher: nothing but the bookkeeping after a step moves it.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch
from small_run import same
from small_vision_run import (
    DINO_AND_IJEPA,
    ESTIMATORS,
    both,
    constant_control,
    everything,
    new_run,
    poisoned,
    train,
    unreadable,
)

from vfunc.designer_file import save_designer
from vfunc.training import step
from vfunc.vision.data.batches import LabelledBatch
from vfunc.vision.designers.view_designer import ViewDesigner
from vfunc.vision.feedback import fitted_feedback
from vfunc.vision.workload import VisionWorkload

ARMS = ("baseline", "vpretraining", "random_feedback", "uniform_smoothing")


def identical(a, b):
    """Whether two arms went through the same, bit for bit."""
    logged = [[t.of(key) for key in ("train_loss", "gradient_norm")] for t in (a, b)]
    return same(everything(a), everything(b)) and logged[0] == logged[1]


@pytest.mark.parametrize("arm", ["baseline", "uniform_smoothing"])
def test_arms_without_a_designer_never_read_labels(arm):
    trained = train(arm, unreadable, budget="2steps")
    assert trained.state.counters.step == 2


def test_a_frozen_designer_reads_no_labels(tmp_path):
    path = tmp_path / "designer.safetensors"
    start = train(budget="1steps")
    save_designer(start.state.designer, path)
    frozen = train(change=unreadable, designer=str(path), freeze_designer=True)
    assert frozen.state.counters.updates == 0
    assert same(frozen.phi, start.phi)
    assert not same(frozen.theta, start.theta)


def test_a_designers_arm_does_read_them():
    with pytest.raises(AssertionError, match="labels were read"):
        train(change=unreadable)


def test_designer_and_task_see_the_stream_alone(monkeypatch):
    seen, labelled = [], []
    control = ViewDesigner.control
    made = LabelledBatch.__init__

    def watched(self, images):
        seen.append(images.detach())
        return control(self, images)

    def handed_out(self, images, *rest, **named):
        labelled.append(images)
        made(self, images, *rest, **named)

    monkeypatch.setattr(ViewDesigner, "control", watched)
    monkeypatch.setattr(LabelledBatch, "__init__", handed_out)
    train(estimator="unrolled", lookahead_steps=2, budget="1steps")
    assert labelled and len(seen) >= 4
    # scenes are of 64 pixels, views of 32: nothing of that size has come to the designer
    assert {x.shape[-1] for x in labelled} == {64} and {x.shape[-1] for x in seen} == {32}


def bits(state):
    """Everything of the learner's side that an estimate must leave alone."""
    moments = state.optimizer.state_dict()["state"]
    tensors = {f"state {k}": x for k, x in state.learner.state_dict().items()}
    tensors |= {f"{i} {k}": x for i, s in moments.items() for k, x in s.items()}
    grads = {f"grad {n}": p.grad for n, p in state.learner.named_parameters() if p.grad is not None}
    random = {"random": torch.get_rng_state()}
    modes = [child.training for child in state.learner.modules()]
    return {n: x.clone() for n, x in (tensors | grads | random).items()}, modes


@both()
def test_a_designer_update_leaves_the_learner_alone(monkeypatch, options):
    update, problem, found = step._update_designer, VisionWorkload.problem, []

    def unchanged(function, state, *args, **named):
        before, modes = bits(state)
        answer = function(*args, **named)
        after, modes_after = bits(state)
        assert same(before, after) and modes == modes_after
        return answer, any(name.startswith("grad ") for name in before)

    def watched(run, *rest):
        state = run.state
        monkeypatch.setattr(
            VisionWorkload,
            "problem",
            lambda *args, **named: unchanged(problem, state, *args, **named)[0],
        )
        phi = {n: p.clone() for n, p in state.designer.named_parameters()}
        estimate, with_gradient = unchanged(update, state, run, *rest)
        moved = not same(phi, dict(state.designer.named_parameters()))
        assert moved == (options["estimator"] != "zero")
        found.append(with_gradient)
        return estimate

    monkeypatch.setattr(step, "_update_designer", watched)
    penalties = {"sparsity_penalty": 0.0, "tv_penalty": 0.0}
    train(accumulate=2, budget="1steps", **penalties, **options)
    assert found == [False, True]  # at a window's start, and in its middle


@pytest.mark.parametrize("objective", DINO_AND_IJEPA)
@pytest.mark.parametrize("arm", ARMS)
def test_tasks_are_detached(objective, arm):
    run = new_run(arm, objective=objective, arms=("baseline", "vpretraining"))
    workload, state = dataclasses.replace(run.workload, fixed_alpha=0.5), run.state
    forward = workload.forward(state.learner, workload.batch(0), observe=arm != "baseline")
    built = workload.build_task(state.learner, arm, forward, state.designer)
    assert not any(x.requires_grad for x in (*built.task, *built.carried.values()))
    assert (forward.observed is None) == (arm == "baseline")
    moved = float((built.task[0] - forward.batch.views).abs().max())
    assert (moved > 0) == (arm != "baseline")
    workload.loss(state.learner, forward, built).backward()
    reached = {n for n, p in state.learner.named_parameters() if p.grad is not None}
    assert reached and not any(name.startswith("teacher") for name in reached)
    assert state.designer is None or all(p.grad is None for p in state.designer.parameters())
    for i in (0, 1):
        task = [x.clone().requires_grad_(i == k) for k, x in enumerate(built.task)]
        with pytest.raises(ValueError, match="detached"):
            workload.loss(state.learner, forward, dataclasses.replace(built, task=tuple(task)))


def test_heads_are_constants_fitted_once_a_problem(monkeypatch):
    run = new_run()
    workload, state = run.workload, run.state
    functional, fed, fitted = state.functional, workload.feedback(0), []
    fit = fitted_feedback.fit_heads

    def watched(learner, batch, *rest):
        fitted.append((batch, fit(learner, batch, *rest)))
        return fitted[-1][1]

    monkeypatch.setattr(fitted_feedback, "fit_heads", watched)
    loss = workload.measured(functional, fed.heads, fed.meta)
    start = functional.theta
    moved = {n: x + 0.1 * torch.randn_like(x) for n, x in start.items()}
    assert float(loss(start)) != float(loss(moved))
    assert len(fitted) == 1
    batch, heads = fitted[0]
    assert batch is fed.heads[0] and not torch.equal(batch.images[:3], fed.meta[0].images)
    assert all(not h.weight.requires_grad and h.weight.grad_fn is None and not h.bias.requires_grad
               for h in heads.by_task.values())  # fmt: skip


@functools.cache
def constantly_smoothed(objective, augmentor):
    """The trajectory under a constant designer that nothing trains, by honest labels."""
    return train(objective=objective, augmentor=augmentor, estimator="zero", **CONSTANT)


CONSTANT = {"clip": 0.05, "budget": "2steps"}


@both([ESTIMATORS[i] for i in (0, 3, 4, 5)])
def test_a_designer_that_ignores_phi_keeps_labels_from_the_learner(monkeypatch, options):
    constant_control(monkeypatch, 0.7)
    honest = constantly_smoothed(options["objective"], "unet")
    assert identical(train(change=poisoned, **CONSTANT, **options), honest)


def test_constant_controls_of_other_kinds_keep_labels_from_the_learner(monkeypatch):
    constant_control(monkeypatch, 0.7)
    honest = constantly_smoothed("dino", "photometric")
    assert identical(train(change=poisoned, augmentor="photometric", **CONSTANT), honest)
    honest = constantly_smoothed("dino", "unet")
    assert identical(train("random_feedback", poisoned, **CONSTANT, probe_batches=1), honest)


@both([ESTIMATORS[i] for i in (0, 3, 4)])
def test_labels_reach_the_learner_through_phi(options):
    # the counterpart: without it, the tests above could not fail
    plain, other = (train(change=c, budget="1steps", **options) for c in (lambda w: w, poisoned))
    assert not identical(plain, other)
    assert not same(plain.phi, other.phi)


@functools.cache
def baseline(objective="dino"):
    return train("baseline", objective=objective, budget="3steps")


@pytest.mark.parametrize("objective", DINO_AND_IJEPA)
def test_a_mask_of_ones_is_the_baseline(monkeypatch, objective):
    constant_control(monkeypatch, 1.0)
    assert identical(train(objective=objective, budget="3steps"), baseline(objective))


def test_photometric_zeros_are_the_baseline(monkeypatch):
    constant_control(monkeypatch, 0.0)
    assert identical(train(augmentor="photometric", budget="3steps"), baseline())


@pytest.mark.parametrize("objective", DINO_AND_IJEPA)
def test_smoothing_by_nothing_is_the_baseline(objective):
    def smoothed(alpha):
        return train(
            "uniform_smoothing",
            lambda w: dataclasses.replace(w, fixed_alpha=alpha),
            objective=objective,
            budget="3steps",
        )

    assert identical(smoothed(0.0), baseline(objective))
    assert not identical(smoothed(0.01), baseline(objective))
    assert smoothed(0.25).of("kept") == [0.75] * 3


def test_smoothing_is_the_designers_own_view(monkeypatch):
    constant_control(monkeypatch, 0.5)
    designed = train(estimator="zero")
    smoothed = train("uniform_smoothing", lambda w: dataclasses.replace(w, fixed_alpha=0.5))
    assert identical(designed, smoothed)


def test_burning_in_is_the_baseline():
    burnt = train(burn_in=100, budget="3steps")
    assert identical(burnt, baseline())
    assert burnt.state.counters.updates == 0
    assert not identical(train(burn_in=1, budget="3steps"), burnt)


def teacher(learner):
    return {
        name: x.clone()
        for name, x in learner.state_dict().items()
        if name.startswith("teacher") or name == "centre"
    }


@both(ESTIMATORS[:1], of_ijepa=(3,))
def test_the_teacher_moves_after_a_step_and_never_else(monkeypatch, options):
    objective = options["objective"]
    stepped, left, moments = VisionWorkload.stepped, [], []

    def watched(self, learner, carried, fraction):
        before = teacher(learner)
        if left:  # estimates, evaluations and the probe were in between
            assert same(before, left[-1])
        held = {p.data_ptr() for group in trained_by for p in group["params"]}
        frozen = [p for n, p in learner.named_parameters() if n.startswith("teacher")]
        assert not any(p.requires_grad or p.grad is not None for p in frozen)
        assert not any(p.data_ptr() in held for p in frozen)
        assert learner.training and not learner.teacher_encoder.training
        stepped(self, learner, carried, fraction)
        left.append(teacher(learner))
        live = dict(learner.named_parameters())
        turn = (1 + math.cos(math.pi * fraction)) / 2 if objective == "dino" else 1 - fraction
        momentum = 1 - 0.1 * turn
        for name, x in before.items():
            if name == "centre":
                seen = torch.stack([c["centre"] for c in carried]).mean(0)
                expected = 0.9 * x + 0.1 * seen
            else:
                expected = momentum * x + (1 - momentum) * live[name.removeprefix("teacher_")]
            torch.testing.assert_close(left[-1][name], expected, rtol=1e-5, atol=1e-7)
        assert not same(before, left[-1])
        moments.append((fraction, len(carried)))

    trained_by = []
    monkeypatch.setattr(VisionWorkload, "stepped", watched)
    trained = train(
        prepare=lambda state: trained_by.extend(state.optimizer.param_groups),
        accumulate=2,
        budget="3steps",
        eval_every=1 / 3,
        probe_batches=1,
        teacher_momentum=0.9,
        **options,
    )
    assert moments == [(pytest.approx(k / 3), 2) for k in range(3)]
    assert same(teacher(trained.state.learner), left[-1])


def test_the_centre_takes_the_mean_of_the_window():
    run = new_run("baseline", arms=("baseline",))
    workload, learner = run.workload, run.state.learner
    seen = []
    with torch.no_grad():
        for position in (0, 1):
            views = workload.batch(position).views.flatten(0, 1)
            seen.append(learner.teacher_logits(views).mean(0))
    trained = train("baseline", arms=("baseline",), accumulate=2, budget="1steps")
    expected = 0.1 * (seen[0] + seen[1]) / 2
    torch.testing.assert_close(trained.state.learner.centre, expected, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(seen[0], seen[1], rtol=1e-3, atol=1e-6)
