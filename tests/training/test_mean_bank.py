"""A bank of the stream's mean gradient: what it is of, how long it is held, and that it is resumed."""

from __future__ import annotations

import weakref

import pytest
import torch
from small_run import new_run, same, small, train

from vfunc.errors import UserError
from vfunc.training import step
from vfunc.training.assemble import assemble
from vfunc.training.certifying import certified_arm, certify_start
from vfunc.training.checkpoint import load_checkpoint, save_checkpoint
from vfunc.training.loop import one_step
from vfunc.training.step import hold_mean

pytestmark = pytest.mark.usefixtures("shallow")
BANK = {"value": "deflated", "mean_bank": 3}


def plain_mean(run, positions):
    """By autograd in the live module, all texts as one batch of ordinary next-token prediction."""
    live = run.state.functional.live
    total, count = None, 0
    for at in positions:
        batch = run.workload.batch(at)
        logits = run.state.learner(input_ids=batch.inputs).logits[batch.predict]
        targets = batch.next_tokens[batch.predict]
        part = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        total, count = part if total is None else total + part, count + len(targets)
    return dict(zip(live, torch.autograd.grad(total / count, list(live.values())), strict=True))


def used(trained):
    """How many means each estimate took out."""
    return [notes["means_used"] for notes in trained.of("estimate")]


def require_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, g in wanted.items():
        torch.testing.assert_close(found[name], g, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"align": "last:1"}, {"train": "last:1"}])
def test_it_is_the_mean_gradient_of_the_next_texts_as_they_are(more):
    run = new_run(**BANK, **more, feedback_every=2)
    wanted = plain_mean(run, range(3))
    hold_mean(run, 3)
    (first,) = run.state.means
    require_close(first, {name: wanted[name] for name in run.state.functional.names})
    one_step(run)
    assert run.state.means[0] is first  # it serves two updates
    again = plain_mean(run, range(1, 4))
    one_step(run)
    assert run.state.means[0] is first
    wanted = plain_mean(run, range(2, 5))
    one_step(run)
    require_close(run.state.means[0], wanted)
    assert not torch.allclose(again[next(iter(again))], wanted[next(iter(wanted))])


def test_it_is_the_first_of_the_means_and_the_estimate_goes_by_it():
    both = train(**BANK, means=2, mean_decays=(0.5,), budget="2steps")
    assert used(both) == [1, 2]
    assert both.state.running.decays == (0.5,) and len(both.state.means) == 2
    alone = train(**BANK, budget="1steps")
    assert used(alone) == [1] and alone.state.running is None
    # without a bank there is nothing to take out before the first step
    assert used(train(value="deflated", budget="1steps")) == [0]


def test_it_is_certified_and_resumed(tmp_path):
    assembled = assemble(small(**BANK, certify=True, feedback_every=3))
    found = certify_start(certified_arm(assembled), assembled)
    assert found is not None and "exact" in {row.verdict for row in found.rows}
    run, other = (new_run(**BANK, feedback_every=3) for _ in range(2))
    one_step(run)
    save_checkpoint(run.state, tmp_path / "x.pt")
    load_checkpoint(other.state, tmp_path / "x.pt")
    for _ in range(3):
        one_step(run)
        one_step(other)
        assert same(run.state.held_mean.gradient, other.state.held_mean.gradient)
        assert run.state.held_mean.updates == other.state.held_mean.updates
    assert same(dict(run.state.designer.named_parameters()), dict(other.state.designer.named_parameters()))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["held_mean"].pop("updates"), "no such thing"),
        (lambda c: c["held_mean"]["gradient"].popitem(), "other parameters"),
        (lambda c: next(iter(c["held_mean"]["gradient"].values())).fill_(torch.nan), "not finite"),
    ],
)
def test_a_damaged_one_is_refused(tmp_path, change, said):
    run = new_run(**BANK)
    one_step(run)
    save_checkpoint(run.state, tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "y.pt")
    with pytest.raises(UserError, match=said):
        load_checkpoint(run.state, tmp_path / "y.pt", unsealed=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean_bank": 2}, "--value deflated"),
        ({"mean_bank": 2, "value": "deflated", "means": 0}, "--means above 0"),
        ({"mean_bank": 0, "value": "deflated"}, "at least 1"),
        ({"mean_bank": 2, "value": "deflated", "mean_decays": (0.9,)}, "give --means 2 or more"),
        ({"mean_bank": 2, "value": "deflated", "modality": "vision"}, "text"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(UserError, match=said):
        small(**options)


def test_a_bank_of_more_than_an_epoch_is_refused():
    assert assemble(small(**BANK | {"mean_bank": 32}))
    with pytest.raises(UserError, match=r"66 texts .* the 64 of the stream; give at most 32"):
        assemble(small(**BANK | {"mean_bank": 33}))


def test_a_bank_needs_the_memory_of_a_batch():
    run, alive = new_run(**BANK), []
    batch = type(run.workload).batch

    def counted(workload, at):
        found = batch(workload, at)
        alive.append(weakref.ref(found.tokens))
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(run.workload), "batch", counted)
        loss = run.workload.stream_loss(run.estimated, range(3))
        assert not alive
        for part in loss.parts:
            part(run.state.functional.theta)
            assert sum(r() is not None for r in alive) <= 1


def test_while_the_learner_is_held_so_is_what_was_computed_at_it(monkeypatch):
    computed, known = [], step.known_feedback
    monkeypatch.setattr(step, "known_feedback", lambda *args: computed.append(1) or known(*args))
    options = {"feedback_bank": 4, "feedback_every": 2, "designer_warmup": 5}
    trained = train(**BANK, **options, budget="3steps")
    # once for the warm-up and the first two updates after it, once for the third: g_down and mean
    assert trained.state.counters.updates == 8 and len(computed) == 2 * 2
    ages = [notes["feedback_age"] for notes in trained.of("estimate")]
    assert ages[-3:] == [0.0, 1.0, 0.0]
