"""One connection to a service manager of systemd's, over D-Bus.

Lives here: the way to the bus, the manager's methods as org.freedesktop.systemd1(5)
has them, and how a failure is worded. Must not live here: what a container's unit is to
be. Imported by `driver`.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque

from jeepney import DBusAddress, HeaderFields, MatchRule, MessageType, Properties, new_method_call
from jeepney.bus import get_connectable_addresses
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, Proxy

from migrate.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from jeepney import Message

    from migrate.runtime.systemd.properties import Property

SYSTEM, USER = "system", "user"
ANSWER_SECONDS = 10.0
JOB_SECONDS = 30.0
LONGEST_LINE_BYTES = 4096

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = DBusAddress(_PATH, bus_name=_NAME, interface=f"{_NAME}.Manager")
_UNIT_EXISTS = f"{_NAME}.UnitExists"
_NO_UNIT = f"{_NAME}.NoSuchUnit"
_NOT_LOADED = (_NO_UNIT, "org.freedesktop.DBus.Error.FileNotFound")


class UnitExists(CgroupError):
    """A unit of that name is there already; nothing was made."""


class Bus:
    """A service manager, for the length of a `with` block.

    Args:
        which: `system`, or `user` for the caller's own.

    Raises:
        CgroupError: nobody answers there.
    """

    def __init__(self, which: str) -> None:
        self.which = which
        address = _address(which)
        try:
            self._connection = DBusConnection(_logged_in(address))
        except (OSError, ValueError, RuntimeError) as error:
            raise CgroupError(
                f"systemd's {which} bus at {address} cannot be reached: {_reason(error)}",
                "Leave --systemd-cgroup out where systemd does not run, or start dbus."
                if which == SYSTEM
                else "Log in with a session of one's own, so that XDG_RUNTIME_DIR has a bus.",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def group(self) -> str:
        """Return the control group the manager's units are below; "" for the root."""
        return str(self._property("ControlGroup"))

    def version(self) -> int:
        """Return systemd's version: 252 of "252.38-1~deb12u1"."""
        text = str(self._property("Version")).lstrip("v")
        digits = text[: next((at for at, c in enumerate(text) if not c.isdigit()), len(text))]
        return int(digits or 0)

    def start(self, unit: str, properties: Sequence[Property]) -> None:
        """Make a transient unit, and wait until it is there.

        Raises:
            UnitExists: one of that name is in use.
            CgroupError: systemd refuses it, or its job does not end well.
        """
        arguments: tuple[Any, ...] = (unit, "replace", list(properties), [])
        try:
            self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments, unit)
        except UnitExists:
            # One that has failed stays loaded until somebody has looked at it.
            if self._state(unit) not in ("failed", "inactive"):
                raise
            self.reset_failed(unit)
            self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments, unit)

    def change(self, unit: str, properties: Sequence[Property]) -> None:
        """Set properties of a unit until its end."""
        self._call("SetUnitProperties", "sba(sv)", (unit, True, list(properties)), unit)

    def attach(self, unit: str, below: str, pid: int) -> None:
        """Move a process into a unit's group, or one below it."""
        try:
            self._call("AttachProcessesToUnit", "ssau", (unit, below, [pid]), unit)
        except FileNotFoundError:
            raise CgroupError(f"systemd knows no unit {unit}", "Look at `migrate list`.") from None

    def stop(self, unit: str) -> None:
        """Stop a unit, and forget that it may have failed; one that is gone is no error."""
        try:
            self._job("StopUnit", "ss", (unit, "replace"), unit)
        except FileNotFoundError:
            return
        self.reset_failed(unit)

    def reset_failed(self, unit: str) -> None:
        """Let systemd forget a unit that has failed."""
        try:
            self._call("ResetFailedUnit", "s", (unit,), unit)
        except FileNotFoundError:
            return

    def _state(self, unit: str) -> str:
        """Return a unit's ActiveState."""
        path = self._call("LoadUnit", "s", (unit,), unit)[0]
        address = DBusAddress(path, bus_name=_NAME, interface=f"{_NAME}.Unit")
        return str(self._ask(Properties(address).get("ActiveState"), unit)[0][1])

    def _property(self, name: str) -> Any:
        return self._ask(Properties(_MANAGER).get(name), "the manager")[0][1]

    def _job(self, method: str, signature: str, arguments: tuple[Any, ...], unit: str) -> None:
        """Call what starts a job, and wait for its end."""
        # Asked for before the call: the job may end before its number is known here.
        rule = MatchRule(
            type="signal", interface=f"{_NAME}.Manager", member="JobRemoved", path=_PATH
        )
        ended: deque[Message] = deque()
        self._call("Subscribe", "", (), unit)
        Proxy(message_bus, self._connection, timeout=ANSWER_SECONDS).AddMatch(rule)
        with self._connection.filter(rule, queue=ended):
            job = self._call(method, signature, arguments, unit)[0]
            result = self._wait(job, ended, unit)
        if result != "done":
            raise CgroupError(
                f"systemd could not carry out {method} for {unit}: its job ended as {result}",
                f"Look at `systemctl status {unit}` and the journal.",
            )

    def _wait(self, job: str, ended: deque[Message], unit: str) -> str:
        """Return the result of a job."""
        deadline = time.monotonic() + JOB_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self._connection.recv_until_filtered(ended, timeout=left)
            except (OSError, ValueError) as error:
                raise CgroupError(f"systemd's bus broke off for {unit}: {_reason(error)}") from None
            if message.body[1] == job:
                return str(message.body[3])
        raise CgroupError(
            f"systemd has not ended its job for {unit} within {JOB_SECONDS:g} s",
            "Look at `systemctl list-jobs`.",
        )

    def _call(
        self, method: str, signature: str, arguments: tuple[Any, ...], unit: str
    ) -> tuple[Any, ...]:
        message = new_method_call(_MANAGER, method, signature or None, arguments)
        return self._ask(message, unit)

    def _ask(self, message: Message, unit: str) -> tuple[Any, ...]:
        """Send a call and return what the answer holds.

        Raises:
            FileNotFoundError: there is no such unit.
            UnitExists: there is one.
            CgroupError: the manager says no, or nothing.
        """
        method = message.header.fields[HeaderFields.member]
        try:
            answer = self._connection.send_and_get_reply(message, timeout=ANSWER_SECONDS)
        except (OSError, ValueError) as error:
            raise CgroupError(f"systemd does not answer {method}: {_reason(error)}") from None
        body: tuple[Any, ...] = answer.body
        if answer.header.message_type is not MessageType.error:
            return body
        name = answer.header.fields.get(HeaderFields.error_name, "")
        words = " ".join(str(body[0] if body else name).split()).rstrip(".")
        if name in _NOT_LOADED:
            raise FileNotFoundError(unit)
        kind = UnitExists if name == _UNIT_EXISTS else CgroupError
        raise kind(
            f"systemd refuses {method} for {unit}: {words}",
            f"Look at `systemctl status {unit}`.",
        )


def _address(which: str) -> str:
    """Return the path of a bus's socket; a leading NUL means an abstract one."""
    if which == SYSTEM:
        text = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    else:
        folder = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        text = os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={folder}/bus"
    try:
        return str(next(iter(get_connectable_addresses(text))))
    except (ValueError, RuntimeError, StopIteration):
        raise CgroupError(f'"{text}" is no address of a bus', "Unset it, or mend it.") from None


def _logged_in(address: str) -> socket.socket:
    """Return a socket that has said who it is, see the D-Bus specification, "EXTERNAL".

    By the uid the bus sees: of a user namespace's root that is the user outside.
    """
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(ANSWER_SECONDS)
        link.connect(address)
        link.sendall(b"\0AUTH EXTERNAL " + str(_uid_outside()).encode().hex().encode() + b"\r\n")
        line = b""
        while not line.endswith(b"\r\n") and len(line) < LONGEST_LINE_BYTES:
            part = link.recv(1)
            if not part:
                break
            line += part
        if line.startswith(b"OK "):
            link.sendall(b"BEGIN\r\n")
            link.settimeout(None)
            return link
    except BaseException:
        link.close()
        raise
    link.close()
    raise PermissionError(f"it answers {line.decode(errors='replace').strip()!r}")


def _uid_outside() -> int:
    """Return the caller's uid as seen outside of its user namespace, see user_namespaces(7)."""
    uid = os.geteuid()
    with open("/proc/self/uid_map", encoding="ascii") as file:
        for line in file:
            inside, outside, count = map(int, line.split())
            if inside <= uid < inside + count:
                return outside + uid - inside
    return uid


def _reason(error: Exception) -> str:
    """Return why, in few words."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split()).lower()
