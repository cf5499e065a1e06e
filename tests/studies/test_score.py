"""The counterfactual score: known answers on a quadratic learner, and tasks done on a real run."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from small_run import new_run, same, small

import vfunc
from vfunc.arms import ARMS
from vfunc.language.soft_targets.hand_made import hand_made_targets
from vfunc.language.workload import LanguageWorkload
from vfunc.studies.score.asking import Offer, at_no_share, offering, slopes, task_by_task
from vfunc.studies.score.doing import MEASURES, require_halves, workbench
from vfunc.studies.score.families import SHARES
from vfunc.studies.score.rank_agreement import Paired, agreement, draws_of
from vfunc.studies.score.rows import Row
from vfunc.studies.score.score_files import _page
from vfunc.studies.score.scores import left_out, scored
from vfunc.studies.score.smoothness import sign_agreement
from vfunc.studies.score.state_score import Asked, measure_state, on_offer
from vfunc.studies.score.tasks_on_offer import Candidate, drawn
from vfunc.training.budget import Budget
from vfunc.training.loop import one_step
from vfunc.training.provenance import git_commit
from vfunc.training.state import RunningMeans

OPTIONS = {"feedback_batch_size": 4, "batch_size": 2}


# --- a quadratic learner: L_pre = sum_k q_k l_k, l_k and L_down quadratic


class Quadratic:
    """Twelve tasks that move mass between five quadratic losses."""

    def __init__(self, eta: float) -> None:
        draw = torch.Generator().manual_seed(0)
        self.eta, n = eta, 4
        roots = torch.randn(5, n, n, generator=draw, dtype=torch.float64)
        self.curvature = roots @ roots.mT + torch.eye(n, dtype=torch.float64)
        self.centres = torch.randn(5, n, generator=draw, dtype=torch.float64)
        self.goal = torch.randn(n, generator=draw, dtype=torch.float64)
        self.theta = {"x": torch.randn(n, generator=draw, dtype=torch.float64)}
        self.text = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
        self.tasks = torch.randn(12, 5, generator=draw, dtype=torch.float64).softmax(-1)
        self.moves = self.tasks - self.text

    def losses(self, x):
        off = x - self.centres
        return torch.einsum("ki,kij,kj->k", off, self.curvature, off) / 2

    def problem(self, batches: int = 1) -> vfunc.ValueProblem:
        plain = vfunc.ValueProblem(
            lambda phi, batch: {"q": self.text},
            lambda theta, task: task["q"] @ self.losses(theta["x"]),
            lambda theta: ((theta["x"] - self.goal) ** 2).sum() / 2,
            (None,),
            vfunc.UpdateRule(vfunc.SGD(self.eta)),
            linear=vfunc.LinearForm("q", lambda theta, task: self.losses(theta["x"])),
        )
        return offering(plain, [Offer({"q": self.text}, self.moves)] * batches)

    def effects(self, steps: int = 1):
        """By hand: gradient descent on each mixture, against the text."""
        ends = []
        for q in (self.text, *self.tasks):
            x = self.theta["x"]
            for _ in range(steps):
                pull = torch.einsum("kij,kj->ki", self.curvature, x - self.centres)
                x = x - self.eta * q @ pull
            ends.append(float(((x - self.goal) ** 2).sum() / 2))
        return np.array(ends[0]) - np.array(ends[1:])


@dataclass(frozen=True)
class Backwards:
    """An estimator with a sign error."""

    def __call__(self, problem, theta, phi):
        right = vfunc.FirstOrder("dot")(problem, theta, phi)
        grad = {name: -g for name, g in right.grad.items()}
        return replace(right, value=-right.value, objective=-right.objective, grad=grad)


def spearman_of(predicted, effect):
    return agreement([Paired(predicted, effect)], draws_of([len(effect)], 20, 0)).spearman.value


def dots(eta, estimator=None):
    made = Quadratic(eta)
    return task_by_task(estimator or vfunc.FirstOrder("dot"), made.problem(), made.theta)["value"]


def test_dot_ranks_perfectly_as_steps_become_small_and_not_when_they_are_long():
    scores = [spearman_of(dots(eta), Quadratic(eta).effects()) for eta in (1e-4, 1e-2, 0.4)]
    assert scores[0] == pytest.approx(1.0) and scores[0] >= scores[1] > scores[2]


def test_a_sign_error_ranks_the_other_way_around():
    effect = Quadratic(1e-4).effects()
    assert spearman_of(dots(1e-4, Backwards()), effect) == pytest.approx(-1.0)
    made = Quadratic(1e-4)
    slope = slopes(at_no_share(Backwards(), made.problem(), made.theta))
    assert spearman_of(slope, effect) == pytest.approx(-1.0)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_lookahead_predicts_the_effect_that_is_computed_by_hand(steps):
    made = Quadratic(0.05)
    row = Row("unrolled", {"lookahead_steps": steps}, steps=steps, ahead=steps)
    read = task_by_task(row.estimator_of_values(0.05), made.problem(steps), made.theta)
    assert read["value"][0] == pytest.approx(made.effects(steps), rel=1e-9)
    whole = task_by_task(row.estimator(0.05), made.problem(steps), made.theta)
    assert np.array_equal(read["value"], whole["value"])  # cut short in the adjoint alone


def test_the_slope_of_a_value_that_is_linear_is_the_value():
    made = Quadratic(0.05)
    slope = slopes(at_no_share(vfunc.FirstOrder("dot"), made.problem(), made.theta))
    assert slope == pytest.approx(dots(0.05))
    # of one that is not, it is the derivative at the text as it is
    estimator = vfunc.Unrolled(2)
    problem, step = made.problem(2), 1e-5
    at = torch.zeros(12, dtype=torch.float64)
    at[3] = step
    up = estimator(problem, made.theta, {"share": at}).value
    down = estimator(problem, made.theta, {"share": -at}).value
    slope = slopes(at_no_share(estimator, problem, made.theta))
    assert slope[0, 3] == pytest.approx(float(up - down) / (2 * step), rel=1e-6)


def test_a_random_direction_is_drawn_anew_and_repeatably():
    made = Quadratic(0.05)
    first, again = (
        slopes(at_no_share(vfunc.RandomDirection(), made.problem(), made.theta, 3))
        for _ in range(2)
    )
    assert first.shape == (3, 12) and np.array_equal(first, again)
    assert not np.allclose(first[0], first[1])


def test_tasks_are_mixed_where_the_loss_is_linear_alone():
    problem = replace(Quadratic(0.1).problem(), linear=None)
    with pytest.raises(vfunc.UserError, match="linear"):
        offering(problem, problem.batches)


# --- metasmoothness


def test_sign_agreement_is_the_papers():
    point = [torch.tensor(x) for x in ([0.0, 0.0, 0.0], [1.0, 2.0, -1.0], [3.0, 1.0, -1.0])]
    # |d| = 3, 1, 1; signs: + and +, + and -, - and 0
    none, once, twice = point
    assert sign_agreement([(none, once, twice)]) == pytest.approx((3 - 1 + 0) / 5)
    line = [torch.tensor([0.5, -2.0]) * k for k in range(3)]
    assert sign_agreement([(line[0], line[1], line[2])]) == 1.0
    assert sign_agreement([(line[0], line[0], line[0])]) == 1.0


# --- tasks that are drawn


@pytest.mark.parametrize("designers", [0, 2])
def test_few_tasks_are_of_all_kinds_and_at_all_distances(designers):
    def tasks(count, seed=0):
        made = drawn(
            count,
            lambda observed: observed.observation.log_probs,
            [torch.nn.Identity()] * designers,
            vocabulary=9,
            fixed_alpha=0.5,
            knows_wrong=True,
            seed=seed,
        )
        return [(task.kind, task.number, task.share) for task in made]

    few, many = tasks(14), tasks(64)
    assert many[:14] == few and len(set(many)) == len(many) == 64
    assert len({kind for kind, _, _ in few}) == 10 + bool(designers)
    for found in (few, many):
        shares = [share for _, _, share in found]
        assert all(shares.count(share) >= len(found) // 4 for share in SHARES)


# --- tasks done on a real run


def uniform(share=1.0):
    """The uniform_smoothing arm's own targets, mixed in."""

    def targets(observed):
        return hand_made_targets("uniform_smoothing", observed, 0.5)[0]

    return Candidate("uniform", 0, share, targets)


def snapshot(run):
    state = run.state
    return copy.deepcopy(
        (
            dict(state.learner.named_parameters()),
            state.optimizer.state_dict(),
            state.counters,
            torch.get_rng_state(),
            [p.grad for p in state.learner.parameters()],
        )
    )


def unchanged(before, run):
    after = snapshot(run)
    assert same(before[0], after[0]) and before[2] == after[2]
    assert torch.equal(before[3], after[3]) and before[4] == after[4]
    states = [one[1]["state"] for one in (before, after)]
    assert all(
        torch.equal(x, states[1][k][name])
        for k, held in states[0].items()
        for name, x in held.items()
    )
    assert before[1]["param_groups"] == after[1]["param_groups"]


def at_state(arm="vpretraining", steps=2, **options):
    run = new_run(arm, budget="9steps", **OPTIONS, **options)
    run.state.running = RunningMeans((0.9,))
    for _ in range(steps):
        one_step(run)
    return run, small(budget="9steps", arms=("baseline", "vpretraining"), **OPTIONS, **options)


@pytest.mark.usefixtures("shallow")
class TestDoing:
    def test_a_task_starts_from_the_same_state_each_time_and_leaves_the_run_alone(self):
        run, config = at_state()
        before = snapshot(run)
        bench = workbench(run, config)
        text = bench.losses(None, (1, 3))
        other = bench.losses(uniform(), (1, 3))
        assert np.array_equal(bench.losses(None, (1, 3)), text)
        assert np.array_equal(bench.losses(uniform(), (3,))[:, 0], other[:, 1])
        assert not np.array_equal(text, other)
        # no share at all is the text as it is, bit for bit
        assert np.array_equal(bench.losses(uniform(0.0), (1, 3)), text)
        unchanged(before, run)

    @pytest.mark.parametrize("arm", ["baseline", "uniform_smoothing"])
    def test_a_task_done_is_that_arms_own_training(self, arm):
        run, config = at_state("baseline")
        bench = workbench(run, config)
        done = bench.losses(None if arm == "baseline" else uniform(), (3,))
        onward = replace(run, arm=ARMS[arm])
        for _ in range(3):
            one_step(onward)
        loss = run.workload.evaluate(run.state.learner, final=False).metrics["loss"]
        assert done[MEASURES.index("test"), 0] == loss

    def test_draws_are_the_same_for_every_task(self, monkeypatch):
        run, config = at_state("baseline")
        bench = workbench(run, config)
        seen = []
        plain = LanguageWorkload.forward

        def forward(workload, learner, batch, **rest):
            seen.append(float(torch.rand(())))  # as a dropout mask is drawn
            return plain(workload, learner, batch, **rest)

        monkeypatch.setattr(LanguageWorkload, "forward", forward)
        bench.losses(None, (2,))
        torch.rand(5)
        bench.losses(uniform(), (2,))
        assert len(seen) == 4 and seen[:2] == seen[2:]

    @pytest.mark.parametrize(("bank", "name"), [(None, "batch-size"), (10, "bank")])
    def test_as_much_other_feedback_has_to_be_there(self, bank, name):
        workload = new_run("baseline", feedback_size=15, feedback_batch_size=8).workload
        said = rf"15 feedback examples are no two times {bank or 8}, .* smaller --feedback-{name}"
        with pytest.raises(vfunc.UserError, match=said):
            require_halves(workload, bank)
        assert require_halves(workload, 7) == (15, 7)

    def test_the_other_half_shares_no_example_with_the_one_that_is_used(self):
        run, config = at_state("baseline", feedback_size=14)
        run.state.counters = replace(run.state.counters, updates=2)  # batches 8-11 and 12-15: no
        bench = workbench(run, config)
        assert bench.feedback == 4  # 16-19 and 20-23, of the second epoch
        banked = replace(run, options=replace(run.options, feedback_bank=7))
        first = workbench(banked, config)
        assert first.feedback == 2
        # a bank's loss is that of its parts together: mean over tokens
        whole = [run.workload.data.feedback.batch(14 + at, 7) for at in (0, 7)]
        estimated = run.workload.estimated(run.state.functional)
        for name, batch in zip(("used", "other"), whole, strict=True):
            loss = estimated.worked_loss(batch)(run.state.functional.theta)
            assert first.measures[name]() == pytest.approx(float(loss), rel=1e-5)

    def test_a_task_that_diverges_is_told_of_and_left_out(self):
        run, config = at_state("baseline")
        bench = workbench(run, config)
        nan = Candidate("nan", 0, 1.0, lambda seen: seen.observation.log_probs * float("nan"))
        done = bench.losses(nan, (1, 2))
        assert np.isnan(done).all()
        text = bench.losses(None, (1, 2)).tolist()
        tasks = [bench.losses(uniform(s), (1, 2)).tolist() for s in (0.1, 0.2, 0.3)]
        state = {
            "measures": list(MEASURES),
            "horizons": [1, 2],
            "losses": [text, *tasks, [[None, None]] * 3],  # as a state's file has it
            "predicted": {"x": {"value": [[0.3, 0.2, 0.1, 9.0]]}},
            "tasks": [{"share": s} for s in (0.1, 0.2, 0.3, 1.0)],
        }
        assert left_out([state]) == 1
        one = next(s for s in scored([state], 10) if s.row == "x" and s.measure == "test")
        assert len(one.agreement.spearman.__dict__) == 3 and one.agreement.spearman.value in (1, -1)

    def test_the_next_steps_value_is_its_effect_and_rows_do_not_depend_on_each_other(self):
        run, config = at_state()
        before = snapshot(run)
        rows = [
            Row("unrolled", {"lookahead_steps": 1}),
            Row("first_order", {"value": "deflated"}, ("value",)),
            Row("first_order", {"value": "deflated", "means": 0, "mean_batches": 3}, ("slope",)),
            Row("first_order", {"value": "dot"}, ("value",)),
            Row("random", {}, ("slope",), draws=2),
        ]
        asked = Asked(4, (1,), 1, 1, 0)
        designers = [run.state.designer]
        found = measure_state(run, config, designers, rows, asked)
        losses = np.array(found["losses"])
        used = (losses[0] - losses[1:])[:, MEASURES.index("used"), 0]
        value = np.array(found["predicted"]["unrolled lookahead_steps=1"]["value"][0])
        assert value == pytest.approx(used, abs=2e-6) and np.ptp(used) > 1e-4
        back = measure_state(
            run, config, designers, rows[::-1], replace(asked, directions=0), memory=False
        )
        assert back["predicted"] == found["predicted"] and back["losses"] == found["losses"]
        deflated, dotted = (
            np.array(found["predicted"][f"first_order value={value}"]["value"][0])
            for value in ("deflated", "dot")
        )
        assert not np.allclose(deflated, dotted)  # it has the state's running means
        costs = [cost["memory"] for cost in found["cost"].values()]
        assert min(costs) > 0 and {cost["memory"] for cost in back["cost"].values()} == {None}
        assert not found["missing"] and found["smoothness"]["parameters"][0] > 0.5
        unchanged(before, run)

    @pytest.mark.parametrize("unit", ["steps", "tokens"])
    def test_horizons_past_the_budgets_end_are_told(self, unit):
        run, config = at_state("baseline")  # after 2 of 9 steps
        if unit == "tokens":
            budget = Budget(9 * run.state.counters.units // 2, "tokens")
            run = replace(run, plan=replace(run.plan, budget=budget))
        rows = [Row("zero", {}, ("objective",))]
        found = measure_state(run, config, [], rows, Asked(3, (1, 7, 8), 0, 0, 0), memory=False)
        assert found["past_end"] == [8]
        assert "after 2 steps by H = 8." in _page("", [found], scored([found], 2))

    def test_states_that_different_code_measured_are_told(self):
        run, config = at_state("baseline")
        rows = [Row("zero", {}, ("objective",))]
        found = measure_state(run, config, [], rows, Asked(3, (1,), 0, 0, 0), memory=False)
        assert found["git_commit"] == git_commit()
        later = {**found, "git_commit": "abc123", "step": 5}
        page = _page("", [found, later], scored([found, later], 2))
        assert f"after 2 steps {git_commit() or 'unknown'}; after 5 steps abc123." in page
        same = [found, {**later, "git_commit": found["git_commit"]}]
        assert "different code" not in _page("", same, scored(same, 2))

    def test_an_arm_without_a_designer_is_asked_too_and_accumulation_counts_steps(self):
        run, config = at_state("baseline", accumulate=2)
        bench = workbench(run, config)
        before = bench.measures["used"]()
        fallen = before - bench.losses(None, (2,))[MEASURES.index("used"), 0]
        asked = Asked(3, (2,), 2, 0, 0)
        problem, theta, offers, tasks = on_offer(run, bench, [], asked, ahead=2)
        assert len(offers) == 4 and "designer" not in {task.kind for task in tasks}
        text = at_no_share(vfunc.Unrolled(2), offering(problem, offers), theta)[0]
        assert float(text.value) == pytest.approx(fallen, abs=2e-6) and abs(fallen) > 1e-4
