"""Names a value map's picture and moment, from the event that it was logged as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def map_file(event: Mapping[str, Any]) -> str:
    """The name of a map's picture in a run's folder `plots`."""
    ending = "_at_start" if event.get("when") == "start" else ""
    return f"value_map_{event['arm']}{ending}.png"


def map_title(event: Mapping[str, Any]) -> str:
    """Whose map it is, and of when."""
    if event.get("when") == "start":
        return f"{event['arm']}, before it trains"
    return f"{event['arm']}, after {event.get('at_step', '?')} steps"
