"""How one pass over a tree looks on the link, for both halves.

Lives here: names, records and the report of a pass. Must not live here: what is
done about them. `migrate.live.filesystem` only.

    source → destination, stream LABEL/N
        BEGIN     whether frozen, how many files and bytes of content may follow
        batch     what is gone, new and changed (batch.py)
        content   of each file: FILE, its blocks, END
        FILE of kind FINISHED
    destination → source, stream LABEL/N/answer
        choice    in pass 1: which files it wants, and digests of those it has
        outcome   done, or what failed
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from migrate.errors import FileSyncError, LinkError, MigrateError, ProtocolError
from migrate.live.filesystem.batch import Batch, Decoder, encode
from migrate.live.filesystem.content import DIGEST_BYTES
from migrate.transport.receiving import StreamReader
from migrate.transport.sending import StreamWriter

BEGIN = struct.Struct("<BBIQ")  # format, frozen, files, bytes of content
FILE = struct.Struct("<BI")  # kind, id
BLOCK = struct.Struct("<BQI")  # kind, offset, bytes
EXTENT = struct.Struct("<II")  # start within the block, bytes
ANSWER = struct.Struct("<BII")  # kind, rows or bytes, digests

FORMAT = 1
OUTCOME_BYTES = 65536

# What blocks and files cost on the wire beside their content, for the budget that
# is declared before data flows.
FILE_OVERHEAD_BYTES = 64
BLOCK_OVERHEAD_BYTES = 256

_GATHERED_BYTES = 64 * 1024


class FileKind(IntEnum):
    """How a file's content follows."""

    FINISHED = 0
    WHOLE = 1
    """Everything that is data."""
    PATCH = 2
    """The blocks that differ from what was sent before."""
    SAME = 3
    """Nothing: what the destination has is right."""
    GONE = 4
    """Nothing: it was gone or replaced when it was its turn."""


class BlockKind(IntEnum):
    """What follows a block's head."""

    FULL = 1
    SPARSE = 2
    """A count of extents, the extents, their data."""
    ZERO = 3
    END = 4
    """The file's digest; the offset is its size."""


class Want(IntEnum):
    """The destination's choice for a row, in pass 1."""

    NOTHING = 0
    CONTENT = 1
    COMPARE = 2
    """It has a file of this size; its digest follows."""


class AnswerKind(IntEnum):
    """What the destination says."""

    OUTCOME = 0
    """JSON: empty, or what failed."""
    ALL = 1
    """It has nothing yet."""
    ROWS = 2
    """A Want for each row, then the digests."""


@dataclass(slots=True, kw_only=True)
class PassReport:
    """One pass in numbers.

    Attributes:
        number: counted from 1.
        frozen: the container stood still meanwhile.
        entries: files in the tree.
        changed: new and changed entries sent.
        gone: entries removed.
        files: whose content was sent, whole or in part.
        content_bytes: content sent, before compression.
        wire_bytes: what went over the link.
        walk_seconds: time spent looking.
        seconds: time in all, the destination's included.
    """

    number: int
    frozen: bool
    entries: int = 0
    changed: int = 0
    gone: int = 0
    files: int = 0
    content_bytes: int = 0
    wire_bytes: int = 0
    walk_seconds: float = 0.0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)


def stream_name(label: str, number: int) -> str:
    """Name of a pass's stream from source to destination."""
    return f"{label}/{number}"


def answer_name(label: str, number: int) -> str:
    """Name of a pass's stream from destination to source."""
    return f"{label}/{number}/answer"


class Gatherer:
    """Makes few large writes of many small ones."""

    def __init__(self, stream: StreamWriter) -> None:
        self._stream = stream
        self._pieces: list[bytes | memoryview] = []
        self._size = 0

    def write(self, piece: bytes) -> None:
        """Send soon; `piece` must not change."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= _GATHERED_BYTES:
            self.flush()

    def copy(self, piece: memoryview) -> None:
        """Send a copy of what changes later."""
        if len(piece) >= _GATHERED_BYTES:
            self.flush()
            self._stream.write(piece)
        else:
            self.write(bytes(piece))

    def flush(self) -> None:
        """Send what has gathered."""
        if self._pieces:
            self._stream.give(b"".join(self._pieces))
            self._pieces.clear()
            self._size = 0


def write_batch(out: Gatherer, batch: Batch) -> None:
    """Send a batch."""
    for section in encode(batch):
        out.write(section)


def read_batch(stream: StreamReader) -> Batch:
    """Receive a batch.

    Raises:
        ProtocolError: it is none.
    """
    decoder = Decoder()
    sizes = decoder.head(stream.read_exactly(Decoder.HEAD_BYTES))
    return decoder.batch([stream.read_exactly(size) for size in sizes])


def expect_end(stream: StreamReader) -> None:
    """Read the end of a stream, so that closing it is no refusal.

    Raises:
        ProtocolError: there is more.
    """
    if stream.read() is not None:
        raise ProtocolError("file tree: more follows where the pass should end")


def send_outcome(stream: StreamWriter, error: Exception | None) -> None:
    """End the answer with `error`, or with the news that all is well."""
    said: dict[str, str] = {}
    if error is not None:
        hint = error.hint if isinstance(error, MigrateError) else ""
        text = str(error) or type(error).__name__
        said = {"error": text[:4096], "hint": hint[:4096]}
    raw = json.dumps(said).encode()
    stream.write(ANSWER.pack(AnswerKind.OUTCOME, len(raw), 0) + raw)
    stream.close()


def receive_answer(stream: StreamReader, rows: int) -> tuple[bytes, bytes] | None:
    """Wait for the destination's next word.

    Args:
        stream: the answer.
        rows: how many there were in the batch it answers.

    Returns:
        A choice: a `Want` for each row (none at all: everything) and the digests; or
        None where the pass is done.

    Raises:
        FileSyncError: the destination failed; it says how.
        LinkError: no answer will come.
        ProtocolError: it is no answer to that batch.
    """
    kind, size, digests = ANSWER.unpack(stream.read_exactly(ANSWER.size))
    if kind == AnswerKind.ALL:
        return b"", b""
    if kind == AnswerKind.ROWS and size == rows and digests <= rows:
        return stream.read_exactly(size), stream.read_exactly(digests * DIGEST_BYTES)
    if kind != AnswerKind.OUTCOME or size > OUTCOME_BYTES:
        raise ProtocolError("file tree: the destination's answer does not fit")
    try:
        said = json.loads(stream.read_exactly(size))
        error, hint = said.get("error", ""), said.get("hint", "")
    except (ValueError, AttributeError):
        raise ProtocolError("file tree: the outcome of a pass is not readable") from None
    if error:
        raise FileSyncError(f"destination: {error}", str(hint))
    expect_end(stream)
    return None


def explain(stream: StreamReader, rows: int, broken: LinkError) -> MigrateError:
    """Find out why the destination gave a pass up: its outcome, else `broken`."""
    try:
        while receive_answer(stream, rows) is not None:
            pass
    except FileSyncError as said:
        return said
    except MigrateError:
        pass
    return broken
