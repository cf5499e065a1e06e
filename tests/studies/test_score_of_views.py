"""The score of pictures: masks done on a real run, with heads fitted anew, and asked about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_vision_run import new_run, small_vision

import vfunc
from vfunc import trees
from vfunc.arms import ARMS
from vfunc.studies.score import doing, state_score
from vfunc.studies.score.asking import at_no_share, offering, task_by_task
from vfunc.studies.score.doing import MEASURES, require_halves, workbench
from vfunc.studies.score.families import SHARES
from vfunc.studies.score.rows import Row
from vfunc.studies.score.state_score import Asked, measure_state, on_offer
from vfunc.studies.score.views_on_offer import ViewCandidate, viewed, views_on_offer
from vfunc.training.loop import one_step
from vfunc.training.state import RunningMeans
from vfunc.training.step import feedback_at

OPTIONS = {"batch_size": 2, "budget": "9steps", "align": "all"}


def at_state(arm="vpretraining", steps=2, **options):
    run = new_run(arm, **OPTIONS, **options)
    run.state.running = RunningMeans((0.9,))
    for _ in range(steps):
        one_step(run)
    return run, small_vision(arms=("baseline", "vpretraining"), **OPTIONS, **options)


def blurred(share=1.0):
    def nothing(workload, batch, position):
        return torch.zeros_like(batch.views[:, :, :1])

    return ViewCandidate("uniform_blur", 0, share, nothing)


def everything(run):
    held = {**run.state.learner.state_dict()}
    return {name: x.clone() for name, x in held.items()} | {"draws": torch.get_rng_state()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


def test_a_task_starts_from_the_same_state_each_time_and_leaves_the_run_alone():
    run, config = at_state()
    before, counters = everything(run), run.state.counters
    bench = workbench(run, config)
    plain = bench.losses(None, (1, 3))
    other = bench.losses(blurred(), (1, 3))
    assert np.array_equal(bench.losses(None, (1, 3)), plain)  # teacher and centre go back, too
    assert np.array_equal(bench.losses(blurred(), (3,))[:, 0], other[:, 1])
    assert not np.array_equal(plain, other)
    # no share at all are the pictures as they are, bit for bit
    assert np.array_equal(bench.losses(blurred(0.0), (1, 3)), plain)
    assert same(before, everything(run)) and run.state.counters == counters


@pytest.mark.parametrize("arm", ["baseline", "known_objects", "uniform_smoothing"])
def test_a_task_done_is_that_arms_own_training(arm):
    run, config = at_state("baseline")
    bench = workbench(run, config)
    workload = run.workload
    if arm == "known_objects":
        task = ViewCandidate(arm, 0, 1.0, lambda work, batch, at: work.object_masks(at))
        workload = workload.of_arm(arm)
    else:
        task = None if arm == "baseline" else blurred(workload.fixed_alpha)
    done = bench.losses(task, (3,))
    onward = replace(run, arm=ARMS[arm], workload=workload)
    for _ in range(3):
        one_step(onward)
    loss = run.workload.evaluate(run.state.learner, final=False).metrics["loss"]
    assert done[MEASURES.index("test"), 0] == loss


def test_an_effect_is_measured_with_heads_that_are_fitted_to_the_learner_as_it_stands():
    run, config = at_state("baseline")
    bench = workbench(run, config)
    held = feedback_at(bench.work, bench.feedback, None, None).downstream
    done = bench.losses(None, (3,))[MEASURES.index("used"), 0]
    now = trees.detach(bench.work.state.functional.theta)
    fresh = feedback_at(bench.work, bench.feedback, None, None).downstream
    with torch.no_grad():
        assert done == float(fresh.loss(now)) != float(held.loss(now))


def test_the_next_steps_value_is_its_effect_with_heads_held(monkeypatch):
    """The views of offers are those that are done, their masks those of their share."""
    run, config = at_state()
    side = replace(doing.side_of(run.workload), refits=False)
    monkeypatch.setattr(doing, "side_of", lambda workload: side)
    bench = workbench(run, config)
    asked = Asked(9, (1,), 1, 0, 0)
    problem, theta, offers, tasks = on_offer(run, bench, [run.state.designer], asked, ahead=1)
    assert {"known_objects", "designer", "oracle", "uniform_blur"} <= {t.kind for t in tasks}
    assert {task.share for task in tasks} == set(SHARES)
    made = offering(problem, offers, viewed)
    plain = float(bench.losses(None, (1,))[MEASURES.index("used"), 0])
    found = task_by_task(vfunc.Unrolled(1), made, theta)["value"][0]
    effects = [plain - float(bench.losses(task, (1,))[MEASURES.index("used"), 0]) for task in tasks]
    assert found == pytest.approx(effects, abs=2e-6) and np.ptp(effects) > 1e-4


def test_every_offer_has_the_masks_of_its_own_batch():
    run, config = at_state("baseline")
    bench = workbench(run, config)
    _, _, offers, tasks = on_offer(run, bench, [], Asked(6, (1,), 1, 0, 0), ahead=3)
    assert len(offers) == 3
    for k, offer in enumerate(offers, run.state.counters.micro_batch):
        batch = run.workload.batch(k)
        seen = offer.observed.batch.views.shape[1]
        assert torch.equal(offer.observed.batch.views, batch.views[:, :seen])
        for task, moved in zip(tasks, offer.moves, strict=True):
            kept = task.kept(run.workload, batch, k)[:, :seen]
            assert torch.equal(moved, kept - 1) and bool((moved <= 0).all())


def test_slopes_are_derivatives_of_values_in_the_share():
    run, config = at_state()
    bench = workbench(run, config)
    asked = Asked(6, (1,), 1, 0, 0)
    problem, theta, offers, tasks = on_offer(run, bench, [], asked, ahead=1)
    made = offering(problem, offers, viewed)
    slopes = at_no_share(vfunc.FirstOrder("dot"), made, theta)[0].grad["share"]
    h = 2e-2
    for k in range(len(tasks)):
        one = torch.eye(len(tasks))[k]
        up, down = (
            float(vfunc.FirstOrder("dot")(made, theta, {"share": t * h * one}).value)
            for t in (1, -1)
        )
        assert float(slopes[k]) == pytest.approx((up - down) / (2 * h), rel=2e-2, abs=1e-6)


def test_an_oracle_is_worth_most_and_its_opposite_least_to_first_order():
    run, config = at_state()
    bench = workbench(run, config)
    asked = Asked(24, (1,), 1, 0, 0)
    problem, theta, offers, tasks = on_offer(run, bench, [], asked, ahead=1)
    slopes = at_no_share(vfunc.FirstOrder("dot"), offering(problem, offers, viewed), theta)[0].grad[
        "share"
    ]
    whole = {t.kind: float(s) for t, s in zip(tasks, slopes, strict=True) if t.share == 1}
    assert whole["oracle"] > 0 > whole["worst"]
    # masks that are constant over the oracle's cells: nothing in its form is worth more
    assert whole["oracle"] > whole["uniform_blur"] > whole["worst"]
    assert whole["oracle"] + whole["worst"] == pytest.approx(whole["uniform_blur"], rel=1e-3)


def test_a_state_is_measured():
    run, config = at_state(feedback_bank=4)
    before = everything(run)
    rows = [
        Row("unrolled", {"lookahead_steps": 1}),
        Row("first_order", {"value": "dot"}, ("value",)),
        Row("first_order", {"value": "cosine"}, ("value", "objective", "slope")),
        Row("first_order", {"value": "deflated", "means": 0, "mean_batches": 2}, ("slope",)),
    ]
    asked = Asked(8, (1, 2), 1, 1, 0)
    found = measure_state(run, config, [run.state.designer], rows, asked, memory=False)
    assert np.array(found["losses"]).shape == (9, len(MEASURES), 2)
    assert not found["missing"] and set(found["predicted"]) == {row.label for row in rows}
    read = found["predicted"]["first_order value=dot"]  # the loss is not linear in a view
    assert set(read) == {"value", "slope"} and not np.allclose(*read.values(), rtol=0.1)
    assert found["smoothness"]["parameters"][0] > 0.5
    assert same(before, everything(run))


def test_as_much_other_feedback_has_to_be_there():
    workload = new_run("baseline").workload
    assert require_halves(workload, None) == (8, 3) and require_halves(workload, 4) == (8, 4)
    with pytest.raises(vfunc.UserError, match="8 feedback examples are no two times 5"):
        require_halves(workload, 5)


def test_tasks_that_need_to_know_the_objects_are_left_out_where_nobody_does(monkeypatch):
    run, config = at_state("baseline")
    bench = workbench(run, config)
    problem, *_ = on_offer(run, bench, [], Asked(3, (1,), 1, 0, 0), ahead=1)
    stream = [run.workload.stream[k] for k in range(len(run.workload.stream))]
    asking = state_score._asking(run)
    blind = replace(asking, workload=replace(asking.workload, stream=stream))
    tasks, _ = views_on_offer(blind, problem, problem.known, [], 12, 0)
    kinds = {task.kind for task in tasks}
    assert kinds == {"random_field", "uniform_blur", "oracle", "random_colour", "worst"}
