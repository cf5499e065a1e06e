"""Arms that TRL trains: the run's feedback alone, its budget, evaluation, events and checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.util
import os
import re
import signal
import zlib
from types import SimpleNamespace

import pytest
import torch
from small_run import Memory, Trained, new_run, parts_of, same, small, train
from test_invariants import identical, poisoned
from test_resume import contents, require_equal, timeless

import vfunc
from vfunc.extras import MissingExtraError
from vfunc.language.workload import LanguageWorkload
from vfunc.processes import Processes
from vfunc.training.build.configuration import resolve
from vfunc.training.checkpoint import load_checkpoint, save_checkpoint
from vfunc.training.direct import trl_arm, trl_trainers
from vfunc.training.direct.feedback_rows import prompt_rows
from vfunc.training.direct.requirements import require_trl
from vfunc.training.direct.trl_arm import run_trl_arm
from vfunc.training.direct.trl_trainers import RunGRPO, RunSFT, right_answer
from vfunc.training.files.written import remove_written
from vfunc.training.interrupt import Interrupted

pytestmark = pytest.mark.usefixtures("shallow")

QUICK = {"grpo_generations": 2, "grpo_tokens": 6, "grpo_temperature": 4.0}
"""GRPO that costs little, and draws completions that differ."""


@pytest.fixture(autouse=True, scope="module")
def small_collections():
    """Accelerate collects garbage as a trainer begins: not of all that was imported, each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def options_of(arm, options):
    return ({} if arm == "trl_sft" else QUICK) | {"budget": "2steps"} | options


def started(arm, change=lambda workload: workload, log=None, **options):
    run = new_run(arm, **options_of(arm, options))
    return dataclasses.replace(run, workload=change(run.workload), log=log or Memory())


def trained(arm, *args, **options):
    run = started(arm, *args, **options)
    return Trained(run.state, run_trl_arm(run), run.log)


def by_chance(text, answer):
    return zlib.crc32(text.encode()) % 2


@pytest.fixture
def some_right(monkeypatch):
    """Answers of which about half are right, so that GRPO has something to go by."""
    monkeypatch.setattr(trl_trainers, "is_correct", by_chance)


@pytest.mark.parametrize("arm", ["trl_sft", "grpo", "sft+grpo"])
def test_an_arm_trains_and_is_evaluated_as_every_arm(arm, some_right, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **_: 1 / 0)
    monkeypatch.delenv("CI", raising=False)
    one = trained(arm, budget="4steps", eval_every=0.5, save_every=0.5, accumulate=2)
    start = new_run("baseline").state.learner
    assert one.state.counters.step == 4 and one.state.counters.micro_batch == 8
    assert not same(dict(start.named_parameters()), one.theta)
    assert one.of("step", "evaluation") == [0, 2, 4] and one.log.saved == [0, 2, 4]
    assert one.of("final", "evaluation") == [False, False, True]
    assert one.evaluation.metrics["loss"] != one.of("heldout_loss", "evaluation")[0]
    spent = (0.0, 0.25, 0.5, 0.75) if arm != "sft+grpo" else (0.0, 0.5, 0.0, 0.5)
    assert one.of("lr") == list(map(new_run("baseline").plan.size, spent))
    assert len(one.of("reward")) == {"trl_sft": 0, "grpo": 4, "sft+grpo": 2}[arm]
    moments = next(iter(one.state.optimizer.state.values()))
    assert int(moments["step"]) == (2 if arm == "sft+grpo" else 4)  # GRPO's begins as new
    assert one.of("tokens") == sorted(set(one.of("tokens"))) and min(one.of("units_a_second")) > 0
    # TRL has changed nothing but parameters, shown nothing and left nothing behind
    assert one.state.learner.config.to_dict() == start.config.to_dict()
    assert one.state.learner.generation_config.to_dict() == start.generation_config.to_dict()
    assert "forward" not in vars(one.state.learner)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_grpo_may_have_a_step_size_of_its_own(some_right):
    """By the same schedule; SFT's stays that of the run."""
    one = trained("sft+grpo", budget="2steps", lr=1e-2, grpo_lr=1e-5)
    first, then = one.of("lr")
    assert first == new_run("baseline", lr=1e-2).plan.size(0.0)
    assert then == pytest.approx(1e-3 * first)


def test_sft_by_trl_is_sft():
    """The same examples in the same order, loss on solutions alone, the run's optimizer."""
    plain, by_trl = train("sft", budget="5steps"), trained("trl_sft", budget="5steps")
    assert by_trl.of("train_loss") == pytest.approx(plain.of("train_loss"), rel=1e-5)
    assert by_trl.of("gradient_norm") == pytest.approx(plain.of("gradient_norm"), rel=1e-4)
    assert by_trl.of("tokens") == plain.of("tokens") and by_trl.of("lr") == plain.of("lr")
    end = plain.evaluation.metrics["loss"]
    assert by_trl.evaluation.metrics["loss"] == pytest.approx(end, rel=1e-4)


@pytest.mark.parametrize("tasks", ["one", "styles"])
def test_sft_reads_the_feedback_of_the_seed_alone(monkeypatch, tasks):
    read, compute = [], RunSFT.compute_loss

    def watched(self, model, inputs, *args, **kwargs):
        for ids, labels in zip(inputs["input_ids"], inputs["labels"], strict=True):
            kept = labels != -100
            assert torch.equal(ids[kept], labels[kept])
            read.append((tuple(ids[: len(kept)].tolist()), int(kept.int().argmax())))
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RunSFT, "compute_loss", watched)
    run = started("trl_sft", feedback_tasks=tasks, budget="17steps")
    run_trl_arm(run)
    asked = run.workload.data.feedback.sequences(0, 34)  # more than an epoch
    for (ids, first), one in zip(read, asked, strict=True):
        assert list(ids[: len(one.tokens)]) == one.tokens.tolist() and first == one.predict_from
    other = started("trl_sft", feedback_tasks=tasks, seed=1).workload.data.feedback
    assert [s.tokens.tolist() for s in other.sequences(0, 9)] != [
        s.tokens.tolist() for s in asked[:9]
    ]


def test_the_reward_is_a_right_answer_by_the_runs_own_check():
    said = ["So it is 7.\n#### 7", "#### 8", "7", "I see: #### $7.00\nand #### 8", ""]
    assert right_answer(said, ["7"] * 5, prompts=[], trainer_state=None) == [1, 0, 0, 1, 0]


def test_grpo_sees_prompts_of_the_feedback_and_whether_answers_are_right(monkeypatch):
    seen, scored, rewards = [], [], trl_trainers.right_answer

    def watched(prompts, completions, answer, **kwargs):
        seen.extend(zip(prompts, answer, strict=True))
        scored.append(rewards(completions, answer))
        return scored[-1]

    monkeypatch.setattr(trl_trainers, "is_correct", by_chance)
    monkeypatch.setattr(trl_trainers, "right_answer", watched)
    one = trained("grpo", budget="2steps", accumulate=2, batch_size=3)
    run = started("grpo", budget="2steps", accumulate=2, batch_size=3)
    asked = run.workload.data.prompts.batch(0, 12).prompts
    assert seen == [(p.text, p.answer) for p in asked for _ in range(2)]
    assert one.of("reward") == pytest.approx([sum(s) / 12 for s in scored])
    assert {len(s) for s in scored} == {12} and 0 < sum(map(sum, scored)) < 24
    pool = {(p.text, p.answer) for source in run.workload.data.prompts.sources for p in source}
    assert len(pool) == 32 and set(seen) <= pool


def test_the_step_is_grpos(monkeypatch, some_right):
    """Shao et al. 2024: rewards standardised in their group; a mean over all completions' tokens.

    On the policy that drew them the ratio is 1, and its gradient that of log pi, at its temperature.
    """
    seen, scored, compute = [], [], RunGRPO.compute_loss
    rewards = trl_trainers.right_answer

    def computes(self, model, inputs, *args, **kwargs):
        seen.append({name: x.clone() for name, x in inputs.items() if hasattr(x, "clone")})
        return compute(self, model, inputs, *args, **kwargs)

    def watched(prompts, completions, answer, **_):
        scored.append(torch.tensor(rewards(completions, answer)))
        return scored[-1].tolist()

    monkeypatch.setattr(RunGRPO, "compute_loss", computes)
    monkeypatch.setattr(trl_trainers, "right_answer", watched)
    options = QUICK | {"grpo_generations": 4, "batch_size": 3, "budget": "1steps"}
    one = trained("grpo", **options)
    (inputs,), (found,) = seen, scored
    run = new_run("grpo", **options)
    learner, groups = run.state.learner, found.view(3, 4)
    worth = (groups - groups.mean(1, True)) / (groups.std(1, keepdim=True) + 1e-4)
    taken = inputs["advantages"]  # in an order of their own, with their completions
    assert taken.sort().values.tolist() == pytest.approx(worth.flatten().sort().values.tolist())
    read = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    logits = learner(read, attention_mask=mask, position_ids=places).logits
    drawn, kept = inputs["completion_ids"], inputs["completion_mask"]
    texts = run.workload.tokenizer.batch_decode(
        [ids[there.bool()] for ids, there in zip(drawn, kept, strict=True)],
        skip_special_tokens=True,
    )
    assert [by_chance(text, "") for text in texts] == (taken > 0).int().tolist()
    told = logits[:, -drawn.shape[1] - 1 : -1] / QUICK["grpo_temperature"]
    said = told.log_softmax(-1).gather(-1, drawn[..., None]).squeeze(-1)
    (-(taken[:, None] * said * kept).sum() / kept.sum()).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in learner.parameters()])
    assert one.of("gradient_norm") == [pytest.approx(float(norm), rel=1e-4)] and norm > 0


def test_solutions_do_not_reach_grpo(some_right):
    one = trained("grpo")
    assert identical(one, trained("grpo", poisoned))
    assert identical(one, trained("grpo", feedback_kind="reward"))  # which needs none
    assert not identical(trained("trl_sft"), trained("trl_sft", poisoned))

    def other_answers(workload):
        prompts = workload.data.prompts
        source = tuple(dataclasses.replace(p, text=p.text[::-1]) for p in prompts.sources[0])
        prompts = dataclasses.replace(prompts, sources=(source,))
        return dataclasses.replace(
            workload, data=dataclasses.replace(workload.data, prompts=prompts)
        )

    with pytest.raises(vfunc.UserError, match="reads a prompt"):  # and prompts do
        trained("grpo", other_answers)


@pytest.mark.parametrize(("arm", "reward"), [("trl_sft", 0), ("sft+grpo", 3)])
def test_seconds_count_training_alone(monkeypatch, arm, reward):
    clock, evaluate = [100.0], LanguageWorkload.evaluate

    def evaluates(self, learner, *, final):
        clock[0] += 1000
        return evaluate(self, learner, final=final)

    for kind in (RunSFT, RunGRPO):

        def trains(self, *args, step=kind.training_step, **kwargs):
            clock[0] += 0.25
            return step(self, *args, **kwargs)

        monkeypatch.setattr(kind, "training_step", trains)
    monkeypatch.setattr(trl_arm, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(LanguageWorkload, "evaluate", evaluates)
    share = {"sft_share": 0.4} if reward else {}
    one = trained(arm, budget="1.1s", eval_every=0.3, save_every=0.0, **share)
    assert one.of("seconds") == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert one.of("step", "evaluation") == [0, 2, 3, 4, 5] and clock[0] > 5000
    assert len(one.of("reward")) == reward  # from 0.5 s on, the first step's end after 0.44 s
    assert one.log.saved == [0, 5]


@pytest.mark.parametrize("arm", ["trl_sft", "grpo"])
def test_a_budget_of_tokens_is_of_what_the_learner_reads(arm, some_right):
    one = trained(arm, budget="700tokens", save_every=0.0)
    *before, last = one.of("tokens")
    assert before[-1] < 700 <= last


class Stopped(Memory):
    """A log that writes checkpoints, and asks to stop after a step."""

    def __init__(self, path, step):
        super().__init__()
        self.path, self.step = path, step

    def event(self, kind, fields):
        super().event(kind, fields)
        if kind == "step" and fields["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def checkpoint(self, state):
        super().checkpoint(state)
        save_checkpoint(state, self.path)


@pytest.mark.parametrize(
    ("arm", "step", "options"),
    [
        ("trl_sft", 1, {"lora_rank": 2, "lora_dropout": 0.5}),
        ("grpo", 2, {"accumulate": 2}),
        # where the one ends and the other begins
        ("sft+grpo", 2, {"grpo_beta": 0.5, "lr": 1e-2, "sft_share": 0.5}),
        ("sft+grpo", 3, {"grpo_beta": 0.5, "lr": 1e-2, "lora_rank": 2, "lora_dropout": 0.0}),
    ],
)
def test_an_arm_that_was_stopped_is_the_one_that_was_not(tmp_path, some_right, arm, step, options):
    whole = trained(arm, budget="4steps", eval_every=0.5, **options)
    path = tmp_path / "arm.pt"
    with pytest.raises(Interrupted, match=f"stopped after step {step} of {re.escape(arm)}"):
        trained(arm, log=Stopped(path, step), budget="4steps", eval_every=0.5, **options)
    run = started(arm, budget="4steps", eval_every=0.5, **options)
    load_checkpoint(run.state, path)
    torch.manual_seed(99)
    load_checkpoint(run.state, path)
    gone_on = Trained(run.state, run_trl_arm(run), run.log)
    assert same(whole.theta, gone_on.theta)
    assert identical(
        dataclasses.replace(whole, log=Memory()), dataclasses.replace(gone_on, log=Memory())
    )
    late = [e for e in whole.log.events if e["step"] > step or e["step"] == step == 2]
    own = [e for e in timeless(late) if e["kind"] == "evaluation" or e["step"] > step]
    assert timeless(gone_on.log.events) == own
    if "grpo_beta" in options:  # a divergence from the learner that GRPO begins with
        first, second = whole.of("kl")
        assert abs(first) < 1e-6 < second


def test_a_command_goes_on_with_an_arm_by_trl(command, monkeypatch, tmp_path, capsys):
    options = {"arms": "sft+grpo", "budget": "4steps", "eval_every": 0.5, "save_every": 0.5} | QUICK
    options |= dict.fromkeys(("probe_batches", "meta_period", "certify")) | {"solve_size": 0}
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])
    assert command("--name", "whole", **options) == 0
    step = RunGRPO.training_step

    def signalled(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RunGRPO, "training_step", signalled)
        assert command("--name", "x", **options) == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == ("error: interrupted: stopped after step 3 of sft+grpo; go on with --resume x")
    assert command("--resume", "x", small_data=False) == 0
    runs = tmp_path / "runs"
    require_equal(contents(runs / "x", learners=1), contents(runs / "whole", learners=1))
    (runs / "x/manifest.json").unlink()  # names alone tell
    remove_written(runs / "x")
    assert not [p for p in (runs / "x").rglob("*") if p.is_file() and p.name != ".lock"]


def test_options_reach_grpo(tmp_path):
    options = {"grpo_generations": 3, "grpo_tokens": 5, "grpo_temperature": 0.7, "grpo_beta": 0.1}
    run = started("grpo", **options, batch_size=3, precision="bfloat16", clip=0.5)
    callback = trl_arm.TrainerCallback()
    trainer = trl_trainers.grpo_trainer(run, tmp_path, callback, None)
    assert (trainer.num_generations, trainer.max_completion_length) == (3, 5)
    assert (trainer.temperature, trainer.args.bf16, trainer.args.max_grad_norm) == (0.7, True, 0.5)
    assert trainer.args.per_device_train_batch_size == 9 and trainer.beta == 0
    assert trainer.model is not run.state.learner
    assert trainer.optimizer is run.state.optimizer
    plain = new_run("grpo", grpo_generations=2)
    assert trl_trainers.completion_tokens(plain) == plain.workload.data.max_new_tokens


def test_precision_is_the_runs():
    half = trained("trl_sft", precision="bfloat16")
    plain = trained("trl_sft")
    assert half.of("train_loss") != plain.of("train_loss")
    assert half.of("train_loss") == pytest.approx(plain.of("train_loss"), rel=0.05)
    assert {p.dtype for p in half.theta.values()} == {torch.float32}


def test_what_is_not_finite_ends_the_arm_before_the_step():
    run = started("trl_sft")
    with torch.no_grad():
        run.state.learner.lm_head.weight.fill_(float("inf"))
    with pytest.raises(vfunc.NonFiniteError, match="loss is"):
        run_trl_arm(dataclasses.replace(run, workload=_unevaluated(run.workload)))
    assert run.state.counters.step == 0


def test_a_gradient_that_is_not_finite_ends_it_before_the_step():
    run = started("trl_sft")
    before = {n: p.detach().clone() for n, p in run.state.learner.named_parameters()}
    next(run.state.learner.parameters()).register_hook(lambda g: g / 0)
    with pytest.raises(vfunc.NonFiniteError, match="gradient is"):
        run_trl_arm(run)
    assert same(before, dict(run.state.learner.named_parameters()))


def _unevaluated(workload):
    class Quiet(LanguageWorkload):
        def evaluate(self, learner, *, final):
            return vfunc.workload.Evaluation({"loss": 0.0}, {})

    return Quiet(**{f.name: getattr(workload, f.name) for f in dataclasses.fields(workload)})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modality": "vision", "arms": "baseline,grpo"}, "--arms: grpo works on tokens"),
        ({"feedback_kind": "reward", "arms": "sft+grpo"}, "the arm sft.grpo trains on the feed"),
        ({"arms": "trl_sft", "grpo_beta": 0.1}, "--grpo-beta does nothing here: it is for the arm"),
        ({"arms": "grpo", "sft_share": 0.3}, "--sft-share does nothing here: it is for the arm"),
        ({"arms": "grpo", "grpo_generations": 1}, "--grpo-generations"),
        ({"arms": "sft+grpo", "budget": "4steps", "sft_share": 0.8}, "leaves no step"),
    ],
)
def test_what_does_not_go_together_is_refused(options, said):
    with pytest.raises(vfunc.UserError, match=said):
        resolve(options)


def test_what_cannot_be_trained_there_is_refused(monkeypatch):
    cpu, arms = torch.device("cpu"), ("baseline", "grpo")
    with pytest.raises(vfunc.UserError, match="arm grpo is for one process, and there are 2"):
        require_trl(arms, cpu, Processes(0, 2))
    with pytest.raises(vfunc.UserError, match="--device cuda with CUDA_VISIBLE_DEVICES=1"):
        require_trl(arms, torch.device("cuda:1"), vfunc.processes.ALONE)
    run = started("grpo", grpo_tokens=100_000)
    with pytest.raises(vfunc.UserError, match="--grpo-tokens 100000: the learner's context of"):
        trl_trainers.completion_tokens(run)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "trl" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"needs trl: pip install 'vfunc\[trl\]'"):
        parts_of(small(arms="baseline,trl_sft", seed=12))
    require_trl(("baseline", "sft"), cpu, Processes(0, 2))


def test_a_tokenizer_that_adds_tokens_is_refused():
    run = started("grpo")

    class Adding(type(run.workload.tokenizer)):
        def __call__(self, texts, **_):
            return {
                "input_ids": [[1, *super(Adding, self).__call__(t)["input_ids"]] for t in texts]
            }

    tokenizer = copy.deepcopy(run.workload.tokenizer)
    tokenizer.__class__ = Adding
    with pytest.raises(vfunc.UserError, match="take the arm out of --arms"):
        prompt_rows(run.workload.data.prompts, tokenizer)
