"""Several feedback tasks, rewards and regularisers, as the command line and the loop have them."""

from __future__ import annotations

import dataclasses
import json

import measures
import pytest
import torch
from small_run import new_run, parts_of, same, small, train

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators import FirstOrder
from vfunc.language import feedback_tasks as language_feedback
from vfunc.language.data.arithmetic import STYLES
from vfunc.language.data.examples import take_rows
from vfunc.language.data.mixture import source_names
from vfunc.language.data.reading import Source, file_data, tokenised
from vfunc.language.data.sequences import InterleavedStream
from vfunc.language.data.streams import PRESETS, embedded_examples
from vfunc.language.learner import LanguageLearner
from vfunc.language.rewards import draw_samples
from vfunc.language.value_problem import language_problem
from vfunc.training.build.configuration import resolve
from vfunc.training.step import value_problem

STYLED = {"feedback_tasks": "styles", "batch_size": 8, "feedback_batch_size": 8}
REWARD = {"feedback_kind": "reward", "reward_samples": 2, "feedback_batch_size": 4}
FILES = {"stream": "a.jsonl", "feedback": "b.jsonl", "eval": "c.jsonl"}


def first_problem(index=0, **options):
    """The value problem of the first micro-batch, with what it was made from."""
    run = new_run(**options)
    state, workload = run.state, run.workload
    observed = (workload.look_ahead(state.learner, workload.batch(index)),)
    problem = value_problem(run, observed, index)
    phi = trees.detach(dict(state.designer.named_parameters()))
    return problem, state.functional.theta, phi, (state, observed, workload.feedback(index))


def of_style(style, **options):
    """The problem of that style's rows alone, put together by hand."""
    problem, _, _, (state, (observed,), feedback) = first_problem(**options)
    rows = {
        name: (batch.domains == STYLES.index(style)).nonzero().squeeze(-1)
        for name, batch in (("text", observed.batch), ("feedback", feedback))
    }
    assert all(0 < len(r) < 8 for r in rows.values())
    learner = LanguageLearner(state.functional)
    loss = learner.worked_loss(take_rows(feedback, rows["feedback"]))
    return tuple(
        language_problem(learner, state.designer, (text,), loss, problem.rule, problem.state)
        for text in (take_rows(observed, rows["text"]), observed)
    )


def close(a, b):
    """Equal estimates, up to float32's rounding of sums over other batches."""
    assert float(a.value) == pytest.approx(float(b.value), rel=2e-4)
    assert measures.apart(a.grad, b.grad) < 2e-4


def test_summed_tasks_are_each_styles_own_feedback():
    problem, theta, phi, _ = first_problem(**STYLED, feedback_weights=(0.7, 0.3))
    parts = [of_style(style, **STYLED)[1] for style in STYLES]
    loss = 0.7 * parts[0].feedback_loss(theta) + 0.3 * parts[1].feedback_loss(theta)
    torch.testing.assert_close(problem.feedback_loss(theta), loss)
    only, _, _, _ = first_problem(**STYLED, feedback_weights=(0.0, 1.0))
    estimator = FirstOrder()
    close(estimator(only, theta, phi), estimator(parts[1], theta, phi))
    both = [estimator(p, theta, phi) for p in parts]
    found = estimator(problem, theta, phi)
    expected = trees.axpy(0.7, both[0].grad, trees.scale(both[1].grad, 0.3))
    assert measures.apart(found.grad, expected) < 2e-4


def test_normalised_tasks_have_unit_gradients():
    problem, theta, phi, _ = first_problem(**STYLED, normalise_feedback=True)
    parts = [FirstOrder()(of_style(style, **STYLED)[1], theta, phi) for style in STYLES]
    expected = trees.zeros_like(phi)
    for part in parts:
        expected = trees.axpy(0.5 / part.diagnostics["g_down_norm"], part.grad, expected)
    assert measures.apart(FirstOrder()(problem, theta, phi).grad, expected) < 2e-4


def test_matched_domains_hold_their_own_text_and_feedback():
    problem, theta, phi, _ = first_problem(**STYLED, feedback_combine="matched")
    assert tuple(problem.domains) == STYLES
    for style in STYLES:
        own, _ = of_style(style, **STYLED)
        for estimator in (FirstOrder(), FirstOrder("cosine")):
            close(estimator(problem.domains[style], theta, phi), estimator(own, theta, phi))
    normal, *_ = first_problem(**STYLED, feedback_combine="matched", normalise_feedback=True)
    for style in STYLES:
        plain = FirstOrder()(problem.domains[style], theta, phi)
        unit = FirstOrder()(normal.domains[style], theta, phi)
        assert unit.diagnostics["g_down_norm"] == pytest.approx(1, rel=1e-5)
        scaled = trees.scale(plain.grad, 1 / plain.diagnostics["g_down_norm"])
        assert measures.apart(unit.grad, scaled) < 1e-4


def test_every_way_of_combining_trains_its_own_designer_on_the_same_stream():
    ways = [
        {},
        {"feedback_weights": (0.9, 0.1)},
        {"normalise_feedback": True},
        {"feedback_combine": "matched"},
        {"feedback_combine": "matched", "normalise_feedback": True},
    ]
    trained = [train(**STYLED, **way, budget="2steps") for way in ways]
    trained.append(train(**STYLED | {"feedback_tasks": "one"}, budget="2steps"))
    for i, one in enumerate(trained):
        assert one.of("tokens") == trained[0].of("tokens")
        assert not any(same(one.phi, other.phi) for other in trained[:i])
    estimate = trained[3].of("estimate")[0]
    assert {f"{style}/g_down_norm" for style in STYLES} <= estimate.keys()
    assert estimate["tangents"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "unrolled", "lookahead_steps": 2},
        {"value": "cosine", "accumulate": 2},
        {"estimator": "random"},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_every_estimator_can_be_matched(options):
    trained = train(**STYLED, feedback_combine="matched", budget="2steps", **options)
    assert len(trained.of("value")) == 2 and trained.state.counters.updates >= 2


def test_feedback_of_several_tasks_is_shared_equally():
    parts = parts_of(small(**STYLED))
    stream = parts.workload.data.feedback
    assert isinstance(stream, InterleavedStream)
    for index in range(3):
        assert parts.workload.feedback(index).domains.tolist() == [0, 1] * 4
    seen = torch.cat([parts.workload.feedback(i).tokens[::2, 5] for i in range(2)])
    assert torch.equal(stream.batch(0, 16).tokens[::2, 5], seen)


def test_a_domain_that_a_batch_lacks_is_left_out():
    problem, theta, phi, (state, (observed,), feedback) = first_problem(
        **STYLED, feedback_combine="matched"
    )
    tasks = language_feedback.FeedbackTasks(STYLES, combine="matched")
    of_one = take_rows(observed, (observed.batch.domains == 1).nonzero().squeeze(-1))
    learner = LanguageLearner(state.functional)
    parts = parts_of(small())
    measured = language_feedback.measure(
        tasks,
        learner,
        state.learner,
        parts.workload.tokenizer,
        take_rows(feedback, torch.tensor([0, 1])),
        0,
    )
    partial = dataclasses.replace(problem, batches=(of_one,))
    found = language_feedback.matched_domains(tasks, partial, measured, theta).domains
    assert tuple(found) == ("forum",)
    (rows,) = found["forum"].batches
    assert torch.equal(rows.batch.tokens, of_one.batch.tokens)
    assert FirstOrder()(found["forum"], theta, phi).value != 0


# rewards


def records(count, **changes):
    """Problems, as lines of a file."""
    examples = embedded_examples("feedback", count, PRESETS["careless_everywhere"], 0)
    whole = [{"problem": e.prompt, "solution": e.completion, "answer": e.answer} for e in examples]
    return [{k: changes.get(k, v) for k, v in r.items() if changes.get(k) != ""} for r in whole]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.usefixtures("deep")
def test_rewards_never_read_a_worked_solution(tmp_path):
    rows = records(24)
    text = written(tmp_path / "text.jsonl", rows[:12])
    held_out = written(tmp_path / "eval.jsonl", rows[12:16])
    found = []
    for name, changes in (
        ("whole", {}),
        ("wrong", {"solution": "a lie"}),
        ("bare", {"solution": ""}),
    ):
        feedback = written(tmp_path / f"{name}.jsonl", records(24, **changes)[16:])
        files = {"stream": text, "feedback": feedback, "eval": held_out, "batch_size": 4}
        more = {"reward_samples": 4, "feedback_batch_size": 8, "eval_size": 4}
        found.append(train(**REWARD | more, **files, budget="2steps"))
    whole, *others = found
    assert any(whole.of("value"))  # the rewards differ somewhere: else nothing is compared
    for other in others:
        assert same(whole.phi, other.phi) and same(whole.theta, other.theta)
        assert whole.of("estimate") == other.of("estimate")
    with pytest.raises(UserError, match="no completion tokens"):
        train(stream=text, feedback=feedback, eval=held_out, budget="2steps", eval_size=4)


@pytest.mark.usefixtures("deep")
def test_a_reward_reaches_the_learner_through_phi_alone():
    options = {"alpha_max": 0.0, "budget": "2steps"}
    worked, rewarded = train(**options), train(**REWARD, **options)
    assert same(worked.theta, rewarded.theta)
    assert worked.of("train_loss") == rewarded.of("train_loss")
    assert not same(train(**REWARD, budget="2steps").phi, train(budget="2steps").phi)


@pytest.mark.usefixtures("deep")
def test_completions_are_drawn_anew_for_each_update_and_again_in_a_repeated_run(monkeypatch):
    drawn, seeds = [], []

    def noting(model, tokenizer, prompts, options, seed):
        drawn.append(draw_samples(model, tokenizer, prompts, options, seed))
        seeds.append(seed)
        return drawn[-1]

    monkeypatch.setattr(language_feedback, "draw_samples", noting)
    first, again = (train(**REWARD, budget="3steps").of("estimate") for _ in range(2))
    assert first == again
    assert len(set(seeds[:3])) == 3 and seeds[3:] == seeds[:3]
    tokens = [samples.batch.tokens for samples in drawn]
    assert all(map(torch.equal, tokens[:3], tokens[3:]))
    assert all(0 <= e["informative_groups"] <= 1 for e in first)


@pytest.mark.usefixtures("deep")
@pytest.mark.parametrize("options", [{"value": "cosine"}, {"probe_batches": 1}], ids=str)
def test_rewards_that_do_not_differ_leave_the_designer_alone(monkeypatch, options):
    monkeypatch.setattr(language_feedback, "draw_samples", _all_right)
    trained = train(**REWARD, **options, budget="2steps")
    start = new_run().state
    assert same(trained.phi, dict(start.designer.named_parameters()))
    assert trained.state.counters.updates == 2
    for estimate in trained.of("estimate"):
        assert estimate["silent"] and estimate["informative_groups"] == 0
        assert estimate["reward"] == 1


def _all_right(model, tokenizer, prompts, options, seed):
    return draw_samples(model, tokenizer, prompts, options, seed, lambda text, answer: 1.0)


@pytest.mark.usefixtures("deep")
def test_rewards_can_be_matched_too():
    options = STYLED | REWARD | {"feedback_batch_size": 8, "reward_samples": 3}
    problem, theta, _, _ = first_problem(**options, feedback_combine="matched")
    assert tuple(problem.domains) == STYLES
    parts = [float(p.feedback_loss(theta)) for p in problem.domains.values()]
    assert float(problem.feedback_loss(theta)) == pytest.approx(sum(parts) / 2, rel=1e-5)
    assert len(set(parts)) == 2 and 0 <= problem.notes["reward"] <= 1
    train(**options, feedback_combine="matched", budget="2steps")


# several files


def test_several_streams_are_read_in_turn_and_feedback_files_are_tasks(tmp_path):
    rows = records(30)
    names = {}
    for name, part in (
        ("a", rows[:4]),
        ("b", rows[4:14]),
        ("fa", rows[14:18]),
        ("fb", rows[18:24]),
    ):
        names[name] = written(tmp_path / f"{name}.jsonl", part)
    held_out = written(tmp_path / "eval.jsonl", rows[22:])
    raw = file_data(
        [Source(names["a"]), Source(names["b"])],
        [Source(names["fa"]), Source(names["fb"])],
        Source(held_out),
        0,
    )
    assert raw.sources == 2 and raw.tasks == ("fa", "fb")
    assert len(raw.evaluation) == 6 and raw.dropped["eval"]["also in the feedback"] == 2
    parts = parts_of(small())
    data = tokenised(raw, parts.workload.tokenizer, 128, 0)
    read = data.stream.batch(0, 8)
    assert read.domains.tolist() == [0, 1] * 4
    texts = {tuple(t.tolist()) for t in read.tokens[::2]}
    assert len(texts) == 4  # an epoch of the shorter stream, while the longer goes on
    assert data.feedback.batch(3, 4).domains.tolist() == [1, 0, 1, 0]
    files = {
        "stream": [names["a"], names["b"]],
        "feedback": [names["fa"], names["fb"]],
        "eval": held_out,
        "batch_size": 4,
        "eval_size": 4,
    }
    trained = train(**files, feedback_combine="matched", budget="2steps")
    assert {"fa/g_down_norm", "fb/g_down_norm"} <= trained.of("estimate")[0].keys()


def test_an_evaluation_problem_whose_answer_is_feedback_is_left_out(tmp_path):
    rows = records(8)
    held_out = written(tmp_path / "eval.jsonl", rows)
    feedback = written(tmp_path / "feedback.jsonl", records(3, solution=""))
    source = Source(held_out)
    raw = file_data([source], [Source(feedback)], source, 0)
    assert [e.prompt for e in raw.evaluation] == [r["problem"] for r in rows[3:]]
    assert raw.dropped["eval"] == {"also in the feedback": 3}
    assert [(e.completion, e.answer) for e in raw.feedback] == [("", r["answer"]) for r in rows[:3]]
    fields = "prompt=problem,answer=answer"  # of feedback alone: the others need what is predicted
    assert file_data([source], [Source(feedback, fields)], source, 0).feedback == raw.feedback
    with pytest.raises(UserError, match=r"--stream-fields .*: give either"):
        file_data([Source(held_out, fields)], [Source(feedback)], source, 0)


def test_sources_are_named_by_their_last_part():
    named = source_names(["data/gsm8k.jsonl.gz", "openai/gsm8k:main", "x"])
    assert named == ("gsm8k", "gsm8k-2", "x")


# regularisers


@pytest.mark.parametrize("targets", ["gate", "bounded", "free"])
@pytest.mark.parametrize("term", ["gate", "moved"])
def test_regularisers_have_their_own_slope(term, targets, float64):
    _, _, _, (state, (observed,), _) = first_problem(targets=targets)
    parts = parts_of(small(targets=targets))
    designer = state.designer.double()
    seen = dataclasses.replace(
        observed,
        observation=dataclasses.replace(
            observed.observation,
            log_probs=observed.observation.log_probs.double(),
            entropy=observed.observation.entropy.double(),
        ),
    )
    phi = trees.detach(dict(designer.named_parameters()))

    def value(phi):
        return parts.workload.regularisers(designer, phi, seen)[term]

    leaves = trees.leaves(phi)
    gradient = trees.gradient(value(leaves), leaves)
    assert 0 < float(value(phi)) < 1 and measures.size(gradient) > 1e-4
    for seed in range(2):
        along = measures.direction(phi, seed)
        slope = measures.slope(lambda h, d=along: float(value(measures.moved(phi, h, d))))
        # the weight of each position is a float32 number: exact here, 1 / n rounded once
        assert slope == pytest.approx(measures.inner(gradient, along), abs=1e-9)


@pytest.mark.parametrize("term", ["gate", "moved"])
def test_each_penalty_lowers_what_it_is_on(term):
    strong = {f"{term}_penalty": 100.0}
    free, held = (train(**p, budget="6steps").of(term)[-1] for p in ({}, strong))
    assert held < 0.9 * free


def test_the_two_penalties_are_not_the_same():
    names = ("gate_penalty_absolute", "moved_penalty")
    gate, moved = (train(**{name: 1.0}, budget="2steps") for name in names)
    assert not same(gate.phi, moved.phi)


# what does nothing or disagrees is refused

SEVERAL = FILES | {"feedback": ["b.jsonl", "d.jsonl"]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"feedback_weights": [1.0, 1.0]}, "--feedback-weights .*one feedback task"),
        ({"normalise_feedback": True}, "one feedback task"),
        ({"feedback_combine": "matched"} | FILES, "one feedback task"),
        ({"feedback_tasks": "styles"} | FILES, "belongs to the embedded problem"),
        ({"reward_samples": 4}, "--feedback-kind reward"),
        ({"reward_temperature": 1.0}, "--feedback-kind reward"),
        ({"reward_samples": 1, "feedback_kind": "reward"}, "at least 2"),
        (STYLED | {"feedback_weights": [1.0]}, "give 2 weights"),
        (STYLED | {"feedback_weights": [0.0, 0.0]}, "not all 0"),
        (STYLED | {"feedback_weights": [1.0, -1.0]}, "at least 0"),
        (STYLED | {"feedback_weights": [1, 1], "feedback_combine": "matched"}, "plain mean"),
        (
            STYLED | {"normalise_feedback": True, "feedback_combine": "matched", "value": "cosine"},
            "does not depend on its gradient",
        ),
        (STYLED | {"eval_forum_share": 1.0}, "--eval-forum-share between 0 and 1"),
        (STYLED | {"forum_share": 0.0, "feedback_combine": "matched"}, "--forum-share between"),
        (STYLED | {"feedback_batch_size": 1}, "--feedback-batch-size 1 is below the 2"),
        (STYLED | {"batch_size": 1, "feedback_combine": "matched"}, "--batch-size 1 is below"),
        (STYLED | {"feedback_combine": "matched", "estimate_mode": "train"}, "--estimate-mode"),
        (SEVERAL | {"feedback_combine": "matched"}, "needs a --stream for each --feedback.* 1 and"),
        ({"arms": "baseline", "moved_penalty": 1.0}, "needs an arm with a designer"),
        ({"arms": "baseline", "feedback_kind": "reward"}, "needs an arm with labels"),
        ({"designer": "d", "freeze_designer": True, "moved_penalty": 1.0}, "trains no designer"),
        (FILES | {"feedback": []}, "one or more"),
        (FILES | {"feedback": ["b.jsonl", " "]}, "--feedback is empty"),
    ],
)  # fmt: skip
def test_feedback_options_that_do_nothing_or_disagree_are_refused(given, said):
    with pytest.raises(UserError, match=said) as caught:
        resolve(given)
    assert "\n" not in str(caught.value)


def test_a_style_that_the_feedback_lacks_is_refused():
    with pytest.raises(UserError, match="the feedback data hold nothing to use of"):
        train(**STYLED, feedback_size=1)
