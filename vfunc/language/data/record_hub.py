"""Reads the records of a data set of the Hugging Face Hub as they come, on from any place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from vfunc.errors import UserError
from vfunc.hub import hub_within_reach
from vfunc.language.data.record_files import Place

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?::[^:]*){0,2}")


@dataclass(frozen=True)
class HubData:
    """A data set as it was opened.

    Attributes:
        records: its records, perhaps with `datasets`' own state and skipping.
        revision: which contents they are: a commit, or a fingerprint of the local copy; None
            where nothing tells it.
    """

    records: Iterable[Mapping[str, Any]]
    revision: str | None


def open_hub(name: str, *, streaming: bool, revision: str | None = None) -> HubData:
    """Open a data set by its name.

    Args:
        name: `ID[:CONFIG[:SPLIT]]`; the default split is train.
        streaming: whether records come over the network as they are read; without a network, or
            without streaming, the whole data set is in the local cache, memory-mapped.
        revision: the commit to open; None is the newest.

    Raises:
        UserError: the name is none, the Hub cannot be reached, or says why it does not give it.
    """
    if not _HUB_ID.fullmatch(name):
        raise UserError(f"{name!r}: neither a file nor a Hub id ID[:CONFIG[:SPLIT]].")
    hub_id, config, split = (*name.split(":"), "", "")[:3]
    import datasets  # 1.5 s to import: only where it is needed

    with hub_within_reach() as reachable:
        asked: dict[str, Any] = {"split": split or "train"}
        if streaming and reachable:
            asked["streaming"] = True
            revision = revision or _revision(hub_id)
            if revision is not None:
                asked["revision"] = revision
        try:
            loaded = datasets.load_dataset(hub_id, config or None, **asked)
        except Exception as error:
            # Its own errors, and those of pyarrow and the builders, share no base.
            if not reachable:
                raise UserError(
                    f"{name}: no such file, and the Hub cannot be reached (nor is it in the local "
                    "cache); give a file, or connect to the network."
                ) from error
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{name}: cannot be loaded from the Hub ({reason}).") from error
    found = cast("Iterable[Mapping[str, Any]]", loaded)
    return HubData(found, revision or getattr(loaded, "_fingerprint", None))


def hub_records(
    name: str, opened: HubData, place: Place
) -> Iterator[tuple[str, Mapping[str, Any], Callable[[], Place]]]:
    """The records of a data set from a place on, each with what tells the place after it.

    Args:
        name: its name, for messages.
        opened: the data set.
        place: where to begin, as an earlier reading told.

    Raises:
        UserError: while iterating: the connection broke, or the data are damaged.
    """
    records, before = opened.records, place.get("records", 0)
    if before and "hub" in place and hasattr(records, "load_state_dict"):
        cast("Any", records).load_state_dict(place["hub"])
    elif before and hasattr(records, "select"):
        rows: Any = records
        records = rows.select(range(min(before, len(rows)), len(rows)))
    elif before and hasattr(records, "skip"):
        records = cast("Any", records).skip(before)
    elif before:
        records = itertools.islice(records, before, None)
    state = getattr(opened.records, "state_dict", None)
    number = before

    def told() -> Place:
        return {"records": number} | ({} if state is None else {"hub": state()})

    iterator = iter(records)
    while True:
        try:
            record = next(iterator, None)
        except Exception as error:  # of the network, of the builders, of pyarrow
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"{name}, record {number + 1}: cannot be read from the Hub ({reason}); what was "
                "read before is kept, and the same command goes on from there"
            ) from error
        if record is None:
            return
        number += 1
        yield f"{name}, record {number}", record, told


def _revision(hub_id: str) -> str | None:
    """The commit that the data set is at; None where the Hub does not tell."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub_id, timeout=10).sha
    except Exception:  # what it raises depends on its version; opening tells what is wrong
        return None
