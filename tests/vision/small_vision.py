"""Small vision problems in float64: a ViT of three blocks on 16 pixels, both objectives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

import vfunc
from vfunc.simulate import SGD, UpdateRule
from vfunc.split import Split
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.designers.view_designer import ViewDesigner, ViewDesignerConfig
from vfunc.vision.encoder.named_encoder import Encoder
from vfunc.vision.learner import ObservedViews, VisionLearner
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.ijepa import IJepa
from vfunc.vision.value_problem import vision_problem

DINO = Dino(image_size=16, local_size=8, local_crops=2, output_dim=8, head_width=12, bottleneck=6)
IJEPA = IJepa(patch=4, image_size=16, predictor_width=8, predictor_depth=1)
OBJECTIVES = {"dino": DINO, "ijepa": IJEPA}


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def small_encoder(seed=0, *, class_token=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = VisionTransformer(
            img_size=16,
            patch_size=4,
            embed_dim=16,
            depth=3,
            num_heads=2,
            num_classes=0,
            class_token=class_token,
            global_pool="token" if class_token else "avg",
            reg_tokens=1 if class_token else 0,
        )
        with torch.no_grad():  # timm starts with weights so small that nothing but biases shows
            for p in vit.parameters():
                p.add_(0.3 * torch.randn(p.shape))
    return Encoder(vit)


def small_learner(objective, seed=0):
    learner = objective.learner(small_encoder(seed), seed).double()
    with torch.no_grad():  # a teacher that is not the student
        for name, p in learner.named_parameters():
            if name.startswith(("teacher", "predictor")):
                p.add_(0.2 * torch.randn(p.shape, generator=drawn(7), dtype=p.dtype))
        if hasattr(learner, "centre"):
            learner.centre.normal_(std=0.02, generator=drawn(8))
    return learner


def crops(objective, pictures=2, seed=0):
    images = [
        torch.randint(0, 256, (3, 24, 20), generator=drawn(seed * 100 + i), dtype=torch.uint8)
        for i in range(pictures)
    ]
    batch = objective.batch(images, drawn(seed))
    blocks = batch.blocks
    return UnlabeledBatch(batch.views.double(), batch.locals.double(), blocks)


def small_designer(kind="unet", seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        designer = ViewDesigner(ViewDesignerConfig(kind=kind, width=4, depth=1, heads=1, patch=4))
        with torch.no_grad():
            for p in designer.parameters():
                p.add_(0.1 * torch.randn(p.shape))
    return designer.double()


def feedback_of(functional):
    """A plain L_down on the features, without heads."""
    images = torch.rand(2, 3, 16, 16, generator=drawn(11), dtype=torch.float64)
    wanted = torch.randn(2, 16, 4, 4, generator=drawn(12), dtype=torch.float64)

    def loss(theta):
        return F.mse_loss(functional(theta, "dense", images, 1).maps, wanted)

    return loss


def small_problem(objective, *, subset="last:2", cut=True, kind="unet", batches=1, rule=None):
    """(problem, theta, phi), split at the edge of S if `cut`."""
    module = small_learner(objective)
    functional = vfunc.functional(module, subset)
    learner = VisionLearner(functional, objective)
    observed = tuple(ObservedViews(crops(objective, seed=s)) for s in range(batches))
    if cut:
        learner = learner.cut(observed[0].batch)
        assert isinstance(learner.split, Split), learner.split
    designer = small_designer(kind)
    problem = vision_problem(
        learner, designer, observed, feedback_of(functional), rule or UpdateRule(SGD(lr=0.1)), {}
    )
    phi = {name: p.detach().clone() for name, p in designer.named_parameters()}
    return problem, functional.theta, phi
