"""Every way to assemble a run takes its steps: estimators, engines, targets, designers, precision."""

from __future__ import annotations

import dataclasses
import sys
from typing import get_args

import pytest
import torch
from small_run import new_run, same, train

from vfunc import trees
from vfunc.designer_file import save_designer
from vfunc.errors import UserError
from vfunc.estimators import FirstOrder, estimator
from vfunc.problem import pretrain_gradient
from vfunc.simulate import check_step
from vfunc.training import step
from vfunc.training.assemble import pick_device
from vfunc.training.build.kept_bytes import BUFFERS
from vfunc.training.options.optimizer_options import OptimizerName, OptimizerOptions
from vfunc.training.state import build_optimizer

ESTIMATORS = [
    {"estimator": "first_order", "value": "dot"},
    {"estimator": "first_order", "value": "cosine"},
    {"estimator": "first_order", "value": "preconditioned"},
    {"estimator": "first_order", "value": "deflated"},
    {"estimator": "first_order", "value": "deflated_preconditioned", "means": 2, "beta": 0.5},
    {"estimator": "unrolled", "lookahead_steps": 2},
    {"estimator": "implicit", "damping": 1e4},
    {"estimator": "random"},
    {"estimator": "zero"},
    {"estimator": "own_estimator:Doubled"},
]


@pytest.fixture
def own_estimator(monkeypatch, tmp_path):
    """A user's estimator in a module of their own."""
    (tmp_path / "own_estimator.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from vfunc import FirstOrder\n"
        "@dataclass(frozen=True)\n"
        "class Doubled:\n"
        "    engine: str = 'auto'\n"
        "    def __call__(self, problem, theta, phi):\n"
        "        found = FirstOrder(engine=self.engine)(problem, theta, phi)\n"
        "        return replace(found, value=2 * found.value, objective=2 * found.objective)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_estimator", None)


@pytest.mark.usefixtures("own_estimator")
@pytest.mark.parametrize("options", ESTIMATORS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_estimator_trains_a_designer(options):
    trained = train(**options, gate_penalty=0.0)
    start = new_run().state
    moved = not same(trained.phi, dict(start.designer.named_parameters()))
    assert moved == (options["estimator"] != "zero")
    values = trained.of("value")
    assert len(values) == 3 and any(values)
    if options["estimator"].startswith("own"):
        assert values[0] == pytest.approx(2 * train().of("value")[0])


# sgd: Adam's first step is all but a sign, whose derivative finite differences cannot take
UNROLLED = {"estimator": "unrolled", "lookahead_steps": 2, "optimizer": "sgd", "lr": 0.05}


@pytest.mark.parametrize("base", [{}, UNROLLED], ids=["first_order", "unrolled"])
def test_engines_give_the_same_update(base):
    engines = ["reverse", "forward", "finite_difference"]
    engines += [] if base else ["linear"]
    # after one update the designer's Adam holds a tenth of the gradient
    found = {e: train(engine=e, budget="1steps", **base) for e in engines}
    for engine, trained in found.items():
        error = {"finite_difference": 2e-2}.get(engine, 1e-4)
        for key in ("value", "designer_gradient_norm"):
            (ours,), (reference,) = trained.of(key), found["reverse"].of(key)
            assert ours == pytest.approx(reference, rel=error), (engine, key)
        assert trained.of("estimate")[0]["engine"] == engine
        moments = [s["exp_avg"].flatten() for s in trained.state.designer_optimizer.state.values()]
        expected = found["reverse"].state.designer_optimizer.state.values()
        wanted = torch.cat([s["exp_avg"].flatten() for s in expected])
        assert float((torch.cat(moments) - wanted).norm() / wanted.norm()) < error, engine


@pytest.mark.parametrize(
    "options",
    [
        {"targets": "gate"},
        {"targets": "bounded", "shift_bound": 0.5},
        {"targets": "free", "alpha_max": 0.5},
        {"designer_features": False},
    ],
    ids=lambda o: str(o),
)
def test_every_form_of_targets_trains(options):
    trained, other = train(**options), train(targets="gate", alpha_max=0.9)
    assert len(trained.of("value")) == 3 and not same(trained.theta, other.theta)
    assert all(0 < gate < 1 for gate in trained.of("gate"))


def test_the_gate_penalty_closes_gates():
    gates = [train(gate_penalty=p, budget="6steps").of("gate")[-1] for p in (0.0, 100.0)]
    assert gates[1] < 0.9 * gates[0]


def test_a_saved_designer_is_where_training_starts(tmp_path):
    path = tmp_path / "designer.safetensors"
    first = train(designer_width=16, targets="bounded", gate_penalty_absolute=0.0)
    save_designer(first.state.designer, path)
    frozen = train(designer=str(path), freeze_designer=True)
    assert same(frozen.phi, first.phi) and frozen.state.designer.config.width == 16
    assert frozen.state.designer_optimizer is None
    further = train(designer=str(path))
    assert further.phi.keys() == first.phi.keys() and not same(further.phi, first.phi)


def test_a_designer_of_another_vocabulary_is_refused(tmp_path):
    designer = train(budget="1steps").state.designer
    other = type(designer)(dataclasses.replace(designer.config, vocabulary=77))
    save_designer(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="vocabulary of 77 tokens, the learner has"):
        new_run(designer=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    "options", [{"momentum": 0.9}, {}, {"weight_decay": 0.1}], ids=lambda o: str(o)
)
def test_sgd_takes_its_own_steps(options):
    trained = train(optimizer="sgd", lr=0.1, value="preconditioned", **options)
    assert isinstance(trained.state.optimizer, torch.optim.SGD)
    assert not same(trained.theta, train(optimizer="sgd", lr=0.2).theta)


def test_bfloat16_agrees_with_float32():
    runs = {
        precision: train(precision=precision, budget="1steps", batch_size=8)
        for precision in ("float32", "bfloat16")
    }
    assert all(p.dtype == torch.float32 for p in runs["bfloat16"].theta.values())
    gradients = {}
    for precision, trained in runs.items():
        moments = trained.state.designer_optimizer.state.values()
        gradients[precision] = torch.cat([s["exp_avg"].flatten() for s in moments])
    difference = gradients["bfloat16"] - gradients["float32"]
    assert 0 < float(difference.norm() / gradients["float32"].norm()) < 0.05
    assert runs["bfloat16"].of("train_loss") != runs["float32"].of("train_loss")


def replayed(monkeypatch, estimate_mode):
    """g_pre as an estimate sees it, and the learner's own gradient for the same task."""
    run = new_run(lora_rank=2, lora_dropout=0.5, estimate_mode=estimate_mode, clip=0.0)
    state = run.state
    with torch.no_grad():  # a new adapter's output is zero, and with it its dropout
        for name, p in state.learner.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    found = {}

    def watching(problem, theta, phi):
        generator = torch.get_rng_state()
        estimate = FirstOrder()(problem, theta, phi)
        task = problem.construct(phi, problem.batches[0])
        found["g_pre"] = pretrain_gradient(problem, theta, task)
        assert torch.equal(generator, torch.get_rng_state())
        zeros = trees.zeros_like(phi)  # so that the learner steps on this very task
        return dataclasses.replace(estimate, grad=zeros)

    step.micro_batch(dataclasses.replace(run, estimator=watching))
    own = {n: p.grad for n, p in state.functional.live.items()}
    return float(trees.norm(trees.axpy(-1.0, own, found["g_pre"])) / trees.norm(own))


def test_train_mode_repeats_the_learners_own_dropout(monkeypatch):
    assert replayed(monkeypatch, "train") < 1e-5
    assert replayed(monkeypatch, "eval") > 0.05


@pytest.mark.parametrize("align", ["last:1", "re:embed", "lora", "lora:last:1"])
def test_the_value_is_taken_over_s(align):
    options = {"lora_rank": 2} if align.startswith("lora") else {}
    trained = train(align=align, **options)
    names = trained.state.functional.names
    assert len(names) > 0 and len(trained.of("value")) == 3
    assert all("lora_" in n for n in names) == align.startswith("lora")


@pytest.mark.parametrize("device", ["mps", "cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UserError, match="--device"):
        pick_device(device)


def test_estimators_by_name_are_the_tested_ones():
    tested = {options["estimator"] for options in ESTIMATORS}
    assert set(estimator.ESTIMATORS) <= tested


@pytest.mark.parametrize("kind", get_args(OptimizerName))
def test_every_optimizer_of_the_command_line_is_made_and_simulated(kind):
    """With its options, by its own class, and as estimates see it."""
    options = OptimizerOptions(
        optimizer=kind,
        lr=0.03,
        betas=(0.7, 0.8),
        momentum=0.4,
        weight_decay=0.1,
        clip=0.0,
        warmup=0.0,
        final_lr=1.0,
        accumulate=1,
    )
    learner = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(options, learner)
    assert type(optimizer).__name__.lower() == kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.1)
    assert group.get("betas", (0.7, 0.8)) == (0.7, 0.8)
    assert group.get("momentum", 0.4) == 0.4
    for _ in range(2):
        learner(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
    assert check_step(optimizer, dict(learner.named_parameters())) < 1e-4
    kept = sum(
        x.numel() for s in optimizer.state.values() for x in s.values() if x.shape != ()
    ) / sum(p.numel() for p in learner.parameters())
    foreseen = BUFFERS[kind] + (kind in ("sgd", "rmsprop"))
    assert foreseen == (round(kept) if kind != "adafactor" else 0)
