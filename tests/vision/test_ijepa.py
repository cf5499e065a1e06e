"""I-JEPA: the loss by a literal reading, all its derivatives, and what each branch may see."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import tiny_learners as tiny
import torch
import torch.nn.functional as F
from lightly.models.modules.ijepa_timm import IJEPAPredictorTIMM

import vfunc
from vfunc.errors import UserError
from vfunc.learner import blocks, select
from vfunc.split import Split, split_at_edge
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.objectives.ijepa import IJepa, smooth_l1
from vfunc.vision.objectives.objective import Objective
from vfunc.vision.objectives.predictor import Predictor, sine_positions
from vfunc.vision.seeded import seeded_module

OBJECTIVE = IJepa(patch=4, image_size=16, predictor_width=8, predictor_depth=1)
ENCODERS = {
    "prefix": lambda: tiny.vit(patch=4),
    "plain": lambda: tiny.vit(patch=4, prefix=False),
    "rotary": tiny.rotary,
}


def situation_of(kind="prefix"):
    learner = tiny.stirred(OBJECTIVE.learner(ENCODERS[kind](), seed=0))
    batch = tiny.in_float64(OBJECTIVE.batch(tiny.pictures(2), tiny.generator(1)))
    return learner, batch


@pytest.fixture
def situation():
    return situation_of()


def function(learner, batch):
    return lambda theta, views: tiny.loss(OBJECTIVE, learner, theta, batch, views)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_the_loss_is_its_definition(kind):
    learner, batch = situation_of(kind)
    view = 0.5 * batch.views + 0.2
    total, terms = 0.0, 0
    predicted = learner("predict", view[0], batch.blocks.context, batch.blocks.targets)
    prefix = learner.encoder.prefix_tokens
    for i in range(2):
        features = learner.teacher_encoder.tokens(batch.views[0, i : i + 1])[0, prefix:]
        for m, block in enumerate(batch.blocks.targets[i].tolist()):
            for t, patch in enumerate(block):
                feature = features[patch]
                spread = ((feature - feature.mean()) ** 2).mean() + 1e-5
                target = (feature - feature.mean()) / spread.sqrt()
                for d in (predicted[i, m, t] - target).tolist():
                    total += 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5
                    terms += 1
    found = tiny.loss(OBJECTIVE, learner, tiny.student(learner), batch, view)
    assert float(found) == pytest.approx(total / terms, rel=1e-12)


def test_each_part_is_of_one_picture(situation):
    learner, batch = situation

    def parts(batch):
        targets, carried = OBJECTIVE.targets(learner, batch, batch.views)
        assert carried == {}
        (call,) = OBJECTIVE.calls(batch, batch.views).values()
        return OBJECTIVE.parts({"views": learner(*call)}, targets, batch)

    torch.testing.assert_close(parts(batch.first(1)), 2 * parts(batch)[:1])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_the_smooth_loss_is_torchs_with_every_derivative():
    d = torch.tensor([-2.5, -0.7, 0.0, 0.3, 0.999, 1.4], dtype=torch.float64)
    want = F.smooth_l1_loss(d, torch.zeros_like(d), reduction="none")
    torch.testing.assert_close(smooth_l1(d), want)
    x = torch.tensor([-1.7, -0.7, 0.3, 0.8, 1.4], dtype=torch.float64, requires_grad=True)

    def curved(x):
        return smooth_l1(x**3)

    assert torch.autograd.gradcheck(curved, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(curved, (x,), check_fwd_over_rev=True)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_the_gradient_in_every_parameter_and_in_the_views(kind):
    learner, batch = situation_of(kind)
    theta = tiny.student(learner)
    way, f = tiny.directions(theta), function(learner, batch)
    grads = torch.func.grad(f)(theta, batch.views)
    assert {n.split(".")[0] for n in grads} == {"encoder", "predictor"}
    for name in theta:
        one = {name: way[name]}
        high, low = (f(tiny.moved(theta, one, s * 1e-5), batch.views) for s in (1, -1))
        found = (grads[name] * way[name]).sum()
        torch.testing.assert_close(found, (high - low) / 2e-5, rtol=1e-6, atol=1e-9)
        assert found.abs() > 1e-8, name
    into = torch.randn(batch.views.shape, generator=tiny.generator(), dtype=torch.float64)
    slope = (torch.func.grad(f, argnums=1)(theta, batch.views) * into).sum()
    high, low = (f(theta, batch.views + s * 1e-6 * into) for s in (1, -1))
    torch.testing.assert_close(slope, (high - low) / 2e-6, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", list(ENCODERS))
@pytest.mark.parametrize(
    "derivative", [tiny.mixed_by_double_backward, tiny.mixed_by_forward_over_reverse]
)
def test_the_mixed_derivative(kind, derivative):
    learner, batch = situation_of(kind)
    theta = tiny.student(learner)
    way, f = tiny.directions(theta), function(learner, batch)
    found = derivative(f, theta, way, batch.views)
    want = tiny.mixed_difference(f, theta, way, batch.views)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_the_student_sees_the_context_alone(kind):
    learner, batch = situation_of(kind)
    views = batch.views.clone().requires_grad_()
    (call,) = OBJECTIVE.calls(batch, views).values()
    (learner(*call) ** 2).sum().backward()
    by_patch = views.grad[0].abs().sum(1).unflatten(-1, (4, 4)).unflatten(1, (4, 4))
    reached = by_patch.sum((2, 4)).flatten(1) > 0
    want = torch.zeros(2, 16, dtype=torch.bool)
    want.scatter_(1, batch.blocks.context, True)
    assert torch.equal(reached, want)


def test_targets_are_of_the_picture_as_it_is(situation):
    learner, batch = situation
    designed = (0.3 * batch.views).requires_grad_()
    targets, _ = OBJECTIVE.targets(learner, batch, designed)
    assert not targets.requires_grad
    assert torch.equal(targets, OBJECTIVE.targets(learner, batch, batch.views)[0])
    torch.testing.assert_close(targets.mean(-1), torch.zeros_like(targets[..., 0]))


def test_the_teacher_never_gets_a_gradient(situation):
    learner, batch = situation
    tiny.loss(OBJECTIVE, learner, {}, batch, batch.views).backward()
    for name, p in learner.named_parameters():
        assert p.requires_grad == (p.grad is not None) == (not name.startswith("teacher_"))


@pytest.mark.parametrize(
    ("fraction", "momentum"), [(0.0, 0.9), (0.25, 0.925), (1.0, 1.0), (1.2, 1.0)]
)
def test_the_teacher_follows(situation, fraction, momentum):
    learner, _ = situation
    before = {n: p.detach().clone() for n, p in learner.named_parameters()}
    replace(OBJECTIVE, teacher_momentum=0.9).stepped(learner, [{}], fraction)
    for name, p in learner.named_parameters():
        want = before[name]
        if name.startswith("teacher_"):
            own = before[name.removeprefix("teacher_")]
            want = momentum * want + (1 - momentum) * own
        torch.testing.assert_close(p.detach(), want)
    learner.train()
    assert learner.encoder.training and not learner.teacher_encoder.training


def test_the_predictor_is_lightlys():
    ours = seeded_module(lambda: Predictor(16, 8, 2), 0, torch.zeros(1))
    with torch.random.fork_rng(devices=[]):
        theirs = IJEPAPredictorTIMM(16, 2, 16, 8, num_heads=1)
    state = {"decoder.mask_token": ours.mask_token.view(1, 1, -1)}
    state["decoder.pos_embed"] = sine_positions((4, 4), 8)[None].float()
    for name, x in ours.state_dict().items():
        outer = {"inward": "predictor_embed", "outward": "predictor_proj"}
        top, _, rest = name.partition(".")
        if top != "mask_token":
            state[f"{outer.get(top, f'decoder.{top}')}.{rest}"] = x
    theirs.load_state_dict(state)
    context = torch.tensor([[0, 2, 3, 9], [1, 4, 5, 15]])
    targets = torch.tensor([[[6, 7], [10, 11], [1, 5]], [[8, 9], [0, 2], [3, 13]]])
    tokens = torch.randn(2, 4, 16, generator=tiny.generator())
    want = theirs(tokens.clone(), [context], list(targets.unbind(1)))
    found = ours(tokens, (4, 4), context, targets)
    torch.testing.assert_close(found.transpose(0, 1).flatten(0, 1), want)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_a_context_of_all_patches_is_the_whole_picture(kind):
    learner, batch = situation_of(kind)
    encoder, everything = learner.encoder, torch.arange(16).expand(2, -1)
    targets = batch.blocks.targets
    whole = learner.predictor(encoder.tokens(batch.views[0]), (4, 4), everything, targets)
    found = learner("predict", batch.views[0], everything, targets)
    torch.testing.assert_close(found, whole)
    # rotary angles and learned positions go with their patches
    turned = learner("predict", batch.views[0], everything.flip(-1), targets)
    torch.testing.assert_close(found, turned)


def test_the_predictor_knows_tokens_by_their_position_alone():
    predictor = seeded_module(lambda: Predictor(16, 8, 2), 0, torch.zeros(1, dtype=torch.float64))
    tokens = torch.randn(1, 6, 16, dtype=torch.float64, generator=tiny.generator())
    context, targets = torch.tensor([[3, 5, 9, 14]]), torch.tensor([[[0, 7], [8, 1]]])
    found = predictor(tokens, (4, 4), context, targets)
    # two prefix tokens without a position
    swapped = predictor(tokens[:, [1, 0, 2, 3, 4, 5]], (4, 4), context, targets)
    torch.testing.assert_close(swapped, found)
    other = tokens[:, [0, 1, 4, 2, 3, 5]], context[:, [2, 0, 1, 3]]
    torch.testing.assert_close(predictor(other[0], (4, 4), other[1], targets), found)
    moved = predictor(tokens, (4, 4), context[:, [1, 0, 2, 3]], targets)
    assert (moved - found).abs().max() > 1e-6


def test_positions_tell_rows_from_columns():
    table = sine_positions((3, 5), 8)
    assert table.shape == (15, 8)
    assert (torch.cdist(table, table) + torch.eye(15) > 1e-3).all()
    torch.testing.assert_close(table[0], torch.tensor([0.0, 0, 1, 1] * 2, dtype=torch.float64))
    # patch 7 is row 1, column 2
    row, column = torch.tensor([1.0, 2.0], dtype=torch.float64)
    want = [row.sin(), (row / 100).sin(), row.cos(), (row / 100).cos()]
    want += [column.sin(), (column / 100).sin(), column.cos(), (column / 100).cos()]
    torch.testing.assert_close(table[7], torch.stack(want))


def test_the_seed_alone_decides():
    before = torch.get_rng_state()
    once, again, other = (OBJECTIVE.learner(tiny.vit(patch=4), seed) for seed in (5, 5, 6))
    drawn_once, drawn_again = (OBJECTIVE.batch(tiny.pictures(2), tiny.generator(3)) for _ in "ab")
    assert torch.equal(torch.get_rng_state(), before)
    for name, x in once.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]) and x.isfinite().all()
    weights = [m.predictor.blocks[0].attn.qkv.weight for m in (once, other)]
    assert not torch.equal(*weights)
    assert not torch.equal(once.predictor.mask_token, other.predictor.mask_token)
    assert torch.equal(drawn_once.views, drawn_again.views)
    assert torch.equal(drawn_once.blocks.context, drawn_again.blocks.context)
    assert drawn_once.views.shape == (1, 2, 3, 16, 16) and len(drawn_once.locals) == 0


def test_copies_and_state_dicts(situation):
    learner, batch = situation
    loss = tiny.loss(OBJECTIVE, learner, tiny.student(learner), batch, batch.views)
    other = OBJECTIVE.learner(tiny.vit(patch=4, seed=3), seed=9)
    other.load_state_dict(learner.state_dict())
    for one in (copy.deepcopy(learner), other):
        again = tiny.loss(OBJECTIVE, one, tiny.student(one), batch, batch.views)
        assert torch.equal(again, loss)


def test_the_learner_on_the_meta_device():
    learner = OBJECTIVE.learner(tiny.vit(patch=4, dtype=torch.float32).to("meta"), seed=0)
    assert all(x.is_meta for x in learner.state_dict().values())
    images = torch.empty(2, 3, 16, 16, device="meta")
    context = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    targets = torch.zeros(2, 4, 3, dtype=torch.int64, device="meta")
    assert learner("predict", images, context, targets).shape == (2, 4, 3, 16)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_what_the_core_sees(kind):
    learner, batch = situation_of(kind)
    assert isinstance(OBJECTIVE, Objective) and OBJECTIVE.name == "ijepa"
    assert blocks(learner)[0] == "encoder.vit.blocks"
    assert {n.split(".")[0] for n in select(learner, "all")} == {"encoder", "predictor"}
    assert {n.split(".")[0] for n in select(learner, "last:1")} == {"encoder"}
    functional = vfunc.functional(learner, "last:1")
    (call,) = OBJECTIVE.calls(batch, batch.views).values()
    cut = split_at_edge(functional, *call)
    assert isinstance(cut, Split), cut
    edge = cut.prefix(functional, *call)
    parts = cut.suffix(functional, functional.theta, edge, *call)
    torch.testing.assert_close(parts, learner(*call))
    assert learner("dense", batch.views[0], 1).maps.shape == (2, 16, 4, 4)


def test_sizes_of_the_predictor():
    objective = IJepa(patch=4, image_size=16)
    learner = objective.learner(tiny.vit(patch=4, depth=3), seed=0)
    assert len(learner.predictor.blocks) == 1 and learner.predictor.inward.out_features == 32


def test_misfits_are_refused_in_a_line():
    with pytest.raises(UserError, match=r"patches of 4 pixels.*are of 8"):
        OBJECTIVE.learner(tiny.vit(), seed=0)
    with pytest.raises(UserError, match="1 to 2 blocks"):
        replace(OBJECTIVE, predictor_depth=3).learner(tiny.vit(patch=4), seed=0)
    with pytest.raises(UserError, match="multiple of 4"):
        replace(OBJECTIVE, predictor_width=6).learner(tiny.vit(patch=4), seed=0)
    batch = UnlabeledBatch(torch.zeros(1, 1, 3, 16, 16), torch.zeros(0, 1, 3, 16, 16))
    with pytest.raises(ValueError, match="blocks"):
        OBJECTIVE.calls(batch, batch.views)


@pytest.mark.parametrize(
    "options",
    [
        {"patch": 0},
        {"patch": 16, "image_size": 60},
        {"patch": 16, "image_size": 48},
        {"teacher_momentum": 2.0},
        {"scale": (0.9, 0.3)},
    ],
)
def test_impossible_options_are_refused_in_a_line(options):
    with pytest.raises(UserError) as refused:
        IJepa(**options)
    assert "\n" not in str(refused.value)
