"""What the arms that TRL trains need of a run, asked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.processes import Processes


def require_trl(arms: Sequence[str], device: torch.device, processes: Processes) -> None:
    """Refuse a run with arms that TRL cannot train there.

    Args:
        arms: the run's arms.
        device: its device.
        processes: the processes that train together.

    Raises:
        UserError: several processes, or a GPU that TRL would not take.
        MissingExtraError: TRL is not installed.
    """
    by_trl = [arm for arm in arms if ARMS[arm].phases]
    if not by_trl:
        return
    needs("trl")
    if not processes.alone:
        raise UserError(
            f"the arm {by_trl[0]} is for one process, and there are {processes.size}; take it out "
            "of --arms, or start one"
        )
    if device.type == "cuda" and (device.index or 0) != 0:
        raise UserError(
            f"the arm {by_trl[0]} trains on the first GPU that there is, not on --device {device}; "
            f"give --device cuda with CUDA_VISIBLE_DEVICES={device.index}"
        )
