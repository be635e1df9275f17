"""One login on a host, for several programs.

Lives here: the ssh program as the master of a shared connection, see ControlMaster in
ssh_config(5). Must not live here: a session on it (`openssh`). `migrate.live` imports it.

    with SharedConnection(target, options, path):
        connect(target, replace(options, control_path=path), transport="openssh")

Who is told the path goes through the connection while it is there, and makes one of its
own where it is not: nothing depends on this program's life.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Self

from migrate.errors import TransportError
from migrate.transport.openssh import arguments, explain_failure, no_program
from migrate.transport.ssh import Helper, Options, Target

_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 60.0
# A network that is gone must end the connection: new sessions on it would wait for ever.
_SETTINGS = ("ControlMaster=yes", "ControlPersist=no", "ServerAliveInterval=5")


class SharedConnection:
    """A connection that others may go through, as a context manager.

    Args:
        target: the host.
        options: how it is reached.
        path: of the socket, in a folder that is ours alone; at most 80 characters.
    """

    def __init__(self, target: Target, options: Options, path: str) -> None:
        self._target = target
        self._options = options
        self._path = path
        self._ours: socket.socket | None = None
        self._ssh: Helper | None = None

    def __enter__(self) -> Self:
        """Log in.

        Raises:
            HostKeyError: the host's key is unknown, changed or revoked.
            AuthenticationError: the host does not let the user in.
            TransportError: it cannot be reached, or there is no ssh program.
        """
        options = replace(self._options, control_path=self._path)
        command = arguments(self._target, options, settings=_SETTINGS)
        self._ours, theirs = socket.socketpair()
        try:
            self._ssh = Helper([*command, "-N", "-n", "--", self._target.host], theirs)
        except FileNotFoundError as error:
            self.close()
            raise no_program() from error
        try:
            self._wait(self._ssh)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, ssh: Helper) -> None:
        """Wait until others may go through it: the socket appears once it has logged in."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not os.path.exists(self._path):
            if ssh.wait(_POLL_SECONDS) is not None:
                raise explain_failure(self._target, ssh.stderr.lines)
            if time.monotonic() > deadline:
                raise TransportError(
                    f"{self._target.host}: did not let anybody in within {_PATIENCE_SECONDS:.0f} s"
                )

    def close(self) -> None:
        """Log out; sessions on it end."""
        if self._ours is not None:
            self._ours.close()
        if self._ssh is not None:
            self._ssh.end(0)
            self._ssh = None
