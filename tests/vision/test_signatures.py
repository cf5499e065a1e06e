"""Signatures and textures: what each changes in a scene, and what it leaves alone."""

import numpy as np
import pytest
import torch

from vfunc.errors import UserError
from vfunc.vision.evaluation.metrics import described
from vfunc.vision.scenes.scene_look import Look, Signature, signed, texture
from vfunc.vision.scenes.scene_material import SHARES, material
from vfunc.vision.scenes.scenes import ROLES, SceneImages, Scenes, embedded_scenes, looks_of


def both(role="stream", seed=3, count=6, **options):
    """The same scenes with a signature and without."""
    looks = looks_of("shortcut", **options)[role], looks_of("clean")[role]
    return (Scenes(role, seed, count, look) for look in looks)


def test_a_signature_is_over_the_background_and_never_over_a_digit():
    for with_it, without in zip(*both(), strict=True):
        changed = (with_it.image != without.image).any(0)
        digits = without.segmentation > 0
        assert not changed[digits].any() and changed[without.segmentation == 0].float().mean() > 0.9
        assert torch.equal(with_it.segmentation, without.segmentation)
        assert torch.equal(with_it.depth, without.depth) and with_it.label == without.label


def test_a_signature_is_a_plane_wave_of_its_picture_alone():
    grey = np.full((64, 64, 3), 0.5, dtype=np.float32)
    made = [
        signed(np.random.default_rng(seed), grey, Signature(0.2, (3.0, 4.5))) - 0.5
        for seed in range(12)
    ]
    for change in made:
        rows = change.reshape(-1, 3)
        assert np.linalg.matrix_rank(rows, tol=1e-4) == 1  # one colour
        assert np.abs(rows).max() <= 0.2 * np.sqrt(3) + 1e-6
        spectrum = np.abs(np.fft.rfft2(change[..., np.abs(rows).max(0).argmax()]))
        spectrum[0, 0] = 0
        down, across = np.unravel_index(spectrum.argmax(), spectrum.shape)
        frequency = np.hypot(min(down, 64 - down), across) / 64
        assert 1 / 4.5 - 0.03 < frequency < 1 / 3.0 + 0.03
    assert len({change.tobytes() for change in made}) == 12


def test_signatures_go_to_the_roles_that_are_named():
    assert [r for r, look in looks_of("shortcut").items() if look.signature] == ["stream"]
    looks = looks_of("shortcut", signed=("feedback", "test"), signature=Signature(0.1))
    assert {r: look.signature for r, look in looks.items() if look.signature} == {
        "feedback": Signature(0.1), "test": Signature(0.1),
    }  # fmt: skip
    assert not any(look.signature for look in looks_of("clean").values())
    sizes = dict.fromkeys(("stream", "heads", "feedback", "evaluation_fit", "evaluation"), 1)
    data = embedded_scenes(0, split="validation", looks=looks, **sizes)
    assert [role for role in ROLES if getattr(data, role).look.signature] == ["feedback", "test"]
    assert data.summary["test"]["signature"]["amplitude"] == 0.1
    assert described([data])[1].endswith("a grating of its own in each picture of: feedback, test")
    clean = embedded_scenes(0, split="test", looks=looks_of("clean"), **sizes)
    assert len(described([clean])) == 1


def test_a_texture_tells_the_class_and_is_on_the_digits_alone():
    plain, fine = (Scenes("fit", 0, 8, Look(texture=t)) for t in (0.0, 0.25))
    for before, after in zip(plain, fine, strict=True):
        changed = (before.image != after.image).any(0)
        assert not changed[before.segmentation == 0].any() and changed.any()
    down, across, grid = (texture(np.random.default_rng(1), c, (40, 40)) for c in (1, 2, 3))
    assert np.ptp(down, axis=1).max() < 1e-6 < np.ptp(down, axis=0).min()
    assert np.ptp(across, axis=0).max() < 1e-6 < np.ptp(across, axis=1).min()
    assert np.ptp(grid, axis=0).max() > 0.5 < np.ptp(grid, axis=1).max()


def test_photographs_are_shared_and_digits_are_not():
    shared = [material(role, True) for role in SHARES]
    assert all(np.array_equal(m.regions, shared[0].regions) for m in shared)
    assert len(shared[0].regions) == sum(len(material(role).regions) for role in SHARES)
    glyphs = [{g.tobytes() for g in m.glyphs} for m in shared]
    assert len(set.union(*glyphs)) == sum(map(len, glyphs))


def test_objects_are_where_digits_are_drawn_in_part_or_wholly():
    look = looks_of("shortcut")["stream"]
    pictures, scenes = SceneImages("stream", 1, 3, look), Scenes("stream", 1, 3, look)
    for i in range(3):
        expected = (scenes[i].segmentation != 0)[None].to(torch.uint8) * 255
        assert torch.equal(pictures.objects(i), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Signature(0.0), "amplitude is above 0"),
        (lambda: Signature(0.3, (1.0, 4.0)), "at least 2 pixels"),
        (lambda: Signature(0.3, (4.0, 3.0)), "from 4 to 3"),
        (lambda: Look(texture=1.5), "texture goes from 0 to 1, not 1.5"),
        (lambda: looks_of("shortcut", signed=("train",)), "no scenes are for 'train'"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
