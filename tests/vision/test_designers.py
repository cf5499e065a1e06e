"""Designers of views: what each kind decides, and that the view is differentiable in phi."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from vfunc import UserError
from vfunc.vision.designers import dit
from vfunc.vision.designers.view_designer import (
    ViewDesigner,
    ViewDesignerConfig,
    apply_control,
)

CONFIGS = {
    "unet": ViewDesignerConfig("unet", width=8, depth=2),
    "unet blocks": ViewDesignerConfig("unet", width=8, depth=3, block=8),
    "dit": ViewDesignerConfig("dit", width=16, depth=2, heads=2, patch=8),
    "dit blocks": ViewDesignerConfig("dit", width=16, depth=1, heads=2, patch=4, block=8),
    "photometric": ViewDesignerConfig("photometric", width=8, depth=2),
}
MASKS = [name for name in CONFIGS if name != "photometric"]
each_kind = pytest.mark.parametrize("kind", CONFIGS)


def make(kind, seed=0):
    torch.manual_seed(seed)
    return ViewDesigner(CONFIGS[kind])


def pictures(count=3, height=16, width=24, seed=0):
    """Smooth pictures that differ from each other, as pictures do."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)


@each_kind
def test_it_starts_near_the_identity_and_sees_the_picture(kind):
    designer, images = make(kind).requires_grad_(False), pictures()
    view, control = designer(images)
    assert view.shape == images.shape
    if designer.config.masks:
        assert control.shape == (3, 1, 16, 24)
        assert float(control.mean()) == pytest.approx(0.9, abs=0.03)
        assert float(control.std()) < 0.05
    else:
        assert control.shape == (3, 4)
        assert float(control[:, :3].abs().max()) < 0.1
        assert control[:, 3].tolist() == pytest.approx([0.1] * 3, abs=0.03)
    assert float((view - images).abs().mean()) < 0.05
    # one picture's control is not another's
    assert float((control[0] - control[1]).abs().max()) > 1e-4


@each_kind
def test_each_picture_is_designed_by_itself(float64, kind):
    designer, images = make(kind), pictures()
    together = designer(images)
    alone = [designer(image[None]) for image in images]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts))


@each_kind
def test_slopes_of_a_view_in_phi_are_those_of_finite_differences(float64, kind):
    designer, images = make(kind), pictures()
    generator = torch.Generator().manual_seed(1)
    phi = {name: x.detach().clone() for name, x in designer.named_parameters()}
    weights = torch.randn(images.shape, generator=generator)

    def scalar(phi):
        view, control = functional_call(designer, phi, (images,))
        penalties = sum(designer.regularisers(control).values())
        return (weights * (3 * view).sin()).sum() + 10 * penalties

    leaves = {name: x.clone().requires_grad_() for name, x in phi.items()}
    grads = dict(zip(leaves, torch.autograd.grad(scalar(leaves), leaves.values()), strict=True))
    for name, x in phi.items():
        direction = torch.randn(x.shape, generator=generator)
        eps = 1e-5
        ends = [scalar(phi | {name: x + sign * eps * direction}) for sign in (1, -1)]
        slope = float(ends[0] - ends[1]) / (2 * eps)
        found = float((grads[name] * direction).sum())
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-7), name
        # something to learn everywhere, the deepest layers included
        assert float(grads[name].norm()) > 1e-6, name


@each_kind
def test_a_control_is_all_that_a_view_takes_from_the_designer(float64, kind):
    designer, images = make(kind), pictures()
    view, control = designer(images)
    assert torch.equal(view, apply_control(designer.config, images, designer.control(images)))
    control = control.detach().requires_grad_()
    loss = apply_control(designer.config, images, control).square().sum()
    [slope] = torch.autograd.grad(loss, control)
    direction = torch.ones_like(control)
    ends = [
        apply_control(designer.config, images, control.detach() + sign * 1e-6 * direction)
        for sign in (1, -1)
    ]
    expected = float(ends[0].square().sum() - ends[1].square().sum()) / 2e-6
    assert float(slope.sum()) == pytest.approx(expected, rel=1e-6)


@each_kind
def test_the_identity_control_gives_the_picture_bit_for_bit(kind):
    config, images = CONFIGS[kind], pictures()
    control = torch.ones(3, 1, 16, 24) if config.masks else torch.zeros(3, 4)
    assert torch.equal(apply_control(config, images, control), images)


@pytest.mark.parametrize("kind", MASKS)
def test_masks_neither_die_nor_stick(kind):
    designer = make(kind).requires_grad_(False)
    for raw in (-1e4, 1e4):
        torch.nn.init.constant_(designer.network.logit.bias, raw)
        mu = designer.control(pictures())
        assert 0 < float(mu.min()) <= float(mu.max()) < 1
        assert float(mu.mean()) == pytest.approx(float(raw > 0), abs=0.01)


@pytest.mark.parametrize("kind", ["unet blocks", "dit blocks"])
def test_a_mask_of_blocks_is_constant_over_each(float64, kind):
    designer, images = make(kind), pictures()
    mu = designer.control(images)
    for top in (0, 8):
        for left in (0, 8, 16):
            block = mu[:, :, top : top + 8, left : left + 8]
            assert torch.equal(block, block[:, :, :1, :1].expand_as(block))
    raw = designer.network(images)
    mean = raw[:, :, 8:16, 16:24].mean((-2, -1))
    expected = torch.sigmoid(5 * torch.tanh(mean / 5))
    torch.testing.assert_close(mu[:, :, 8, 16], expected)
    assert len(mu[0].unique()) == 6


@pytest.mark.parametrize(("count", "factor"), [(1, 4), (2, 8), (5, 3)])
def test_patches_are_interpolated_as_torch_does(float64, count, factor):
    x = torch.rand(2, 1, count, 3, generator=torch.Generator().manual_seed(0))
    rows = dit._interpolation(count, factor, x)
    columns = dit._interpolation(3, factor, x)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(rows @ x @ columns.T, expected)


def test_a_transformer_knows_where_its_patches_are(float64):
    designer = make("dit")
    mu = designer.control(torch.full((1, 3, 16, 24), 0.3))
    assert len(mu[0, 0, 4::8, 4::8].unique()) == 6


@each_kind
def test_penalties(float64, kind):
    designer = make(kind)
    if not designer.config.masks:
        control = torch.tensor([[0.5, 0.0, -0.5, 0.0]])
        assert {k: float(v) for k, v in designer.regularisers(control).items()} == {
            "strength": pytest.approx(0.125)
        }
        return
    mu = torch.full((1, 1, 8, 8), 0.5)
    mu[..., 4:] = 1.0
    found = {name: float(x) for name, x in designer.regularisers(mu).items()}
    # one pair of columns in seven differs, by a half
    assert found == {
        "sparsity": pytest.approx((0.75 - 0.6) ** 2),
        "tv": pytest.approx(0.5 / 7, rel=0.003),
    }


@each_kind
@pytest.mark.parametrize("size", [(8, 8), (32, 16)])
def test_sizes(kind, size):
    designer = make(kind)
    view, control = designer(pictures(2, *size))
    assert view.shape == (2, 3, *size)
    assert torch.isfinite(control).all()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("size", [(18, 16), (16, 21)])
def test_other_sizes_are_refused_in_one_line(kind, size):
    multiple = {"unet": 4}.get(kind, 8)
    assert CONFIGS[kind].multiple == multiple
    message = rf"pictures of {size[0]} x {size[1]} pixels .* multiples of {multiple}$"
    with pytest.raises(UserError, match=message):
        make(kind)(pictures(1, *size))


@each_kind
def test_it_is_an_ordinary_module_without_state_or_chance(kind):
    designer, images = make(kind), pictures()
    before = torch.get_rng_state()
    view, control = designer(images)
    assert torch.equal(torch.get_rng_state(), before)
    copied = copy.deepcopy(designer)
    other = make(kind, seed=1)
    assert not torch.equal(other(images)[1], control)
    other.load_state_dict(designer.state_dict())
    for same in (designer, designer.eval(), copied, other):
        assert torch.equal(same(images)[0], view)
    assert not dict(designer.named_buffers())
    assert all(torch.isfinite(x).all() for x in designer.parameters())


@each_kind
def test_double_precision_and_the_meta_device(kind):
    designer, images = make(kind), pictures()
    view, control = copy.deepcopy(designer).double()(images.double())
    assert view.dtype == control.dtype == torch.float64
    torch.testing.assert_close(designer(images)[0].double(), view, rtol=0, atol=1e-5)
    with torch.device("meta"):
        shapes = [x.shape for x in ViewDesigner(CONFIGS[kind])(torch.empty(2, 3, 16, 24))]
    assert shapes == [(2, 3, 16, 24), (2, 4) if kind == "photometric" else (2, 1, 16, 24)]


def test_the_default_is_small():
    count = sum(x.numel() for x in ViewDesigner(ViewDesignerConfig()).parameters())
    assert 20_000 <= count <= 60_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "vit"}, "unknown designer of views 'vit'; known: unet, dit, photometric"),
        ({"width": 0}, "must be positive"),
        ({"block": 0}, "must be positive"),
        ({"width": 6}, "multiple of 4"),
        ({"kind": "dit", "width": 16, "heads": 3}, "divisible by its 3 heads"),
        ({"kind": "photometric", "block": 8}, "no `block`"),
        ({"keep": 0.0}, "keep must be in"),
        ({"keep": 1.5}, "keep must be in"),
        ({"blur": 0.0}, "blur must be a positive share"),
        ({"start": 1.0}, "start must be in"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    # unwrapped: the tests' own check of annotations would come before the package's
    init = inspect.unwrap(ViewDesignerConfig.__init__)
    with pytest.raises(UserError, match=message):
        init(object.__new__(ViewDesignerConfig), **changes)
