"""What the tests over SSH share: a greeted link, the error of a failed one, a proxy between."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate.errors import TransportError
from migrate.transport.link import Link
from migrate.transport.ssh import Options, Program, Session, Target, connect
from tests.support.tcp_proxy import TcpProxy
from tests.transport.sshd import Sshd

CHECKOUT = str(Path(__file__).parents[2])
AGENT = ["env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-m", "tests.transport.agent"]
PROGRAMS: tuple[Program, ...] = ("paramiko", "openssh")


@contextmanager
def linked(
    options: Options, program: Program, *, silence_seconds: float = 20.0, target: str = "server"
) -> Iterator[Link]:
    """A greeted link to the tests' agent."""
    with connect(Target.parse(target), options, transport=program) as session:
        channel = session.run([*AGENT, str(silence_seconds)])
        with Link(channel, "source", silence_seconds=silence_seconds) as link:
            link.handshake()
            yield link


def greeting_error(
    options: Options, program: Program, argv: list[str] | None = None, target: str = "server"
) -> TransportError:
    """What a user would be told; for the ssh program it comes with the greeting."""
    with pytest.raises(TransportError) as raised:
        try_to_greet(options, program, argv or AGENT, Target.parse(target))
    assert "\n" not in str(raised.value)
    return raised.value


def try_to_greet(options: Options, program: Program, argv: list[str], target: Target) -> None:
    with connect(target, options, transport=program) as session:
        greet(session, argv)


def greet(session: Session, argv: list[str]) -> None:
    with Link(session.run(argv), "source") as link:
        link.handshake(timeout_seconds=10)


@contextmanager
def through_proxy(sshd: Sshd) -> Iterator[tuple[TcpProxy, Options]]:
    """A proxy in front of sshd, and options that go through it."""
    with TcpProxy(("127.0.0.1", sshd.port)) as proxy:
        path = sshd.folder / f"config-{proxy.port}"
        config = sshd.config.read_text().replace(f"Port {sshd.port}", f"Port {proxy.port}")
        path.write_text(config + f"    HostKeyAlias [127.0.0.1]:{sshd.port}\n")
        yield proxy, Options(str(path), timeout_seconds=5)


def server_lines(sshd: Sshd) -> list[str]:
    """Return the client's configuration without its Host line, for a host of another name."""
    lines = sshd.config.read_text().splitlines()[1:]
    return [*lines, "    HostKeyAlias [127.0.0.1]:" + str(sshd.port)]


@contextmanager
def later(seconds: float, run: Callable[..., object], *args: object) -> Iterator[None]:
    """Run something in that time, and at the end of the block wait until it has run."""
    timer = threading.Timer(seconds, run, args)
    timer.start()
    try:
        yield
    finally:
        timer.join()
