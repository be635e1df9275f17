"""What a keeper and the process that started it say to each other.

Lives here: the messages, over a SEQPACKET socket pair, and the descriptors that come
with them. Must not live here: what is done about them. `checkpoint.keeper` and
`checkpoint.keeping` only.

A message is a JSON object that says what it is in `say`:

    parent  task      with the table and the journal
    parent  more      count; with so many descriptors, up to DESCRIPTORS_AT_ONCE, of all
                      the userfaultfds, all the stores, all the forked userfaultfds
    keeper  ready     it answers faults
    parent  fill      every process's memory is in its place: fill it
    keeper  forked    process, with the userfaultfd of the new one
    keeper  progress  filled, total: bytes
    keeper  done      everything is filled; it answers faults until the parent has let
                      go of its userfaultfds too
    keeper  failed    why; nothing is answered any more
    parent  end       it has let go of its userfaultfds after `failed`

The end of the parent's side tells the keeper that nobody but it has the userfaultfds.

The table is words of 64 bits: how many processes, how many forked; of each process how
many spans, of each forked its index; then address and size of each span. A process is
known by its index; those that are forked get the next.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, NamedTuple

DESCRIPTORS_AT_ONCE = 250  # the kernel takes 253 (SCM_MAX_FD)
_LARGEST_BYTES = 1 << 16


class Message(NamedTuple):
    """One message and what came with it.

    Attributes:
        descriptors: the receiver's; fewer than were sent where it may have no more.
    """

    say: str
    fields: dict[str, Any]
    descriptors: list[int]


class Table(NamedTuple):
    """What is to be filled.

    Attributes:
        counts: how many spans each process has.
        forked: indexes of processes that an earlier keeper saw being forked.
        spans: address and size of each.
    """

    counts: array.array[int]
    forked: array.array[int]
    spans: array.array[int]

    def write(self) -> int:
        """Return the descriptor of a file with the table."""
        descriptor = os.memfd_create("migrate-keeper-table", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=False) as file:
            file.writelines((array.array("Q", [len(self.counts), len(self.forked)]), *self))
        return descriptor

    @staticmethod
    def read(descriptor: int) -> Table:
        """Return the table of a file; closes it."""
        words = array.array("Q")
        with open(descriptor, "rb") as file:
            file.seek(0)
            words.frombytes(file.read())
        forked_at = 2 + words[0]
        spans_at = forked_at + words[1]
        return Table(words[2:forked_at], words[forked_at:spans_at], words[spans_at:])


def send(
    over: socket.socket, say: str, descriptors: list[int] | None = None, **fields: Any
) -> None:
    """Send a message.

    Raises:
        BlockingIOError: a socket that does not wait has no room.
        OSError: the other side is gone.
    """
    data = json.dumps({"say": say, **fields}).encode()
    if descriptors:
        socket.send_fds(over, [data], descriptors)
    else:
        over.send(data)


def receive(over: socket.socket) -> Message | None:
    """Return the next message; None where the other side is gone.

    Raises:
        BlockingIOError: a socket that does not wait has none.
    """
    size = DESCRIPTORS_AT_ONCE * array.array("i").itemsize
    try:
        data, ancillary, _, _ = over.recvmsg(
            _LARGEST_BYTES, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC
        )
    except (ConnectionResetError, BrokenPipeError):
        return None
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    if not data:
        return None
    fields = json.loads(data)
    return Message(fields.pop("say"), fields, list(descriptors))
