"""Tiny encoders, and derivatives by differences, for the tests of the objectives."""

from __future__ import annotations

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc.trees import tangent_along
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.encoder.named_encoder import Encoder

STEP = 1e-6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vit(*, size=16, patch=8, prefix=True, dtype=torch.float64, depth=2, seed=0):
    """A ViT with a class token and two registers, or with none; its weights are of order one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = VisionTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=16,
            depth=depth,
            num_heads=2,
            mlp_ratio=2,
            num_classes=0,
            class_token=prefix,
            reg_tokens=2 if prefix else 0,
            global_pool="token" if prefix else "avg",
            dynamic_img_size=True,
        ).to(dtype)
        _stir(made)
    return Encoder(made)


def rotary(*, size=16, patch=4, dtype=torch.float64):
    """An Eva with rotary positions, as DINOv3's class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Eva(
            img_size=size,
            patch_size=patch,
            embed_dim=16,
            depth=2,
            num_heads=2,
            num_classes=0,
            num_reg_tokens=2,
            use_abs_pos_emb=False,
            use_rot_pos_emb=True,
            dynamic_img_size=True,
        ).to(dtype)
        _stir(made)
    return Encoder(made)


def stirred(learner, seed=1):
    """Every parameter moved, so that the teacher is not the student and no bias is zero."""
    draw = generator(seed)
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
    return learner


def _stir(module):
    draw = generator(2)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=draw, dtype=p.dtype))


def in_float64(batch):
    return UnlabeledBatch(batch.views.double(), batch.locals.double(), batch.blocks)


def pictures(count, *, seed=0, high=20, wide=24):
    draw = generator(seed)
    return [
        torch.randint(0, 256, (3, high + i, wide), generator=draw, dtype=torch.uint8)
        for i in range(count)
    ]


def loss(objective, learner, theta, batch, views):
    """L_pre with theta in place of the student's parameters, as the value problem takes it."""
    with sdpa_kernel(SDPBackend.MATH):
        targets, _ = objective.targets(learner, batch, views)
        outputs = {
            name: torch.func.functional_call(learner, theta, call)
            for name, call in objective.calls(batch, views).items()
        }
        return objective.parts(outputs, targets, batch).sum()


def student(learner):
    return {n: p.detach() for n, p in learner.named_parameters() if p.requires_grad}


def directions(theta, seed=3):
    draw = generator(seed)
    return {n: torch.randn(p.shape, generator=draw, dtype=p.dtype) for n, p in theta.items()}


def moved(theta, way, step):
    return {n: p + step * way[n] if n in way else p for n, p in theta.items()}


def mixed_difference(function, theta, way, views):
    """d / d theta along a direction of grad_views L, from first gradients."""

    def grad_views(step):
        at = views.clone().requires_grad_()
        return torch.autograd.grad(function(moved(theta, way, step), at), at)[0]

    return (grad_views(STEP) - grad_views(-STEP)) / (2 * STEP)


def mixed_by_double_backward(function, theta, way, views):
    """d / d views of <way, grad_theta L>."""
    theta = {n: p.clone().requires_grad_() for n, p in theta.items()}
    views = views.clone().requires_grad_()
    grads = torch.autograd.grad(function(theta, views), list(theta.values()), create_graph=True)
    slope = sum((g * way[n]).sum() for n, g in zip(theta, grads, strict=True))
    return torch.autograd.grad(slope, views)[0]


def mixed_by_forward_over_reverse(function, theta, way, views):
    """The same, by jvp in theta of the gradient in the views."""

    def grad_views(theta):
        return torch.func.grad(function, argnums=1)(theta, views)

    return tangent_along(grad_views, theta, way)[1]
