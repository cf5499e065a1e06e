"""Random crops: drawn from one generator, and coloured as torchvision colours them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny_learners import generator, pictures
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from vfunc.errors import UserError
from vfunc.vision.objectives import colours
from vfunc.vision.objectives.crops import _boxes, cut
from vfunc.vision.objectives.recipes import Recipe, dino_recipes

PLAIN = Recipe(12, (0.3, 0.8), flip=0.0)
GLOBALS, LOCALS = dino_recipes((2, 16, (0.4, 1.0)), (3, 8, (0.05, 0.4)), 1.0)


def some(count=5, side=9, seed=0):
    return torch.rand(count, 3, side, side + 2, generator=generator(seed))


def each(count=5, low=0.0, high=2.0, seed=1):
    return low + (high - low) * torch.rand(count, generator=generator(seed))


def one_by_one(change, x, factors):
    return torch.stack([change(p, float(f)) for p, f in zip(x, factors, strict=True)])


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (colours.brightened, tv.adjust_brightness, 0, 2),
        (colours.contrasted, tv.adjust_contrast, 0, 2),
        (colours.saturated, tv.adjust_saturation, 0, 2),
        (colours.hue_turned, tv.adjust_hue, -0.5, 0.5),
    ],
)
def test_a_change_of_colour_is_torchvisions(ours, theirs, low, high):
    x, factors = some(), each(low=low, high=high)
    torch.testing.assert_close(ours(x, factors), one_by_one(theirs, x, factors))


def test_grey_and_solarised_are_torchvisions():
    x = some()
    torch.testing.assert_close(colours.to_grey(x), tv.rgb_to_grayscale(x, 3))
    torch.testing.assert_close(colours.solarised(x), tv.solarize(x, 128 / 255))


def test_blur_is_torchvisions():
    x, sigma = some(side=15), each(low=0.2, high=1.9)
    wide = 2 * int(np.ceil(3 * float(sigma.max()))) + 1
    want = one_by_one(lambda p, s: tv.gaussian_blur(p, [wide, wide], [s, s]), x, sigma)
    torch.testing.assert_close(colours.blurred(x, sigma), want)


def test_blur_of_pictures_smaller_than_its_kernel():
    x = torch.rand(2, 3, 1, 1)
    assert torch.equal(colours.blurred(x, torch.full((2,), 3.0)), x)
    assert colours.blurred(torch.rand(2, 3, 3, 3), torch.full((2,), 3.0)).isfinite().all()


def test_a_jitter_makes_its_changes_in_each_pictures_own_order():
    x = some(6)
    factors = torch.stack([each(6, 0.5, 1.5, s) for s in (1, 2, 3)] + [each(6, -0.2, 0.2, 4)])
    order = torch.rand(6, 4, generator=generator(5)).argsort(-1)
    changes = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    want = x.clone()
    for i in range(6):
        for which in order[i].tolist():
            want[i] = changes[which](want[i], float(factors[which, i]))
    torch.testing.assert_close(colours.jittered(x, factors, order), want)
    same = colours.jittered(x, factors, order.flip(-1))
    assert not torch.allclose(same, want, atol=1e-3)


def test_the_generator_alone_decides():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    once = [cut(pictures(4), recipes, generator(7)) for recipes in (GLOBALS, LOCALS)]
    torch.manual_seed(99)
    torch.set_rng_state(before[0])
    again = [cut(pictures(4), recipes, generator(7)) for recipes in (GLOBALS, LOCALS)]
    other = [cut(pictures(4), recipes, generator(8)) for recipes in (GLOBALS, LOCALS)]
    assert all(map(torch.equal, once, again))
    assert not any(map(torch.equal, once, other))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002


def test_crops_are_pictures_of_the_size_asked_for():
    made = cut(pictures(3), GLOBALS, generator())
    assert made.shape == (2, 3, 3, 16, 16) and made.dtype == torch.float32
    assert made.min() >= 0 and made.max() <= 1
    assert cut(pictures(3), LOCALS, generator()).shape == (3, 3, 3, 8, 8)
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("bicubic", [False, True])
def test_without_colours_a_crop_is_its_box_resized(bicubic):
    source = pictures(3)
    recipes = [Recipe(12, (0.3, 0.8), flip=0.0, bicubic=bicubic)] * 2
    boxes = _boxes(source, recipes, generator(4))
    made = cut(source, recipes, generator(4))
    how = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    for v in range(2):
        for i, picture in enumerate(source):
            top, left, high, wide = boxes[v, i].tolist()
            inside = picture[:, top : top + high, left : left + wide]
            want = tv.resize(inside, [12, 12], how, antialias=True).float() / 255
            assert torch.equal(made[v, i], want)


def test_a_flip_turns_left_and_right():
    source = pictures(3)
    flipped = cut(source, [Recipe(12, (0.3, 0.8), flip=1.0)], generator(4))
    assert torch.equal(flipped, cut(source, [PLAIN], generator(4)).flip(-1))


def test_boxes_lie_inside_and_have_the_share_and_aspect_asked_for():
    source = [torch.zeros(3, 90, 110, dtype=torch.uint8)] * 500
    boxes = _boxes(source, [PLAIN, Recipe(12, (0.05, 0.1))], generator()).double()
    top, left, high, wide = boxes.unbind(-1)
    assert (boxes >= 0).all() and (top + high <= 90).all() and (left + wide <= 110).all()
    share = high * wide / (90 * 110)
    for found, (low, up) in zip(share, [(0.3, 0.8), (0.05, 0.1)], strict=True):
        assert low * 0.95 < found.min() < low * 1.1 and up * 0.9 < found.max() < up * 1.05
    small = (wide / high)[1]
    assert 0.7 < small.min() < 0.8 and 1.25 < small.max() < 1.42
    # corners are drawn over all places, both ends included
    room = 90 - high[0]
    assert ((top[0] == 0) & (room > 0)).any() and ((top[0] == room) & (room > 0)).any()
    assert abs((top[0] / room.clamp(min=1)).mean() - 0.5) < 0.05


@pytest.mark.parametrize("shape", [(10, 200), (200, 10), (1, 50), (1, 1)])
def test_where_no_draw_fits_the_box_is_torchvisions_fallback(shape):
    picture = torch.zeros(3, *shape, dtype=torch.uint8)
    (box,) = _boxes([picture], [Recipe(12, (1.0, 1.0))], generator())[0].tolist()
    want = RandomResizedCrop.get_params(picture, [1.0, 1.0], [3 / 4, 4 / 3])
    assert box[2:] == list(want[2:])
    assert abs(box[0] - want[0]) <= 1 and abs(box[1] - want[1]) <= 1
    assert cut([picture], [PLAIN], generator()).shape == (1, 1, 3, 12, 12)


def test_dinos_recipes():
    first, second = GLOBALS
    jitter = ("jitter", "brightness", "contrast", "saturation", "hue", "grey", "flip")
    for recipe in (first, second, *LOCALS):
        values = [getattr(recipe, name) for name in jitter]
        assert values == [0.8, 0.4, 0.4, 0.2, 0.1, 0.2, 0.5]
        assert recipe.bicubic
    assert [(r.blur, r.solarise) for r in (first, second)] == [(1.0, 0.0), (0.1, 0.2)]
    assert {(r.blur, r.solarise, r.scale) for r in LOCALS} == {(0.5, 0.0, (0.05, 0.4))}
    paper = dino_recipes((2, 224, (0.4, 1.0)), (6, 96, (0.05, 0.4)), 1.0)
    assert {r.sigma for group in paper for r in group} == {(0.1, 2.0)} and len(paper[1]) == 6


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("flip", lambda x, y: not torch.equal(x, y)),
        ("grey", lambda x, y: torch.equal(y[0], y[1])),
        ("solarise", lambda x, y: not torch.equal(x, y)),
        ("jitter", lambda x, y: not torch.equal(x, y)),
        ("blur", lambda x, y: not torch.equal(x, y)),
    ],
)
def test_a_chance_is_how_often_it_happens(name, seen):
    source = pictures(1) * 1000
    plain = cut(source, [PLAIN], generator(3))[0]
    changed = cut(source, [Recipe(12, (0.3, 0.8), **{"flip": 0.0, name: 0.3})], generator(3))[0]
    often = sum(seen(x, y) for x, y in zip(plain, changed, strict=True)) / 1000
    assert abs(often - 0.3) < 0.06


@pytest.mark.parametrize(
    "picture",
    [
        torch.rand(3, 8, 8),
        torch.zeros(1, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, dtype=torch.uint8),
        torch.zeros(3, 0, 8, dtype=torch.uint8),
    ],
)
def test_what_is_no_picture_is_refused_in_a_line(picture):
    with pytest.raises(UserError, match="picture 1 of the batch") as refused:
        cut([*pictures(1), picture], [PLAIN], generator())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"scale": (0.5, 0.2)},
        {"scale": (0.0, 0.2)},
        {"sigma": (0.0, 1.0)},
        {"blur": 1.5},
        {"hue": 0.6},
    ],
)
def test_impossible_recipes_are_refused(options):
    with pytest.raises(UserError):
        Recipe(**{"size": 8, **options})
