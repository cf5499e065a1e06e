"""Names of the embedded problems on scenes, and of what their scenes are for."""

from __future__ import annotations

from typing import Literal

Problem = Literal["shortcut", "clean", "repetitive"]
ROLES = ("stream", "heads", "feedback", "held_out", "fit", "test")
"""What scenes are for; `test` is either split that is evaluated on."""
