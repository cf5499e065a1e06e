"""Tokens that a pattern covers: which, and their loss and accuracy by a slow count."""

from __future__ import annotations

import time

import pytest
import torch

from vfunc.errors import UserError
from vfunc.language.data.examples import Example
from vfunc.language.data.reading import RawData, embedded_data, tokenised
from vfunc.language.data.streams import StreamSpec
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.evaluation.held_out import held_out_loss
from vfunc.language.evaluation.measured_tokens import (
    BUILT_IN,
    TokenPattern,
    pattern_spans,
    read_patterns,
)
from vfunc.language.loading import load_learner
from vfunc.language.reporting import language_metrics, language_reporting
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve

RESULTS = TokenPattern("results", BUILT_IN["results"])


def covered(pattern: str, text: str) -> list[str]:
    (spans,) = pattern_spans(TokenPattern("p", pattern), [text])
    return [text[a:b] for a, b in spans]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12 + 7 = 19\n#### 19", ["19", "19"]),
        ("It is 3 x 4.50 = $13.50, = 1,200.\n#### $1,200.5", ["13.50", "1,200", "1,200.5"]),
        ("x = -5 and y=.5%.", ["-5", ".5%"]),
        ("He has 3+4*2 = 3 + 8 = 11 of 30", ["11"]),
        (r"so \boxed{42} and \boxed{x}", ["42"]),
        ("a == b, n = n", []),
        ("48/2 = <<48/2=24>>24", ["24"]),
        ("= 12 - as said", ["12"]),
    ],
)
def test_results(text, found):
    assert covered(RESULTS.pattern, text) == found


def test_group_1_or_all_of_the_match():
    assert covered(r"\d+", "a 12 b 3") == ["12", "3"]
    assert covered(r"a (\d+) (b)", "a 12 b") == ["12"]
    assert covered(r"(\d+)?x", "12x x") == ["12"]
    assert covered(r"\b", "a b") == []
    assert covered(r"(?<=é)b", "éb") == ["b"]


def test_names():
    read = read_patterns(["results", "years=\\d{4}", "=(\\d)", "[x]=1"])
    assert [p.name for p in read] == ["results", "years", "tokens", "tokens_2"]
    assert [p.pattern for p in read[1:]] == ["\\d{4}", "=(\\d)", "[x]=1"]
    names = [metric.name for metric in language_metrics(["results"])]
    assert names == ["loss", "loss_results", "accuracy_results", "pass_at_1"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["(a"], r"\(a: is no regular expression \(missing \)"),
        (["a**"], "is no regular expression"),
        (["(?P<a>x)(?P=b)"], "is no regular expression"),
        (["Years=a"], "Years cannot be a name"),
        (["examples=a"], "examples cannot be a name"),
        (["n_tokens=a"], "cannot be a name"),
        (["years="], "there is no pattern"),
        ([""], "there is no pattern"),
        (["results", "results=b"], "names results twice"),
        ([], "wants results, NAME=REGEX or REGEX"),
    ],
)
def test_refused_in_a_line(asked, why):
    with pytest.raises(UserError, match=why) as refusal:
        read_patterns(asked)
    assert "\n" not in str(refusal.value)


def test_a_catastrophic_pattern_ends():
    began = time.monotonic()
    with pytest.raises(UserError, match=r"takes more than 0.2 s over the held-out texts"):
        pattern_spans(TokenPattern("p", r"^(a|aa)+$"), ["a" * 60 + "!"] * 50, seconds=0.2)
    assert time.monotonic() - began < 10


@pytest.fixture(scope="module")
def learner():
    return load_learner(str(EMBEDDED_LEARNER))


def test_loss_and_accuracy_by_a_slow_count(learner):
    model, tokenizer = learner
    raw = embedded_data(StreamSpec(), 0, stream=2, feedback=2, evaluation=70, split="validation")
    patterns = read_patterns(["results", "plus=\\+", "seldom=(41)"])
    data = tokenised(raw, tokenizer, 128, 0, patterns=patterns)
    cpu = torch.device("cpu")
    found = held_out_loss(model, data.evaluation, cpu, patterns=data.measured)
    assert found.loss == held_out_loss(model, data.evaluation, cpu).loss
    lines = language_reporting(data).lines
    for pattern in patterns:
        spans = pattern_spans(pattern, [e.completion for e in raw.evaluation])
        expected = sorted(
            (_slowly(model, tokenizer, e, s) for e, s in zip(raw.evaluation, spans, strict=True)),
            key=lambda one: one[0],  # as batches are: stable by length
        )
        own = found.covered[pattern.name]
        assert list(own.tokens) == [n for _, _, _, n in expected]
        assert list(own.hits) == [hits for _, _, hits, _ in expected]
        assert own.losses == pytest.approx([loss for _, loss, _, _ in expected], abs=1e-4)
        total = sum(own.tokens)
        assert own.loss == pytest.approx(sum(own.losses) / total)
        assert own.accuracy == sum(own.hits) / total
        assert (
            f"measured  {pattern.name}: {total:,} of {sum(found.tokens):,} held-out tokens" in lines
        )
    losses, shares = found.covered["seldom"].by_example()
    assert None in losses and [x is None for x in losses] == [x is None for x in shares]


def _slowly(model, tokenizer, example, spans):
    """Length, loss, hits and number of an example's covered tokens, one text at a time."""
    prompt = tokenizer(example.prompt)["input_ids"]
    said = tokenizer(example.completion, return_offsets_mapping=True)
    ids = [*prompt, *said["input_ids"]]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    loss, hits, count = 0.0, 0, 0
    for at, (begin, end) in enumerate(said["offset_mapping"], start=len(prompt)):
        characters = [i for i in range(begin, end) if not example.completion[i].isspace()]
        if any(a <= i < b for a, b in spans for i in characters):
            loss -= float(logits[at - 1].log_softmax(-1)[ids[at]])
            hits += int(logits[at - 1].argmax()) == ids[at]
            count += 1
    return len(ids), loss, hits, count


def test_a_pattern_that_covers_nothing_is_refused(learner):
    _, tokenizer = learner
    example = Example("Q\n", "1 + 1 = 2\n#### 2", "2")
    raw = RawData([example], [example], [example], {})
    tokenised(raw, tokenizer, 64, 0, patterns=read_patterns(["results"]))
    with pytest.raises(UserError, match="--measure-tokens Q: matches no held-out token"):
        tokenised(raw, tokenizer, 64, 0, patterns=read_patterns(["Q"]))  # of the prompt alone
    with pytest.raises(UserError, match=r"matches no held-out token.*--seq-len"):
        tokenised(raw, tokenizer, 5, 0, patterns=read_patterns(["#### (2)"]))


@pytest.mark.parametrize(("size", "solved"), [(None, 6), (4, 4), (0, 0), (9, 6)])
def test_as_many_problems_are_solved_as_are_asked_for(size, solved):
    sizes = {"stream_size": 4, "feedback_size": 4, "eval_size": 6, "batch_size": 1}
    workload = assemble(resolve(sizes | ({} if size is None else {"solve_size": size}))).workload
    assert len(workload.data.problems) == solved
    assert sum(len(batch.tokens) for batch in workload.data.evaluation) == 6
    if not solved:
        metrics = workload.evaluate(load_learner(str(EMBEDDED_LEARNER))[0], final=True).metrics
        assert "pass_at_1" not in metrics and metrics["loss_examples"] == 6
