"""DINO's head, teacher and centre on disk, beside the encoder."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from vfunc.errors import UserError
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.embedded_encoder import FOUR_BLOCKS, FOUR_BLOCKS_ARCHITECTURE
from vfunc.vision.encoder.encoder_file import load_encoder, save_encoder
from vfunc.vision.encoder.timm_vit import build_encoder
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.dino_file import REST, load_dino, save_dino

SHAPE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
DINO = Dino(image_size=16, local_crops=0, output_dim=8)


@pytest.fixture
def saved(tmp_path):
    """A learner whose teacher is not its student, and its directory."""
    learner = DINO.learner(build_encoder(Architecture("vit_tiny_patch16_224", SHAPE), seed=0), 0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for x in (*learner.parameters(), learner.centre):
            x.add_(0.1 * torch.randn(x.shape, generator=draw))
    save_encoder(learner.encoder, tmp_path)
    save_dino(learner, tmp_path)
    return learner, tmp_path


def test_all_of_it_comes_back_in_half_precision(saved):
    learner, folder = saved
    found = DINO.learner(load_encoder(folder), 5)
    assert load_dino(found, folder) is None
    before = learner.state_dict()
    for name, x in found.state_dict().items():
        exact = name.startswith("encoder.")
        assert torch.allclose(x, before[name], rtol=0 if exact else 1e-3, atol=0 if exact else 1e-6)
    assert not any(p.requires_grad for p in found.teacher_encoder.parameters())


def test_the_teachers_positions_are_resampled_as_the_encoders(saved):
    learner, folder = saved
    found = Dino(image_size=24, local_crops=0, output_dim=8).learner(
        load_encoder(folder, image_size=24), 0
    )
    assert load_dino(found, folder) is None
    expected = learner.teacher_encoder.resized(24).vit.pos_embed
    assert torch.allclose(found.teacher_encoder.vit.pos_embed, expected, atol=1e-3)


def test_other_sizes_and_no_file_are_told_and_change_nothing(saved, tmp_path):
    _, folder = saved
    found = Dino(image_size=16, local_crops=0, output_dim=9).learner(load_encoder(folder), 0)
    before = {name: x.clone() for name, x in found.state_dict().items()}
    assert load_dino(found, folder) == "those beside the encoder are of other sizes (8 outputs)"
    assert load_dino(found, tmp_path / "elsewhere") == "there is none beside the encoder"
    assert all(torch.equal(x, before[name]) for name, x in found.state_dict().items())


def test_a_damaged_file_is_refused(saved):
    learner, folder = saved
    tensors = load_file(str(folder / REST))
    save_file(tensors | {"centre": torch.full((8,), torch.nan)}, str(folder / REST))
    with pytest.raises(UserError, match="not finite"):
        load_dino(learner, folder)
    (folder / REST).write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        load_dino(learner, folder)


def test_the_start_of_the_embedded_problem_is_small_and_whole():
    encoder = load_encoder(FOUR_BLOCKS)
    shape = FOUR_BLOCKS_ARCHITECTURE.arguments
    assert (encoder.depth, encoder.width) == (shape["depth"], shape["embed_dim"])
    learner = Dino(image_size=64, local_size=32, local_crops=0, output_dim=64).learner(encoder, 0)
    assert load_dino(learner, FOUR_BLOCKS) is None
    assert all(path.stat().st_size < 2_000_000 for path in FOUR_BLOCKS.iterdir())
