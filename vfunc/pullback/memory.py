"""How much memory a double backward needs, and how much its device has."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from vfunc.errors import VfuncError
from vfunc.pullback.graph import nodes

JOINT_GROWTH = 3.0
"""What a double backward allocates beyond its forward, in units of what the forward has saved.

Peaks over what stood when the forward was done, counted at allocation and divided by
`saved_bytes`: 1.8 to 2.7 on a Qwen2 of 0.34M parameters (S = all, last:2, last:1, with and without
the Hessian product), 1.6 on a small ViT, 2.7 on an MLP. Rounded up, for kernels' workspaces.
"""


class MemoryShortError(VfuncError, MemoryError):
    """A double backward would not fit.

    Attributes:
        needed: bytes, beyond what is allocated.
        free: bytes.
    """

    def __init__(self, needed: int, free: int) -> None:
        self.needed, self.free = needed, free
        super().__init__(
            f"a double backward needs about {needed / 2**30:.3g} GiB more and "
            f"{free / 2**30:.3g} GiB are free"
        )


def require_room(output: Tensor) -> None:
    """Check that a double backward through `output` fits its device.

    Raises:
        MemoryShortError: it does not.
    """
    needed, free = int(JOINT_GROWTH * saved_bytes(output)), free_bytes(output.device)
    if needed > free:
        raise MemoryShortError(needed, free)


def saved_bytes(output: Tensor) -> int:
    """Bytes of activations that the graph behind `output` holds for its backward pass.

    Each storage counts once. Tensors without a graph (inputs, frozen parameters, what comes from
    layers below S) are there anyway and do not count.
    """
    sizes: dict[int, int] = {}
    attributes: dict[str, list[str]] = {}
    for node in nodes([output]):
        kind = node.name()
        if kind not in attributes:
            attributes[kind] = [a for a in dir(node) if a.startswith(("_saved_", "saved_tensors"))]
        for attribute in attributes[kind]:
            saved = getattr(node, attribute)
            for x in saved if isinstance(saved, list | tuple) else (saved,):
                if isinstance(x, Tensor) and x.grad_fn is not None:
                    storage = x.untyped_storage()
                    sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def free_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on `device` now: an accelerator's own, or the machine's.

    On a GPU, what the driver has free and what torch's allocator keeps for reuse. On a CPU, what
    the kernel can give without swapping, within the limit of the process's control group.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(_available(), _left_in_group()))


def _available() -> int:
    """MemAvailable, which counts caches that the kernel would give up; else the free pages."""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_group() -> float:
    """What the control group (a container, a batch job) still allows; no limit is infinity."""
    limit = "".join(_lines("/sys/fs/cgroup/memory.max")).strip()
    used = "".join(_lines("/sys/fs/cgroup/memory.current")).strip()
    return float(int(limit) - int(used)) if limit.isdigit() and used.isdigit() else float("inf")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
