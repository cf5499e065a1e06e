"""Every optimizer of torch.optim that is simulated, with each of its flags."""

from __future__ import annotations

import torch
from reference.torch_optimizers import UPDATES

EVERY = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD decay": ("SGD", {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
    "SGD momentum": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    "SGD momentum up": ("SGD", {"lr": 0.1, "momentum": 0.8, "maximize": True}),
    "SGD nesterov": ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    "Adam": ("Adam", {"lr": 0.02, "weight_decay": 0.1}),
    "Adam amsgrad": ("Adam", {"lr": 0.02, "amsgrad": True, "betas": (0.8, 0.7)}),
    "Adam up": ("Adam", {"lr": 0.02, "maximize": True, "weight_decay": 0.1, "amsgrad": True}),
    "Adam foreach": ("Adam", {"lr": 0.02, "foreach": True, "betas": (0.7, 0.95)}),
    "Adam fused": ("Adam", {"lr": 0.02, "fused": True, "weight_decay": 0.1}),
    "Adam decoupled": ("Adam", {"lr": 0.02, "decoupled_weight_decay": True, "weight_decay": 0.3}),
    "AdamW": ("AdamW", {"lr": 0.02, "weight_decay": 0.3}),
    "AdamW amsgrad": ("AdamW", {"lr": 0.02, "amsgrad": True, "betas": (0.8, 0.6)}),
    "AdamW up": ("AdamW", {"lr": 0.02, "maximize": True}),
    "NAdam": ("NAdam", {"lr": 0.02, "weight_decay": 0.2}),
    "NAdam decoupled": (
        "NAdam",
        {"lr": 0.02, "weight_decay": 0.2, "decoupled_weight_decay": True, "momentum_decay": 0.3},
    ),
    "NAdam up": ("NAdam", {"lr": 0.02, "maximize": True, "betas": (0.7, 0.8)}),
    "RAdam": ("RAdam", {"lr": 0.02, "weight_decay": 0.2}),
    "RAdam up": ("RAdam", {"lr": 0.02, "maximize": True, "betas": (0.8, 0.95)}),
    "RAdam never rectified": ("RAdam", {"lr": 0.02, "betas": (0.8, 0.5)}),
    "RAdam decoupled": (
        "RAdam",
        {"lr": 0.02, "weight_decay": 0.2, "decoupled_weight_decay": True, "betas": (0.9, 0.98)},
    ),
    "Adamax": ("Adamax", {"lr": 0.02, "weight_decay": 0.2}),
    "Adamax up": ("Adamax", {"lr": 0.02, "maximize": True, "betas": (0.8, 0.6), "eps": 0.01}),
    "Adagrad": ("Adagrad", {"lr": 0.05, "weight_decay": 0.1}),
    "Adagrad decay": (
        "Adagrad",
        {"lr": 0.05, "lr_decay": 0.2, "initial_accumulator_value": 0.3, "maximize": True},
    ),
    "RMSprop": ("RMSprop", {"lr": 0.01, "weight_decay": 0.2}),
    "RMSprop centered": ("RMSprop", {"lr": 0.01, "centered": True, "alpha": 0.9}),
    "RMSprop momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.7, "maximize": True}),
    "RMSprop all": (
        "RMSprop",
        {"lr": 0.01, "centered": True, "momentum": 0.7, "weight_decay": 0.1, "eps": 1e-4},
    ),
    "Adadelta": ("Adadelta", {"weight_decay": 0.2}),
    "Adadelta up": ("Adadelta", {"lr": 0.5, "rho": 0.7, "eps": 1e-4, "maximize": True}),
    "Rprop": ("Rprop", {"lr": 0.01}),
    "Rprop up": ("Rprop", {"lr": 0.01, "etas": (0.4, 1.5), "step_sizes": (0.005, 0.012)}),
    "ASGD": ("ASGD", {"lr": 0.05, "weight_decay": 0.1}),
    "ASGD averaging": ("ASGD", {"lr": 0.05, "lambd": 0.1, "t0": 3, "maximize": True}),
    "Muon": ("Muon", {"lr": 0.02}),
    "Muon plain": ("Muon", {"lr": 0.02, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
    "Muon unclamped": ("Muon", {"lr": 0.02, "adjust_lr_fn": "spectral_unclamped", "ns_steps": 3}),
    "Adafactor": ("Adafactor", {"lr": 0.05, "weight_decay": 0.1}),
    "Adafactor up": ("Adafactor", {"lr": 0.05, "maximize": True, "d": 2.0, "eps": (1e-3, 0.5)}),
}
"""Case -> the class in torch.optim and its options."""

SHAPES = {"matrix": (4, 3), "wide": (2, 5), "vector": (6,), "number": ()}


def made(case, parameters):
    """The live optimizer of a case, over these parameters."""
    kind, options = EVERY[case]
    return getattr(torch.optim, kind)(list(parameters.values()), **options)


def start(case, dtype=torch.float64, seed=0):
    """name -> a live parameter; matrices alone for Muon."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {n: s for n, s in SHAPES.items() if EVERY[case][0] != "Muon" or len(s) == 2}
    return {
        name: torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }


def gradients(parameters, step, seed=0):
    """Gradients of a step, of entries of different sizes; turning from step to step."""
    draw = torch.Generator().manual_seed(1000 * seed + step)
    return {
        name: (
            torch.randn(p.shape, generator=draw, dtype=torch.float64)
            + torch.sin(torch.arange(float(p.numel()), dtype=torch.float64)).reshape(p.shape)
        ).to(p)
        / 5
        for name, p in parameters.items()
    }


def walk(optimizer, parameters, steps, seed=0):
    """Take real steps."""
    for k in range(steps):
        for name, g in gradients(parameters, k, seed).items():
            parameters[name].grad = g
        optimizer.step()
    optimizer.zero_grad()


def reference(case):
    """(p, g, state, t) -> (p, state): the oracle's update."""
    kind, options = EVERY[case]
    update = UPDATES[kind]
    defaults = dict(getattr(torch.optim, kind)([torch.zeros(1, 1, requires_grad=True)]).defaults)
    given = {"maximize": False, **defaults, **options}
    if kind == "AdamW":
        given["decoupled_weight_decay"] = True
    return lambda p, g, state, t: update(p, g, state, t, given)
