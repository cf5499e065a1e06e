"""Options of the smallest run: one arm, no designer."""

from __future__ import annotations

BASELINE = {
    "arms": "baseline",
    "budget": "1steps",
    "probe_batches": None,
    "meta_period": None,
    "feedback_size": None,
    "certify": None,
}
"""None leaves out what a baseline has no use for."""
