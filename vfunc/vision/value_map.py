"""Computes and draws the pixel value map: the derivative of V in a view's control."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vfunc.report.pixel_map import pixel_map
from vfunc.vision.designers.view_designer import ViewDesigner, apply_control
from vfunc.vision.learner import ObservedViews, VisionLearner

MAPPED_VIEWS = 4
"""Number of views in a pixel value map, each the first of its picture."""


def map_values(
    learner: VisionLearner,
    designer: ViewDesigner,
    observed: ObservedViews,
    cotangent: Mapping[str, Tensor],
) -> dict[str, Any]:
    """dV / d control of a few views, V = <g_down, g_pre>: one plain vjp below the task.

    Args:
        learner: the learner, split as the task was made.
        designer: the designer, in whose control (mask mu, or photometric parameters) V is derived.
        observed: the batch of the task.
        cotangent: grad_c V for the task's entries that depend on the view.

    Returns:
        Arrays of the first global crop of a few pictures, packed for a line of JSON: `picture`,
        `view` (n, 3, h, w), `control` (n, 1, h, w) or (n, parameters), and `value` like it.
    """
    views = observed.batch.views
    flat = views.flatten(0, 1)
    with torch.no_grad():
        control = designer.control(flat)
    control = control.detach().requires_grad_()
    with torch.enable_grad():
        made = apply_control(designer.config, flat, control)
        task = learner.task(made.unflatten(0, views.shape[:2]), observed)
        live = [name for name in cotangent if task[name].requires_grad]
        (value,) = torch.autograd.grad(
            [task[name] for name in live], control, [cotangent[name] for name in live]
        )
    arrays = {
        "picture": _bytes(flat),
        "view": _bytes(made),
        "control": control.detach(),
        "value": value,
    }
    count = min(MAPPED_VIEWS, views.shape[1])
    return {"pixels": _packed({name: x[:count].cpu().numpy() for name, x in arrays.items()})}


def draw_value_map(fields: Mapping[str, Any], path: Path) -> None:
    """Draw the result of `map_values` as a PNG."""
    arrays = _unpacked(fields["pixels"])
    pictures, views = (torch.from_numpy(arrays[n]).float() / 255 for n in ("picture", "view"))
    control, value = (torch.from_numpy(arrays[n]).float() for n in ("control", "value"))
    pixel_map(pictures, views, control if control.ndim == 4 else None, value, path)


def _bytes(images: Tensor) -> Tensor:
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def _packed(arrays: Mapping[str, np.ndarray]) -> str:
    """Arrays as text: an event log is a file of JSON lines."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]  no array has an option's name
    return base64.b64encode(file.getvalue()).decode("ascii")


def _unpacked(text: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
