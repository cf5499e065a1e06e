"""An estimate on a part of the micro-batch, and on shorter feedback, of a run on text."""

from __future__ import annotations

import dataclasses

import measures
import pytest
import torch
from small_run import new_run, small, train

from vfunc.errors import UserError
from vfunc.estimators import FirstOrder, Unrolled
from vfunc.language.data.examples import TokenBatch
from vfunc.language.data.sequences import TokenStream
from vfunc.language.workload import LanguageWorkload
from vfunc.problem import ValueEstimate
from vfunc.studies import bench_command
from vfunc.studies.fidelity import compared, fidelity
from vfunc.training import step

pytestmark = pytest.mark.usefixtures("shallow")


def asked(answering, **options):
    """What a first micro-batch asks its estimator, the answer, and the designer's gradient."""
    run, found = new_run(feedback_batch_size=2, **options), {}

    def watching(problem, theta, phi):
        found["problem"], found["estimate"] = problem, answering(problem, theta, phi)
        return found["estimate"]

    designer_step = run.state.designer_optimizer.step

    def stepping():
        found["gradient"] = {n: p.grad.clone() for n, p in run.state.designer.named_parameters()}
        designer_step()

    run.state.designer_optimizer.step = stepping
    step.micro_batch(dataclasses.replace(run, estimator=watching))
    return found


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (FirstOrder(), {"gate_penalty": 0.3}),
        (Unrolled(2), {"estimator": "unrolled", "lookahead_steps": 2}),
    ],
    ids=["with a penalty", "looking ahead"],
)
def test_an_estimate_takes_the_first_sequences_alone(estimator, options):
    part = asked(estimator, batch_size=4, meta_batch_size=2, **options)
    sizes = [len(observed.batch.tokens) for observed in part["problem"].batches]
    assert set(sizes) == {2}
    if "lookahead_steps" in options:
        return  # later batches are others in a run of smaller ones
    small_batches = asked(estimator, batch_size=2, **options)
    assert measures.apart(part["gradient"], small_batches["gradient"]) < 1e-4
    value = float(small_batches["estimate"].value)
    assert float(part["estimate"].value) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"estimator": "unrolled", "lookahead_steps": 2}])
def test_an_estimate_takes_the_first_tokens_alone(monkeypatch, options):
    """What comes after them has no part in it: a stream that ends there gives the same."""
    estimator = Unrolled(2) if options else FirstOrder()
    part = asked(estimator, batch_size=3, meta_seq_len=40, **options)
    lengths = {observed.batch.tokens.shape[1] for observed in part["problem"].batches}
    assert lengths == {40}
    for observed in part["problem"].batches:
        seen, texts = observed.observation, observed.batch
        assert seen.candidates.shape[:2] == seen.entropy.shape == texts.predict.shape == (3, 39)
        assert bool(texts.predict.any())
    if options:
        return  # later steps are of shorter texts in a run of them
    read = TokenStream.batch

    def short(self, position, size):
        texts = read(self, position, size)
        if size != 3:  # the feedback's
            return texts
        return TokenBatch(texts.tokens[:, :40], texts.predict[:, :39], texts.wrong[:, :39])

    monkeypatch.setattr(TokenStream, "batch", short)
    cut = asked(estimator, batch_size=3, **options)
    assert measures.apart(part["gradient"], cut["gradient"]) < 1e-4
    monkeypatch.undo()
    whole = asked(estimator, batch_size=3, **options)
    assert measures.apart(part["gradient"], whole["gradient"]) > 0.01


def test_what_is_held_of_a_text_is_cut_with_it():
    """The learner is causal: what it makes of first tokens is the first part of what it makes."""
    options = {"train": "last:1", "cache_edge": "float32", "designer_features": "hidden"}
    whole, cut = (new_run(**options, **o) for o in ({}, {"meta_seq_len": 40}))
    batch = whole.workload.batch(0)
    assert batch.below is not None and batch.tokens.shape[1] > 40
    for part in (batch.first_tokens(40), cut.workload._part(cut.workload.batch(0))):
        assert torch.equal(part.below, batch.below[:, :39])
    found, made = (
        run.workload.look_ahead(run.state.learner, batch, estimated=run.estimated)
        for run in (whole, cut)
    )
    held = found.first_tokens(40)
    pairs = [(held.observation.hidden, made.observation.hidden)]
    pairs += [(held.observation.entropy, made.observation.entropy), (held.edge, made.edge)]
    for one, other in pairs:
        assert one.shape == other.shape and one.shape[1] == 39
        assert (one - other).abs().max() < 1e-4 < other.abs().max()


def test_a_cut_before_every_solution_is_refused():
    with pytest.raises(
        UserError, match=r"--meta-seq-len 8: no text .* a value; give (\d+) or"
    ) as e:
        new_run(meta_seq_len=8)
    least = int(e.value.args[0].split()[-3])
    run = new_run(meta_seq_len=least, batch_size=64)
    taken = run.workload.look_ahead(run.state.learner, run.workload.batch(0)).batch
    assert taken.predict.sum() in range(1, 64)


def test_texts_that_are_cut_before_their_solution_are_left_out_of_maps():
    """An estimate in which nothing is predicted is worth nothing; one in part is what is left."""
    stream = new_run(batch_size=1).workload.data.stream
    starts = [one.predict_from for one in stream.sequences(0, 3)]
    assert starts[0] > min(starts)
    run = train(
        batch_size=1, meta_seq_len=starts[0], budget="3steps", probe_batches=1, solve_size=0
    )
    values = run.of("value")
    assert [value == 0 for value in values] == [start >= starts[0] for start in starts]
    assert not run.of("tokens", "value_map")  # of the first text
    pair = train(batch_size=3, meta_seq_len=starts[0], budget="1steps", probe_batches=1)
    for told in pair.of("tokens", "value_map"):
        assert len(told) == sum(start < starts[0] for start in starts)


def test_the_learner_takes_whole_texts_whatever_an_estimate_takes():
    whole, part = (
        train(batch_size=3, budget="1steps", designer_lr=1e-9, **o)
        for o in ({}, {"meta_seq_len": 40})
    )
    assert whole.of("tokens") == part.of("tokens")
    assert whole.of("train_loss") == pytest.approx(part.of("train_loss"), rel=1e-5)
    assert whole.of("value") != pytest.approx(part.of("value"), rel=1e-2)


def test_the_learner_takes_the_whole_micro_batch():
    whole, part = (train(batch_size=4, meta_batch_size=n, budget="1steps") for n in (4, 1))
    assert whole.of("train_loss") == pytest.approx(part.of("train_loss"), rel=1e-2)
    assert whole.of("tokens") == part.of("tokens")
    moved = {n: p for n, p in part.phi.items() if not torch.equal(p, whole.phi[n])}
    assert moved  # the estimate is another


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 4, "meta_batch_size": 5}, "--meta-batch-size 5 is above the --batch-size"),
        (
            {"batch_size": 4, "meta_batch_size": 2, "estimate_mode": "train", "lora_rank": 2},
            "--estimate-mode train repeats the dropout of whole micro-batches",
        ),
        ({"seq_len": 64, "meta_seq_len": 65}, "--meta-seq-len 65 is above the --seq-len 64"),
        (
            {"meta_seq_len": 50, "estimate_mode": "train", "lora_rank": 2},
            "--estimate-mode train .* leave it or --meta-seq-len 50 out",
        ),
        ({"seq_len": 64, "feedback_seq_len": 65}, "--feedback-seq-len 65 is above the --seq-len"),
        ({"feedback_kind": "reward", "feedback_seq_len": 9}, "it is for --feedback-kind worked"),
        (
            {"feedback_tasks": "styles", "feedback_combine": "matched", "forum_share": 0.5,
             "batch_size": 2, "meta_batch_size": 1},
            "--meta-batch-size 1 is below the 2 domains that an estimate has to hold",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        small(**options)


def test_shorter_feedback_is_cut_and_nothing_else_is():
    whole, part = (new_run(feedback_seq_len=n).workload for n in (128, 24))
    assert part.feedback(0).predict.shape[1] <= 24 < whole.feedback(0).predict.shape[1]
    assert torch.equal(part.batch(0).tokens, whole.batch(0).tokens)
    assert part.data.summary["feedback"]["truncated"] > 0


def test_what_parts_of_a_batch_lose_is_told(capsys):
    line = "--part fidelity --repeats 3 --steps 1 --batch-size 4 --feedback-batch-size 2"
    small_data = "--stream-size 64 --feedback-size 32 --eval-size 4 --device cpu --threads 1"
    assert bench_command.main([*line.split(), *small_data.split()]) == 0
    said = capsys.readouterr().out
    for part in ("2 of 4 sequences", "1 of 4 sequences", "1 of 2 feedback examples"):
        assert part in said
    assert "8" not in said.partition("sequences")[0]


def test_a_part_of_the_feedback_is_the_first_of_the_whole(monkeypatch):
    run, taken = new_run(batch_size=4, feedback_batch_size=4), []
    real = LanguageWorkload.feedback

    def feedback(self, index):
        taken.append(real(self, index).tokens)
        return real(self, index)

    monkeypatch.setattr(LanguageWorkload, "feedback", feedback)
    fidelity(run, FirstOrder(), 3)
    _, *asked = taken  # the first is the warm-up's
    # on the whole; on 2 and on 1 sequences; on 1/2, 1/4, 1/8 of their tokens; on 2, 1 examples
    for k in range(3):
        whole, *parts = asked[8 * k : 8 * k + 8]
        assert [len(tokens) for tokens in parts] == [4, 4, 4, 4, 4, 2, 1]
        for tokens in parts:
            shared = min(tokens.shape[1], whole.shape[1])
            assert torch.equal(tokens[:, :shared], whole[: len(tokens), :shared])
    assert not torch.equal(asked[0][:, :9], asked[8][:, :9])


def test_a_part_without_gradient_is_in_no_cosine():
    def answer(*grad: float) -> tuple[ValueEstimate, float]:
        nought = torch.zeros(())
        return ValueEstimate(nought, nought, {"phi": torch.tensor(grad)}, 1.0, {}), 1.0

    whole = [answer(1.0, 0.0), answer(1.0, 0.0), answer(0.0, 2.0)]
    some = compared("some", whole, [answer(0.0, 0.0), answer(3.0, 4.0), answer(0.0, 1.0)])
    assert some.cosine is not None and some.undirected == 1
    assert dataclasses.astuple(some.cosine) == pytest.approx((0.8, 0.6, 1.0))
    none = compared("none", whole, [answer(0.0, 0.0)] * 3)
    assert none.cosine is None and none.undirected == 3
    cells = [list(c.cells) for c in bench_command.fidelity_table([some, none]).columns]
    assert cells[1] == ["0.80 (0.60-1.00), 1 without gradient", "no gradient"]


def test_domains_divide_batches_already(capsys):
    line = "--part fidelity --feedback-tasks styles --feedback-combine matched --batch-size 4"
    small_data = "--stream-size 64 --feedback-size 32 --eval-size 4 --device cpu --threads 1"
    assert bench_command.main([*line.split(), "--steps", "0", *small_data.split()]) == 2
    assert "and so does --feedback-combine matched" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["dot", "cosine"])
def test_a_micro_batch_that_is_cut_before_every_completion_has_no_value(value):
    """It ends no run, whatever is divided by a norm: the designer waits for the next one."""
    run = new_run(batch_size=2, value=value)
    run = dataclasses.replace(run, workload=dataclasses.replace(run.workload, meta_seq_len=3))
    before = {n: p.clone() for n, p in run.state.designer.named_parameters()}
    done = step.micro_batch(run)
    assert float(done.estimate.value) == 0 and done.estimate.diagnostics["silent"]
    assert all(torch.equal(p, before[n]) for n, p in run.state.designer.named_parameters())
    assert run.state.counters.updates == 1
