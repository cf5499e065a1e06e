"""--designer-steps: several steps of the designer by one estimate's value of each token."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_run import Memory, new_run, same, small, train

import vfunc
from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators import FirstOrder
from vfunc.language.data.sequences import TokenStream
from vfunc.pullback import Passes
from vfunc.training.loop import one_step
from vfunc.training.step import warm_up

pytestmark = pytest.mark.usefixtures("shallow")
HELD = {"value": "deflated", "mean_bank": 2, "feedback_bank": 32, "feedback_every": 9}


class Standing(TokenStream):
    """A stream that stays where it begins."""

    def batch(self, position, batch_size):
        return super().batch(0, batch_size)


def designer_of(run):
    return trees.detach({n: p.clone() for n, p in run.state.designer.named_parameters()})


@pytest.mark.parametrize("penalty", [{}, {"gate_penalty": 0.5}], ids=["free", "penalised"])
def test_each_step_is_that_of_an_estimate_made_there(penalty):
    """With the learner held, of one batch: by as many updates that make theirs anew."""
    run = new_run(**HELD, **penalty, designer_warmup=1, designer_steps=3)
    assert len(list(warm_up(run))) == 1 and run.state.counters.updates == 1
    other = new_run(**HELD, **penalty, designer_warmup=3)
    workload, stream = other.workload, other.workload.data.stream
    standing = Standing(stream.encoded, stream.seed)
    data = dataclasses.replace(workload.data, stream=standing)
    other = dataclasses.replace(other, workload=dataclasses.replace(workload, data=data))
    other.state.held, other.state.held_mean = run.state.held, run.state.held_mean
    assert len(list(warm_up(other))) == 3
    moved, expected = designer_of(run), designer_of(other)
    begun = designer_of(new_run(**HELD, **penalty))
    assert all(torch.allclose(moved[n], expected[n], rtol=0, atol=2e-6) for n in moved)
    assert not all(torch.allclose(moved[n], begun[n], rtol=0, atol=2e-4) for n in moved)


def test_one_step_is_what_there_was():
    one, usual = (train(**HELD, **more, budget="2steps") for more in ({"designer_steps": 1}, {}))
    assert same(one.phi, usual.phi) and same(one.theta, usual.theta)


def test_the_learner_is_asked_once_an_update(monkeypatch):
    asked = []
    estimate = FirstOrder.__call__

    def counting(self, *args):
        asked.append(1)
        return estimate(self, *args)

    monkeypatch.setattr(FirstOrder, "__call__", counting)
    steps = []
    run = new_run(value="dot", designer_steps=4)
    run.state.designer_optimizer.register_step_post_hook(lambda *_: steps.append(1))
    done = one_step(run)
    assert (len(asked), len(steps), run.state.counters.updates) == (1, 4, 1)
    assert "estimate" in done


def test_random_feedback_takes_as_many():
    steps = []
    run = new_run("random_feedback", designer_steps=2)
    run.state.designer_optimizer.register_step_post_hook(lambda *_: steps.append(1))
    one_step(run)
    assert len(steps) == 2


def test_matched_domains_are_repeated():
    matched = {"feedback_tasks": "styles", "feedback_combine": "matched", "batch_size": 4}
    found = [train(**matched, designer_steps=n, gate_penalty=0.3, budget="1steps") for n in (1, 3)]
    assert not same(found[0].phi, found[1].phi)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"value": "cosine"}, "--designer-steps .*dot or deflated"),
        ({"value": "deflated", "mean_batches": 2}, "--designer-steps .*without --mean-batches"),
        ({"estimator": "unrolled"}, "--designer-steps .*dot or deflated"),
        ({"modality": "vision"}, "--designer-steps .*text"),
        ({"arms": ("baseline",)}, "--designer-steps .*designer"),
        ({"designer_steps": 0}, "--designer-steps must be at least 1"),
    ],
)
def test_where_it_means_nothing_it_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        small(**{"arms": ("baseline", "vpretraining"), "designer_steps": 2} | options)


@dataclasses.dataclass(frozen=True)
class Halved:
    """Somebody's own, whose direction does not depend on phi."""

    repeats = True
    share: float = 0.5

    def __call__(self, problem, theta, phi):
        construction = vfunc.construct_task(problem, phi, problem.batches[0])
        _, g_down = vfunc.feedback_gradient(problem, theta)
        w = trees.scale(g_down, self.share)
        pulled = vfunc.pull_back(problem, theta, construction, w)
        return pulled.estimate(pulled.inner, 1.0, {}, spent=Passes(), repeats=True)


def test_an_estimator_of_one_s_own_may_be_repeated():
    run = new_run(estimator=f"{__name__}:Halved", share=0.25, designer_steps=3)
    steps = []
    run.state.designer_optimizer.register_step_post_hook(lambda *_: steps.append(1))
    one_step(run)
    assert len(steps) == 3


def test_an_estimator_that_cannot_say_is_refused_before_the_designer_moves():
    run = new_run(value="dot", designer_steps=2)
    silent = dataclasses.replace(
        run,
        log=Memory(),
        estimator=lambda *args: dataclasses.replace(FirstOrder("dot")(*args), again=None),
    )
    before = designer_of(run)
    with pytest.raises(UserError, match=r"--designer-steps 2 .* leave it out"):
        one_step(silent)
    assert same(before, designer_of(run))
