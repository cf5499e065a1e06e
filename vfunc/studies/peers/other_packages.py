"""The same lookahead by other packages, each as its documentation shows it.

They are looked for when they are called: `pip install 'vfunc[peers]'` brings them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from vfunc import trees
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.studies.peers.mlp_problem import Lookahead, Step
from vfunc.trees import Params


def by_torchopt(asked: Lookahead) -> Params:
    """TorchOpt's functional optimizers, whose steps autograd goes through."""
    needs("peers", "torchopt")
    optimizer = _torchopt(asked.step)
    torchopt = importlib.import_module("torchopt")
    phi, theta = trees.leaves(asked.phi), trees.leaves(asked.theta)
    state = optimizer.init(theta)
    for k in range(asked.steps):
        loss = asked.inner(theta, asked.task(phi, k))
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        g = dict(zip(theta, grads, strict=True))
        updates, state = optimizer.update(g, state, params=theta, inplace=False)
        theta = torchopt.apply_updates(theta, updates, inplace=False)
    return trees.gradient(asked.outer(theta), phi)


def by_higher(asked: Lookahead) -> Params:
    """higher's patched module and differentiable optimizer.

    Raises:
        UserError: AdamW, of which it has no differentiable form.
    """
    needs("peers", "higher")
    higher = importlib.import_module("higher")
    if asked.step.kind == "adamw":
        raise UserError("higher has no AdamW")
    module, step = _Mlp(asked), asked.step
    live = (
        torch.optim.SGD(module.parameters(), step.lr, step.momentum)
        if step.kind == "sgd"
        else torch.optim.Adam(module.parameters(), step.lr, step.betas, step.eps)
    )
    phi = trees.leaves(asked.phi)
    with higher.innerloop_ctx(module, live) as (patched, optimizer):
        for k in range(asked.steps):
            optimizer.step(asked.inner(_named(patched), asked.task(phi, k)))
        return trees.gradient(asked.outer(_named(patched)), phi)


def by_bergson(asked: Lookahead) -> Params:
    """bergson's replay of a training run, whose states it keeps on disk.

    Raises:
        UserError: phi is a designer: it differentiates the weights of data alone.
    """
    needs("peers", "bergson")
    if asked.tuned != "weights":
        raise UserError("bergson differentiates the weights of data alone, and no designer")
    replay = importlib.import_module("bergson.magic.trainer")
    if asked.step.kind == "adam":
        raise UserError("bergson has AdamW alone")
    data = _Weighted(asked)
    trainer, state = replay.Trainer.initialize(_Mlp(asked), _torchopt(asked.step))
    quiet = contextlib.redirect_stderr(io.StringIO())  # its progress bars
    with tempfile.TemporaryDirectory() as folder, quiet:
        state = trainer.train(state, data, save_dir=folder)
        theta = trees.leaves(state.params)
        along = trees.gradient(asked.outer(theta), theta)
        # cotangents of the optimizer's state, which L_down does not read
        rest = [torch.zeros_like(x) for x in state.differentiable_tensors()[len(theta) :]]
        began = replay.BackwardState(along, rest, torch.zeros_like(data.weights))
        ended = trainer.backward(folder, data, began, state)
    return {"weight": ended.weight_grads.detach()}


class _Mlp(nn.Module):
    """The MLP as a module; its forward is L_pre of a batch, as a trainer of others wants it."""

    def __init__(self, asked: Lookahead) -> None:
        super().__init__()
        self.inner = asked.inner
        width = asked.feedback.shape[-1]
        for layer in range(len(asked.theta) // 2):
            self.add_module(f"{layer}", nn.Linear(width, width))
        own = {name: x.clone() for name, x in asked.theta.items()}
        self.load_state_dict(own, assign=True)

    def forward(self, input_ids: Tensor, targets: Tensor, example_weight: Tensor) -> Tensor:
        task = {"x": input_ids, "y": targets, "weight": example_weight}
        return self.inner(_named(self), task)


class _Weighted:
    """Batches with a weight for each example, as bergson's data streams give them."""

    def __init__(self, asked: Lookahead) -> None:
        self.asked = asked
        self.weights = nn.Parameter(asked.phi["weight"].clone())
        self.device = self.weights.device

    @property
    def requires_grad(self) -> bool:
        return self.weights.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.weights.requires_grad = value

    def __len__(self) -> int:
        return self.asked.steps

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        task = self.asked.task({"weight": self.weights}, k)
        return {"input_ids": task["x"], "targets": task["y"], "example_weight": task["weight"]}


def _named(module: Any) -> Params:
    return {
        f"{layer}.{kind}": getattr(child, kind)
        for layer, child in module.named_children()
        for kind in ("weight", "bias")
    }


def _torchopt(step: Step) -> Any:
    torchopt = importlib.import_module("torchopt")
    if step.kind == "sgd":
        return torchopt.sgd(step.lr, step.momentum, moment_requires_grad=True)
    if step.kind == "adam":
        return torchopt.adam(step.lr, step.betas, step.eps, moment_requires_grad=True)
    return torchopt.adamw(
        step.lr, step.betas, step.eps, weight_decay=step.decay, moment_requires_grad=True
    )
