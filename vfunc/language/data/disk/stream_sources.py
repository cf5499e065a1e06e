"""Prepares a run's stream: its sources in segments, as a mixture, with a progress bar."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from transformers import PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.data.chat_format import ChatFormat, plain_chat
from vfunc.language.data.disk.cache_key import key_of, source_of_file
from vfunc.language.data.disk.segment_maker import SegmentMaker
from vfunc.language.data.disk.stored_sequences import StoredSequences, Watch
from vfunc.language.data.examples import Example
from vfunc.language.data.record_hub import HubData, open_hub
from vfunc.language.data.records import is_file
from vfunc.language.data.sequences import InterleavedStream, TokenStream, WeightedStream
from vfunc.language.data.sources import Examples, load_examples, nothing_left
from vfunc.language.data.tokenise import EncodedSet, nothing_to_use, padding
from vfunc.language.sound_learner import require_known
from vfunc.printable import SafeConsole


@dataclass(frozen=True)
class StreamSource:
    """A source of a stream.

    Attributes:
        name: a file or Hub id.
        fields: which fields are read; None recognises them.
        cap: the most examples, the first; None are all.
        limit: how many are drawn from all of it; None are all.
        domain: the domain of its sequences.
    """

    name: str
    fields: str | None = None
    cap: int | None = None
    limit: int | None = None
    domain: int = 0


@dataclass(frozen=True)
class Cutting:
    """How a stream is cut, ordered and kept.

    Attributes:
        length: T, largest number of predictions in a sequence.
        pack: whether documents of raw text are joined.
        weights: the sources' shares; None takes them in turn.
        window: sequences among which sources are shuffled, read as they come; 0 shuffles each as a
            whole.
        folder: where segments are kept; None keeps them in memory.
        seed: seed of the order, and of what a limit draws.
        vocabulary: rows of the learner's embedding, which tokens are held to; None looks at none.
        bar: whether a progress bar is shown.
    """

    length: int
    pack: bool = False
    weights: tuple[float, ...] | None = None
    window: int = 0
    folder: Path | None = None
    seed: int = 0
    vocabulary: int | None = None
    bar: bool = False


@dataclass(frozen=True)
class PreparedStream:
    """A stream, and what there is to say of it.

    Attributes:
        stream: its order.
        summary: counts, as of the other splits; of what is read as it comes, of its beginning.
        digest: what tells its contents from others.
        chat: whether some source holds conversations.
        wrong: whether a token is known to be mistaken, as far as it is read.
    """

    stream: TokenStream | InterleavedStream | WeightedStream
    summary: Mapping[str, Any]
    digest: str
    chat: bool
    wrong: bool


def prepare_stream(
    sources: Sequence[StreamSource],
    tokenizer: PreTrainedTokenizerBase,
    cutting: Cutting,
    chat: ChatFormat = plain_chat,
) -> PreparedStream:
    """Tokenise a stream's sources, as far as is not done yet, and put it together.

    Args:
        sources: its sources.
        tokenizer: the learner's tokeniser.
        cutting: how it is cut, ordered and kept.
        chat: how conversations are written.

    Returns:
        The stream: a pure function of the position, whoever tokenised what, and when.

    Raises:
        UserError: a source cannot be read, holds nothing to use, or a token that the learner does
            not know.
    """
    opened = [_opener(source, cutting, chat) for source in sources]
    stored = [
        _stored(source, one, tokenizer, cutting)
        for source, one in zip(sources, opened, strict=True)
    ]
    told: list[dict[str, Any]] = []
    for source, one in zip(sources, stored, strict=True):
        with _shown(source, one, cutting) as watch:
            one.grow_to(cutting.window or None, watch)
        _require_some(source, one, cutting)
        # others may have read on: what is said of a run does not depend on them
        told.append(dict(one.first if cutting.window else one.told))
    _require_packed(cutting, told)
    counts = _counts(told)
    sets = tuple(
        EncodedSet(one, counts["dropped"], counts["truncated"], padding(tokenizer))
        for one in stored
    )
    digest = hashlib.sha256()
    for one in stored:
        digest.update(repr(one.checksums[: 1 if cutting.window else None]).encode())
    if cutting.window:  # what is not read yet is told by its commit; files a run digests itself
        for source, (_, told_of) in zip(sources, opened, strict=True):
            if source.limit is None and not is_file(source.name):
                digest.update(repr(told_of()).encode())
    summary = counts | ({"as_read": True} if cutting.window else {})
    return PreparedStream(
        _ordered(sets, cutting),
        summary,
        digest.hexdigest(),
        any(one["examples"]["of_turns"] for one in told),
        any(one["wrong"] for one in told) or (not cutting.window and any(s.wrong for s in stored)),
    )


def _ordered(
    sets: tuple[EncodedSet, ...], cutting: Cutting
) -> TokenStream | InterleavedStream | WeightedStream:
    if cutting.weights is not None or cutting.window:
        return WeightedStream(sets, cutting.weights, cutting.seed, cutting.window or None)
    if len(sets) == 1:
        return TokenStream(sets[0], cutting.seed)
    return InterleavedStream(sets, cutting.seed)


Opener = tuple[Callable[[Mapping[str, Any] | None], Examples], Callable[[], Any]]
"""What opens a source at a place, and what tells its contents."""


def _stored(
    source: StreamSource,
    opener: Opener,
    tokenizer: PreTrainedTokenizerBase,
    cutting: Cutting,
) -> StoredSequences:
    opened, told = opener
    maker = SegmentMaker(opened, tokenizer, cutting.length, cutting.pack, source.cap)
    folder = None
    if cutting.folder is not None:
        drawn = None if source.limit is None else [source.limit, cutting.seed]
        settings = [source.fields, source.cap, drawn, cutting.length, cutting.pack, maker.size]
        folder = cutting.folder / key_of(told(), tokenizer, settings)

    def sound(largest: int) -> None:
        if cutting.vocabulary is not None:
            require_known([largest], cutting.vocabulary, "stream", tokenizer)

    return StoredSequences(maker, folder, domain=source.domain, sound=sound)


def _opener(source: StreamSource, cutting: Cutting, chat: ChatFormat) -> Opener:
    name = source.name
    if source.limit is not None:
        return lambda place: _Drawn(source, cutting.seed, chat, place), lambda: _contents(
            name, None
        )
    if is_file(name):
        return (
            lambda place: Examples(name, "stream", source.fields, chat, place),
            lambda: _contents(name, None),
        )
    hub = open_hub(name, streaming=True)  # its revision is what tells its contents
    unused = [hub]

    def opened(place: Mapping[str, Any] | None) -> Examples:
        fresh = unused.pop() if unused else open_hub(name, streaming=True, revision=hub.revision)
        return Examples(name, "stream", source.fields, chat, place, fresh)

    return opened, lambda: _contents(name, hub)


def _contents(name: str, hub: HubData | None) -> Any:
    if is_file(name):
        return source_of_file(Path(name).expanduser())
    revision = open_hub(name, streaming=False).revision if hub is None else hub.revision
    return {"hub": name, "revision": revision}


class _Drawn(Examples):
    """Examples that a limit draws from all of a source, which are held at once."""

    def __init__(
        self,
        source: StreamSource,
        seed: int,
        chat: ChatFormat,
        place: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(source.name, "stream", source.fields, chat)
        loaded = load_examples(
            source.name,
            split="stream",
            fields=source.fields,
            limit=source.limit,
            seed=seed,
            chat=chat,
        )
        self._loaded = loaded.examples
        self.dropped = Counter(loaded.dropped)
        self.of_turns = loaded.chat
        self.usable = (place or {}).get("usable", 0)

    def __next__(self) -> Example:
        if self.usable == len(self._loaded):
            raise StopIteration
        self.usable += 1
        return self._loaded[self.usable - 1]


def _require_some(source: StreamSource, stored: StoredSequences, cutting: Cutting) -> None:
    if stored.grow_to(1):
        return
    read, encoded = stored.told["examples"], stored.told["encoder"]
    if not read["usable"]:
        raise UserError(nothing_left(source.name, read["dropped"]))
    dropped = Counter(read["dropped"]) + Counter(encoded["dropped"])
    raise UserError(f"{source.name}: {nothing_to_use('stream', dropped, cutting.length)}")


def _require_packed(cutting: Cutting, told: Sequence[Mapping[str, Any]]) -> None:
    if cutting.pack and not any(one["encoder"]["packed"] for one in told):
        raise UserError(
            "--pack joins documents of raw text, and no --stream has any (all records have "
            "prompts); leave it out"
        )


def _counts(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sequences, and examples left out by reason, of all sources together."""
    dropped: Counter[str] = Counter()
    for one in told:
        dropped.update(one["examples"]["dropped"])
    for one in told:
        dropped.update(one["encoder"]["dropped"])
    return {
        "sequences": sum(one["first"] + one["sequences"] for one in told),
        "dropped": dict(dropped),
        "truncated": sum(one["encoder"]["truncated"] for one in told),
    }


@contextlib.contextmanager
def _shown(
    source: StreamSource, stored: StoredSequences, cutting: Cutting
) -> Iterator[Watch | None]:
    """A progress bar, by bytes or examples read, while segments are made."""
    if not cutting.bar:
        yield None
        return
    path = Path(source.name).expanduser()
    by_bytes = is_file(source.name) and path.suffix in (".jsonl", ".txt") and source.cap is None
    total = path.stat().st_size if by_bytes and path.exists() else source.limit or source.cap
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    console = SafeConsole(file=sys.stderr)
    # where nobody looks, a bar that goes away still leaves an empty line
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"tokenising {source.name}", total=total)

        def watch(told: dict[str, Any]) -> None:
            read = told["examples"]
            done = read["place"].get("bytes", 0) if by_bytes else read["usable"]
            said = f"{read['usable']:,} texts, {told['first'] + told['sequences']:,} sequences"
            bar.update(task, completed=done, description=f"tokenising {source.name}: {said}")

        yield watch
