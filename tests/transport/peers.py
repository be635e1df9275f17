"""What the tests of the link share: threads beside the test, and peers that misbehave."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from migrate.transport import frames
from migrate.transport.channel import ByteChannel, channel_pair
from migrate.transport.control_pb2 import Control, Hello
from migrate.transport.frames import Header, Kind
from migrate.transport.link import Link
from migrate.transport.sending import StreamWriter

Links = tuple[Link, Link]


class Background:
    """Something that runs beside the test; its result or error is there afterwards."""

    def __init__(self, run: Callable[..., Any], *args: object) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run, *args))
        self._thread.start()

    def _run(self, run: Callable[..., Any], *args: object) -> None:
        try:
            self.result = run(*args)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def join(self) -> Any:
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def write_for_ever(writer: StreamWriter) -> None:
    while True:
        writer.write(os.urandom(100_000))


def raw_peer(*, greet: bool = True) -> tuple[Link, ByteChannel, Background]:
    """A link as source, and the bare channel to it, for a peer that misbehaves."""
    left, right = channel_pair()
    link = Link(left, "source", silence_seconds=10)
    greeting = Background(lambda: link.handshake(timeout_seconds=5))
    if greet:
        hello = Hello(
            oldest_version=1,
            newest_version=1,
            nonce=bytes(16),
            role="destination",
            max_chunk_bytes=frames.MAX_CHUNK_BYTES,
            window_bytes=1 << 20,
            silence_ms=10_000,
        )
        data = Control(id=1, hello=hello).SerializeToString()
        right.send(frames.PREAMBLE, Header(Kind.CONTROL, len(data)).pack(), data)
        greeting.join()
    return link, right, greeting
