"""The embedded scenes: labels exact, roles apart, every draw a function of seed, role and index."""

import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from vfunc.errors import UserError
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.vision_data import Labelled, Pictures, labelled_batch
from vfunc.vision.scenes import scene_drawing
from vfunc.vision.scenes.scene_drawing import GROUPS, class_of, draw_scene
from vfunc.vision.scenes.scene_layers import Layer, compose
from vfunc.vision.scenes.scene_look import PLAIN, Look
from vfunc.vision.scenes.scene_material import SHARES, material
from vfunc.vision.scenes.scenes import SceneImages, Scenes, embedded_scenes, looks_of

SIDE = 64
OLD = Look(repetitive=0.5)


def flat_layers(seed):
    """Layers of one colour each, far to near, with whole, partial and no cover at random."""
    draws = np.random.default_rng(seed)
    layers = []
    for at, depth in enumerate((3.0, 2.0, 1.0)):
        height, width = draws.integers(20, 50, 2)
        alpha = draws.choice([0.0, 0.5, 1.0], size=(height, width)).astype(np.float32)
        colour = np.full((height, width, 3), (at + 1) / 8, dtype=np.float32)
        top, left = (int(draws.integers(SIDE - side + 1)) for side in (height, width))
        layers.append(Layer(alpha, colour, top, left, depth, at + 1))
    return layers


def literal(layers, plane):
    """Pixel by pixel: the nearest layer that covers any of a pixel decides, if it covers it all."""
    classes, depth = np.zeros((SIDE, SIDE), dtype=int), plane.copy()
    for row in range(SIDE):
        for column in range(SIDE):
            for layer in sorted(layers, key=lambda layer: layer.depth):
                at = row - layer.top, column - layer.left
                if min(at) < 0 or at[0] >= len(layer.alpha) or at[1] >= layer.alpha.shape[1]:
                    continue
                if layer.alpha[at] == 1:
                    classes[row, column], depth[row, column] = layer.category, layer.depth
                elif layer.alpha[at] > 0:
                    classes[row, column], depth[row, column] = IGNORE, 0
                else:
                    continue
                break
    return classes, depth


@pytest.mark.parametrize("seed", range(4))
def test_what_is_labelled_is_what_is_drawn(seed):
    background = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
    plane = np.linspace(9, 5, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    layers = flat_layers(seed)
    image, segmentation, depth = compose(background, plane, layers)
    classes, metres = literal(layers, plane)
    assert np.array_equal(segmentation, classes)
    assert np.array_equal(depth, metres)
    known = classes != IGNORE
    # the colours say what was drawn: k/8 is layer k's own, 0 the background's, a mixture neither
    assert np.array_equal(image[known], np.repeat(classes[known, None] / 8, 3, axis=1))
    assert not background.any() and 0.1 < known.mean() < 0.9


@pytest.fixture
def recorded(monkeypatch):
    """What `draw_scene` hands to `compose`."""
    seen = []

    def recording(background, plane, layers):
        seen.append((background, plane, layers))
        return compose(background, plane, layers)

    monkeypatch.setattr(scene_drawing, "compose", recording)
    return seen


def drawn(seed, role="feedback", **look):
    return draw_scene(np.random.default_rng(seed), material(role), Look(**look))


def test_the_nearer_digit_hides_the_farther_one(recorded):
    overlaps = 0
    for seed in range(12):
        scene = drawn(seed)
        _, plane, layers = recorded[-1]
        depths = [layer.depth for layer in layers]
        assert depths == sorted(depths, reverse=True) and max(depths) < plane.min()
        classes, metres = literal(layers, plane)
        assert np.array_equal(scene.segmentation, classes)
        assert np.array_equal(scene.depth, metres)
        assert class_of(scene.digit) == layers[-1].category
        alone = sum((compose(*recorded[-1][:2], [layer])[1] > 0).sum() for layer in layers)
        overlaps += alone > (scene.segmentation > 0).sum()
    assert overlaps >= 3


def test_the_class_of_a_picture_is_its_nearest_digit(recorded):
    glyphs, digits = material("feedback").glyphs, material("feedback").digits
    for seed in range(6):
        scene = drawn(seed)
        nearest = recorded[-1][2][-1]
        # the cover that each of the role's glyphs would have, enlarged to this one's size
        rows, columns = map(scene_drawing._enlarging, nearest.alpha.shape)
        low, high = scene_drawing.INK
        covers = np.clip((rows @ glyphs @ columns.T - low) / (high - low), 0, 1)
        which = np.abs(covers - nearest.alpha).sum((1, 2)).argmin()
        assert digits[which] == scene.digit


def test_a_farther_digit_is_smaller_and_depth_is_learnable_from_size(recorded):
    for seed in range(60):
        drawn(seed)
    layers = [layer for _, _, scene in recorded for layer in scene]
    heights, depths = (
        np.array([f(x) for x in layers]) for f in (lambda x: len(x.alpha), lambda x: x.depth)
    )
    correlation = np.corrcoef(np.log(heights), np.log(depths))[0, 1]
    assert -0.99 < correlation < -0.8
    assert {1, 2, 3} == {len(scene) for _, _, scene in recorded}


def test_enlarging_keeps_what_is_constant_and_what_is_linear():
    for pixels in (20, 27, 55):
        matrix = scene_drawing._enlarging(pixels)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
        centres = (np.arange(pixels) + 0.5) * 10 / pixels - 0.5
        inner = (centres > 1) & (centres < 8)
        np.testing.assert_allclose((matrix @ np.arange(10.0))[inner], centres[inner], atol=1e-5)


def test_no_digit_and_no_piece_of_a_photograph_has_two_roles():
    glyphs = [{g.tobytes() for g in material(role).glyphs} for role in SHARES]
    regions = [{r.tobytes() for r in material(role).regions} for role in SHARES]
    assert sum(map(len, glyphs)) == len(set.union(*glyphs)) == len(load_digits().images)
    assert sum(map(len, regions)) == len(set.union(*regions)) == 2 * 4 * 6


def test_pieces_of_different_roles_share_no_pixel_of_a_photograph():
    taken = set()
    for role in SHARES:
        for region in np.rint(material(role).regions * 255).astype(np.uint8):
            found = [
                (photo, row, column)
                for photo, image in enumerate(load_sample_images().images)
                for row in range(0, 4 * 106, 106)
                for column in range(0, 6 * 106, 106)
                if np.array_equal(image[row : row + 106, column : column + 106], region)
            ]
            assert len(found) == 1 and found[0] not in taken
            taken.update(found)
    assert len(taken) == 48


def test_every_role_has_every_digit_as_it_is_written_and_both_photographs():
    by_picture = {
        i.tobytes(): t for i, t in zip(load_digits().images, load_digits().target, strict=True)
    }
    for role in SHARES:
        own = material(role)
        assert set(own.digits.tolist()) == set(range(10))
        assert len(own.regions) == 2 * SHARES[role]
        # of every class, to less than one digit
        assert abs(len(own.digits) - len(load_digits().images) * SHARES[role] / 24) < 10
        assert not own.glyphs[:, [0, -1]].any() and not own.glyphs[:, :, [0, -1]].any()
        for glyph, digit in zip(own.glyphs[::20, 1:-1, 1:-1], own.digits[::20], strict=True):
            ink = [np.rint(glyph * top).astype(float) for top in range(1, 17)]
            matches = {by_picture[i.tobytes()] for i in ink if i.tobytes() in by_picture}
            assert matches == {digit}
    assert sorted(sum(GROUPS.values(), ())) == list(range(10))


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("image", "segmentation", "depth")
    )


def test_a_scene_depends_on_seed_role_and_index_alone():
    few, many = Scenes("heads", 3, 4), Scenes("heads", 3, 9)
    assert all(same(few[i], many[i]) for i in (3, 0, 2, 1))
    assert few[2].label == many[2].label
    others = Scenes("heads", 4, 4)[0], Scenes("feedback", 3, 4)[0], few[1]
    assert not any(same(few[0], other) for other in others)
    # a change of what a seed draws is a change of this line
    labels = [Scenes("test", 0, 10)[i].label for i in range(10)]
    assert labels == [8, 7, 3, 0, 9, 9, 8, 5, 0, 2]


def numpy_state():
    return np.random.get_state()[1]  # noqa: NPY002


def test_drawing_leaves_global_random_state_alone():
    before = random.getstate(), numpy_state().copy(), torch.get_rng_state()
    Scenes("fit", 0, 2)[1], SceneImages("stream", 0, 2, OLD)[0]
    after = random.getstate(), numpy_state(), torch.get_rng_state()
    assert (
        before[0] == after[0] and (before[1] == after[1]).all() and torch.equal(before[2], after[2])
    )


def test_labels_are_of_the_types_and_ranges_that_are_promised():
    scenes = Scenes("fit", 1, 40)
    assert isinstance(scenes, Labelled) and isinstance(SceneImages("stream", 0, 1), Pictures)
    for example in scenes:
        assert example.image.shape == (3, SIDE, SIDE) and example.image.dtype == torch.uint8
        assert set(example.segmentation.unique().tolist()) <= {IGNORE, 0, 1, 2, 3}
        known = example.depth > 0
        assert torch.equal(known, example.segmentation != IGNORE)
        assert 1 <= example.depth[known].min() < 2.01 and 6 < example.depth.max() <= 10
        assert 0 <= example.label <= 9 and example.depth.dtype == torch.float32
    batch = labelled_batch(scenes, range(40), (SIDE, SIDE))
    shares = [(batch.segmentation == k).float().mean().item() for k in (IGNORE, 0, 1, 2, 3)]
    assert 0.01 < shares[0] < 0.08 and 0.7 < shares[1] < 0.9 and min(shares[2:]) > 0.015
    assert len(set(batch.classes.tolist())) >= 8


def test_a_repetitive_background_repeats_along_rows_and_leaves_the_digits_alone(recorded):
    for seed in range(6):
        once, again = drawn(seed), drawn(seed, repetitive=1.0)
        assert once.digit == again.digit
        assert np.array_equal(once.segmentation, again.segmentation)
        (plain, _, _), (repeated, _, _) = recorded[-2:]
        assert [repeats(background) for background in (plain, repeated)] == [False, True]


def repeats(background):
    """Whether each row is a short piece there and back; haze differs from row to row alone."""
    return any(
        np.allclose(background[:, :side], background[:, side : 2 * side][:, ::-1], atol=1e-6)
        and background[:, :side].std() > 1e-3
        for side in range(10, 21)
    )


def test_the_share_of_repetitive_scenes_is_the_one_asked_for(recorded):
    for seed in range(60):
        drawn(seed, repetitive=0.5)
    assert 15 <= sum(repeats(background) for background, _, _ in recorded) <= 45


def sizes(**changes):
    return {
        "stream": 7,
        "heads": 3,
        "feedback": 4,
        "evaluation_fit": 6,
        "evaluation": 5,
        "split": "test",
        "looks": looks_of("repetitive"),
        **changes,
    }


def test_the_embedded_problem_has_its_counts_and_a_fixed_evaluation():
    one, two = embedded_scenes(0, **sizes()), embedded_scenes(1, **sizes(held_out=2))
    roles = ("stream", "heads", "feedback", "held_out", "fit", "test")
    assert [len(getattr(two, role)) for role in roles] == [7, 3, 4, 2, 6, 5]
    assert one.tasks == ("segmentation", "depth", "classification") and one.image_size == (64, 64)
    assert dict(one.classes) == {"segmentation": 4, "classification": 10}
    assert {task: len(names) for task, names in one.names.items()} == dict(one.classes)
    assert [same(getattr(one, r)[0], getattr(two, r)[0]) for r in roles[1:]] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert not torch.equal(one.stream[0], two.stream[0])
    assert [two.summary["pictures"][role] for role in roles] == [7, 3, 4, 2, 6, 5]
    assert one.summary["stream"] == {"repetitive": 0.5}


def test_each_part_of_the_embedded_problem_is_of_its_own_role():
    data = embedded_scenes(0, **sizes(split="validation"))
    parts = (data.heads, data.feedback, data.held_out, data.fit, data.test)
    assert [p.split for p in parts] == ["heads", "feedback", "held_out", "fit", "validation"]
    assert embedded_scenes(0, **sizes()).test.split == "test" and data.stream.split == "stream"
    assert [p.look for p in parts] == [PLAIN] * 5


def test_a_stream_hands_out_the_pictures_of_its_scenes():
    pictures, scenes = SceneImages("stream", 2, 3, OLD), Scenes("stream", 2, 3, OLD)
    assert all(torch.equal(pictures[i], scenes[i].image) for i in range(3))
    assert pictures[1] is pictures[1] and scenes[1] is scenes[1]


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: Scenes("train", 0, 1),
            "split 'train' of the embedded scenes; the splits are stream,",
        ),
        (lambda: Scenes("test", -1, 1), "seed -1: a seed cannot be negative"),
        (lambda: Scenes("test", 0, 0), "0 test scenes were asked for; ask for at least 1"),
        (lambda: Look(repetitive=1.5), "repetitive=1.5 is not a share"),
        (lambda: embedded_scenes(0, **sizes(split="train")), "split 'train'; the splits are"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_scene_beyond_the_last_is_an_index_error():
    with pytest.raises(IndexError, match="scene 3 of 3"):
        Scenes("test", 0, 3)[3]
