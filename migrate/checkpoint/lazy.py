"""Serving a dumped container's memory page by page: `checkpoint --lazy-pages`.

Lives here: the door a `criu lazy-pages` of another host fetches pages through. Must not
live here: the dump around it (`dump`). May be imported by `checkpoint` only.

CRIU could listen by itself, but by RPC it does so on every address of the host. So we
listen, on the address that was asked for, let one client in, and pass on what both say.
CRIU also takes the end of a connection for the end of the work and ends the tasks, when
their memory has not been fetched yet. So a client that goes without a word is told to
CRIU as a word that makes no sense: the dump fails, and the tasks go on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from migrate.checkpoint.pages import COMMAND_MASK, PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE, RECORD
from migrate.errors import CriuError, UsageError

# CRIU keeps the pages in pipes, which it makes as large as this.
PIPE_BYTES = 4 << 20
_PIPE_LIMIT = "/proc/sys/fs/pipe-max-size"
_CAP_SYS_RESOURCE = 24
_CHUNK_BYTES = 1 << 20
_PATIENCE_SECONDS = 0.2


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ADDRESS:PORT, an IPv6 address in brackets.

    Raises:
        UsageError: it is not that.
    """
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"--page-server {text} is no address and port", "Write --page-server ADDRESS:PORT."
        )
    return host, int(port)


def check_pipes() -> None:
    """Refuse where CRIU could not keep the pages.

    Raises:
        CriuError: the kernel's limit on pipes is too low for who may not exceed it.
    """
    from migrate import syscalls

    with open(_PIPE_LIMIT, encoding="ascii") as file:
        limit = int(file.read())
    if limit < PIPE_BYTES and not syscalls.capget()[0] >> _CAP_SYS_RESOURCE & 1:
        raise CriuError(
            f"--lazy-pages needs pipes of {PIPE_BYTES} bytes, the limit is {limit}",
            f"Run sysctl -w fs.pipe-max-size={PIPE_BYTES}, or leave --lazy-pages out.",
        )


class LazyServer:
    """Listens at once; `descriptor` and `configuration` go to CRIU, then `serve`.

    Args:
        address: of `parse_address`.
        status_descriptor: told by one zero byte that pages can be fetched, and closed;
            -1 for nobody.
    """

    def __init__(self, address: tuple[str, int], status_descriptor: int = -1) -> None:
        self._status = status_descriptor
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(address)
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            raise CriuError(
                f"--page-server {address[0]}:{address[1]}: {str(error.strerror).lower()}",
                "Give an address of this host and a port that is free.",
            ) from None
        self._listener.settimeout(_PATIENCE_SECONDS)
        self._ours, self._theirs = socket.socketpair()
        self._configuration = os.memfd_create("criu.conf")
        os.write(self._configuration, b"ps-socket %d\n" % self._theirs.fileno())
        self._is_closed = threading.Event()
        self._when_fetched: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="lazy-pages", daemon=True)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that CRIU inherits."""
        return self._theirs.fileno(), self._configuration

    @property
    def configuration(self) -> str:
        """Path, for CRIU, of the configuration file that names the socket."""
        return f"/proc/self/fd/{self._configuration}"

    def serve(self, when_fetched: Callable[[], None]) -> None:
        """Say that pages can be fetched, and let a client in.

        Args:
            when_fetched: called, in another thread, once it has them all.
        """
        self._theirs.close()
        self._when_fetched = when_fetched
        if self._status >= 0:
            with contextlib.suppress(OSError):  # who asked to be told is gone
                os.write(self._status, b"\0")
            os.close(self._status)
            self._status = -1
        self._thread.start()

    def close(self) -> None:
        """Let nobody fetch any more; CRIU fails a dump that was not fetched whole."""
        self._is_closed.set()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._give_up()
        self._theirs.close()
        self._ours.close()
        self._listener.close()
        if self._configuration >= 0:
            os.close(self._configuration)
            self._configuration = -1

    def _run(self) -> None:
        """Let one client in, and pass on what it and CRIU say."""
        client = self._accept()
        if client is None:
            self._give_up()
            return
        with client:
            answers = threading.Thread(target=self._answer, args=(client,), daemon=True)
            answers.start()
            if self._ask(client):
                self._when_fetched()
                answers.join()
            else:
                self._give_up()
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                answers.join()

    def _accept(self) -> socket.socket | None:
        """Return the first client; None where it is over before one comes."""
        while not self._is_closed.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._listener.close()
            client.settimeout(_PATIENCE_SECONDS)
            return client
        return None

    def _ask(self, client: socket.socket) -> bool:
        """Pass on what the client asks; return whether its last word was that it has all."""
        left = b""
        has_ended = False
        while True:
            try:
                asked = client.recv(_CHUNK_BYTES)
            except TimeoutError:
                if self._is_closed.is_set():
                    return has_ended
                continue
            except OSError:
                return has_ended
            if not asked:
                return has_ended
            try:
                self._ours.sendall(asked)
            except OSError:
                return has_ended
            left += asked
            while len(left) >= RECORD.size:
                command = RECORD.unpack_from(left)[0] & COMMAND_MASK
                has_ended = has_ended or command in (PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE)
                left = left[RECORD.size :]

    def _answer(self, client: socket.socket) -> None:
        """Pass on CRIU's pages."""
        client_out = client.dup()
        client_out.settimeout(None)
        with client_out:
            try:
                while data := self._ours.recv(_CHUNK_BYTES):
                    client_out.sendall(data)
                client_out.shutdown(socket.SHUT_WR)
            except OSError:
                return

    def _give_up(self) -> None:
        """Make CRIU fail: half a word, and no more."""
        with contextlib.suppress(OSError):
            self._ours.sendall(b"\0")
            self._ours.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
