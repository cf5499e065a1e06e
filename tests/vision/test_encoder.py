"""The encoder: timm's own numbers, at any size, on any patches, cut anywhere, differentiable twice."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import vfunc
from vfunc.errors import UserError
from vfunc.split import Split, split_at_edge
from vfunc.trees import tangent_along
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.named_encoder import Encoder
from vfunc.vision.encoder.positions import resampled

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2} | {
    "num_classes": 5
}
ROTARY = {"use_rot_pos_emb": True, "dynamic_img_size": True}
DINOV3 = {"rope_type": "dinov3", "rope_rotate_half": True, "rope_temperature": 100.0}
KINDS = {
    "class token": lambda: VisionTransformer(**SMALL),
    "registers": lambda: VisionTransformer(**SMALL, reg_tokens=2, init_values=0.5, qk_norm=True),
    "registers without positions": lambda: VisionTransformer(
        **SMALL, reg_tokens=2, no_embed_class=True
    ),
    "no class token": lambda: VisionTransformer(
        **SMALL, class_token=False, global_pool="avg", fc_norm=False
    ),
    "norm after pooling": lambda: VisionTransformer(**SMALL, global_pool="avg"),
    "attention pooling": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="map"),
    "norm before the blocks": lambda: VisionTransformer(**SMALL, pre_norm=True),
    "dinov3": lambda: Eva(
        **SMALL, **ROTARY, **DINOV3, use_abs_pos_emb=False, num_reg_tokens=2, use_fc_norm=False
    ),
    "eva02": lambda: Eva(**SMALL, **ROTARY, swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(2, 2)),
    "mixed": lambda: Eva(**SMALL, **ROTARY, rope_type="mixed", use_abs_pos_emb=False),
}
ALL = list(KINDS)
TWO = ["registers", "dinov3"]


def perturbed(kind):
    """timm's model, every parameter off its start, so that no bias and no gain is plain."""
    torch.manual_seed(0)
    vit = KINDS[kind]().to(torch.get_default_dtype()).eval()
    with torch.no_grad():
        for p in vit.parameters():
            p += 0.2 * torch.randn_like(p)
    return vit


def made(kind):
    return Encoder(perturbed(kind))


def pictures(n=2, h=32, w=32):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(1))


def normalised(images):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


def final_norm(vit):
    """What norms there are, one of the two being the identity."""
    return lambda x: vit.fc_norm(vit.norm(x))


class Learner(nn.Module):
    """What the objectives make of an encoder: methods are called by name."""

    def __init__(self, encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, method, *args):
        return getattr(self.encoder, method)(*args)


@pytest.mark.parametrize("kind", ALL)
def test_tokens_are_those_of_timm(kind, float64):
    vit, encoder, images = perturbed(kind), made(kind), pictures()
    want = vit.forward_features(normalised(images))
    want = vit.fc_norm(want)  # the identity, or the only norm
    got = encoder.tokens(images)
    assert got.shape == (2, encoder.prefix_tokens + 16, encoder.width)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("h", "w"), [(16, 40), (48, 24)])
def test_pictures_of_another_size_are_those_of_timm(kind, h, w, float64):
    vit, encoder, images = perturbed(kind), made(kind), pictures(1, h, w)
    if not vit.dynamic_img_size:
        vit.dynamic_img_size = True
        vit.patch_embed.flatten, vit.patch_embed.strict_img_size = False, False
        vit.patch_embed.output_fmt = type(vit.patch_embed.output_fmt)("NHWC")
    want = vit.forward_features(normalised(images))
    want = vit.fc_norm(want)  # the identity, or the only norm
    # timm resamples positions in float32
    torch.testing.assert_close(encoder.tokens(images), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ALL)
def test_dense_features_are_intermediate_layers(kind, float64):
    vit, encoder, images = perturbed(kind), made(kind), pictures(2, 32, 32)
    norm = final_norm(vit)
    raw = vit.forward_intermediates(
        normalised(images), 2, intermediates_only=True, output_fmt="NCHW"
    )
    want = torch.cat([norm(x.movedim(1, -1)).movedim(-1, 1) for x in raw], 1)
    pooled, maps = encoder.dense(images, 2)
    torch.testing.assert_close(maps, want, rtol=1e-12, atol=1e-12)
    tokens = encoder.tokens(images)
    torch.testing.assert_close(
        maps[:, -encoder.width :].flatten(2).mT, tokens[:, encoder.prefix_tokens :]
    )
    torch.testing.assert_close(pooled, encoder.pooled(tokens))


def test_what_is_pooled():
    class_token, none = made("registers"), made("no class token")
    tokens = torch.randn(2, 6, 16)
    assert torch.equal(class_token.pooled(tokens), tokens[:, 0])
    assert torch.equal(none.pooled(tokens), tokens.mean(1))
    gap = VisionTransformer(**SMALL, class_token=False, global_pool="avg", reg_tokens=2)
    assert torch.equal(Encoder(gap).pooled(tokens), tokens[:, 2:].mean(1))


@pytest.mark.parametrize("kind", ALL)
def test_every_parameter_that_is_left_reaches_the_tokens(kind):
    encoder = made(kind)
    tokens = encoder.tokens(pictures())
    parameters = dict(encoder.named_parameters())
    grads = torch.autograd.grad(tokens.square().sum(), parameters.values(), allow_unused=True)
    assert [name for name, g in zip(parameters, grads, strict=True) if g is None] == []


@pytest.mark.parametrize("kind", ALL)
def test_the_last_blocks_and_the_final_norm_are_a_subset(kind):
    learner = Learner(made(kind))
    names = vfunc.functional(learner, "last:1").names
    assert {"encoder.vit.norm.weight", "encoder.vit.norm.bias"} < set(names)
    assert all(n.startswith(("encoder.vit.blocks.2.", "encoder.vit.norm.")) for n in names)


@pytest.mark.parametrize("kind", ALL)
def test_some_patches_are_all_of_them_with_the_others_masked(kind, float64):
    vit, encoder, images = perturbed(kind), made(kind), pictures(2)
    kept = torch.tensor([[9, 2, 14, 5, 0], [1, 3, 8, 15, 4]])
    p, grid = encoder.prefix_tokens, encoder.grid(32, 32)
    tokens = encoder.embed(images)
    index = kept.unsqueeze(-1).expand(-1, -1, encoder.width)
    some = torch.cat([tokens[:, :p], tokens[:, p:].gather(1, index)], 1)
    for i in range(2):
        seen = torch.zeros(16 + p, dtype=torch.bool)
        seen[:p] = True
        seen[p + kept[i]] = True
        want = final_norm(vit)(
            vit.forward_intermediates(
                normalised(images[i : i + 1]),
                1,
                return_prefix_tokens=False,
                intermediates_only=True,
                output_fmt="NLC",
                attn_mask=seen.expand(1, 1, 16 + p, 16 + p),
            )[0]
        )[0, kept[i]]
        got = encoder.encode(some, kept, grid)[i, p:]
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_rotary_positions_have_to_be_told():
    encoder = made("dinov3")
    tokens = encoder.embed(pictures())
    with pytest.raises(UserError, match="tell it the grid"):
        encoder.encode(tokens)
    with pytest.raises(UserError, match="16 patches, but rotary positions for 3"):
        encoder.encode(tokens, torch.tensor([[0, 1, 2]] * 2), (4, 4))
    with pytest.raises(UserError, match="dynamic_img_size=True"):
        Encoder(Eva(**SMALL, use_rot_pos_emb=True))


@pytest.mark.parametrize("size", [(32, 30), (30, 32), (0, 32), (4, 4)])
def test_a_size_that_does_not_divide_is_refused(size):
    with pytest.raises(UserError, match="multiples of 8") as error:
        made("dinov3").tokens(torch.zeros(1, 3, *size))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layers", [0, 4])
def test_so_many_layers_there_are_not(layers):
    with pytest.raises(UserError, match=f"last {layers} blocks: this encoder has 3"):
        made("registers").dense(pictures(), layers)


def test_other_models_are_refused():
    import timm

    distilled = timm.create_model("deit_tiny_distilled_patch16_224")
    with pytest.raises(UserError, match="not a VisionTransformerDistilled"):
        Encoder(distilled)
    with pytest.raises(UserError, match="squares of pixels"):
        Encoder(VisionTransformer(**SMALL | {"patch_size": (8, 4)}))


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("method", [("tokens",), ("dense", 1)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_parts_are_the_whole(kind, method, blocks, float64):
    learner = vfunc.functional(Learner(made(kind)), f"last:{blocks}")
    name, *rest = method
    images = pictures(2, 24, 40)
    split = split_at_edge(learner, name, images, *rest)
    assert isinstance(split, Split), split
    assert split.below == 3 - blocks
    theta = {n: p + 0.1 for n, p in learner.theta.items()}
    edge = split.prefix(learner, name, images, *rest)
    assert edge.shape == (2, 15 + 3, 16)
    parts = split.suffix(learner, theta, edge, name, images, *rest)
    whole = learner(theta, name, images, *rest)
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=1e-14)
    called = split.suffix(learner, theta, edge * pictures(1, 1, 16)[0, 0, 0], name, images, *rest)
    assert not torch.allclose(
        torch.cat([x.flatten() for x in called]), torch.cat([x.flatten() for x in whole])
    )


def test_features_of_blocks_below_the_edge_are_no_split(float64):
    learner = vfunc.functional(Learner(made("registers")), "last:1")
    assert not isinstance(split_at_edge(learner, "dense", pictures(), 3), Split)


def slopes(kind, how, size=(24, 32)):
    """d/dt of <v, grad_theta loss> and <u, grad_image loss> along random directions, two ways."""
    encoder = made(kind)
    learner, image = vfunc.functional(Learner(encoder)), pictures(1, *size)
    draw = torch.Generator().manual_seed(2)
    theta = learner.theta
    point = theta | {"image": image}
    w, v = ({n: torch.randn(x.shape, generator=draw) for n, x in point.items()} for _ in range(2))
    target = torch.randn(1, encoder.prefix_tokens + size[0] * size[1] // 64, 16, generator=draw)

    def loss(point):
        tokens = learner({n: point[n] for n in theta}, "tokens", point["image"])
        return (torch.tanh(tokens) * target).sum()

    def slope_of_loss(point):
        grads = torch.func.grad(loss)(point)
        return sum((grads[n] * w[n]).sum() for n in point)

    def moved(step):
        return {n: x + step * v[n] for n, x in point.items()}

    # fourth order in the step
    step = 2e-4
    near, far = ((slope_of_loss(moved(k * step)) - slope_of_loss(moved(-k * step))) for k in (1, 2))
    difference = (8 * near - far) / (12 * step)
    if how == "jvp of grad":
        got = tangent_along(slope_of_loss, point, v)[1]
    else:
        leaves = {n: x.clone().requires_grad_() for n, x in point.items()}
        grads = torch.autograd.grad(loss(leaves), leaves.values(), create_graph=True)
        dot = sum((g * w[n]).sum() for n, g in zip(leaves, grads, strict=True))
        second = torch.autograd.grad(dot, leaves.values())
        got = sum((h * v[n]).sum() for n, h in zip(leaves, second, strict=True))
    return float(got), float(difference)


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("how", ["double backward", "jvp of grad"])
def test_second_derivatives_in_parameters_and_picture_are_slopes(kind, how, float64):
    with sdpa_kernel(SDPBackend.MATH):
        got, difference = slopes(kind, how)
    assert got == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("how", ["double backward", "jvp of grad"])
def test_fused_attention_refuses_second_derivatives(kind, how, float64):
    """Or has them: what it must not do is to return other numbers."""
    try:
        got, difference = slopes(kind, how)
    except RuntimeError as error:
        assert "scaled_dot_product" in str(error)
    else:
        assert got == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_copies_and_states_go_round(kind):
    encoder, images = made(kind), pictures(1)
    want = encoder.tokens(images)
    assert torch.equal(copy.deepcopy(encoder).tokens(images), want)
    other = Encoder(KINDS[kind]().eval())
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.tokens(images), want)
    assert set(encoder.state_dict()) == {n for n, _ in encoder.named_parameters()}
    swapped = torch.func.functional_call(
        Learner(other),
        {f"encoder.{n}": p for n, p in encoder.named_parameters()},
        ("tokens", images),
    )
    assert torch.equal(swapped, want)
    double = encoder.double().tokens(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("side", [16, 32, 40])
def test_positions_resampled_once_are_those_resampled_every_time(kind, side, float64):
    encoder, images = made(kind), pictures(1, side, side)
    want = encoder.tokens(images)
    resized = encoder.resized(side)
    assert resized.image_size == (side, side)
    torch.testing.assert_close(resized.tokens(images), want, rtol=1e-12, atol=1e-12)
    assert all(p.requires_grad and p.is_leaf for p in resized.parameters())


def test_positions_are_resampled_in_their_own_precision(float64):
    """torch's bicubic interpolation, which has float64; timm's use of it has not."""
    table = torch.randn(1, 3 + 12, 5, generator=torch.Generator().manual_seed(0))
    square = table[:, 3:].mT.reshape(1, 5, 4, 3)
    for grid in [(7, 2), (2, 9), (4, 3), (5, 3)]:
        want = F.interpolate(square, size=grid, mode="bicubic", antialias=True).flatten(2).mT
        got = resampled(table, (4, 3), grid, 3)
        torch.testing.assert_close(got, torch.cat([table[:, :3], want], 1), rtol=0, atol=1e-13)


def test_bfloat16_autocast_does_not_round_positions():
    encoder = made("registers")
    grid, table = (2, 3), encoder.vit.pos_embed
    want = encoder._learned(grid, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder._learned(grid, 3), want)
    assert want.dtype == table.dtype


def test_a_model_normalises_its_own_way(float64):
    images = pictures(1)
    half = Encoder(perturbed("registers"), Architecture("", {}, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    want = perturbed("registers").forward_features(
        (images - mean[:, None, None]) / std[:, None, None]
    )
    torch.testing.assert_close(half.tokens(images), want, rtol=1e-12, atol=1e-12)
