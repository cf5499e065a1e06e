"""The command line, in process and in an empty folder."""

from __future__ import annotations

from small_command import command

__all__ = ["command"]
