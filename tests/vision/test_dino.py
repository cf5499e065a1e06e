"""DINO: the loss by a literal reading, all its derivatives, and a teacher that only follows."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import tiny_learners as tiny
import torch
from lightly.loss import DINOLoss
from lightly.models.modules.heads import DINOProjectionHead
from timm.models.vision_transformer import VisionTransformer

import vfunc
from vfunc.errors import UserError
from vfunc.learner import blocks, mode, select
from vfunc.split import Split, split_at_edge
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.encoder.named_encoder import Encoder
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.dino_head import DinoHead, UnitRows, head_sizes
from vfunc.vision.objectives.objective import Objective
from vfunc.vision.seeded import seeded_module

OBJECTIVE = Dino(
    image_size=16, local_size=8, local_crops=3, output_dim=12, head_width=10, bottleneck=6
)


@pytest.fixture
def situation():
    learner = tiny.stirred(OBJECTIVE.learner(tiny.vit(), seed=0))
    learner.centre.copy_(torch.linspace(-0.3, 0.2, 12))
    batch = tiny.in_float64(OBJECTIVE.batch(tiny.pictures(2), tiny.generator()))
    return learner, batch


def function(learner, batch, objective=OBJECTIVE):
    return lambda theta, views: tiny.loss(objective, learner, theta, batch, views)


def in_words(objective, teacher, student, centre):
    """The definition, number by number: (g, b, o) and (crops, b, o) logits -> loss."""
    total, pairs = 0.0, 0
    for i in range(len(teacher)):
        for j in range(len(student)):
            if i == j:
                continue
            pairs += 1
            for n in range(teacher.shape[1]):
                sharp = [
                    math.exp((float(z) - float(c)) / objective.teacher_temperature)
                    for z, c in zip(teacher[i, n], centre, strict=True)
                ]
                soft = [math.exp(float(z) / objective.student_temperature) for z in student[j, n]]
                for q, p in zip(sharp, soft, strict=True):
                    total -= q / sum(sharp) * math.log(p / sum(soft)) / teacher.shape[1]
    return total / pairs


def logits(learner, batch):
    """All logits by crop: the teacher's of global crops, the student's of all."""
    teacher = torch.stack([learner("teacher_logits", view) for view in batch.views])
    student = [learner("logits", view) for view in [*batch.views, *batch.locals]]
    return teacher.detach(), torch.stack(student).detach()


@pytest.mark.parametrize(("globally", "locally"), [(2, 3), (2, 0), (1, 2), (3, 1)])
def test_the_loss_is_its_definition(globally, locally):
    objective = replace(OBJECTIVE, global_crops=globally, local_crops=locally)
    learner = tiny.stirred(objective.learner(tiny.vit(), seed=0))
    learner.centre.copy_(torch.linspace(-0.3, 0.2, 12))
    batch = tiny.in_float64(objective.batch(tiny.pictures(3), tiny.generator()))
    assert batch.views.shape[:2] == (globally, 3) and batch.locals.shape[:2] == (locally, 3)
    teacher, student = logits(learner, batch)
    want = in_words(objective, teacher, student, learner.centre)
    found = tiny.loss(objective, learner, tiny.student(learner), batch, batch.views)
    assert float(found) == pytest.approx(want, rel=1e-12)


def test_the_loss_is_lightlys(situation):
    learner, batch = situation
    teacher, student = logits(learner, batch)
    theirs = DINOLoss(12, teacher_temp=0.04, student_temp=0.1).double()
    theirs.center.copy_(learner.centre.view(1, 1, -1))
    want = theirs(list(teacher), list(student))
    found = tiny.loss(OBJECTIVE, learner, tiny.student(learner), batch, batch.views)
    torch.testing.assert_close(found, want, rtol=1e-6, atol=0)  # its temperature is float32
    _, carried = OBJECTIVE.targets(learner, batch, batch.views)
    OBJECTIVE.stepped(learner, [carried], 0.0)
    torch.testing.assert_close(learner.centre, theirs.center.flatten())


def test_each_part_is_of_one_picture(situation):
    learner, batch = situation

    def parts(batch):
        targets, _ = OBJECTIVE.targets(learner, batch, batch.views)
        calls = OBJECTIVE.calls(batch, batch.views)
        return OBJECTIVE.parts({n: learner(*c) for n, c in calls.items()}, targets, batch)

    both = parts(batch)
    for i in range(2):
        alone = parts(UnlabeledBatch(batch.views[:, i : i + 1], batch.locals[:, i : i + 1]))
        torch.testing.assert_close(both[i], alone[0] / 2)
    torch.testing.assert_close(parts(batch.first(1)), 2 * both[:1])


def test_bfloat16_outputs_are_compared_in_float32(situation):
    learner, batch = situation
    outputs = {n: learner(*c).bfloat16() for n, c in OBJECTIVE.calls(batch, batch.views).items()}
    targets, _ = OBJECTIVE.targets(learner, batch, batch.views)
    assert OBJECTIVE.parts(outputs, targets.float(), batch).dtype == torch.float32


def test_the_gradient_in_every_parameter_and_in_the_views(situation):
    learner, batch = situation
    theta = tiny.student(learner)
    way, f = tiny.directions(theta), function(learner, batch)
    grads = torch.func.grad(f)(theta, batch.views)
    assert set(grads) == {
        n for n, _ in learner.named_parameters() if n.startswith(("encoder.", "head."))
    }
    for name in theta:
        one = {name: way[name]}
        high, low = (f(tiny.moved(theta, one, s * 1e-5), batch.views) for s in (1, -1))
        want = (high - low) / 2e-5
        found = (grads[name] * way[name]).sum()
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-9)
        assert found.abs() > 1e-8, name
    into = torch.randn(batch.views.shape, generator=tiny.generator(), dtype=torch.float64)
    slope = (torch.func.grad(f, argnums=1)(theta, batch.views) * into).sum()
    high, low = (f(theta, batch.views + s * 1e-6 * into) for s in (1, -1))
    torch.testing.assert_close(slope, (high - low) / 2e-6, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "derivative", [tiny.mixed_by_double_backward, tiny.mixed_by_forward_over_reverse]
)
def test_the_mixed_derivative_through_student_and_teacher(situation, derivative):
    learner, batch = situation
    theta = tiny.student(learner)
    way, f = tiny.directions(theta), function(learner, batch)
    found = derivative(f, theta, way, batch.views)
    want = tiny.mixed_difference(f, theta, way, batch.views)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


def test_both_branches_are_in_the_mixed_derivative(situation):
    learner, batch = situation
    theta = tiny.student(learner)
    way = tiny.directions(theta)
    fixed = OBJECTIVE.targets(learner, batch, batch.views)[0].detach()

    class Frozen:
        calls, parts = OBJECTIVE.calls, OBJECTIVE.parts

        def targets(self, learner, batch, views):
            return fixed, {}

    whole = tiny.mixed_by_double_backward(function(learner, batch), theta, way, batch.views)
    seen = function(learner, batch, Frozen())
    student = tiny.mixed_by_double_backward(seen, theta, way, batch.views)
    assert student.norm() > 0.01 * whole.norm()
    assert (whole - student).norm() > 0.01 * whole.norm()


def test_the_teacher_never_gets_a_gradient(situation):
    learner, batch = situation
    views = batch.views.clone().requires_grad_()
    targets, carried = OBJECTIVE.targets(learner, batch, views)
    (targets**2).sum().backward()
    assert views.grad.abs().sum() > 0
    assert not carried["centre"].requires_grad
    assert all(p.grad is None for p in learner.parameters())
    calls = OBJECTIVE.calls(batch, batch.views)
    outputs = {name: learner(*call) for name, call in calls.items()}
    OBJECTIVE.parts(outputs, targets.detach(), batch).sum().backward()
    for name, p in learner.named_parameters():
        assert p.requires_grad == (p.grad is not None) == (not name.startswith("teacher_"))


def test_targets_change_nothing(situation):
    learner, batch = situation
    before = copy.deepcopy(learner.state_dict())
    targets, carried = OBJECTIVE.targets(learner, batch, batch.views)
    torch.testing.assert_close(targets.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    want = learner("teacher_logits", batch.views.flatten(0, 1)).mean(0)
    torch.testing.assert_close(carried["centre"], want)
    assert all(torch.equal(x, before[n]) for n, x in learner.state_dict().items())


@pytest.mark.parametrize(
    ("fraction", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0), (1.2, 1.0)]
)
def test_the_teacher_and_the_centre_follow(situation, fraction, momentum):
    learner, _ = situation
    objective = replace(OBJECTIVE, teacher_momentum=0.9, centre_momentum=0.7)
    learner.encoder.mean.add_(1.0)
    before = {n: x.clone() for n, x in learner.state_dict(keep_vars=True).items()}
    seen = [{"centre": torch.full((12,), x, dtype=torch.float64)} for x in (1.0, 2.0)]
    objective.stepped(learner, seen, fraction)
    for name, p in learner.named_parameters():
        if name.startswith("teacher_"):
            own = before[name.removeprefix("teacher_")]
            want = momentum * before[name] + (1 - momentum) * own
            torch.testing.assert_close(p.detach(), want.detach())
        else:
            assert torch.equal(p, before[name])
    assert torch.equal(learner.teacher_encoder.mean, learner.encoder.mean)
    torch.testing.assert_close(learner.centre, 0.7 * before["centre"] + 0.3 * 1.5)


def test_the_teacher_stays_in_eval_mode(situation):
    learner, _ = situation
    learner.train()
    assert learner.encoder.training and learner.head.training
    teacher = [m for n, m in learner.named_modules() if n.startswith("teacher_")]
    assert not any(m.training for m in teacher)
    with mode(learner, training=False):
        assert not learner.encoder.training
    assert learner.encoder.training and not any(m.training for m in teacher)


def test_the_seed_alone_decides_the_head():
    before = torch.get_rng_state()
    once, again, other = (OBJECTIVE.learner(tiny.vit(), seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    for name, x in once.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]) and x.isfinite().all()
    assert not torch.equal(once.head.mlp[0].weight, other.head.mlp[0].weight)
    assert not torch.equal(once.head.last.direction, other.head.last.direction)
    assert torch.equal(once.head.last.direction, once.teacher_head.last.direction)


def test_copies_and_state_dicts(situation):
    learner, batch = situation
    loss = tiny.loss(OBJECTIVE, learner, tiny.student(learner), batch, batch.views)
    other = OBJECTIVE.learner(tiny.vit(seed=3), seed=9)
    other.load_state_dict(learner.state_dict())
    for one in (copy.deepcopy(learner), other):
        again = tiny.loss(OBJECTIVE, one, tiny.student(one), batch, batch.views)
        assert torch.equal(again, loss)


def test_the_learner_on_the_meta_device():
    encoder = tiny.vit(dtype=torch.float32).to("meta")
    learner = OBJECTIVE.learner(encoder, seed=0)
    assert all(x.is_meta for x in learner.state_dict().values())
    assert learner("logits", torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 12)
    assert learner("teacher_logits", torch.empty(2, 3, 16, 16, device="meta")).is_meta


def test_what_the_core_sees(situation):
    learner, batch = situation
    assert isinstance(OBJECTIVE, Objective) and OBJECTIVE.name == "dino"
    assert blocks(learner)[0] == "encoder.vit.blocks"
    assert not any(n.startswith("teacher_") for n in select(learner, "all"))
    assert {n.split(".")[0] for n in select(learner, "last:1")} == {"encoder"}
    functional = vfunc.functional(learner, "last:1")
    for call in OBJECTIVE.calls(batch, batch.views).values():
        cut = split_at_edge(functional, *call)
        assert isinstance(cut, Split), cut
        edge = cut.prefix(functional, *call)
        parts = cut.suffix(functional, functional.theta, edge, *call)
        torch.testing.assert_close(parts, learner(*call))
    dense = learner("dense", batch.views[0], 2)
    assert dense.maps.shape == (2, 32, 2, 2)


def test_the_head_is_lightlys():
    ours = seeded_module(lambda: DinoHead(16, 10, 6, 12), 0, torch.zeros(1))
    with torch.random.fork_rng(devices=[]), pytest.warns(FutureWarning, match="weight_norm"):
        theirs = DINOProjectionHead(16, 10, 6, 12)
    names = {"layers.0": "mlp.0", "layers.2": "mlp.2", "layers.4": "mlp.4"}
    state = {"last_layer.weight_g": torch.ones(12, 1), "last_layer.weight_v": ours.last.direction}
    for theirs_name, ours_name in names.items():
        for kind in ("weight", "bias"):
            state[f"{theirs_name}.{kind}"] = ours.get_parameter(f"{ours_name}.{kind}")
    theirs.load_state_dict(state)
    x = torch.randn(5, 16, generator=tiny.generator())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_unit_rows_have_every_derivative():
    layer = seeded_module(lambda: UnitRows(3, 4), 0, torch.zeros(1, dtype=torch.float64))
    x = torch.randn(2, 3, dtype=torch.float64, generator=tiny.generator(), requires_grad=True)
    w = layer.direction.detach().requires_grad_()

    def apply(w, x):
        return torch.func.functional_call(layer, {"direction": w}, (x,))

    assert torch.autograd.gradgradcheck(apply, (w, x), check_fwd_over_rev=True)
    torch.testing.assert_close(apply(3 * w, x), apply(w, x))


def test_sizes_of_the_head():
    assert head_sizes(768, None, None) == (2048, 256)
    assert head_sizes(32, None, None) == (128, 128)
    assert head_sizes(64, None, 32) == (256, 32)
    assert head_sizes(64, 100, None) == (100, 100)
    with pytest.raises(UserError):
        head_sizes(64, 0, None)


def test_an_encoder_without_a_class_token(situation):
    _, batch = situation
    learner = OBJECTIVE.learner(tiny.vit(prefix=False), seed=0)
    loss = tiny.loss(OBJECTIVE, learner, tiny.student(learner), batch, batch.views)
    assert loss.isfinite()


def test_crops_that_patches_do_not_fill_are_refused():
    with torch.random.fork_rng(devices=[]):
        vit = VisionTransformer(
            img_size=20, patch_size=10, embed_dim=8, depth=1, num_heads=1, num_classes=0
        )
    with pytest.raises(UserError, match=r"global crops of 16 pixels.*patches of 10 pixels"):
        OBJECTIVE.learner(Encoder(vit), seed=0)
    with pytest.raises(UserError, match="local crops of 8 pixels"):
        replace(OBJECTIVE, image_size=20).learner(Encoder(vit), seed=0)
    replace(OBJECTIVE, image_size=20, local_crops=0).learner(Encoder(vit), seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {"global_crops": 0},
        {"local_crops": -1},
        {"global_crops": 1, "local_crops": 0},
        {"student_temperature": 0.0},
        {"teacher_temperature": -0.1},
        {"teacher_momentum": 1.5},
        {"centre_momentum": -0.1},
        {"output_dim": 1},
        {"image_size": 0},
        {"global_scale": (0.5, 0.1)},
        {"colour": 3.0},
    ],
)
def test_impossible_options_are_refused_in_a_line(options):
    with pytest.raises(UserError) as refused:
        Dino(**options)
    assert "\n" not in str(refused.value)
