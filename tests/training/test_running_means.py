"""Running means of the learner's own gradients: what they are made of, and who keeps them."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from small_run import new_run, parts_of, same, small, train

from vfunc.errors import UserError
from vfunc.estimators import FirstOrder
from vfunc.training import step
from vfunc.training.certifying import certified_arm, certify_start
from vfunc.training.checkpoint import load_checkpoint, save_checkpoint
from vfunc.training.loop import one_step
from vfunc.training.options.estimator_options import usual_decays
from vfunc.training.state import RunningMeans

pytestmark = pytest.mark.usefixtures("shallow")

DEFLATED = {"value": "deflated"}


def with_gradient(*rows):
    """Parameters whose gradient is this; None has none."""
    live = {str(i): torch.zeros(len(row or "ab")) for i, row in enumerate(rows)}
    for p, row in zip(live.values(), rows, strict=True):
        p.grad = None if row is None else torch.tensor(row)
    return live


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_a_mean_weighs_each_gradient_by_its_age_without_bias(decay):
    drawn = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    running = RunningMeans((decay,))
    for t, g in enumerate(drawn, 1):
        running = running.after(with_gradient(g.tolist()))
        weights = torch.tensor([decay ** (t - 1 - k) for k in range(t)])
        want = (weights[:, None] * drawn[:t]).sum(0) / weights.sum()
        assert torch.allclose(running.means[0]["0"], want, atol=1e-6)
    assert running.steps == 6


def test_a_parameter_without_a_gradient_counts_as_zero_and_means_are_never_written_to():
    running = RunningMeans((0.5, 0.0)).after(with_gradient([1.0, 2.0], None))
    before = {n: x.clone() for n, x in running.means[0].items()}
    assert before["1"].tolist() == [0.0, 0.0]
    later = running.after(with_gradient(None, [3.0, 3.0]))
    assert same(running.means[0], before)
    assert later.means[1]["1"].tolist() == [3.0, 3.0]
    assert later.means[0]["0"].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_means_of_bfloat16_gradients_are_in_float32():
    live = {"x": torch.ones(2, dtype=torch.bfloat16)}
    live["x"].grad = torch.ones(2, dtype=torch.bfloat16)
    running = RunningMeans((0.999,)).after(live)
    live["x"].grad = torch.full((2,), 1.0078125, dtype=torch.bfloat16)
    assert running.after(live).means[0]["x"].dtype == torch.float32
    assert running.after(live).means[0]["x"][0] == pytest.approx(1.00390, abs=1e-4)


def test_the_loop_takes_its_own_gradients_before_clipping_within_s(monkeypatch):
    run = new_run(**DEFLATED, means=2, mean_decays=(0.0, 0.5), clip=0.01, accumulate=2,
                  align="last:1")  # fmt: skip
    names, seen = run.state.functional.names, []
    clipped = step.clip_grad_norm_

    def noted(parameters, clip):
        live = dict(run.state.learner.named_parameters())
        seen.append({n: live[n].grad.clone() for n in names})
        return clipped(parameters, clip)

    monkeypatch.setattr(step, "clip_grad_norm_", noted)
    assert run.state.means == ()
    one_step(run)
    assert all(same(mean, seen[0]) for mean in run.state.means)
    one_step(run)
    last, mean = run.state.means
    assert all(torch.allclose(last[n], seen[1][n], atol=1e-7) for n in names)
    assert all(torch.allclose(mean[n], (seen[0][n] + 2 * seen[1][n]) / 3, atol=1e-7) for n in names)
    assert float(torch.cat([x.flatten() for x in last.values()]).norm()) > 0.05


@pytest.mark.parametrize(
    ("arm", "options"),
    [
        ("vpretraining", {}),
        ("vpretraining", {"value": "cosine"}),
        ("vpretraining", {**DEFLATED, "means": 0}),
        ("vpretraining", {"estimator": "unrolled"}),
        ("baseline", DEFLATED),
        ("random_feedback", DEFLATED),
    ],
)
def test_nobody_keeps_means_that_no_estimate_takes(arm, options):
    assert new_run(arm, **options).state.running is None


def test_before_the_first_step_the_estimate_is_dot_s_and_says_so():
    trained, dot = train(**DEFLATED), train()
    estimates = trained.of("estimate")
    assert [notes["means_used"] for notes in estimates] == [0, 1, 1]
    assert "mean_cosine" not in estimates[0] and estimates[0]["in_span"] == 0
    assert all(-1 <= notes["mean_cosine"] <= 1 for notes in estimates[1:])
    assert trained.of("value")[0] == dot.of("value")[0]
    assert not same(trained.phi, dot.phi)
    assert trained.state.running.steps == 3


def test_burn_in_and_held_designers_leave_the_means_to_all_of_the_learner_s_steps():
    trained = train(**DEFLATED, burn_in=2)
    assert [notes["means_used"] for notes in trained.of("estimate")] == [1]
    assert trained.state.running.steps == 3


def test_an_estimator_of_one_s_own_is_given_the_means_that_it_asks_for(monkeypatch, tmp_path):
    (tmp_path / "taking_means.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from vfunc import FirstOrder\n"
        "@dataclass(frozen=True)\n"
        "class Taking:\n"
        "    running_means: int = 2\n"
        "    def __call__(self, problem, theta, phi):\n"
        "        found = FirstOrder()(problem, theta, phi)\n"
        "        notes = {**found.diagnostics, 'given': len(problem.means)}\n"
        "        return replace(found, diagnostics=notes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {"estimator": "taking_means:Taking"}
    assert [notes["given"] for notes in train(**own).of("estimate")] == [0, 2, 2]
    assert new_run(**own, mean_decays=(0.1, 0.2)).state.running.decays == (0.1, 0.2)
    with pytest.raises(UserError, match="gives 1 decay rates and the estimator takes 2"):
        new_run(**own, mean_decays=(0.1,))
    sys.modules.pop("taking_means", None)


def test_decay_rates_come_one_for_each_mean():
    def decays(**options):
        return new_run(**DEFLATED, **options).state.running.decays

    assert decays() == (0.9,) and decays(means=3) == pytest.approx((0.9, 0.99, 0.999))
    assert decays(mean_decays=(0.5,)) == (0.5,)
    assert decays(means=2, mean_decays=(0.5, 0)) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean_decays": (0.9,)}, "--mean-decays does nothing here: it is for --value deflated"),
        ({"value": "cosine", "mean_decays": (0.9,)}, "--mean-decays does nothing here"),
        ({"estimator": "implicit", "mean_decays": (0.9,)}, "--mean-decays does nothing here"),
        ({**DEFLATED, "means": 0, "mean_decays": (0.9,)}, "--mean-decays does nothing here"),
        ({"means": 2}, "--means does nothing here: it is for --value deflated"),
        ({"beta": 0.5}, "--beta does nothing here: it is for --value deflated"),
        ({**DEFLATED, "means": 0, "beta": 0.5}, "--beta does nothing here: --means 0"),
        (
            {"estimator": "unrolled", "beta": 0.5},
            "--beta does nothing here: it is for --value deflated",
        ),
        ({"mean_batches": 2}, "--mean-batches does nothing here: it is for --value deflated"),
        ({"value": "cosine", "mean_batches": 2}, "--mean-batches does nothing here"),
        ({**DEFLATED, "mean_batches": -1}, "--mean-batches must be at least 0"),
        (
            {**DEFLATED, "means": 0, "mean_batches": 2, "mean_decays": (0.9,)},
            "--mean-decays does nothing here",
        ),
        ({**DEFLATED, "mean_decays": (0.9, 0.5)}, "gives 2 decay rates .* takes 1 running means"),
        ({**DEFLATED, "means": 2, "mean_decays": (0.9,)}, "gives 1 decay rates .* takes 2"),
        ({**DEFLATED, "mean_decays": (1.0,)}, "--mean-decays must be at least 0 and below 1"),
        ({**DEFLATED, "mean_decays": (-0.1,)}, "--mean-decays must be at least 0 and below 1"),
        ({**DEFLATED, "mean_decays": ()}, "--mean-decays must be one or more numbers"),
        ({**DEFLATED, "beta": 1.5}, "--beta must be at least 0 and at most 1"),
        ({**DEFLATED, "means": -1}, "--means must be at least 0"),
        ({**DEFLATED, "means": 9}, "--means must be at least 0 and at most 8"),
        ({"designer_width": 10**12}, "--designer-width must be at least 2 and at most 65536"),
        ({"arms": ("random_feedback",), "mean_decays": (0.9,)}, "--mean-decays does nothing here"),
    ],
)
def test_options_that_do_nothing_or_contradict_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        small(**options)


def test_the_usual_decay_rates_forget_however_many_there_are():
    means = FirstOrder("deflated", means=8).running_means
    assert all(0 < decay < 1 for decay in usual_decays(means))


def test_a_checkpoint_holds_the_means(tmp_path):
    run = new_run(**DEFLATED)
    one_step(run)
    save_checkpoint(run.state, tmp_path / "x.pt")
    other = new_run(**DEFLATED)
    load_checkpoint(other.state, tmp_path / "x.pt")
    assert other.state.running.steps == 1 and same(other.state.means[0], run.state.means[0])
    one_step(run), one_step(other)
    assert same(other.state.means[0], run.state.means[0])
    for wrong in ({}, {**DEFLATED, "mean_decays": (0.5,)}, {**DEFLATED, "align": "last:1"}):
        with pytest.raises(UserError, match=r"means of the learner's|running means"):
            load_checkpoint(new_run(**wrong).state, tmp_path / "x.pt")


def test_means_in_a_checkpoint_that_are_not_sound_are_refused(tmp_path):
    run, other = new_run(**DEFLATED), new_run(**DEFLATED)
    live = run.state.functional.live
    for p in live.values():
        p.grad = torch.ones_like(p)
    sound = run.state.running.after(live)
    run.state.optimizer.zero_grad(set_to_none=True)
    run.state.counters = dataclasses.replace(run.state.counters, step=1)
    first, *rest = sound.means[0].items()
    name, x = first
    damaged = {
        "missing": (dict(rest),),
        "not finite": ({**dict(rest), name: x * float("nan")},),
        "shape": ({**dict(rest), name: x.flatten()[:1]},),
        "fewer": (),
    }
    for kind, means in damaged.items():
        run.state.running = dataclasses.replace(sound, means=means)
        save_checkpoint(run.state, tmp_path / f"{kind}.pt")
        with pytest.raises(UserError, match="running means"):
            load_checkpoint(other.state, tmp_path / f"{kind}.pt")


def test_matched_domains_take_the_means_of_the_whole_stream():
    trained = train(**DEFLATED, feedback_tasks="styles", feedback_combine="matched", batch_size=4,
                    budget="2steps", align="last:1")  # fmt: skip
    used = [
        x for notes in trained.of("estimate") for n, x in notes.items() if n.endswith("/means_used")
    ]
    assert used[0] == 0 and used[-1] == 1


def test_a_deflated_estimate_is_certified_with_something_to_take_out():
    options = {**DEFLATED, "align": "last:1", "designer_width": 8, "designer_heads": 2}
    parts = parts_of(small(**options, arms=("baseline", "vpretraining"), certify=True))
    seen = []
    called = FirstOrder.__call__

    def noted(self, problem, theta, phi):
        found = called(self, problem, theta, phi)
        seen.append(found.diagnostics.get("means_used"))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FirstOrder, "__call__", noted)
        found = certify_start(certified_arm(parts), parts)
    assert found.certified and set(seen) == {1}


class Watching:
    """Keeps what is asked of an estimator."""

    def __init__(self, estimator):
        self.estimator, self.asked = estimator, []
        self.mean_batches = estimator.mean_batches

    def __call__(self, problem, theta, phi):
        found = self.estimator(problem, theta, phi)
        self.asked.append((problem, found.diagnostics))
        return found


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_next_batches_are_the_stream_s_whatever_windows_they_belong_to(accumulate):
    """As the learner is now: the present micro-batch's first, and no later step is simulated."""
    run = new_run(**DEFLATED, means=0, mean_batches=3, accumulate=accumulate, align="last:1")
    watching = Watching(run.estimator)
    run = dataclasses.replace(run, estimator=watching)
    assert run.state.running is None and run.options.look_ahead == 1
    for at in range(2):
        seen = run.workload.look_ahead(run.state.learner, run.workload.batch(at + 2))
        step.micro_batch(run)  # of the window's, the learner stays where it is
        problem, told = watching.asked[-1]
        for k, one in enumerate(problem.batches):
            assert torch.equal(one.batch.tokens, run.workload.batch(at + k).tokens)
        assert len(problem.batches) == 3 and told["means_used"] == 1
        assert torch.allclose(problem.batches[2].observation.log_probs,
                              seen.observation.log_probs, atol=1e-5)  # fmt: skip
        assert problem.rule.windows == ((1 / accumulate,) * (accumulate - at % accumulate),)
        assert abs(told["mean_batches_cosine"]) == pytest.approx(told["in_span"])


def test_a_random_direction_and_arms_without_a_designer_take_one_batch():
    for arm, count in (("vpretraining", 3), ("random_feedback", 1), ("baseline", 1)):
        run = new_run(arm, **DEFLATED, mean_batches=3)
        assert step.batches_ahead(run) == count
    both = new_run("vpretraining", estimator="unrolled", lookahead_steps=2)
    assert step.batches_ahead(both) == 2
