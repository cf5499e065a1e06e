"""Views: blur, masks and photometric changes against literal readings of their definitions."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.autograd import gradcheck, gradgradcheck

from vfunc import UserError
from vfunc.vision.designers.photometric import HUE, photometric_view
from vfunc.vision.designers.views import gaussian_blur, masked_view, off_keep_ratio, total_variation


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.4, 1.5, 3.2, 30.0])
def test_the_blur_is_a_gaussian_over_the_mirrored_picture(float64, sigma):
    images = draw(2, 3, 9, 14)
    expected = gaussian_filter(
        images.numpy(), sigma, axes=(2, 3), mode="reflect", truncate=12, output=np.float64
    )
    np.testing.assert_allclose(gaussian_blur(images, sigma), expected, rtol=0, atol=1e-12)


def test_the_blur_keeps_means_and_constants(float64):
    images = draw(2, 3, 8, 12)
    blurred = gaussian_blur(images, 2.5)
    torch.testing.assert_close(blurred.mean((-2, -1)), images.mean((-2, -1)))
    white = torch.ones(1, 3, 8, 12)
    torch.testing.assert_close(gaussian_blur(white, 2.5), white)
    assert blurred.std() < 0.3 * images.std()


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_blur_without_a_width_is_refused(sigma):
    with pytest.raises(UserError, match="positive, finite sigma"):
        gaussian_blur(draw(1, 3, 8, 8), sigma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_mask_of_ones_gives_the_picture_bit_for_bit(dtype):
    images = draw(3, 3, 24, 16).to(dtype)
    images[0, 0, :4] = 0.0
    images[1, :, :, :4] = 1.0
    view = masked_view(images, torch.ones(3, 1, 24, 16, dtype=dtype), 1.7)
    assert view.dtype == dtype
    assert torch.equal(view, images)


def test_a_view_is_the_mean_of_picture_and_blur_by_its_mask(float64):
    images, mu = draw(2, 3, 8, 8), draw(2, 1, 8, 8, seed=1)
    blurred = gaussian_blur(images, 1.2)
    view = masked_view(images, mu, 1.2)
    for n, c, y, x in [(0, 0, 0, 0), (0, 2, 7, 3), (1, 1, 4, 7)]:
        share = mu[n, 0, y, x]
        expected = share * images[n, c, y, x] + (1 - share) * blurred[n, c, y, x]
        torch.testing.assert_close(view[n, c, y, x], expected)
    torch.testing.assert_close(masked_view(images, torch.zeros_like(mu), 1.2), blurred)


def test_views_stay_in_range():
    images = (draw(4, 3, 32, 32) > 0.5).float()
    view = masked_view(images, draw(4, 1, 32, 32, seed=1), 1.6)
    assert -1e-6 <= float(view.min()) < float(view.max()) <= 1 + 1e-6


def test_views_are_differentiable_in_picture_and_mask_twice(float64):
    images = draw(1, 3, 4, 5).requires_grad_()
    mu = draw(1, 1, 4, 5, seed=1).requires_grad_()
    view = lambda v, m: masked_view(v, m, 0.9).sin()  # noqa: E731
    assert gradcheck(view, (images, mu))
    assert gradgradcheck(view, (images, mu))


def test_total_variation_is_the_mean_difference_of_neighbours(float64):
    mu = draw(2, 1, 5, 6)
    down = [abs(float(p[0, y + 1, x] - p[0, y, x])) for p in mu for y in range(4) for x in range(6)]
    right = [
        abs(float(p[0, y, x + 1] - p[0, y, x])) for p in mu for y in range(5) for x in range(5)
    ]
    smooth = lambda ds: np.mean([np.hypot(d, 1e-3) - 1e-3 for d in ds])  # noqa: E731
    found = float(total_variation(mu))
    assert found == pytest.approx(smooth(down) + smooth(right), rel=1e-12)
    assert found == pytest.approx(np.mean(down) + np.mean(right), abs=2e-3)


def test_a_constant_mask_has_no_variation_and_a_finite_gradient(float64):
    mu = torch.full((2, 1, 4, 4), 0.7, requires_grad=True)
    loss = total_variation(mu)
    assert float(loss.detach()) == 0
    assert torch.equal(torch.autograd.grad(loss, mu)[0], torch.zeros(2, 1, 4, 4))


def test_sparsity_looks_at_each_picture(float64):
    mu = torch.stack([torch.full((1, 4, 4), 0.4), torch.full((1, 4, 4), 0.8)])
    assert float(off_keep_ratio(mu, 0.6)) == pytest.approx(0.04)
    assert float(off_keep_ratio(mu[:1], 0.4)) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_photometric_zeros_give_the_picture_bit_for_bit(dtype):
    images = draw(2, 3, 16, 24).to(dtype)
    images[0, 0, :4] = 0.0
    images[1, :, :4] = 1.0
    assert torch.equal(photometric_view(images, torch.zeros(2, 4, dtype=dtype), 1.0), images)


def test_brightness_and_contrast_are_curves_of_each_number(float64):
    images = draw(1, 3, 4, 4)
    bright = photometric_view(images, torch.tensor([[0.6, 0.0, 0.0, 0.0]]), 1.0)
    torch.testing.assert_close(bright, images + 0.6 * images * (1 - images))
    contrast = photometric_view(images, torch.tensor([[0.0, -0.6, 0.0, 0.0]]), 1.0)
    towards = images - 0.6 * images * (1 - images) * (2 * images - 1)
    torch.testing.assert_close(contrast, towards)
    assert bright.mean() > images.mean()
    assert contrast.std() < images.std()


def test_a_hue_turns_i_and_q_at_constant_luma(float64):
    images = 0.4 + 0.2 * draw(1, 3, 3, 3)  # so that no colour leaves the range
    view = photometric_view(images, torch.tensor([[0.0, 0.0, 0.8, 0.0]]), 1.0)
    turn = complex(np.cos(0.8 * HUE), np.sin(0.8 * HUE))
    for y in range(3):
        for x in range(3):
            luma, i, q = colorsys.rgb_to_yiq(*images[0, :, y, x].tolist())
            turned = complex(i, q) * turn
            expected = colorsys.yiq_to_rgb(luma, turned.real, turned.imag)
            assert view[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-12)


def test_a_blur_of_one_is_the_blur(float64):
    images = draw(2, 3, 8, 8)
    view = photometric_view(images, torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 0.25]]), 1.3)
    blurred = gaussian_blur(images, 1.3)
    torch.testing.assert_close(view[0], blurred[0])
    torch.testing.assert_close(view[1], 0.75 * images[1] + 0.25 * blurred[1])


def test_photometric_views_stay_in_range_and_are_differentiable(float64):
    images = draw(1, 3, 4, 4).requires_grad_()
    control = torch.tensor([[0.7, -0.5, 0.1, 0.4]], requires_grad=True)
    assert gradcheck(lambda v, c: photometric_view(v, c, 0.8), (images, control))
    for seed in range(5):
        drawn = draw(6, 4, seed=seed) * torch.tensor([2, 2, 2, 1]) - torch.tensor([1, 1, 1, 0])
        view = photometric_view((draw(6, 3, 8, 8) > 0.5).double(), drawn, 0.8)
        assert float(view.min()) >= -1e-12
        assert float(view.max()) <= 1 + 1e-12
