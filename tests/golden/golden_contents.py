"""What a case's commands wrote, as a record that can be compared: no times, no versions."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

# wall clock and provenance
PASSING = {"seconds", "wall_seconds", "units_a_second", "tokens_per_second", "git_commit",
           "versions", "platform", "speed"}  # fmt: skip
ZIPPED = "UEsDB"  # how arrays that are zipped and written in base64 begin
CHECKOUT = str(Path(__file__).parents[2]).encode()  # adapters name the embedded learner by its path
LONGEST = 12  # a list of more numbers or words is hashed


def contents(folder: Path) -> dict[str, Any]:
    """A record of everything below a folder: names of all files, and what stands in each.

    JSON without what passes (wall clock, provenance), TOML as what it says (its comments and the
    order of its keys are not promised), text line by line, a hash of the tensors of each
    safetensors file and of every other file but pictures.
    """
    # the manifest holds digests of files with times in them
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    record: dict[str, Any] = {}
    hashes, others = {}, []
    for path in paths:
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            record[name] = [lasting(json.loads(line)) for line in lines]
        elif path.suffix == ".json" and "learners" not in path.parts:
            record[name] = _lasting_results(path)
        elif path.suffix == ".md" and "learners" not in path.parts:
            record[name] = lasting_lines(path.read_text(encoding="utf-8"))
        elif path.suffix == ".toml" and "learners" not in path.parts:
            record[name] = dict(sorted(tomllib.loads(path.read_text(encoding="utf-8")).items()))
        elif path.suffix == ".safetensors":
            hashes[name] = hash_of_tensors(path.read_bytes())
        elif path.suffix not in (".png", ".txt", ".html"):  # the page and table.txt hold speeds
            hashes[name] = hash_of(path.read_bytes().replace(CHECKOUT, b""))
        else:
            others.append(name)
    return record | {"hashes": hashes, "other files": others}


def hash_of(*parts: bytes) -> str:
    """A hash, shortened."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:24]


def lasting(value: Any) -> Any:
    """A value of JSON without what passes; long lists hashed."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in PASSING}
    if isinstance(value, str) and value.startswith(ZIPPED):
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(value))) as arrays:
            return {n: {"sha256": hash_of(arrays.read(n))} for n in sorted(arrays.namelist())}
    if not isinstance(value, list):
        return value
    size = _size(value)
    if size is None or size <= LONGEST:
        return [lasting(v) for v in value]
    return {"size": size, "sha256": hash_of(json.dumps(value).encode())}


def _size(value: Any) -> int | None:
    """Numbers and words in a list of (lists of) them; None if there is anything else."""
    if isinstance(value, dict):
        return None
    if not isinstance(value, list):
        return 1
    sizes = [_size(v) for v in value]
    return None if None in sizes else sum(s for s in sizes if s is not None)


def _lasting_results(path: Path) -> Any:
    """Of the configuration only what the run's config.toml does not say; None is not said."""
    found = lasting(json.loads(path.read_text(encoding="utf-8")))
    beside = path.parent / "config.toml"
    if isinstance(found, dict) and "config" in found and beside.is_file():
        said = tomllib.loads(beside.read_text(encoding="utf-8"))
        found["config"] = {
            k: v for k, v in found["config"].items() if v is not None and said.get(k) != v
        }
    for one in found.get("runs", ()) if isinstance(found, dict) else ():
        one.pop("config", None)  # the runs' own files hold it
    return found


def lasting_lines(text: str) -> list[str]:
    """The lines of a text, without columns of speed in its tables and without provenance."""
    lines: list[str] = []
    speeds: set[int] = set()
    for line in text.splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            speeds = set()
            if not line.startswith(("- commit", "- python")):
                lines.append(line)
            continue
        if not (lines and lines[-1].startswith("|")):
            speeds = {i for i, c in enumerate(cells) if " per s" in c or "/s" in c}
        lines.append("|".join(c for i, c in enumerate(cells) if i not in speeds))
    return lines


def hash_of_tensors(data: bytes) -> str:
    """The hash of names, dtypes, shapes and bytes, in the order of names."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    parts = []
    for name, x in sorted((k, v) for k, v in header.items() if k != "__metadata__"):
        first, last = (start + offset for offset in x["data_offsets"])
        parts += [json.dumps([name, x["dtype"], x["shape"]]).encode(), data[first:last]]
    return hash_of(*parts)


def written(record: dict[str, Any]) -> str:
    """A record as JSON, one event, line of text or entry a line; floats as repr has them."""
    parts = []
    for name, value in record.items():
        if isinstance(value, list):
            inner = [json.dumps(v, ensure_ascii=False) for v in value]
        elif isinstance(value, dict):
            inner = [
                f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items()
            ]
        else:
            raise TypeError(f"{name}: {type(value).__name__}")
        opened, closed = "[]" if isinstance(value, list) else "{}"
        parts.append(f"{json.dumps(name)}: {opened}\n" + ",\n".join(inner) + f"\n{closed}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
