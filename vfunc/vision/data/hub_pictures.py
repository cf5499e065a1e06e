"""Streams pictures of public data sets from the Hugging Face Hub, and keeps their bytes.

Read are the Parquet files that the Hub makes of every data set (its branch refs/convert/parquet):
`datasets` 4 and later no longer runs the scripts that these data sets came with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vfunc.errors import UserError
from vfunc.hub import hub_within_reach
from vfunc.typecheck import typed
from vfunc.vision.data.decoding import Encoded
from vfunc.vision.data.folder_layouts import Entry

BRANCH = "refs/convert/parquet"


@dataclass(frozen=True)
class HubSet:
    """A data set on the Hub.

    Attributes:
        repository: the data set's id.
        config: the configuration's folder on the branch of Parquet files.
        splits: the folders of the training and the test part there.
        columns: columns by field of an `Entry`.
        mixed: whether to shuffle, where rows are sorted by class.
    """

    repository: str
    config: str
    splits: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)
    mixed: bool = False


@typed
def hub_entries(name: str, where: HubSet, part: str, limit: int, instead: str) -> list[Entry]:
    """The first pictures of a part, as they are encoded there.

    Args:
        name: the data set's name, for messages.
        where: the data set on the Hub.
        part: train or test.
        limit: number of pictures to download and keep in memory.
        instead: remedy without a network, for messages.

    Raises:
        UserError: the Hub cannot be reached, or does not give what it should.
    """
    import datasets  # slow to import

    if not _answers():
        raise UserError(f"{name}: the Hugging Face Hub cannot be reached; {instead}")
    files = f"hf://datasets/{where.repository}@{BRANCH}/{where.config}/{where.splits[part]}"
    try:
        rows = datasets.load_dataset(
            "parquet", data_files=f"{files}/*.parquet", split="train", streaming=True
        )
        for column in (c for f, c in where.columns.items() if f != "category"):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        rows = rows.select_columns(list(where.columns.values()))
        if where.mixed:
            rows = rows.shuffle(seed=0, buffer_size=1000)
        return [_entry(f"{name} {part} {i}", where, row) for i, row in enumerate(rows.take(limit))]
    except UserError:
        raise
    except Exception as error:
        # Its own errors, and those of pyarrow and the HTTP library, share no base.
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"{name}: cannot be read from the Hub, {where.repository} ({said}); {instead}"
        ) from error


def _entry(name: str, where: HubSet, row: Mapping[str, Any]) -> Entry:
    fields: dict[str, Any] = {}
    for key, column in where.columns.items():
        value = row[column]
        if key == "category":
            fields[key] = f"{value:04d}"
        elif not (value and value.get("bytes")):
            raise UserError(f"{name}: the Hub's row has no picture in {column}")
        else:
            fields[key] = Encoded(value["bytes"], f"{name} ({column})")
    return Entry(**fields)


def _answers() -> bool:
    with hub_within_reach() as reachable:
        return reachable
