"""The designer's warm-up, with the learner held, and its own schedule."""

import pytest
import torch
from small_run import new_run as new_language_run
from small_vision_run import everything, new_run, train

from vfunc.errors import NonFiniteError
from vfunc.training.interrupt import Interrupted
from vfunc.training.loop import one_step, run_arm
from vfunc.training.step import warm_up


def copied(module):
    return {name: x.clone() for name, x in module.state_dict().items()}


@pytest.mark.parametrize("make", [new_run, new_language_run], ids=["vision", "language"])
def test_it_moves_the_designer_alone(make):
    run = make(designer_warmup=3)
    learner, designer = copied(run.state.learner), copied(run.state.designer)
    before = run.state.counters
    assert len(list(warm_up(run))) == 3
    assert all(torch.equal(x, learner[n]) for n, x in run.state.learner.state_dict().items())
    assert any(not torch.equal(x, designer[n]) for n, x in run.state.designer.state_dict().items())
    after = run.state.counters
    assert (after.updates, after.micro_batch, after.units, after.step) == (3, 0, 0, 0)
    assert before.micro_batch == 0 and not list(warm_up(run))
    assert not any(p.grad is not None for p in run.state.learner.parameters())


def test_an_arm_after_it_reads_the_stream_from_its_start():
    trained = train(designer_warmup=2, budget="2steps")
    assert len([e for e in trained.log.events if e["kind"] == "designer_warmup"]) == 2
    assert [e["kind"] for e in trained.log.events].count("engine") == 1
    at = trained.state.counters
    assert (at.step, at.micro_batch, at.updates) == (2, 2, 4)
    zero, without = train(designer_warmup=0, budget="2steps"), train(budget="2steps")
    assert all(torch.equal(x, everything(without)[n]) for n, x in everything(zero).items())


def test_it_waits_for_the_end_of_the_burn_in():
    run = new_run(designer_warmup=2, burn_in=2)
    one_step(run)
    assert not list(warm_up(run))  # the window that comes next is still burning in
    one_step(run)
    assert len(list(warm_up(run))) == 2
    assert run.state.counters.micro_batch == 2


def test_an_interrupt_in_it_is_answered_after_an_update(monkeypatch):
    run = new_run(designer_warmup=50)
    event = run.log.event

    def interrupting(kind, fields):
        if kind == "designer_warmup" and fields["update"] == 2:
            import signal

            signal.raise_signal(signal.SIGINT)
        event(kind, fields)

    monkeypatch.setattr(run.log, "event", interrupting)
    with pytest.raises(Interrupted, match="designer of vpretraining warms up"):
        run_arm(run)
    assert run.state.counters.updates == 2


def test_what_is_not_finite_leaves_the_position_alone():
    run = new_run(designer_warmup=2)
    with torch.no_grad():
        next(run.state.designer.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        list(warm_up(run))
    assert run.state.counters.micro_batch == 0 and run.state.counters.updates == 0


def test_the_designers_size_falls_linearly_to_its_final_share():
    run, sizes = new_run(designer_final_lr=0.2, budget="4steps", designer_lr=0.01), []
    for _ in range(4):
        one_step(run)
        sizes.append(run.state.designer_optimizer.param_groups[0]["lr"])
    assert sizes == pytest.approx([0.01 * (1 - 0.8 * k / 4) for k in range(4)])
    left = new_run(budget="4steps", designer_lr=0.01)
    one_step(left)
    assert left.state.designer_optimizer.param_groups[0]["lr"] == 0.01
