"""A feedback bank: the gradient of many examples in parts, held over several designer updates."""

from __future__ import annotations

import dataclasses
import weakref

import measures
import pytest
import small_vision_run
import torch
from small_run import Memory, new_run, parts_of, same, small

import vfunc
from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators import FirstOrder, Unrolled
from vfunc.feedback import weighted_feedback
from vfunc.problem import InParts, known_feedback
from vfunc.processes import Processes
from vfunc.training import step
from vfunc.training.assemble import assemble
from vfunc.training.checkpoint import load_checkpoint, save_checkpoint
from vfunc.training.loop import one_step
from vfunc.training.probing import probe
from vfunc.training.start import start_arm


class Activations:
    """What a graph holds."""


pytestmark = pytest.mark.usefixtures("shallow")

HELD = {"feedback_bank": 5, "feedback_every": 3, "budget": "9steps"}
STYLES = {"feedback_tasks": "styles", "feedback_weights": (1.0, 3.0)}
MODALITIES = {"language": new_run, "vision": small_vision_run.new_run}


def in_float64(run):
    """The run's learner in float64, and L_down as its workload measures it there."""
    run.state.learner.double()
    return dataclasses.replace(run, estimated=run.workload.estimated(run.state.functional))


def of_bank(run, index, bank):
    return run.workload.downstream(run.estimated, index, dropout=None, seed=0, bank=bank).loss


@pytest.mark.parametrize(
    "options",
    [{}, STYLES | {"normalise_feedback": True}],
    ids=["one task", "two, weighted and normalised"],
)
def test_a_bank_of_text_is_the_batch_of_all_its_examples(options):
    with vfunc.keep_float64():
        run = in_float64(new_run(**options))
        theta, workload = run.state.functional.theta, run.workload
        for index, bank in ((0, 7), (2, 6)):
            found = known_feedback(of_bank(run, index, bank), theta)
            whole = dataclasses.replace(run, workload=_with_batches_of(workload, bank))
            wanted = known_feedback(step.feedback_at(whole, index).downstream.loss, theta)
            assert abs(float(found.loss - wanted.loss)) < 1e-12
            assert measures.apart(found.gradient, wanted.gradient) < 1e-12


def test_a_bank_of_pictures_is_the_batch_of_all_its_pictures():
    run = in_float64(small_vision_run.new_run())
    theta, workload = run.state.functional.theta, run.workload
    found = known_feedback(of_bank(run, 1, 7), theta)
    whole = dataclasses.replace(run, workload=_with_batches_of(workload, 7))
    wanted = known_feedback(step.feedback_at(whole, 1).downstream.loss, theta)
    assert measures.apart(found.gradient, wanted.gradient) < 1e-12
    assert float(abs(found.loss - wanted.loss)) < 1e-12
    halves = [of_bank(run, 0, n)(theta) for n in (3, 6)]
    assert float(abs(halves[0] - halves[1])) > 1e-4  # a mean of means would not be this one


def _with_batches_of(workload, size):
    return dataclasses.replace(workload, feedback_batch_size=size)


def test_no_more_than_one_parts_graph_is_there():
    x, alive, most = {"x": torch.ones(3, dtype=torch.float64)}, [], []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            ctx.held = Activations()
            alive.append(weakref.ref(ctx.held))
            most.append(sum(ref() is not None for ref in alive))
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    def part(k):
        return lambda theta: Watched.apply((theta["x"] * k).exp()).sum()

    loss = InParts(tuple(map(part, (1.0, 2.0, 3.0))))
    known = known_feedback(loss, x)
    assert most == [1, 1, 1]
    wanted = sum(k * torch.tensor(k).double().exp() for k in (1, 2, 3))
    assert torch.allclose(known.gradient["x"], wanted.expand(3), rtol=1e-14)
    both = weighted_feedback({"a": loss, "b": loss}, {"a": 1.0, "b": 2.0})
    assert isinstance(both, InParts) and len(both.parts) == 3
    assert torch.allclose(known_feedback(both, x).gradient["x"], 3 * wanted.expand(3))
    unequal = weighted_feedback({"a": loss, "b": InParts(loss.parts[:1])}, {"a": 1.0, "b": 1.0})
    assert torch.allclose(
        known_feedback(unequal, x).gradient["x"], (wanted + torch.tensor(1.0).double().exp())
    )


def test_shares_of_processes_are_the_bank():
    run = new_run()
    theta = run.state.functional.theta
    whole = known_feedback(of_bank(run, 1, 7), theta).gradient
    rows = [row for part in run.workload.bank(1, 7) for row in part.tokens.tolist()]
    shared = [
        row
        for rank in range(3)
        for part in dataclasses.replace(run.workload, processes=Processes(rank, 3)).bank(1, 7)
        for row in part.tokens.tolist()
    ]
    cut = sorted([t for t in row if t] for row in rows)  # batches of a share are by length
    assert sorted([t for t in row if t] for row in shared) == cut and len(cut) == 7
    assert not trees.is_zero(whole)
    with pytest.raises(UserError, match=r"--feedback-bank 5 is below the 6 processes"):
        assemble(small(feedback_bank=5), Processes(0, 6))


def test_a_lookahead_takes_a_bank():
    """As it would take the batch of all, at both ends: the same estimate to rounding."""
    found = []
    for parts in (2, 6):
        run = new_run(feedback_batch_size=parts)
        feedback = step.feedback_at(run, 0, bank=6)
        seen = tuple(
            run.workload.look_ahead(run.state.learner, run.workload.batch(k)) for k in range(2)
        )
        problem = step.value_problem(run, seen, feedback)
        phi = trees.detach(dict(run.state.designer.named_parameters()))
        found.append(Unrolled(2)(problem, feedback.theta, phi))
    one, two = found
    assert float(abs(one.value - two.value)) < 1e-6  # of losses of about 1, in float32
    assert measures.apart(one.grad, two.grad) < 1e-4


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_direction_serves_its_updates_and_is_then_made_anew(monkeypatch, modality):
    run, asked = MODALITIES[modality](**HELD), []
    real = step.known_feedback

    def counted(loss, theta, processes):
        asked.append(len(loss.parts))
        return real(loss, theta, processes)

    monkeypatch.setattr(step, "known_feedback", counted)
    held, notes = [], []
    for _ in range(7):
        notes.append(one_step(run)["estimate"]["feedback_age"])
        held.append(run.state.held)
    assert notes == [0, 1, 2, 0, 1, 2, 0]
    assert [h.updates for h in held] == [0, 0, 0, 3, 3, 3, 6]
    assert asked == [2 if modality == "vision" else 3] * 3
    assert held[0] is held[2] and held[3] is held[5]
    assert not same(held[2].gradient, held[3].gradient)


def test_a_held_direction_is_constant_while_the_learner_moves(monkeypatch):
    run, taken = new_run(value="dot", **HELD), []
    called = FirstOrder.__call__

    def noting(self, problem, theta, phi):
        taken.append((vfunc.feedback_gradient(problem, theta)[1], trees.scale(theta, 1.0)))
        return called(self, problem, theta, phi)

    monkeypatch.setattr(FirstOrder, "__call__", noting)
    for _ in range(4):
        one_step(run)
    (first, there), (second, elsewhere), _, (fourth, _) = taken
    assert same(first, second) and not same(there, elsewhere) and not same(first, fourth)
    loss = of_bank(run, 1, 5)  # the second bank, at the learner of the fourth update
    assert same(fourth, known_feedback(loss, taken[3][1]).gradient)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_run_resumed_in_the_middle_of_a_hold_is_the_run_that_was_not(modality, tmp_path):
    path = tmp_path / "checkpoint.pt"

    def go_on(run, steps):
        return [timeless(one_step(run)) for _ in range(steps)]

    run = MODALITIES[modality](**HELD)
    go_on(run, 2)
    save_checkpoint(run.state, path)
    wanted = go_on(run, 3)
    again = MODALITIES[modality](**HELD)
    load_checkpoint(again.state, path)
    assert again.state.held.updates == 0
    assert go_on(again, 3) == wanted
    for module in ("learner", "designer"):
        assert same(
            getattr(run.state, module).state_dict(), getattr(again.state, module).state_dict()
        )
    content = torch.load(path, weights_only=True)
    name = next(iter(content["held_feedback"]["gradient"]))
    content["held_feedback"]["gradient"][name][...] = torch.nan
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="of the held g_down has another shape, or is not finite"):
        load_checkpoint(again.state, tmp_path / "bad.pt", unsealed=True)


def timeless(done):
    return {k: v for k, v in done.items() if k != "units_a_second"}


def test_without_it_nothing_is_held_or_written(tmp_path):
    run = new_run()
    done = one_step(run)
    save_checkpoint(run.state, tmp_path / "checkpoint.pt")
    assert run.state.held is None and "feedback_age" not in done["estimate"]
    assert "held_feedback" not in torch.load(tmp_path / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feedback_bank": 1}, "--feedback-bank 1 is below the --feedback-batch-size 2"),
        ({"feedback_every": 2, "estimator": "unrolled"}, "of an earlier learner"),
        ({"feedback_every": 2, "estimator": "implicit"}, "of an earlier learner"),
        ({"feedback_every": 0}, "must be"),
        ({"feedback_bank": 8, "feedback_kind": "reward"}, "is for --feedback-kind worked"),
        ({"feedback_every": 8, "feedback_kind": "reward"}, "--feedback-every is for"),
        (
            {"feedback_every": 2, "feedback_tasks": "styles", "feedback_combine": "matched"},
            "asks domain by domain",
        ),
        ({"feedback_bank": 8, "arms": ("baseline",)}, "it needs an arm that goes by values"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        small(**options)


def test_an_estimator_of_ones_own_has_to_say_that_it_asks_for_no_more():
    """One that says it and asks elsewhere is told so, and nothing is wrong in silence."""
    with pytest.raises(UserError, match="that says `g_down_alone`"):
        small(feedback_every=2, estimator="user_estimator:TwoBatches")
    run = new_run(**HELD)
    with pytest.raises(UserError, match="must not say `g_down_alone`"):
        step.micro_batch(dataclasses.replace(run, estimator=Unrolled(1)))


def test_more_than_there_is_is_refused():
    with pytest.raises(UserError, match=r"more than the 32 feedback examples that there are; give"):
        parts_of(small(feedback_bank=33))
    with pytest.raises(UserError, match=r"more than the 8 feedback pictures that there are"):
        small_vision_run.parts_of(feedback_bank=9)


def test_the_check_at_the_start_and_the_probe_take_a_batch(monkeypatch):
    parts = parts_of(small(**HELD, probe_batches=1))
    run = start_arm("vpretraining", parts, Memory())
    one_step(run)
    probe(run)
    assert [e["kind"] for e in run.log.events if e["kind"] == "probe"]
