"""Reads records, each with its place, from a file or a data set of the Hugging Face Hub.

A file is `.jsonl` (one JSON object a line), `.json` (a list of objects), `.csv` (a header, then a
record a row) or `.txt` (one document, a record with the single field `text`), each also gzipped
with `.gz` appended and then read as a stream; or `.parquet`. A Hub id is `ID[:CONFIG[:SPLIT]]`.
What cannot be read is a `UserError` that names the file and the line.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from vfunc.errors import UserError
from vfunc.hub import hub_within_reach

Record = tuple[str, Mapping[str, Any]]  # where it stands (for messages), and its fields

SUFFIXES = (
    *(".jsonl", ".jsonl.gz", ".json", ".json.gz", ".txt", ".txt.gz"),
    *(".csv", ".csv.gz", ".parquet"),
)

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?::[^:]*){0,2}")


def read_records(source: str) -> Iterator[Record]:
    """The records of a file or of a Hub data set, in order.

    Args:
        source: a path, or a Hub id `ID[:CONFIG[:SPLIT]]` (default split: train).

    Returns:
        An iterator over (where, fields); `where` names file and line, or data set and record.

    Raises:
        UserError: while iterating: missing, unreadable, corrupt or malformed.
    """
    return _file_records(Path(source).expanduser()) if is_file(source) else _hub_records(source)


def is_file(source: str) -> bool:
    """Whether a source names a file: it exists, ends as one, or starts as a path."""
    looks_local = source.endswith(SUFFIXES) or source.startswith(("/", "./", "../", "~"))
    return looks_local or Path(source).exists()


def is_text(source: str) -> bool:
    """Whether a source is a text file, which has no fields of its own."""
    return is_file(source) and source.removesuffix(".gz").endswith(".txt")


def require_unicode(where: str, text: str) -> None:
    """Refuse a text that cannot be written as UTF-8: JSON can name halves of characters.

    Raises:
        UserError: there is such a half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: not valid Unicode ({error.reason}).") from error


def _require_file(path: Path) -> None:
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            raise UserError(f"{path}: there is no folder {folder}.")
        near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()])
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UserError(f"{path}: there is no such file in {folder.resolve()}{hint}")
    if not path.is_file():
        raise UserError(f"{path}: is not a file; give one of the form {', '.join(SUFFIXES)}.")
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}.")


def _file_records(path: Path) -> Iterator[Record]:
    _require_file(path)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        yield from _parquet_records(path)
        return
    try:
        # As bytes: decoding a line at a time tells which line is not UTF-8.
        with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as file:
            if kind == "jsonl":
                for number, line in enumerate(file, start=1):
                    where = f"{path}, line {number}"
                    if text := _decode(where, line.removeprefix(BOM_UTF8)).rstrip():
                        yield _as_record(where, _parse(path, text, number))
                return
            whole = _decode(str(path), file.read().removeprefix(BOM_UTF8))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: corrupt or cut-off gzip file ({error}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if kind == "csv":
        yield from _csv_records(path, whole)
        return
    if kind == "txt":
        yield str(path), {"text": whole.replace("\r\n", "\n")}
        return
    records = _parse(path, whole, 1) if whole.strip() else []
    if not isinstance(records, list):
        raise UserError(f"{path}: a .json file holds a list of records; for one a line use .jsonl.")
    for number, record in enumerate(records, start=1):
        yield _as_record(f"{path}, record {number}", record)


def _csv_records(path: Path, whole: str) -> Iterator[Record]:
    limit = csv.field_size_limit(len(whole) + 1)
    try:
        reader = csv.DictReader(io.StringIO(whole, newline=""), strict=True)
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if len(set(names)) < len(names):
            raise UserError(f"{path}: two columns of one name in the header {', '.join(names)}.")
        for record in reader:
            where = f"{path}, line {reader.line_num}"
            if None in record or None in record.values():
                raise UserError(
                    f"{where}: not {len(names)} fields as in the header; quote those with commas."
                )
            yield where, record
    except csv.Error as error:
        raise UserError(
            f"{path}: malformed CSV ({error}); commas separate its cells, and quotes hold those "
            "with commas, quotes or newlines."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _parquet_records(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet  # comes with datasets: only where it is needed
    except ImportError as error:
        raise UserError(f"{path}: reading it needs pyarrow; pip install pyarrow.") from error
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path}, record {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: no parquet file, or a damaged one ({reason}).") from error


def _decode(where: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text ({error.reason} at byte {error.start}); convert it."
        ) from error


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {line + error.lineno - 1}, column {error.colno}"
        raise UserError(f"{path}, {at}: malformed JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {line}: malformed JSON ({error}).") from error


def _as_record(where: str, record: Any) -> Record:
    if not isinstance(record, dict):
        raise UserError(f"{where}: a record has to be a JSON object, not {type(record).__name__}.")
    return where, record


def _hub_records(name: str) -> Iterator[Record]:
    if not _HUB_ID.fullmatch(name):
        raise UserError(f"{name!r}: neither a file nor a Hub id ID[:CONFIG[:SPLIT]].")
    hub_id, config, split = (*name.split(":"), "", "")[:3]
    import datasets  # 1.5 s to import: only where it is needed

    with hub_within_reach() as reachable:
        try:
            loaded = datasets.load_dataset(hub_id, config or None, split=split or "train")
        except Exception as error:
            # Its own errors, and those of pyarrow and the builders, share no base.
            if not reachable:
                raise UserError(
                    f"{name}: no such file, and the Hub cannot be reached (nor is it in the local "
                    "cache); give a file, or connect to the network."
                ) from error
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{name}: cannot be loaded from the Hub ({reason}).") from error
    for number, record in enumerate(loaded, start=1):
        yield f"{name}, record {number}", cast("Mapping[str, Any]", record)
