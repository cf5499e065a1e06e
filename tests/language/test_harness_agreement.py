"""EleutherAI's harness on the live learner, and our scores equal to its own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from vfunc.errors import UserError
from vfunc.language.benchmarks.benchmark_options import Asked
from vfunc.language.benchmarks.benchmark_scores import Sampling, scores
from vfunc.language.benchmarks.questions import questions
from vfunc.language.data.streams import StreamSpec, embedded_examples
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.loading import load_learner

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"
)


@pytest.fixture(scope="module")
def learner():
    return load_learner(str(EMBEDDED_LEARNER))


def written(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def harness_folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "tasks"


def by_harness(task: Path, learner):
    from vfunc.language.benchmarks.harness import harness_tasks, scores_by_harness

    tasks = harness_tasks((str(task),), None)
    return tasks, scores_by_harness(tasks, *learner)


@pytest.fixture(scope="module")
def word_problems(learner, tmp_path_factory):
    """GSM8K's layout; half of the answers are what the learner says, so that it solves some."""
    folder = tmp_path_factory.mktemp("gsm8k")
    spec = StreamSpec()
    made = embedded_examples("test", 14, spec, 0)
    records = [{"question": e.prompt.strip(), "answer": e.completion} for e in made]
    asked = Asked("gsm8k", str(folder))
    written(folder / "train.jsonl", records[:2])
    written(folder / "test.jsonl", records[2:])
    first = scores(questions(asked, 2, None, 48, None), *learner, Sampling())
    for record, text in list(zip(records[2:], first.texts, strict=True))[::2]:
        if "#### " in text:
            said = text.split("#### ")[1].split("\n")[0]
            number = "".join(c for c in said if c in "0123456789")
            record["answer"] = f"so\n#### {int(number or 0):,}"
    written(folder / "test.jsonl", records[2:])
    return folder


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_gsm8k_is_scored_as_the_harness_scores_it(learner, word_problems):
    task = word_problems / "ours_gsm8k.yaml"
    task.write_text(
        f"""include: {harness_folder()}/gsm8k/gsm8k.yaml
task: ours_gsm8k
tag: []
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    train: {word_problems}/train.jsonl
    test: {word_problems}/test.jsonl
num_fewshot: 2
fewshot_config:
  sampler: first_n
generation_kwargs:
  until: ["Question:", "</s>", "<|im_end|>"]
  do_sample: false
  max_gen_toks: 48
""",
        encoding="utf-8",
    )
    ours = scores(
        questions(Asked("gsm8k", str(word_problems)), 2, None, 48, None), *learner, Sampling()
    )
    model, before = learner[0], {n: p.clone() for n, p in learner[0].named_parameters()}
    model.train()
    tasks, theirs = by_harness(task, learner)
    assert all(module.training for module in model.modules())  # it is left as it was
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    model.eval()
    strict = "lm_eval/ours_gsm8k/exact_match,strict-match"
    assert strict in tasks.figures
    assert ours.outcomes["gsm8k"] == theirs.outcomes[strict]
    assert ours.metrics["gsm8k"] == theirs.metrics[strict]
    assert 0 < ours.metrics["gsm8k"] < 1  # it tells right from wrong


def multiple_choice(count, subject):
    return [
        {
            "subject": subject,
            "question": f" How many cards has {subject} after {n} days? ",
            "choices": [f"{k * n + 7}" for k in range(1, 5)],
            "answer": n % 4,
        }
        for n in range(count)
    ]


@needs_harness
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("subject", "shots"), [("college_physics", 0), ("world_religions", 2)])
def test_mmlu_is_scored_as_the_harness_scores_it(learner, tmp_path, subject, shots):
    written(tmp_path / "dev.jsonl", multiple_choice(3, subject))
    written(tmp_path / "test.jsonl", multiple_choice(8, subject))
    ours = scores(
        questions(Asked("mmlu", str(tmp_path)), shots, None, None, None), *learner, Sampling()
    )
    about = f"The following are multiple choice questions (with answers) about {subject}."
    task = tmp_path / "ours_mmlu.yaml"
    task.write_text(
        f"""include: {harness_folder()}/mmlu/default/_default_template_yaml
task: ours_mmlu
description: "{about.replace("_", " ")}\\n\\n"
dataset_path: json
dataset_kwargs:
  data_files:
    dev: {tmp_path}/dev.jsonl
    test: {tmp_path}/test.jsonl
num_fewshot: {shots}
""",
        encoding="utf-8",
    )
    _, theirs = by_harness(task, learner)
    assert ours.outcomes["mmlu"] == theirs.outcomes["lm_eval/ours_mmlu/acc"]
    assert ours.metrics["mmlu"] == theirs.metrics["lm_eval/ours_mmlu/acc"]
    assert len(set(ours.outcomes["mmlu"])) == 2


@needs_harness
@pytest.mark.parametrize(
    ("task", "said"),
    [("nowhere.yaml", "no such file")],
)
def test_a_task_that_is_not_there_is_told_in_a_line(task, said):
    from vfunc.language.benchmarks.harness import harness_tasks

    with pytest.raises(UserError, match=said):
        harness_tasks((task,), None)
