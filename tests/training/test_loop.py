"""The loop: what does and does not change a trajectory, budgets, accumulation, order of batches."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_run import Memory, new_run, same, train

import vfunc
from vfunc import trees
from vfunc.estimators.trajectory import Point, Simulation, simulate
from vfunc.language.workload import LanguageWorkload
from vfunc.training import loop, step


def identical(a, b):
    return same(a.theta, b.theta) and a.of("train_loss") == b.of("train_loss")


def test_alpha_0_is_the_baseline_bit_for_bit():
    designed = train(alpha_max=0.0, budget="6steps", eval_every=0.5, probe_batches=1)
    baseline = train("baseline", budget="6steps", eval_every=0.5)
    assert identical(designed, baseline)
    assert designed.of("heldout_loss", "evaluation") == baseline.of("heldout_loss", "evaluation")
    assert designed.evaluation == baseline.evaluation
    assert not identical(train(budget="6steps"), baseline)


@pytest.mark.parametrize("budget", ["4steps", "800tokens"])
def test_a_seed_is_a_trajectory(budget):
    first, again, other = (train(budget=budget, seed=s) for s in (3, 3, 4))
    assert identical(first, again) and same(first.phi, again.phi)
    assert first.evaluation == again.evaluation
    assert not identical(first, other) and not same(first.phi, other.phi)
    if budget.endswith("tokens"):
        tokens = first.of("tokens")
        assert tokens[-1] >= 800 > tokens[-2]


def test_looking_does_not_change_what_is_seen():
    # dropout, so that a stray draw on the global generator would show
    options = {"lora_rank": 2, "lora_dropout": 0.3, "budget": "4steps"}
    plain = train(**options, save_every=0.0)
    watched = train(**options, eval_every=0.25, probe_batches=2, save_every=0.25)
    assert identical(plain, watched) and same(plain.phi, watched.phi)
    assert watched.of("step", "evaluation") == [0, 1, 2, 3, 4]
    assert plain.of("step", "evaluation") == [0, 4]
    assert len(watched.of("predicted", "probe")) == 8 and not plain.of("predicted", "probe")
    assert watched.log.saved == [0, 1, 2, 3, 4] and plain.log.saved == [0, 4]


def test_burn_in_is_the_baseline_until_it_ends():
    options = {"budget": "6steps", "burn_in": 4, "meta_period": 2, "lr": 1e-3}
    burnt, baseline = train(**options), train("baseline", budget="6steps", lr=1e-3)
    losses, plain = burnt.of("train_loss"), baseline.of("train_loss")
    assert losses[:4] == plain[:4] and losses[4] != plain[4]
    updates = [e["step"] for e in burnt.log.events if "value" in e]
    assert updates == [5]
    never = train(**options | {"burn_in": 6})
    assert identical(never, baseline) and never.state.counters.updates == 0


def test_the_meta_period_counts_micro_batches():
    trained = train(budget="3steps", accumulate=2, meta_period=3)
    assert [e["step"] for e in trained.log.events if "value" in e] == [1, 2]  # 0 and 3, of 0 to 5
    assert trained.state.counters.updates == 2


def seen_by(monkeypatch, name):
    """What the workload's method of that name is asked for."""
    asked, method = [], getattr(LanguageWorkload, name)

    def noted(self, position):
        asked.append(position)
        return method(self, position)

    monkeypatch.setattr(LanguageWorkload, name, noted)
    return asked


def test_feedback_is_read_in_order(monkeypatch):
    asked = seen_by(monkeypatch, "feedback")
    train(budget="5steps", meta_period=2)
    assert asked == [0, 1, 2]


def test_a_lookahead_sees_what_the_learner_steps_on_next(monkeypatch):
    problem, observed = LanguageWorkload.problem, []

    def noted(self, estimated, designer, batches, *rest, **more):
        observed.append([b.batch.tokens for b in batches])
        return problem(self, estimated, designer, batches, *rest, **more)

    stepped, forward = [], LanguageWorkload.forward

    def forwarded(self, learner, batch, **more):
        if learner.training:
            stepped.append(batch.tokens)
        return forward(self, learner, batch, **more)

    monkeypatch.setattr(LanguageWorkload, "problem", noted)
    monkeypatch.setattr(LanguageWorkload, "forward", forwarded)
    train(budget="4steps", estimator="unrolled", lookahead_steps=3, meta_period=2)
    assert len(stepped) == 4 and len(observed) == 2
    assert all(len(batches) == 3 for batches in observed)
    assert all(torch.equal(x, y) for x, y in zip(observed[0], stepped[:3], strict=True))
    assert all(torch.equal(x, y) for x, y in zip(observed[1][:2], stepped[2:], strict=True))


def equal_counts(workload):
    """A stream in which every sequence predicts equally many tokens."""
    encoded = workload.data.stream.encoded
    n = min(len(s.tokens) - s.predict_from for s in encoded.sequences)

    def cut(s):
        end = s.predict_from + n
        return dataclasses.replace(s, tokens=s.tokens[:end], wrong=s.wrong[:end])

    sequences = tuple(cut(s) for s in encoded.sequences)
    encoded = dataclasses.replace(encoded, sequences=sequences)
    stream = dataclasses.replace(workload.data.stream, encoded=encoded)
    return dataclasses.replace(workload, data=dataclasses.replace(workload.data, stream=stream))


def test_a_windows_gates_are_means_over_its_tokens(monkeypatch):
    """Not means of its micro-batches' means, of which one may hold a single token."""
    taken = []
    micro_batch = loop.micro_batch

    def watched(run):
        taken.append(micro_batch(run))
        return taken[-1]

    monkeypatch.setattr(loop, "micro_batch", watched)
    done = loop.one_step(new_run("known_wrong", accumulate=3, batch_size=2))
    apart = []
    for name in (name for name in done if name in ("gate", "moved") or name.startswith("gate_of/")):
        there = [(m.notes[name], m.counts[name]) for m in taken if name in m.notes]
        whole = sum(x * n for x, n in there) / sum(n for _, n in there)
        assert done[name] == pytest.approx(whole, rel=1e-12), name
        if whole != pytest.approx(sum(x for x, _ in there) / len(there), rel=1e-3):
            apart.append(name)
    assert {"gate", "moved"} < set(apart)
    assert done["gate_on_wrong"] == 1 and done["gate_on_right"] == 0
    assert done["counts"] == {n: sum(m.counts.get(n, 0) for m in taken) for n in done["counts"]}
    assert done["counts"].keys() == {n for n in done if "gate" in n or n == "moved"}
    assert done["train_loss"] == pytest.approx(sum(m.loss for m in taken) / 3)  # what is stepped on


def gradient(accumulate, batch_size):
    """The learner's gradient when its window is full."""
    sizes = {"batch_size": batch_size, "accumulate": accumulate, "feedback_batch_size": 4}
    run = new_run("baseline", **sizes)
    run = dataclasses.replace(run, workload=equal_counts(run.workload))
    for _ in range(accumulate):
        step.micro_batch(run)
    return {n: p.grad.clone() for n, p in run.state.learner.named_parameters()}


def test_accumulated_micro_batches_are_one_large_batch():
    whole, parts = gradient(1, 8), gradient(4, 2)
    assert float(trees.norm(trees.axpy(-1.0, whole, parts)) / trees.norm(whole)) < 1e-5
    half = gradient(2, 2)
    assert float(trees.norm(trees.axpy(-1.0, whole, half)) / trees.norm(whole)) > 0.1


def test_the_gradient_is_clipped_over_the_whole_model(monkeypatch):
    stepped = []

    def noted(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        stepped.append(float(torch.nn.utils.get_total_norm(gradients)))

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    norms = train("baseline", clip=0.01, align="last:1").of("gradient_norm")
    assert stepped == pytest.approx([0.01] * 3, rel=1e-3) and min(norms) > 0.01
    stepped.clear()
    norms = train("baseline", clip=0.0).of("gradient_norm")
    assert stepped == pytest.approx(norms)


@pytest.mark.parametrize("budget", ["5steps", "1000tokens"])
def test_the_schedule_runs_on_the_spent_fraction(budget):
    trained = train("baseline", budget=budget, lr=1e-3, warmup=0.4, final_lr=0.2)
    key, amount = ("step", 5) if budget.endswith("steps") else ("tokens", 1000)
    spent = [0, *trained.of(key)][:-1]

    def expected(f):
        return 0.1 + 0.9 * f / 0.4 if f < 0.4 else 0.2 + 0.8 * (1 - f) / 0.6

    rates = [1e-3 * expected(x / amount) for x in spent]
    assert trained.of("lr") == pytest.approx(rates, rel=1e-12)


def test_seconds_count_training_alone(monkeypatch):
    clock = [100.0]
    loss, evaluate = LanguageWorkload.loss, LanguageWorkload.evaluate

    def trains(self, learner, forward, task):
        clock[0] += 0.25
        return loss(self, learner, forward, task)

    def evaluates(self, learner, *, final):
        clock[0] += 1000
        return evaluate(self, learner, final=final)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(LanguageWorkload, "loss", trains)
    monkeypatch.setattr(LanguageWorkload, "evaluate", evaluates)
    trained = train("baseline", budget="1.1s", eval_every=0.3, save_every=0.0)
    assert trained.of("seconds") == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert trained.of("step", "evaluation") == [0, 2, 3, 4, 5]
    assert clock[0] > 5000
    fractions = [x / 1.1 for x in (0, 0.25, 0.5, 0.75, 1.0)]
    factors = [1 - 0.9 * (f - 0.05) / 0.95 for f in fractions[1:]]
    assert trained.of("lr")[1:] == pytest.approx([1e-3 * f for f in factors])


def test_an_arms_last_state_is_on_disk_before_it_is_judged():
    log = Memory()

    def note(kind, fields):
        if fields.get("final"):
            assert log.saved[-1] == 3

    log.on_event = note
    train("baseline", log=log, save_every=0.0)
    assert log.saved == [0, 3]


def test_a_checkpoint_from_which_nothing_can_go_on_is_not_written():
    run = new_run()
    loop.save(run)
    assert run.log.saved == [0]
    with torch.no_grad():
        for parameter in run.state.learner.parameters():
            parameter.mul_(1e30)  # finite, as after a step that was too long
    loop.save(run)
    assert run.log.saved == [0]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("budget", ["4steps", "3000tokens"])
def test_lookahead_has_the_step_sizes_that_later_steps_take(budget, accumulate):
    """Through warm-up and decay; on tokens, from the second step on, at the mean pace so far."""
    options = {"estimator": "unrolled", "lookahead_steps": 3, "warmup": 0.5, "final_lr": 0.2}
    run = new_run(budget=budget, accumulate=accumulate, meta_period=1000, **options)
    workload, foreseen, taken = run.workload, [], []
    batches = tuple(workload.look_ahead(run.state.learner, workload.batch(k)) for k in range(3))
    while loop.fraction_spent(run) < 1:
        taken.append(loop.one_step(run)["lr"])
        # what the next window's estimates are told, once its size is set
        for group in run.state.optimizer.param_groups:
            group["lr"] = run.plan.size(loop.fraction_spent(run))
        problem = step.value_problem(run, batches, 0)
        foreseen.append([problem.rule.at(k).eta for k in range(3)])
        assert problem.notes.get("later_sizes_predicted", False) is (budget == "3000tokens")
    assert len(set(taken)) == len(taken) >= 3
    near = 1e-12 if budget == "4steps" else 0.1
    for k, sizes in enumerate(foreseen):
        for later, size in enumerate(sizes):
            if k + 1 + later < len(taken):
                assert size == pytest.approx(taken[k + 1 + later], rel=near)


@pytest.mark.parametrize("at", [0, 1])
def test_lookahead_takes_the_windows_of_later_steps(at):
    """What an estimate foresees at a place in a window is what training then does.

    A gate of zero makes every task the true tokens, whatever the learner is by then.
    """
    run = new_run(
        alpha_max=0.0, estimator="unrolled", lookahead_steps=2, budget="9steps", accumulate=3,
        meta_period=1000, burn_in=3 + at,
    )  # fmt: skip
    asked = []

    class Watching:
        """Keeps the first question that is asked, and what its answer is."""

        def __call__(self, problem, theta, phi):
            rule = replace(problem.rule, accumulated=copied(problem.rule.accumulated or {}) or None)
            state = {
                n: replace(x, buffers=copied(x.buffers)) for n, x in dict(problem.state).items()
            }
            asked.append((replace(problem, rule=rule, state=state), copied(theta), phi))
            return vfunc.Unrolled(2)(problem, theta, phi)

    run = replace(run, estimator=Watching())
    estimate = None
    for _ in range(3):
        done = loop.one_step(run)
        estimate = done.get("estimate", estimate)
    ((problem, theta, phi),) = asked
    assert len(problem.batches) == 3 - at + 3
    assert estimate["later_steps_single"] is estimate["window_incomplete"] is False
    taken = problem.rule.taken(2, len(problem.batches))
    _, end = simulate(Simulation(problem, phi, taken), Point(theta, problem.state), 2)
    foreseen = end.theta
    moved = trees.norm(trees.axpy(-1.0, theta, foreseen))
    # in float32, and Adam's step is nearly a sign
    apart = trees.norm(trees.axpy(-1.0, run.state.functional.theta, foreseen))
    assert float(apart) <= 1e-3 * float(moved)


def copied(tensors):
    return {name: x.clone() for name, x in tensors.items()}


def test_a_lookahead_of_one_step_takes_one_micro_batch():
    """As it stands: the rest of its window is left out, and said."""
    options = {"estimator": "unrolled", "lookahead_steps": 1, "accumulate": 2, "budget": "1steps"}
    for period, incomplete in ((1, False), (2, True)):  # asked last at the window's end, or start
        (said,) = train(meta_period=period, **options).of("estimate")
        assert said["window_incomplete"] is incomplete


def test_a_run_starts_with_a_step_of_a_copy_of_its_optimizer(monkeypatch):
    """What no look at the optimizer's class could see."""
    inner = torch.optim.AdamW.step

    def hurried(self, closure=None):
        inner(self, closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(1.001)

    monkeypatch.setattr(torch.optim.AdamW, "step", hurried)
    with pytest.raises(vfunc.UserError, match="the simulated step is not the optimizer's own"):
        new_run()
    new_run("baseline")  # it simulates nothing


def test_a_task_of_other_candidates_is_not_read_from_those_looked_up():
    run = new_run()
    learner, workload = run.state.learner, run.workload
    forward = workload.forward(learner, workload.batch(0), observe=True)
    task = workload.build_task(learner, "baseline", forward, None)
    plain = dataclasses.replace(forward, observed=None)
    assert torch.equal(workload.loss(learner, forward, task), workload.loss(learner, plain, task))
