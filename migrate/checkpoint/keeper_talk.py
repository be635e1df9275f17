"""What a keeper and the process that started it say to each other.

Lives here: the messages, over a SEQPACKET socket pair, and the descriptors that come
with them. Must not live here: what is done about them. `checkpoint.keeper` and
`checkpoint.keeping` only.

A message is a JSON object that says what it is in `say`:

    parent  task      processes [[number, how many runs], ...], how many forked;
                      with the table of runs and the journal
    parent  more      with up to DESCRIPTORS_AT_ONCE descriptors: the userfaultfd of
                      each process, the store of each, the userfaultfd of each forked
    keeper  ready     it answers faults
    parent  fill      every process's memory is in its place: fill it
    keeper  forked    process, with the userfaultfd of the new one
    keeper  progress  filled, total: bytes
    keeper  done      everything is filled; it answers faults until the parent has let
                      go of its userfaultfds too
    keeper  failed    why; nothing is answered any more
    parent  end       it has let go of its userfaultfds after `failed`

The end of the parent's side tells the keeper that nobody but it has the userfaultfds.
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any, NamedTuple

DESCRIPTORS_AT_ONCE = 250  # the kernel takes 253 (SCM_MAX_FD)
_LARGEST_BYTES = 1 << 16


class Message(NamedTuple):
    """One message and what came with it; the descriptors are the receiver's."""

    say: str
    fields: dict[str, Any]
    descriptors: list[int]


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
