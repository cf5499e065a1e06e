"""The vision workload: pure batches, parts that share nothing, derivatives in float64, maps."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import itertools

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vfunc
from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem import construct_task, feedback_gradient, pretrain_gradient
from vfunc.pullback import mixed_product
from vfunc.simulate import SGD, AdamW, UpdateRule
from vfunc.split import Whole
from vfunc.vision.data.vision_data import Example
from vfunc.vision.designers.view_designer import ViewDesigner, ViewDesignerConfig, apply_control
from vfunc.vision.encoder.named_encoder import Encoder
from vfunc.vision.evaluation.frozen_evaluation import ProbeOptions
from vfunc.vision.feedback.dense_feedback import feedback_loss
from vfunc.vision.feedback.heads import HeadOptions, fit_heads
from vfunc.vision.learner import ObservedViews, VisionLearner
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.ijepa import IJepa
from vfunc.vision.reporting import vision_reporting
from vfunc.vision.scenes.scenes import embedded_scenes, looks_of
from vfunc.vision.value_map import _unpacked
from vfunc.vision.workload import VisionFeedback, VisionWorkload
from vfunc.workload import Workload

DINO = Dino(image_size=16, local_size=8, local_crops=1, output_dim=8, head_width=12, bottleneck=6)
OBJECTIVES = {
    "dino": DINO,
    "ijepa": IJepa(patch=4, image_size=16, predictor_width=8, predictor_depth=1),
}
SCENES = embedded_scenes(
    0,
    stream=10,
    heads=5,
    feedback=5,
    evaluation_fit=4,
    evaluation=4,
    split="test",
    held_out=5,
    looks=looks_of("shortcut"),
)
SOURCE = dataclasses.replace(SCENES, image_size=(32, 32))
WEIGHTS = {"segmentation": 1.0, "depth": 0.5}


def workload(objective="dino", kind="unet", **changes):
    block = 4 if objective == "ijepa" and kind != "photometric" else None
    made = VisionWorkload(
        stream=SOURCE.stream,
        sources=(SOURCE,),
        objective=OBJECTIVES[objective],
        designer=ViewDesignerConfig(kind, width=4, depth=1, heads=1, patch=4, block=block),
        start_designer=None,
        batch_size=3,
        meta_batch_size=2,
        feedback_batch_size=2,
        head_size=3,
        weights=(WEIGHTS,),
        normalise=False,
        heads=HeadOptions(steps=5),
        probes=ProbeOptions(steps=3),
        fixed_alpha=0.5,
        device=torch.device("cpu"),
        dtype=None,
        seed=0,
        fit_size=4,
        eval_size=4,
    )
    return dataclasses.replace(made, **changes)


def whole(made, role):
    held = made._labelled[0][role]
    return held.rows(range(len(held)))


def learner_of(made):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=0,
        )  # fmt: skip
        with torch.no_grad():
            for p in vit.parameters():
                p.add_(0.2 * torch.randn(p.shape))
        learner = made.objective.learner(Encoder(vit), 0).double()
        with torch.no_grad():  # a teacher that is not the student
            for name, p in learner.named_parameters():
                if name.startswith(("teacher", "predictor")):
                    p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype))
    return learner


def designer_of(made):
    designer = made.new_designer().double()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in designer.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
    return designer


def double(batch):
    floats = {
        f.name: x.double()
        for f in dataclasses.fields(batch)
        if isinstance(x := getattr(batch, f.name), torch.Tensor) and x.is_floating_point()
    }
    return dataclasses.replace(batch, **floats)


class Double(VisionWorkload):
    """All pictures in float64."""

    def batch(self, position):
        return double(super().batch(position))

    def feedback(self, index):
        found = super().feedback(index)
        return VisionFeedback(tuple(map(double, found.heads)), tuple(map(double, found.meta)))


def doubled(made):
    return Double(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})


def situation(made, *, subset="last:1", cut=True, batches=1, rule=None):
    """(problem, learner as estimates see it, designer, phi, observed) in float64."""
    made = doubled(made)
    functional = vfunc.functional(learner_of(made), subset if cut else NAMED[subset])
    designer, estimated = designer_of(made), made.estimated(functional)
    observed = tuple(made.look_ahead(functional.module, made.batch(k)) for k in range(batches))
    downstream = made.downstream(estimated, 0, dropout=None, seed=0)
    rule = rule or UpdateRule(SGD(lr=0.1))
    problem = made.problem(
        estimated, designer, observed, downstream, rule, {}, dropout=None, seed=0
    )
    assert ("blocks are computed once" in problem.split) == cut, problem.split
    phi = {name: p.detach().clone() for name, p in designer.named_parameters()}
    return problem, estimated, designer, phi, observed


# with the patch embedding in S there is nothing to cut off
NAMED = {"last:1": r"re:encoder\.vit\.(patch_embed|blocks\.2|norm)", "all": "all"}


def same_batches(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x is y is None or same_batches(x, y)
        for x, y in ((getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    )


def test_it_is_a_workload():
    assert isinstance(workload(), Workload)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_batches_depend_on_seed_and_position_alone(objective):
    made = workload(objective)
    later, first = made.batch(5), made.batch(2)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    other = workload(objective)
    again = other.batch(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_batches(first, again) and same_batches(later, other.batch(5))
    assert not same_batches(first, made.batch(3))
    assert not same_batches(first, workload(objective, seed=1).batch(2))
    assert len(first) == made.forward(torch.nn.Identity(), first, observe=False).units == 3
    assert same_batches(made.feedback(1).meta[0], other.feedback(1).meta[0])
    assert not same_batches(made.feedback(1).meta[0], made.feedback(0).meta[0])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_looking_ahead_is_what_will_be_observed(objective):
    made = workload(objective)
    batch = made.batch(4)
    learner = learner_of(made)
    ahead = made.look_ahead(learner, batch)
    then = made.forward(learner, made.batch(4), observe=True).observed
    assert same_batches(ahead.batch, then.batch) and not ahead.edges
    assert len(ahead.batch) == 2 and torch.equal(ahead.batch.views, batch.views[:, :2])
    assert made.forward(learner, batch, observe=False).observed is None


def test_no_picture_has_two_parts():
    made, pictures = workload(), {}
    feedback = [made.feedback(k) for k in range(6)]
    pictures["heads"] = [f.heads[0] for f in feedback]
    pictures["feedback"] = [f.meta[0] for f in feedback]
    pictures["held_out"] = [made._batches("held_out", k, 2)[0] for k in range(6)]
    pictures["fit"] = [whole(made, "fit")]
    pictures["test"] = [whole(made, "test")]
    seen = {
        role: {image.numpy().tobytes() for batch in batches for image in batch.images}
        for role, batches in pictures.items()
    }
    assert {role: len(found) for role, found in seen.items()} == {
        "heads": 5, "feedback": 5, "held_out": 5, "fit": 4, "test": 4,
    }  # fmt: skip
    assert all(not a & b for a, b in itertools.combinations(seen.values(), 2))


def test_held_out_is_of_its_own_pictures(monkeypatch):
    made = workload()
    functional = vfunc.functional(learner_of(made).float(), "last:1")
    read = []
    labelled = VisionWorkload._batches

    def watched(self, role, index, size):
        read.append((role, index, size))
        return labelled(self, role, index, size)

    monkeypatch.setattr(VisionWorkload, "_batches", watched)
    loss = made.held_out(made.estimated(functional), 1)
    assert read == [("heads", 1, 3), ("held_out", 1, 2)]
    (heads,), (batch,) = made._batches("heads", 1, 3), made._batches("held_out", 1, 2)
    fitted = fit_heads(functional.module, heads, tuple(WEIGHTS), SOURCE.classes, made.heads)
    expected = feedback_loss(functional, fitted, batch, WEIGHTS)
    assert torch.equal(loss(functional.theta), expected(functional.theta))


def slope(function, at, along, step):
    ends = [float(function(trees.axpy(s, along, at))) for s in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step)


# I-JEPA's smooth L1, and the depth head's L1, have corners: few lie within so short a step
STEP = {"dino": 1e-5, "ijepa": 1e-6}


def assert_is_the_slope(estimator, problem, theta, phi, objective, engines, tolerance=2e-6):
    draw = torch.Generator().manual_seed(1)
    along = {name: torch.randn(x.shape, generator=draw, dtype=x.dtype) for name, x in phi.items()}
    along = trees.scale(along, 1 / float(trees.norm(along)))
    grads = {e: estimator(e)(problem, theta, phi).grad for e in engines}
    ask = estimator("reverse")
    expected = slope(lambda p: ask(problem, theta, p).objective, phi, along, STEP[objective])
    for engine, grad in grads.items():
        size = float(trees.norm(grad))
        allowed = 1e-4 if engine == "finite_difference" else tolerance
        assert size > 1e-9
        assert abs(float(trees.dot(grad, along)) - expected) <= allowed * size, engine


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("cut", [True, False], ids=["split", "whole"])
@pytest.mark.parametrize("value", ["dot", "cosine"])
def test_engines_give_the_slope_of_the_value(objective, cut, value):
    problem, estimated, _, phi, _ = situation(workload(objective), cut=cut)

    def estimator(engine):
        return vfunc.FirstOrder(value, engine=engine)

    engines = ("reverse", "forward", "finite_difference")
    assert_is_the_slope(estimator, problem, estimated.functional.theta, phi, objective, engines)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_lookahead_and_photometric_designers(objective):
    rule = UpdateRule(AdamW(lr=1e-2, eps=1e-3, weight_decay=0.04))
    made = workload(objective, "photometric", normalise=True)
    problem, estimated, _, phi, _ = situation(made, batches=2, rule=rule)
    engines = ("reverse", "forward")

    def estimator(engine):
        return vfunc.Unrolled(2, engine=engine)

    assert_is_the_slope(
        estimator, problem, estimated.functional.theta, phi, objective, engines, 1e-5
    )


def test_split_and_whole_say_the_same_of_the_run():
    answers = []
    for cut in (True, False):
        made = doubled(workload())
        functional = vfunc.functional(learner_of(made), "last:2")
        estimated = made.estimated(functional)
        if not cut:
            estimated = dataclasses.replace(estimated, split=Whole("not asked for"))
        designer, observed = designer_of(made), ObservedViews(made.batch(0).first(2))
        rule = UpdateRule(SGD(lr=0.1))
        downstream = made.downstream(estimated, 0, dropout=None, seed=0)
        problem = made.problem(
            estimated, designer, (observed,), downstream, rule, {}, dropout=None, seed=0
        )
        phi = {name: p.detach().clone() for name, p in designer.named_parameters()}
        answers.append((problem.split, vfunc.FirstOrder()(problem, functional.theta, phi)))
    (split, one), (whole, other) = answers
    assert "computed once" in split and whole == "not asked for"
    apart = trees.norm(trees.axpy(-1.0, one.grad, other.grad))
    assert float(apart) <= 1e-11 * float(trees.norm(one.grad))


def test_feedback_is_normalised_at_theta():
    made = workload(normalise=True)
    problem, estimated, *_ = situation(made)
    plain, *_ = situation(workload())
    theta = estimated.functional.theta
    _, g = feedback_gradient(problem, theta)
    _, other = feedback_gradient(plain, theta)
    one, two = (
        workload(normalise=True, weights=({"segmentation": s, "depth": d},))
        for s, d in ((1.0, 0.0), (0.0, 0.5))
    )
    apart = [feedback_gradient(situation(w)[0], theta)[1] for w in (one, two)]
    norms = [float(trees.norm(x)) for x in apart]
    assert norms == pytest.approx([1.0, 0.5])
    assert trees.norm(trees.axpy(-1.0, trees.axpy(1.0, *apart), g)) < 1e-12
    assert float(trees.cosine(g, other)) < 1 - 1e-6


@dataclasses.dataclass(frozen=True)
class Only:
    """Pictures with one kind of label."""

    examples: object
    kept: str

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        found = self.examples[index]
        return Example(found.image, name=found.name, **{self.kept: getattr(found, self.kept)})


def only(task):
    roles = ("heads", "feedback", "held_out", "fit", "test")
    held = {role: Only(getattr(SOURCE, role), task) for role in roles}
    return dataclasses.replace(SOURCE, tasks=(task,), **held)


TWO = {
    "sources": (only("segmentation"), only("depth")),
    "weights": ({"segmentation": 1.0}, {"depth": 0.5}),
}


def test_two_sources_add_up():
    both, single = workload(**TWO), workload()
    learner = learner_of(single).float()
    functional = vfunc.functional(learner, "last:1")
    moved = trees.scale(functional.theta, 1.01)
    losses = []
    for made in (both, single):
        given = made.feedback(1)
        loss = made.measured(functional, given.heads, given.meta)
        losses.append([float(loss(theta)) for theta in (functional.theta, moved)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][1]
    evaluation = both.evaluate(learner, final=True)
    assert {"loss", "miou", "rmse"} <= set(evaluation.metrics)
    assert set(evaluation.outcomes) == {"image_iou", "image_rmse"}
    alone = single.evaluate(learner, final=True)
    assert evaluation.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-5)
    for name in ("miou", "rmse"):
        assert evaluation.metrics[name] == pytest.approx(alone.metrics[name], rel=1e-5)
    names = [m.name for m in vision_reporting(both.sources, retrieval=False).metrics]
    assert names == ["loss", "rmse", "miou"]
    problem, estimated, _, phi, _ = situation(both)
    theta = estimated.functional.theta
    assert float(trees.norm(vfunc.FirstOrder()(problem, theta, phi).grad)) > 0


@pytest.mark.parametrize("weights", [({"segmentation": 1.0}, {"depth": 0.0}),
                                     ({"segmentation": 1.0}, {})])  # fmt: skip
def test_a_source_without_a_weight_is_evaluated_alone(weights):
    made = workload(**TWO | {"weights": weights})
    just = workload(sources=TWO["sources"][:1], weights=TWO["weights"][:1])
    learner = learner_of(made).float()
    functional = vfunc.functional(learner, "last:1")
    given, theta = made.feedback(0), functional.theta
    found = made.measured(functional, given.heads, given.meta)(theta)
    wanted = just.measured(functional, given.heads[:1], given.meta[:1])(theta)
    assert torch.equal(found, wanted)
    metrics = made.evaluate(learner, final=True).metrics
    assert metrics["loss"] == just.evaluate(learner, final=False).metrics["loss"]
    assert {"miou", "rmse"} <= set(metrics)


def mapped(objective, kind):
    """The value map, its arrays, and V as a function of the control of all views."""
    made = workload(objective, kind)
    problem, estimated, designer, phi, (observed,) = situation(made)
    functional = estimated.functional
    construction = construct_task(problem, phi, problem.batches[0])
    _, g_down = feedback_gradient(problem, functional.theta)
    product = mixed_product(problem, functional.theta, construction, g_down, "reverse")
    fields = made.value_map(estimated, designer, observed, construction.task, {"dot": product.task})
    views = observed.batch.views
    learner = VisionLearner(functional, made.objective)

    def value(control):
        view = apply_control(made.designer, views.flatten(0, 1), control)
        task = trees.detach(learner.task(view.unflatten(0, views.shape[:2]), observed))
        return float(trees.dot(pretrain_gradient(problem, functional.theta, task), g_down))

    with torch.no_grad():
        control = designer.control(views.flatten(0, 1))
    return made, fields, _unpacked(fields["pixels"]), control, value


@pytest.mark.parametrize(
    ("objective", "kind"), [("dino", "unet"), ("ijepa", "unet"), ("dino", "photometric")]
)
def test_the_value_map_is_the_derivative_in_the_control(tmp_path, objective, kind):
    _, fields, arrays, control, value = mapped(objective, kind)
    shape = (2, 1, 16, 16) if kind == "unet" else (2, 4)
    assert arrays["value"].shape == arrays["control"].shape == shape
    assert arrays["picture"].dtype == np.uint8 and arrays["view"].shape == (2, 3, 16, 16)
    assert np.array_equal(arrays["control"], control[:2].numpy())
    step, scale = STEP[objective], np.abs(arrays["value"]).max()
    # I-JEPA's teacher and target patches are another's: pixels that the context sees
    largest = np.argsort(np.abs(arrays["value"]).ravel())[[-1, -2, -20 if kind == "unet" else -3]]
    places = [np.unravel_index(i, shape) for i in largest]
    for place in places:
        way = torch.zeros_like(control)
        way[tuple(int(i) for i in place)] = 1.0
        found = (value(control + step * way) - value(control - step * way)) / (2 * step)
        assert found == pytest.approx(arrays["value"][place], abs=1e-4 * scale, rel=1e-4)
    for picture in range(2):  # moved as one, in one picture's first view
        way = torch.zeros_like(control)
        way[picture] = 1.0
        found = (value(control + step * way) - value(control - step * way)) / (2 * step)
        total = arrays["value"][picture].sum()
        assert found == pytest.approx(total, abs=1e-4 * np.abs(arrays["value"][picture]).sum())
    path = tmp_path / "map.png"
    vision_reporting((SOURCE,), retrieval=False).draw_map(fields, path)
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_blocks_of_a_context_alone_have_value_in_ijepa():
    made, _, arrays, *_ = mapped("ijepa", "unet")
    context = made.batch(0).blocks.context[:2]
    by_patch = torch.from_numpy(arrays["value"])[:, 0].unfold(1, 4, 4).unfold(2, 4, 4)
    strength = by_patch.abs().amax((-2, -1)).flatten(1)
    for picture, seen in enumerate(context):
        hidden = torch.ones(16, dtype=torch.bool).index_fill(0, seen, False)
        # the blur carries a pixel's colour, and not its mask, to its neighbours
        assert strength[picture][hidden].max() == 0
        assert strength[picture][seen].max() > 0


def test_nothing_changes_the_learner_or_the_random_state():
    made = workload()
    learner = learner_of(made).float().train()
    functional = vfunc.functional(learner, "last:1")
    before = copy.deepcopy(learner.state_dict())
    random, modes = torch.get_rng_state(), [m.training for m in learner.modules()]
    made.evaluate(learner, final=True)
    made.held_out(made.estimated(functional), 0)(functional.theta)
    designer = made.new_designer()
    assert isinstance(designer, ViewDesigner)
    for arm, given in (("baseline", None), ("vpretraining", designer), ("uniform_smoothing", None)):
        forward = made.forward(learner, made.batch(0), observe=True)
        made.build_task(learner, arm, forward, given)
    assert all(torch.equal(x, before[n]) for n, x in learner.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in learner.modules()] == modes
    assert all(p.grad is None for p in learner.parameters())


def test_regularisers_are_of_the_controls_of_an_estimates_first_views():
    made = workload()
    designer, observed = made.new_designer(), ObservedViews(made.batch(0).first(2))
    phi = {name: p * 1.5 for name, p in designer.named_parameters()}
    terms = made.regularisers(designer, phi, observed)
    with torch.no_grad():
        for name, p in designer.named_parameters():
            p.copy_(phi[name])
        mu = designer.control(observed.batch.views[0])
    keep = made.designer.keep
    expected = (mu.mean((1, 2, 3)) - keep).square().mean()
    torch.testing.assert_close(terms["sparsity"], expected)
    assert set(terms) == {"sparsity", "tv"} and terms["tv"].requires_grad


def test_train_mode_estimates_are_refused():
    made = workload()
    functional = vfunc.functional(learner_of(made), "last:1")
    observed = (ObservedViews(double(made.batch(0))),)
    drawn = vfunc.learner.RandomState.now(torch.device("cpu"))
    learner = VisionLearner(functional, made.objective)
    downstream = made.downstream(learner, 0, dropout=None, seed=0)
    with pytest.raises(UserError, match="estimate-mode"):
        made.problem(
            learner, designer_of(made), observed, downstream,
            UpdateRule(SGD(lr=0.1)), {}, dropout=drawn, seed=0,
        )  # fmt: skip


def test_arrays_of_a_map_are_a_line_of_text():
    _, fields, arrays, *_ = mapped("dino", "unet")
    assert set(fields) == {"pixels"} and "\n" not in fields["pixels"]
    with np.load(io.BytesIO(base64.b64decode(fields["pixels"]))) as file:
        assert set(file.files) == set(arrays) == {"picture", "view", "control", "value"}
