"""Writes a stream's sources without the texts that hold a test example, and a report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.language.data.mixture import caps_of, fields_of, source_names, without_weight
from vfunc.language.data.record_hub import open_hub
from vfunc.language.data.records import is_file
from vfunc.language.data.sources import Examples, load_examples
from vfunc.language.decontamination.near_duplicates import Measures, Questions


@dataclass(frozen=True)
class Asked:
    """What to clean of what, and where to write.

    Attributes:
        stream: sources of texts; a weight behind one does not count.
        against: sources of test examples.
        out: the folder to write to.
        stream_fields: see the option of a run.
        against_fields: the same of the test examples.
        stream_cap: see the option of a run.
    """

    stream: tuple[str, ...]
    against: tuple[str, ...]
    out: Path
    stream_fields: str | None = None
    against_fields: str | None = None
    stream_cap: tuple[int, ...] | None = None


def decontaminate(asked: Asked, measures: Measures) -> dict[str, Any]:
    """Write the stream without what holds test examples, and the report, which is returned.

    Args:
        asked: sources, and where to write.
        measures: how texts are compared.

    Raises:
        UserError: a source cannot be read, or the folder not be written.
    """
    against = [without_weight(name) for name in asked.against]
    fields = fields_of(asked.against_fields, len(against), "against")
    tests: list[tuple[str, int, str]] = []
    for name, own in zip(against, fields, strict=True):
        loaded = load_examples(name, split="eval", fields=own)
        tests += [(name, n, e.prompt or e.completion) for n, e in enumerate(loaded.examples, 1)]
    questions = Questions([text for _, _, text in tests], measures)
    names = [without_weight(name) for name in asked.stream]
    caps = caps_of(asked.stream_cap, len(names))
    fields = fields_of(asked.stream_fields, len(names), "stream")
    out = asked.out
    removed: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, stem, cap, own in zip(names, _file_names(names), caps, fields, strict=True):
            read = _opened(name, own)
            path = out / f"{stem}.jsonl"
            half = path.with_name(path.name + ".part")
            kept = number = 0
            with half.open("w", encoding="utf-8", newline="\n") as file:
                for number, (text, record, behind) in enumerate(_with_next(_texts(read, cap)), 1):
                    found = questions.found_in(text) or questions.found_between(text, behind)
                    for one in found:
                        removed.append(
                            {
                                "source": name,
                                "text": number,
                                "against": tests[one.number][0],
                                "example": tests[one.number][1],
                                "jaccard": round(one.jaccard, 4),
                                "containment": round(one.containment, 4),
                                "question": tests[one.number][2].strip()[:300],
                                "begins": text.strip()[:200],
                            }
                        )
                    if not found:
                        kept += 1
                        file.write(_line_of(record) + "\n")
            os.replace(half, path)
            counts = {"source": name, "file": path.name, "read": number, "kept": kept}
            sources.append(counts | {"removed": number - kept, "unusable": dict(read.dropped)})
        report = {
            "measures": asdict(measures),
            "sources": sources,
            "against": [
                {"source": name, "examples": sum(t[0] == name for t in tests)} for name in against
            ],
            "too_short": questions.short,
            "windows_hashed": questions.looked_at,
            "candidates": questions.candidates,
            "matches": removed,
        }
        (out / "report.json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (out / "report.md").write_text(_readable(report), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from error
    return report


def _file_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of files, each its own: what cannot stand in one may make two alike."""
    return source_names([re.sub(r"[^\w.-]", "_", stem) for stem in source_names(names)])


def _line_of(record: Mapping[str, Any]) -> str:
    said = json.dumps(dict(record), ensure_ascii=False, default=str)
    try:
        said.encode()
    except UnicodeEncodeError:  # half a surrogate pair in a field that is not read
        return json.dumps(dict(record), default=str)
    return said


def _opened(name: str, fields: str | None) -> Examples:
    opened = None if is_file(name) else open_hub(name, streaming=True)
    return Examples(name, "stream", fields, opened=opened)


@dataclass(frozen=True)
class _Text:
    """A text with its record; a long text file comes in the pieces that it is read in.

    Attributes:
        text: the text.
        record: its record.
        ends: whether the next one does not go on with it.
    """

    text: str
    record: Mapping[str, Any]
    ends: bool


def _texts(read: Examples, cap: int | None) -> Iterator[_Text]:
    while cap is None or read.usable < cap:
        example = next(read, None)
        if example is None:
            return
        yield _Text(example.prompt + example.completion, read.record, example.ends)


def _with_next(texts: Iterator[_Text]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every text, its record, and the piece that goes on with it; "" where none does."""
    before = None
    for one in texts:
        if before is not None:
            yield before.text, before.record, "" if before.ends else one.text
        before = one
    if before is not None:
        yield before.text, before.record, ""


def told(report: Mapping[str, Any]) -> str:
    """What became of each source, a line each."""
    lines = [
        f"{one['source']}: {one['removed']:,} of {one['read']:,} texts removed, "
        f"{one['kept']:,} kept"
        for one in report["sources"]
    ]
    if report["too_short"]:
        lines.append(f"{report['too_short']:,} test examples are too short to be looked for")
    return "\n".join(lines)


def _readable(report: Mapping[str, Any]) -> str:
    measures = report["measures"]
    lines = [
        "# Decontamination",
        "",
        *told(report).splitlines(),
        "",
        "Removed is what has, with a test example, a Jaccard similarity of "
        f"{measures['jaccard']:g} in {measures['n']}-grams of words, or "
        f"{measures['containment']:g} of its n-grams.",
        "",
        "| text | test example | Jaccard | containment | question |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in report["matches"]:
        question = " ".join(one["question"].split()).replace("|", "\\|")[:120]
        lines.append(
            f"| {one['source']} {one['text']} | {one['against']} {one['example']} | "
            f"{one['jaccard']:.2f} | {one['containment']:.2f} | {question} |"
        )
    return "\n".join(lines) + "\n"
