"""The commands of experiments/ do what they did when the golden records were made.

Where libraries and processor are those of the recording, everything is compared bit for bit. Elsewhere what
is there, and of what kind, has to be the same, words and whole numbers too, and floats roughly, up
to `RELATIVE` or `ABSOLUTE`: rounding grows where a few bfloat16 steps, or a difference of two nearly
equal losses, are looked at. Hashes, p values and whether a generated answer is right are not
compared there. record.py tells how records are made anew.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from golden_cases import CASES
from golden_contents import hash_of_tensors, lasting, lasting_lines
from golden_run import carry_out, fingerprint

HERE = Path(__file__).resolve().parent
RELATIVE, ABSOLUTE = 0.25, 0.1
ONLY_EXACT = ("sha256", "hashes", "p_value", "pass_at_1")
SHOWN = 12
NUMBER = re.compile(r"[-+−]?\d[\d.,]*(e[-+]?\d+)?k?( n\.s\.)?|nan")


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every value of a record by its path; an empty list or dict is a value."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {p: v for k, x in items for p, v in leaves(x, f"{path} > {k}").items()}
    return {path: value}


def same(found: Any, kept: Any, exact: bool) -> bool:
    """Whether two values of a record are equal, or close where bits may differ."""
    if exact or type(found) is not type(kept):
        return json.dumps(found) == json.dumps(kept)
    if isinstance(found, float):
        close = math.isclose(found, kept, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        return close or (math.isnan(found) and math.isnan(kept))
    if isinstance(found, str):
        return NUMBER.sub("#", found) == NUMBER.sub("#", kept)
    return found == kept


def differences(found: Any, kept: Any, exact: bool) -> list[str]:
    """A line for each value that differs, is missing or is new, in the order of the record."""
    found, kept = leaves(found), leaves(kept)
    said = []
    for path in dict.fromkeys([*kept, *found]):
        if not exact and any(word in path for word in ONLY_EXACT):
            continue
        if path not in found:
            said.append(f"{path}\n    recorded {kept[path]!r}\n    now      missing")
        elif path not in kept:
            said.append(f"{path}\n    recorded nothing\n    now      {found[path]!r}")
        elif not same(found[path], kept[path], exact):
            said.append(f"{path}\n    recorded {kept[path]!r}\n    now      {found[path]!r}")
    return said


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The record of a case as it is now; the process of them all runs once a session."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "golden"

    def get(name: str) -> dict[str, Any]:
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                carry_out(list(CASES), folder)
        made = folder / f"{name}.json"
        if not made.is_file():
            error = made.with_suffix(".error")
            pytest.fail(error.read_text() if error.is_file() else "its process died", pytrace=False)
        return json.loads(made.read_text(encoding="utf-8"))

    return get


@pytest.mark.parametrize("name", CASES)
def test_as_recorded(name, outcome):
    kept = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    found = outcome(name)
    exact = kept.pop("recorded_with") == found.pop("recorded_with") == fingerprint()
    said = differences(found, kept, exact)
    if said:
        how = "bit for bit" if exact else "closely, libraries or processor being others"
        more = f"\n... and {len(said) - SHOWN} more" * (len(said) > SHOWN)
        first = "\n".join(said[:SHOWN])
        pytest.fail(f"{name}, compared {how}: {len(said)} differ\n{first}{more}", pytrace=False)


def test_every_record_has_its_case():
    assert {p.stem for p in HERE.glob("*.json")} == set(CASES)


def test_what_passes_is_left_out_and_long_lists_are_hashed():
    kept = lasting({"seconds": 1.0, "step": 2, "of": {"versions": {}, "x": [1, [2.5]]}})
    assert kept == {"step": 2, "of": {"x": [1, [2.5]]}}
    one, other = (lasting([[float(i)] * 10 for i in ends]) for ends in ((1, 2), (1, 3)))
    assert one["size"] == 20 and one["sha256"] != other["sha256"]
    table = (
        "| arm | tokens per s | loss |\n| --- | --- | --- |\n| a | 3.6k | 0.1 |\n\nmore | or | less"
    )
    wanted = ["| arm | loss |", "| --- | --- |", "| a | 0.1 |", "", "more | or | less"]
    assert lasting_lines(table) == wanted


def test_a_hash_of_tensors_is_not_of_their_order():
    def file(*names: str, shape: int = 1) -> bytes:
        spans = {n: [4 * i, 4 * i + 4] for i, n in enumerate(names)}
        x = {"dtype": "F32", "shape": [shape]}
        header = json.dumps({n: x | {"data_offsets": s} for n, s in spans.items()}).encode()
        return len(header).to_bytes(8, "little") + header + b"".join(n.encode() * 4 for n in names)

    assert hash_of_tensors(file("a", "b")) == hash_of_tensors(file("b", "a"))
    assert hash_of_tensors(file("a", "b")) != hash_of_tensors(file("a", "c"))
    assert hash_of_tensors(file("a")) != hash_of_tensors(file("a", shape=2))


def test_values_elsewhere_are_compared_closely():
    kept = {"loss": 1.0, "step": 2, "said": "gap 1e-12", "rows": [{"sha256": "a"}]}
    moved = {"loss": 1.01, "step": 2, "said": "gap 3e-11", "rows": [{"sha256": "b"}]}
    assert len(differences(moved, kept, exact=True)) == 3
    assert not differences(moved, kept, exact=False)
    for change in ({"loss": 1.5}, {"step": 3}, {"said": "no gap"}, {"rows": []}, {"new": 1}):
        assert differences(kept | change, kept, exact=False), change
