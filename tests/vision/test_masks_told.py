"""Arms that are told masks: known_objects and matched_uniform, and how masks follow their crops."""

import dataclasses

import pytest
import torch
from test_vision_workload import DINO, OBJECTIVES, learner_of, workload

from vfunc.errors import UserError
from vfunc.vision.designers.views import gaussian_blur
from vfunc.vision.masks_told import kept_of


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_masks_are_cut_where_their_views_are(objective):
    made = OBJECTIVES[objective]
    if objective == "dino":
        made = dataclasses.replace(DINO, colour=0.0)
    masks = [torch.zeros(1, 64, 64, dtype=torch.uint8) for _ in range(6)]
    for i, mask in enumerate(masks):
        mask[0, 8 * i : 8 * i + 20, 10:40] = 255
    pictures = [mask.expand(3, -1, -1).contiguous() for mask in masks]
    draw = [torch.Generator().manual_seed(5) for _ in range(2)]
    views = made.batch(pictures, draw[0]).views.mean(2, keepdim=True)
    found = made.view_masks(masks, draw[1])
    assert found.shape == views.shape and found.min() >= 0 and found.max() <= 1
    # views are sharpened or blurred a little, and some of DINO's are solarised
    apart = (found - views).abs().mean((2, 3, 4))
    assert (apart < 0.06).float().mean() > 0.7


def test_known_objects_shows_the_objects_and_blurs_the_rest():
    told = workload().of_arm("known_objects")
    batch, plain = told.batch(1), workload().batch(1)
    assert torch.equal(batch.views, plain.views) and plain.masks is None
    learner = learner_of(told).float()
    forward = told.forward(learner, batch, observe=False)
    built = told.build_task(learner, "known_objects", forward, None)
    views, masks = built.task[0], batch.masks
    inside, outside = (masks == 1).expand_as(views), (masks == 0).expand_as(views)
    assert inside.any() and outside.any()
    assert torch.equal(views[inside], batch.views[inside])
    sigma = told.designer.blur * 16
    blurred = gaussian_blur(batch.views.flatten(0, 1), sigma).unflatten(0, batch.views.shape[:2])
    assert torch.equal(views[outside], blurred[outside])
    assert built.notes["kept"] == pytest.approx(float(masks.mean()))


def test_matched_uniform_keeps_what_the_followed_arm_kept_at_that_micro_batch():
    steps = [{"step": 1}, {"kept": 0.75}, {"kept": 0.5}]
    matched = workload().of_arm("matched_uniform", steps)
    means = [float(matched.batch(k).masks.unique()) for k in range(5)]
    assert means == [1.0, 0.75, 0.5, 0.5, 0.5]


def test_an_arm_that_made_no_masks_cannot_be_followed():
    with pytest.raises(UserError, match="vpretraining, which has made none in this run"):
        kept_of([{"step": 1}])


def test_only_scenes_know_their_objects():
    plain = dataclasses.replace(workload(), stream=[torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(UserError, match="which only the embedded scenes can"):
        plain.of_arm("known_objects").batch(0)


def test_other_arms_are_told_nothing():
    assert workload().of_arm("known_objects").of_arm("baseline").batch(0).masks is None
