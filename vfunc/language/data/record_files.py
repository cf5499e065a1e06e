"""Reads the records of files on from any place: JSON lines, text, parquet, CSV, lists of JSON.

A place is plain data that goes into a file: bytes of a `.jsonl` or `.txt` file (of the text inside,
where it is gzipped), records of the others. JSON lines, text and parquet are read a piece at a
time, whatever their size; a `.json` or `.csv` file is read as a whole.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vfunc.errors import UserError

Record = tuple[str, Mapping[str, Any]]  # where it stands (for messages), and its fields
Place = dict[str, Any]  # where the next record begins; {} is the start
Placed = Iterator[tuple[str, Mapping[str, Any], Place]]

SUFFIXES = (
    *(".jsonl", ".jsonl.gz", ".json", ".json.gz", ".txt", ".txt.gz"),
    *(".csv", ".csv.gz", ".parquet"),
)
PIECE = 2**20
"""Bytes of a text file that are one record, about: larger ones come in pieces."""


class Piece(dict[str, Any]):
    """A record of a text that the next record goes on with."""


def require_file(path: Path) -> None:
    """Refuse what is no file, or of no known kind.

    Raises:
        UserError: it is not.
    """
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


def file_records(path: Path, place: Place) -> Placed:
    """The records of a file from a place on, each with the place after it.

    Args:
        path: the file.
        place: where to begin, as an earlier reading told.

    Raises:
        UserError: while iterating: missing, unreadable, corrupt or malformed.
    """
    require_file(path)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        yield from _parquet_records(path, place.get("records", 0))
        return
    try:
        # As bytes: decoding a line at a time tells which line is not UTF-8.
        with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as file:
            file.seek(place.get("bytes", 0))
            if kind == "jsonl":
                yield from _lines(path, file, place.get("lines", 0))
                return
            if kind == "txt":
                yield from _pieces(path, file, first=not place)
                return
            whole = _decode(str(path), file.read().removeprefix(BOM_UTF8))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: corrupt or cut-off gzip file ({error}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    records = _csv_records(path, whole) if kind == "csv" else _listed(path, whole)
    for number, (where, record) in enumerate(records, start=1):
        if number > place.get("records", 0):
            yield where, record, {"records": number}


def _lines(path: Path, file: io.BufferedIOBase, before: int) -> Placed:
    """A record a line; empty lines are none."""
    at = file.tell()
    for number, line in enumerate(file, start=before + 1):
        at += len(line)
        where = f"{path}, line {number}"
        if text := _decode(where, line.removeprefix(BOM_UTF8)).rstrip():
            record = _as_record(where, _parse(path, text, number))
            yield *record, {"bytes": at, "lines": number}


def _pieces(path: Path, file: io.BufferedIOBase, *, first: bool) -> Placed:
    """A text in pieces that end where a line does and the next one begins with no space.

    Tokenisers split there, so that pieces give the tokens that the whole text would.
    """
    at, ahead = file.tell(), b""
    while True:
        # no matter what was looked at ahead: a piece depends on where it begins alone
        raw = ahead + file.read(PIECE - len(ahead))
        raw, ahead = raw + file.readline(PIECE), b""
        while raw.endswith(b"\n") and len(raw) < 3 * PIECE:
            line = file.readline(PIECE)
            if not line[:1].isspace():
                ahead = line
                break
            raw += line
        ahead = ahead or file.read(1)
        if ahead and (cut := _open_bytes(raw)):  # a line without an end may be cut anywhere
            raw, ahead = raw[:-cut], raw[-cut:] + ahead
        text = _decode(str(path), raw.removeprefix(BOM_UTF8) if first else raw, before=at)
        at, first = at + len(raw), False
        record = {"text": text.replace("\r\n", "\n")}
        yield str(path), Piece(record) if ahead else record, {"bytes": at}
        if not ahead:
            return


def _open_bytes(raw: bytes) -> int:
    """How many bytes at the end are of a character that goes on."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte >= 0xC0:
            whole = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < whole else 0
        if byte < 0x80:
            return 0
    return 0


def _listed(path: Path, whole: str) -> Iterator[Record]:
    """The records of a list."""
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


def _parquet_records(path: Path, skipped: int) -> Placed:
    """Row group by row group; those before the place are not read."""
    try:
        import pyarrow.parquet  # comes with datasets: only where it is needed
    except ImportError as error:
        raise UserError(f"{path}: reading it needs pyarrow; pip install pyarrow.") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= skipped:
                number += rows
                continue
            for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
                if number + len(batch) <= skipped:
                    number += len(batch)
                    continue
                for record in batch.to_pylist():
                    number += 1
                    if number > skipped:
                        yield f"{path}, record {number}", record, {"records": number}
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: no parquet file, or a damaged one ({reason}).") from error


def _decode(where: str, raw: bytes, before: int = 0) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text ({error.reason} at byte {before + error.start}); convert it."
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
