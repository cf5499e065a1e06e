from __future__ import annotations

import numpy as np

from vfunc.studies.score.kinds_table import effects_by_kind, kinds_table


def state(plain, *tasks):
    """Losses of the batches as they are, and of tasks: (kind, share, their losses), by horizon."""
    nothing = [[9.0] * len(plain)] * 2  # other measures do not count
    return {
        "horizons": [1, 4],
        "measures": ["used", "other", "test"],
        "tasks": [{"kind": kind, "number": 0, "share": share} for kind, share, _ in tasks],
        "losses": [[*nothing, plain], *([*nothing, losses] for _, _, losses in tasks)],
    }


STATES = [
    state(
        [1.0, 2.0],
        ("a", 1.0, [0.5, 1.0]),
        ("a", 1.0, [0.7, 1.8]),
        ("a", 0.3, [0.0, 0.0]),
        ("b", 1.0, [1.5, None]),
    ),
    state([1.0, 2.0], ("a", 1.0, [0.9, 2.5]), ("c", 0.1, [0.0, 0.0])),
]


def test_effects_are_means_of_tasks_of_a_kind_and_share_by_state():
    found = effects_by_kind(STATES, "test")
    assert list(found) == [("a", 1.0), ("a", 0.3), ("b", 1.0), ("c", 0.1)]
    assert np.allclose(found["a", 1.0], [[0.4, 0.6], [0.1, -0.5]])
    assert np.allclose(found["b", 1.0], [[-0.5, np.nan], [np.nan, np.nan]], equal_nan=True)
    assert np.allclose(effects_by_kind(STATES, "used")["a", 1.0], 0)


def test_the_table_tells_the_spread_over_states_and_leaves_out_what_is_not_known():
    head, rows = kinds_table(STATES)
    assert head == ["task", "share", "H = 1", "H = 4"]
    assert rows == [
        ["`a`", "1", "+250.00 (+100.00 to +400.00)", "+50.00 (-500.00 to +600.00)"],
        ["`a`", "0.3", "+1000.00", "+2000.00"],
        ["`b`", "1", "-500.00", ""],
        ["`c`", "0.1", "+1000.00", "+2000.00"],
    ]
