"""Asks once whether the Hugging Face Hub answers, before its libraries retry for long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vfunc.extras import needs

TIMEOUT = 5.0
"""Seconds before the request counts as unanswered."""


@contextmanager
def hub_within_reach() -> Iterator[bool]:
    """Whether the Hub answers; if not, its libraries read the local cache alone, without retries.

    Left to itself without a network, `datasets` 5.2 retries for 23 s before it gives up. It has a
    switch of its own: import it before.
    """
    # slow to import: only where a name is not a local file
    with needs("language", "huggingface_hub"):
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session

    imported = sys.modules.get("datasets.config")
    switches: list[Any] = [constants] if imported is None else [constants, imported]
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    reachable = not any(before)
    if reachable:
        try:
            get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
        except Exception:
            # The HTTP library, and with it the errors, depends on huggingface_hub's version.
            reachable = False
    try:
        if not reachable:
            for switch in switches:
                switch.HF_HUB_OFFLINE = True
        yield reachable
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value
