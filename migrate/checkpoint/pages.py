"""CRIU's page-server protocol, and its source end.

Lives here: the record layout, and PageSource, which stands in for a page
server so that CRIU's memory pages leave as one byte stream. Must not live
here: what becomes of the stream (`page_store`, transport). May be imported by
`checkpoint` and `live`.

A dump with `ps.fd` sends its memory to that descriptor (criu/page-xfer.c):
records of 32 bytes, some followed by pages, some answered before CRIU goes on.

    record        payload                  answer
    OPEN2         -                        1 byte: the image has a parent
    PARENT        -                        int32: the image has a parent
    ADD_F         nr_pages whole pages,    -
                  where PE_PRESENT
    FORCE_CLOSE   -                        int32: 0, everything arrived

PageSource answers by itself, so no answer waits for the other host, and hands
the records and pages on as they are. PageStore reads the same stream.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from migrate.errors import CriuError

RECORD = struct.Struct("<I4xQQQ")  # struct page_server_iov: command, pages, address, target
PAGE_SHIFT = 12
COMMAND_MASK = 0xFFFF
FLAGS_SHIFT = 16

PS_IOV_OPEN2 = 4
PS_IOV_PARENT = 5
PS_IOV_ADD_F = 6
PS_IOV_CLOSE = 0x1023
PS_IOV_FORCE_CLOSE = 0x1024

PE_PARENT = 1
PE_LAZY = 2
PE_PRESENT = 4

_CHUNK_BYTES = 1 << 20
# Room for CRIU to splice into while a chunk is being compressed and sent.
_SOCKET_BYTES = 4 << 20
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

Sink = Callable[[memoryview], object]


@dataclass(slots=True, frozen=True)
class StreamSummary:
    """What went through a memory stream; equal on both ends.

    Attributes:
        stream_bytes: records and pages together.
        page_bytes: pages alone.
        digest: xxh3 (128 bits) of the whole stream, hexadecimal.
        complete: CRIU said that nothing follows.
    """

    stream_bytes: int
    page_bytes: int
    digest: str
    complete: bool


class PageSource:
    """A page server for one dump, whose pages go to a callable.

    Give `descriptor` to CRIU (`Session(pass_fds=...)` and `ps.fd`), `start`
    before the request, and ask `finish` for the summary after it.

    Args:
        sink: called with each chunk, from a thread of this object's own; the
            memory is reused when it returns. If it raises, CRIU's dump fails.
        chunk_bytes: size of the chunks; only the last one is smaller.

    Attributes:
        descriptor: number of the end that CRIU inherits; closed here by `start`.
    """

    def __init__(self, sink: Sink, *, chunk_bytes: int = _CHUNK_BYTES) -> None:
        import xxhash

        self._sink = sink
        self._digest = xxhash.xxh3_128()
        self._buffer = bytearray(max(chunk_bytes, 2 * RECORD.size))
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (self._ours, self._theirs):
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        self.descriptor = self._theirs.fileno()
        self._thread = threading.Thread(target=self._run, name="page-source", daemon=True)
        self._error: BaseException | None = None
        self._stream_bytes = 0
        self._page_bytes = 0
        self._complete = False

    @property
    def error(self) -> BaseException | None:
        """What the sink raised, or None."""
        return self._error

    @property
    def stream_bytes(self) -> int:
        """Bytes handed to the sink so far, for progress."""
        return self._stream_bytes

    def start(self) -> None:
        """Begin to serve; CRIU must have been started already.

        The end given to CRIU is closed here, so that CRIU's death is seen.
        """
        self._theirs.close()
        self._thread.start()

    def abort(self) -> None:
        """End the stream now: the dump fails, CRIU lets go of the tasks."""
        with contextlib.suppress(OSError):  # ended already
            self._ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the stream where it is and let go of everything; may be called again."""
        self.abort()
        self._theirs.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._ours.close()

    def finish(self) -> StreamSummary:
        """Wait for the end of the stream and return what went through it.

        Raises:
            CriuError: the stream ended before CRIU had sent everything.
            Exception: what the sink raised.
        """
        if self._thread.ident is not None:
            self._thread.join()
        self.close()
        if self._error is not None:
            raise self._error
        if not self._complete:
            raise CriuError("criu ended its memory stream before everything was sent")
        return StreamSummary(
            self._stream_bytes, self._page_bytes, self._digest.hexdigest(), self._complete
        )

    def _run(self) -> None:
        """Serve until CRIU says that nothing follows, or goes away."""
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - raised by finish()
            self._error = error
        finally:
            # Without the last answer CRIU fails the dump, which is what a lost page must do.
            self.abort()

    def _serve(self) -> None:
        """Fill the buffer from the socket, answer its records, hand it on when full."""
        view = memoryview(self._buffer)
        filled = 0
        record_at = 0  # where the next record begins; often far beyond the buffer
        while True:
            received = self._ours.recv_into(view[filled:])
            if received == 0:
                return
            filled += received
            record_at = self._walk(record_at, filled)
            if self._complete:
                self._emit(view[:filled])
                self._ours.sendall(bytes(4))
                return
            if filled == len(view):
                # A record cut by the end of the buffer stays for the next chunk.
                whole = min(record_at, filled)
                self._emit(view[:whole])
                tail = filled - whole
                self._buffer[:tail] = self._buffer[whole:filled]
                filled = tail
                record_at -= whole

    def _walk(self, record_at: int, filled: int) -> int:
        """Answer the records that lie whole in the buffer; return where the next begins."""
        unpack, size, last = RECORD.unpack_from, RECORD.size, filled - RECORD.size
        buffer = self._buffer
        while record_at <= last:
            command, pages, _, _ = unpack(buffer, record_at)
            record_at += size
            kind = command & COMMAND_MASK
            if kind == PS_IOV_ADD_F:
                if command >> FLAGS_SHIFT & PE_PRESENT:
                    record_at += pages << PAGE_SHIFT
                    self._page_bytes += pages << PAGE_SHIFT
            elif kind == PS_IOV_OPEN2:
                self._ours.sendall(b"\0")
            elif kind == PS_IOV_PARENT:
                self._ours.sendall(bytes(4))
            elif kind in (PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE):
                self._complete = True
                return record_at
            else:
                raise CriuError(f"criu sent an unknown page-server command {command:#x}")
        return record_at

    def _emit(self, chunk: memoryview) -> None:
        """Hand one chunk on."""
        if chunk:
            self._digest.update(chunk)
            self._stream_bytes += len(chunk)
            self._sink(chunk)
