"""The byte channel under a link, and the one over plain descriptors.

Lives here: the interface that paramiko, the ssh program, a socket pair and the
agent's own stdin and stdout all offer. Must not live here: frames, SSH.
Any module of `migrate.transport` may import it; `migrate.live` builds the
agent's end with `stdio_channel`.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from typing import Protocol

from migrate.errors import LinkError, TransportError

# Linux takes at most this many buffers in one writev (IOV_MAX in limits.h).
_MOST_BUFFERS = 1024


class ChannelEnded(LinkError):
    """The bytes ended, or can no longer be sent; `explain` may know why."""


class ByteChannel(Protocol):
    """A duplex stream of bytes to one peer.

    One thread may send while another receives. `abort` may be called by any
    thread at any time; `close` only when no thread is inside the channel.
    """

    peer: str
    """What messages call the other side: a host name."""

    def send(self, *buffers: bytes | bytearray | memoryview) -> None:
        """Send every byte of `buffers` in order; blocks until they are taken.

        Raises:
            ChannelEnded: the peer is gone, or the channel was aborted.
        """

    def recv_into(self, view: memoryview) -> int:
        """Receive at least one byte into `view` and return how many; 0 at the end.

        Raises:
            ChannelEnded: the connection broke, or the channel was aborted.
        """

    def abort(self) -> None:
        """Make every present and later send and recv_into return at once."""

    def close(self) -> None:
        """Give back every resource; may be called twice."""

    def explain(self) -> TransportError | None:
        """Return why the stream ended, where the channel knows more than that it did."""


class DescriptorChannel:
    """A channel over a readable and a writable descriptor, which it owns.

    They are made non-blocking and waited for together with an eventfd, because
    closing a descriptor does not wake a thread that is blocked on it.

    Args:
        read_fd: socket, pipe or terminal; closed by `close`.
        write_fd: the same one or another; closed by `close`.
        peer: what to call the other side in messages.
    """

    def __init__(self, read_fd: int, write_fd: int, peer: str = "peer") -> None:
        self.peer = peer
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._aborted = False
        self._closed = False
        for fd in {read_fd, write_fd}:
            os.set_blocking(fd, False)
        self._readable = self._poll(read_fd, select.POLLIN)
        self._writable = self._poll(write_fd, select.POLLOUT)

    def _poll(self, fd: int, events: int) -> select.poll:
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self._wake_fd, select.POLLIN)
        return poll

    def send(self, *buffers: bytes | bytearray | memoryview) -> None:
        """See `ByteChannel.send`."""
        pending = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while pending:
            if self._aborted:
                raise self._aborted_error()
            try:
                sent = os.writev(self._write_fd, pending[:_MOST_BUFFERS])
            except BlockingIOError:
                self._writable.poll()
                continue
            except OSError as error:
                raise self._broken("sending", error) from error
            while sent:
                if sent < len(pending[0]):
                    pending[0] = pending[0][sent:]
                    break
                sent -= len(pending.pop(0))

    def recv_into(self, view: memoryview) -> int:
        """See `ByteChannel.recv_into`."""
        while True:
            if self._aborted:
                raise self._aborted_error()
            try:
                return os.readv(self._read_fd, [view])
            except BlockingIOError:
                self._readable.poll()
            except OSError as error:
                raise self._broken("receiving", error) from error

    def _aborted_error(self) -> ChannelEnded:
        return ChannelEnded(f"{self.peer}: the channel was aborted")

    def _broken(self, doing: str, error: OSError) -> ChannelEnded:
        return ChannelEnded(f"{self.peer}: {doing} failed: {os.strerror(error.errno or 0).lower()}")

    def abort(self) -> None:
        """See `ByteChannel.abort`."""
        if not self._aborted:
            self._aborted = True
            os.eventfd_write(self._wake_fd, 1)
            # The peer need not wait until the descriptors are closed.
            if stat.S_ISSOCK(os.fstat(self._write_fd).st_mode):
                with socket.socket(fileno=os.dup(self._write_fd)) as sock:
                    _shut_down(sock)

    def close(self) -> None:
        """See `ByteChannel.close`."""
        if not self._closed:
            self._closed = self._aborted = True
            for fd in {self._read_fd, self._write_fd, self._wake_fd}:
                os.close(fd)

    def explain(self) -> TransportError | None:
        """See `ByteChannel.explain`: descriptors know nothing more."""
        return None


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer was faster


def socket_channel(sock: socket.socket, peer: str = "peer") -> DescriptorChannel:
    """Return a channel over a connected stream socket, which it takes over."""
    fd = sock.detach()
    return DescriptorChannel(fd, fd, peer)


def channel_pair() -> tuple[DescriptorChannel, DescriptorChannel]:
    """Return two channels joined by a socket pair: a link within one process."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return socket_channel(left), socket_channel(right)


def stdio_channel(peer: str = "source") -> DescriptorChannel:
    """Return a channel over this process's stdin and stdout: the agent's end.

    Descriptors 0 and 1 are replaced: 0 by /dev/null, 1 by stderr, so that a
    stray print can never end up between two frames.
    """
    read_fd = os.dup(0)
    write_fd = os.dup(1)
    null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null_fd, 0)
    os.close(null_fd)
    os.dup2(2, 1)
    return DescriptorChannel(read_fd, write_fd, peer)
