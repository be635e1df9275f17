"""Messages on a link: requests with their replies, events, and what waits to be received.

Lives here: the inbox and its budget, matching of replies, JSON in and out. Must
not live here: frames, what a method means. `migrate.live` sees it as `Link`.
"""

from __future__ import annotations

import collections
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from migrate.errors import (
    LinkClosed,
    LinkError,
    MigrateError,
    PeerError,
    ProtocolError,
    TransportError,
)
from migrate.transport import frames
from migrate.transport.control_pb2 import Call, Control, Error, Event, Result
from migrate.transport.fate import Fate
from migrate.transport.frames import Kind
from migrate.transport.sending import Outbox

# What may wait for `receive`; a peer that sends more is at fault, since the
# other side answers every call.
_INBOX_MESSAGES = 4096
_INBOX_BYTES = 4 * frames.MAX_CONTROL_BYTES

# A peer that calls more often than it is answered waits in the inbox.
_CALLS_AT_ONCE = 16

# Events wait apart: they are for people, so the oldest goes when nobody looks.
_EVENTS = 4096


class Messages:
    """The message half of a `Link`."""

    def __init__(self, fate: Fate, outbox: Outbox, peer_name: str) -> None:
        self.peer_name = peer_name
        """What error messages call the other side."""
        self.message_threads: list[threading.Thread] = []
        self._fate = fate
        self._outbox = outbox
        self._last_id = 0
        self._inbox: collections.deque[tuple[Control, int]] = collections.deque()
        self._inbox_bytes = 0
        self._replies: dict[int, Control | None] = {}
        self._events: collections.deque[Any] = collections.deque(maxlen=_EVENTS)
        self._arrival = fate.condition()
        self._answer = fate.condition()
        self._happened = fate.condition()

    # Sending.

    def send(self, message: Control) -> int:
        """Send `message` with an id of its own and return that id.

        Blocks only while the peer takes no messages at all.

        Raises:
            LinkError: the link broke.
            ProtocolError: the message is larger than a frame may be.
        """
        with self._fate.lock:
            return self._send_locked(message)

    def _send_locked(self, message: Control) -> int:
        self._outbox.wait_for_control_room()
        self._last_id += 1
        message.id = self._last_id
        data = message.SerializeToString()
        if len(data) > frames.MAX_CONTROL_BYTES:
            raise ProtocolError(
                f"message of {len(data)} bytes, where {frames.MAX_CONTROL_BYTES} are the most",
                "Send what is this large on a stream.",
            )
        self._outbox.queue_control(Kind.CONTROL, data)
        return message.id

    def request(self, message: Control, timeout_seconds: float | None = None) -> Control:
        """Send `message` and return what the peer answers to it.

        Raises:
            PeerError: the peer answered with an error.
            LinkError: the link broke, or no answer came in time.
        """
        with self._fate.lock:
            number = self._send_locked(message)
            self._replies[number] = None
            try:
                answered = self._fate.wait(
                    self._answer,
                    lambda: self._replies[number] is not None,
                    timeout_seconds,
                    drain=True,
                )
            finally:
                reply = self._replies.pop(number)
        if not answered or reply is None:
            raise LinkError(f"{self.peer_name}: no answer within {timeout_seconds} s")
        if reply.HasField("error"):
            said = (reply.error.code, reply.error.message, reply.error.hint)
            raise PeerError(self.peer_name, *map(frames.fit_for_people, said))
        return reply

    def call(self, method: str, value: object = None, timeout_seconds: float | None = None) -> Any:
        """Call `method` of the peer with a JSON-able value; return the one it answers with.

        Raises:
            PeerError: the peer answered with an error.
            LinkError: the link broke, or no answer came in time.
            ProtocolError: the answer is not JSON.
        """
        reply = self.request(Control(call=Call(method=method, json=_pack(value))), timeout_seconds)
        if not reply.HasField("result"):
            raise ProtocolError(f"{self.peer_name}: answered {method} with no result")
        return self.decode(reply.result.json)

    def reply(self, to: Control, value: object = None) -> None:
        """Answer a received call with a JSON-able value."""
        self.send(Control(reply_to=to.id, result=Result(json=_pack(value))))

    def reply_error(self, to: Control, error: BaseException) -> None:
        """Answer a received call with an error; the peer's request raises it."""
        known = isinstance(error, MigrateError)
        body = Error(
            code=error.code if isinstance(error, MigrateError) else MigrateError.code,
            message=str(error) if known else f"{type(error).__name__}: {error}",
            hint=error.hint if isinstance(error, MigrateError) else "",
        )
        self.send(Control(reply_to=to.id, error=body))

    def send_event(self, value: object) -> None:
        """Send a JSON-able event; the peer's `on_event` gets it, nobody answers."""
        self.send(Control(event=Event(json=_pack(value))))

    def decode(self, data: bytes) -> Any:
        """Return the value of a message's JSON.

        Raises:
            ProtocolError: it is not JSON.
        """
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{self.peer_name}: sent what is not JSON: {error}") from error

    # Receiving.

    def receive(self, timeout_seconds: float | None = None) -> Control | None:
        """Return the next message that is neither a reply nor an event; None in time.

        Raises:
            LinkClosed: the peer closed the link, and nothing is left to receive.
            LinkError: the link broke.
        """
        with self._fate.lock:
            if not self._fate.wait(
                self._arrival, lambda: bool(self._inbox), timeout_seconds, drain=True
            ):
                return None
            message, size = self._inbox.popleft()
            self._inbox_bytes -= size
            return message

    def serve(self, methods: Mapping[str, Callable[[Any], object]]) -> None:
        """Answer calls until the peer closes the link, each in a thread of its own.

        Args:
            methods: what to run for each method; gets the call's value, and
                returns the answer's or raises, which the caller then gets.

        Raises:
            LinkError: the link broke.
        """
        slots = threading.Semaphore(_CALLS_AT_ONCE)
        while True:
            try:
                message = self.receive()
            except LinkClosed:
                return
            if message is None:
                continue
            run = methods.get(message.call.method)
            if run is None:
                what = message.call.method or message.WhichOneof("body")
                self.reply_error(message, ProtocolError(f"{what}: unknown here"))
                continue
            slots.acquire()
            if self._fate.error is not None:
                continue  # what came before the end, and can be answered no more
            name = f"link-call-{message.call.method}"
            self._spawn(name, self._answer_call, run, message, slots)

    def _answer_call(
        self, run: Callable[[Any], object], message: Control, slots: threading.Semaphore
    ) -> None:
        try:
            self.reply(message, run(self.decode(message.call.json)))
        except BaseException as error:  # noqa: BLE001 - the caller over there gets it
            try:
                self.reply_error(message, error)
            except TransportError:
                return  # nobody is there to answer; `serve` says so
        finally:
            slots.release()

    def on_event(self, handle: Callable[[Any], object]) -> None:
        """Call `handle` with each event of the peer, in order, in one thread of its own.

        Events are for people: a `handle` that raises is not called again, and
        nothing else comes of it.
        """
        self._spawn("link-events", self._handle_events, handle)

    def _handle_events(self, handle: Callable[[Any], object]) -> None:
        try:
            while True:
                with self._fate.lock:
                    self._fate.wait(self._happened, lambda: bool(self._events), None, drain=True)
                    event = self._events.popleft()
                handle(event)
        except Exception:  # noqa: BLE001 - see on_event; the link's end comes here too
            return

    def _spawn(self, name: str, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(name=name, target=run, args=args, daemon=True)
        thread.start()
        with self._fate.lock:
            self.message_threads = [t for t in self.message_threads if t.is_alive()]
            self.message_threads.append(thread)

    # Called by the link's receiving thread.

    def message_arrived(self, message: Control, size: int) -> None:
        """Hand a message to who waits for it.

        Raises:
            ProtocolError: more wait than the budget of the inbox allows.
        """
        if message.HasField("event"):
            event = self.decode(message.event.json)
            with self._fate.lock:
                self._events.append(event)
                self._happened.notify_all()
            return
        with self._fate.lock:
            if message.reply_to:
                # A reply to a request that timed out is nobody's any more.
                if message.reply_to in self._replies:
                    self._replies[message.reply_to] = message
                    self._answer.notify_all()
                return
            self._inbox.append((message, size))
            self._inbox_bytes += size
            if len(self._inbox) > _INBOX_MESSAGES or self._inbox_bytes > _INBOX_BYTES:
                raise ProtocolError(f"{self.peer_name}: sent more messages than are received")
            self._arrival.notify_all()


def _pack(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
