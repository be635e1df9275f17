"""`migrate agent`: the destination, started by the source over SSH.

Lives here: the loop that takes calls from the link and from the UNIX socket, and what
becomes of a migration whose link is gone. Must not live here: what a call does
(`live.destination`). Imported by `migrate.cli`.

    the link goes before HELD    everything received is removed, the agent ends
    the link goes once HELD      it waits, without a processor or a port, on a socket
                                 in its migration's folder, for the source's word
    that word                    comes through a later agent, which `migrate recover`
                                 on the source has started, and which finds this one
                                 by the lock on the journal

An agent asked about a migration that is another process's hands the question on; if
that process is gone, it takes the migration over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from migrate.errors import LinkError, Locked, MigrateError, TransportError
from migrate.events import Event, Log, as_json, emit, install
from migrate.live import inbox
from migrate.live.destination import Destination, Settings
from migrate.live.inbox import Call, Inbox, LinkGone, Wake
from migrate.live.journal import folder_of
from migrate.live.wire import Fields
from migrate.transport.channel import ByteChannel
from migrate.transport.link import Link

# Calls that may concern a migration of an earlier agent.
RECOVERY = ("status", "commit", "discard", "forget")
# How long an earlier agent may take to notice that its link is gone, or to finish.
TAKEOVER_SECONDS = 60.0
ASK_SECONDS = 120.0


def serve(channel: ByteChannel, settings: Settings) -> None:
    """Be the destination of one migration, or of its recovery, until it is over.

    Raises:
        TransportError: the source was never there.
    """
    # The session's end must not be ours: who is HELD waits for the source's word. The
    # signals are caught, not ignored: CRIU would inherit that, and ends its own helper
    # by SIGTERM.
    with contextlib.suppress(OSError):
        os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _go_on)
    with Link(channel, "destination") as link:
        link.handshake()
        _Agent(link, settings).run()


def _go_on(_number: int, _frame: object) -> None:
    """Let a signal pass by."""


class _Agent:
    """The loop."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._settings = settings
        self._inbox = Inbox()
        self._destination = Destination(settings, link, self._inbox.wake)
        self._is_listening = False
        self._link_is_gone = False
        self._is_over = False

    def run(self) -> None:
        """Answer until the migration is over, or the source is gone and may be."""
        before = install(self._send_event)
        self._inbox.follow(self._link)
        try:
            while not self._is_over:
                self._act(self._inbox.take())
        finally:
            install(before)
            self._inbox.stop_listening()
            self._destination.detach()

    def _send_event(self, event: Event) -> None:
        with contextlib.suppress(TransportError):
            self._link.send_event(as_json(event))

    def _act(self, item: Call | LinkGone | Wake) -> None:
        if isinstance(item, LinkGone):
            self._lose_link()
            return
        if isinstance(item, Wake):
            self._is_over = self._link_is_gone and not self._destination.must_wait
            return
        try:
            answer = self._answer(item)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            item.refuse(error)
        else:
            item.answer(answer)
        self._listen()
        self._is_over = self._link_is_gone and not self._destination.must_wait

    def _lose_link(self) -> None:
        """Give up what may be given up; wait for the rest at the other door."""
        self._link_is_gone = True
        try:
            self._destination.give_up()
        except MigrateError as error:
            emit(Log(level="error", message=error.message))
        self._is_over = not self._destination.must_wait

    def _listen(self) -> None:
        """Open the door in the migration's folder as soon as there is one."""
        folder = self._destination.folder
        if folder is not None and not self._is_listening:
            self._inbox.listen(folder)
            self._is_listening = True

    def _answer(self, call: Call) -> object:
        if call.from_link and call.method in RECOVERY and self._destination.folder is None:
            return self._answer_for_earlier(call)
        return self._destination.call(call.method, call.value)

    def _answer_for_earlier(self, call: Call) -> object:
        """Answer for a migration whose agent was another process."""
        container_id = Fields(call.method, call.value).text("container")
        folder = folder_of(
            self._settings.journals, "destination", self._settings.store.root, container_id
        )
        deadline = time.monotonic() + TAKEOVER_SECONDS
        while True:
            try:
                self._destination.attach(container_id, 0.2)
            except Locked as locked:
                with contextlib.suppress(LinkError, FileNotFoundError):
                    return inbox.ask(folder, call.method, call.value, ASK_SECONDS)
                if time.monotonic() >= deadline:
                    raise locked from None
            else:
                break
        try:
            return self._destination.call(call.method, call.value)
        finally:
            # The next question may come through yet another agent.
            self._destination.detach()
