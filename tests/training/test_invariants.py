"""The invariants of the method: labels reach nothing but the designer's parameters.

1. Labels exist only inside `feedback_loss`. 2. Their gradient is never added to the learner's.
3. Tasks are detached before the learner steps on them. 4. With a designer whose output ignores phi,
the learner's trajectory is the same whatever the feedback holds.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_run import new_run, same, train

from vfunc.arms import ARMS
from vfunc.designer_file import save_designer
from vfunc.language.data.examples import TokenBatch
from vfunc.language.data.sequences import TokenStream
from vfunc.language.soft_targets.designer import TopKDesigner
from vfunc.language.workload import LanguageWorkload
from vfunc.training import step

OF_TEXT = [name for name in ARMS if name not in ("known_objects", "matched_uniform")]
UNDESIGNED = [
    name for name in OF_TEXT if not (ARMS[name].designed or ARMS[name].valued or ARMS[name].direct)
]
"""Arms that know nothing of labels."""
ESTIMATORS = [
    {"estimator": "first_order", "value": "dot"},
    {"estimator": "first_order", "value": "cosine"},
    {"estimator": "first_order", "value": "preconditioned"},
    {"estimator": "first_order", "value": "deflated"},
    {"estimator": "unrolled", "lookahead_steps": 2},
    {"estimator": "implicit", "damping": 1e4},
    {"estimator": "random"},
    {"estimator": "zero"},
]


def name_of(options):
    return "-".join(str(v) for v in options.values())


def with_feedback(workload, stream):
    return dataclasses.replace(workload, data=dataclasses.replace(workload.data, feedback=stream))


def poisoned(workload):
    """The same prompts, but every label's tokens reversed."""
    feedback = workload.data.feedback

    def reverse(s):
        tokens = torch.cat([s.tokens[: s.predict_from], s.tokens[s.predict_from :].flip(0)])
        return dataclasses.replace(s, tokens=tokens)

    sequences = tuple(reverse(s) for s in feedback.encoded.sequences)
    encoded = dataclasses.replace(feedback.encoded, sequences=sequences)
    return with_feedback(workload, TokenStream(encoded, feedback.seed))


class Forbidden(TokenStream):
    """A feedback set that may not be read."""

    def batch(self, position: int, batch_size: int) -> TokenBatch:
        raise AssertionError("the feedback was read")


def unreadable(workload):
    return with_feedback(workload, Forbidden(workload.data.feedback.encoded, 0))


@pytest.mark.parametrize("arm", UNDESIGNED)
def test_arms_without_a_designer_never_read_feedback(arm):
    trained = train(arm, lambda w: unreadable(w), budget="2steps")
    assert trained.state.counters.step == 2


def test_a_designers_arm_does_read_it():
    with pytest.raises(AssertionError, match="feedback was read"):
        train("vpretraining", lambda w: unreadable(w))


def completions(batch):
    """The predicted tokens of each sequence."""
    return {tuple(t[p].tolist()) for t, p in zip(batch.next_tokens, batch.predict, strict=True)}


def test_designer_and_task_see_the_stream_alone(monkeypatch):
    seen, fed = [], []
    forward, feedback = TopKDesigner.forward, LanguageWorkload.feedback

    def watched(self, batch, observation):
        seen.append(batch)
        return forward(self, batch, observation)

    def handed_out(self, index):
        fed.append(feedback(self, index))
        return fed[-1]

    monkeypatch.setattr(TopKDesigner, "forward", watched)
    monkeypatch.setattr(LanguageWorkload, "feedback", handed_out)
    train("vpretraining", estimator="unrolled", lookahead_steps=2, gate_penalty=0.1)
    assert len(fed) == 3 and len(seen) >= 9
    labels = {row for batch in fed for row in completions(batch)}
    assert not labels & {row for batch in seen for row in completions(batch)}


@pytest.mark.parametrize("options", ESTIMATORS, ids=name_of)
def test_a_designer_update_leaves_the_learners_gradients_alone(monkeypatch, options):
    update, found = step._update_designer, []

    def gradients(learner):
        return {
            n: None if p.grad is None else p.grad.clone() for n, p in learner.named_parameters()
        }

    def watched(run, *rest):
        state = run.state
        before = gradients(state.learner)
        parameters = {n: p.clone() for n, p in state.learner.named_parameters()}
        estimate = update(run, *rest)
        after = gradients(state.learner)
        for name, old in before.items():
            new = after[name]
            assert (old is None) == (new is None), name
            assert old is None or torch.equal(old, new), name
        assert same(parameters, dict(state.learner.named_parameters()))
        found.append(any(g is not None for g in before.values()))
        return estimate

    monkeypatch.setattr(step, "_update_designer", watched)
    train("vpretraining", accumulate=2, budget="2steps", gate_penalty=0.1, **options)
    assert found == [False, True, False, True]  # at a window's start, and in its middle


@pytest.mark.parametrize("arm", OF_TEXT)
def test_tasks_are_detached(arm):
    run = new_run(arm, arms=("baseline", "vpretraining"))
    state, workload = run.state, run.workload
    forward = workload.forward(state.learner, workload.batch(0), observe=ARMS[arm].observes)
    task = workload.build_task(state.learner, arm, forward, state.designer)
    assert forward.output.requires_grad
    assert not any(x.requires_grad for x in task.task)
    if forward.observed is not None:
        observation = forward.observed.observation
        seen = [x for x in vars(observation).values() if x is not None]
        assert not any(x.requires_grad for x in seen)
    workload.loss(state.learner, forward, task).backward()
    if state.designer is not None:
        assert all(p.grad is None for p in state.designer.parameters())


def test_a_task_with_a_graph_is_refused():
    run = new_run()
    state, workload = run.state, run.workload
    forward = workload.forward(state.learner, workload.batch(0), observe=True)
    task = workload.build_task(state.learner, "vpretraining", forward, state.designer)
    candidates, q = task.task
    attached = dataclasses.replace(task, task=(candidates, q.requires_grad_()))
    with pytest.raises(ValueError, match="detached"):
        workload.loss(state.learner, forward, attached)


def trajectory(trained):
    """Everything that the learner went through."""
    optimizer = trained.state.optimizer.state_dict()["state"]
    moments = {f"{i} {k}": x for i, s in optimizer.items() for k, x in s.items()}
    return trained.theta | moments, trained.of("train_loss"), trained.of("gradient_norm")


def identical(a, b):
    (theta, *logged), (other, *logged_too) = trajectory(a), trajectory(b)
    return same(theta, other) and logged == logged_too


@pytest.mark.parametrize("options", ESTIMATORS, ids=name_of)
def test_a_designer_that_ignores_phi_keeps_labels_from_the_learner(options):
    options = options | {"alpha_max": 0.0, "clip": 0.05}
    assert identical(train(**options), train(change=poisoned, **options))


@pytest.mark.parametrize("options", ESTIMATORS[:5], ids=name_of)
def test_labels_reach_the_learner_through_phi(options):
    # the counterpart: without it, the test above could not fail
    plain, other = train(**options), train(change=poisoned, **options)
    assert not identical(plain, other)
    assert not same(plain.phi, other.phi)


@pytest.mark.parametrize("arm", ["random_feedback", "vpretraining"])
def test_a_constant_designer_keeps_labels_from_the_learner(monkeypatch, arm):
    forward = TopKDesigner.forward

    def constant(self, batch, observation):
        r, alpha = forward(self, batch, observation)
        return torch.full_like(r, 1 / r.shape[-1]) + 0 * r, 0.3 + 0 * alpha

    monkeypatch.setattr(TopKDesigner, "forward", constant)
    assert identical(train(arm), train(arm, change=poisoned))


def test_a_frozen_designer_keeps_labels_from_the_learner(tmp_path):
    path = tmp_path / "designer.safetensors"
    save_designer(train().state.designer, path)
    options = {"designer": str(path), "freeze_designer": True}
    frozen = train(**options, probe_batches=1)
    assert identical(frozen, train(change=poisoned, **options, probe_batches=1))
    assert frozen.state.counters.updates == 0 and not frozen.of("value")
    assert not identical(frozen, train(designer=str(path)))
