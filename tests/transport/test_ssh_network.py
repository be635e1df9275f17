"""A link over a real sshd when the network or the agent goes bad."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from migrate.errors import LinkError, TransportError
from migrate.transport.link import Link
from migrate.transport.ssh import Program
from tests.support.tcp_proxy import TcpProxy
from tests.transport.session import later, linked, server_lines, through_proxy
from tests.transport.sshd import Sshd


def send(link: Link, data: bytes) -> None:
    """Send `data` to the agent, which reads along, and see that it is what arrived."""
    digests: list[dict[str, object]] = []
    reading = threading.Thread(target=lambda: digests.append(link.call("digest", "data", 30)))
    reading.start()
    with link.open_stream("data") as writer:
        writer.write(data)
    reading.join()
    assert digests == [{"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}]


def send_for_ever(link: Link) -> None:
    with link.open_stream("bulk") as writer:
        while True:
            writer.write(os.urandom(100_000))


def test_a_link_cut_for_a_while_goes_on_as_if_nothing_was(sshd: Sshd, program: Program) -> None:
    data = os.urandom(20_000_000)
    with (
        through_proxy(sshd) as (proxy, options),
        linked(options, program, silence_seconds=4) as link,
    ):
        proxy.limit(20_000_000)
        before = time.monotonic()
        with later(0.3, proxy.stall), later(1.8, proxy.resume):
            send(link, data)
        assert time.monotonic() - before > 1.5


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_a_link_that_is_gone_fails_everybody_in_time(
    sshd: Sshd, program: Program, fault: str
) -> None:
    with (
        through_proxy(sshd) as (proxy, options),
        linked(options, program, silence_seconds=1) as link,
    ):
        errors: list[Exception] = []

        def wait_in_a_call() -> None:
            try:
                link.call("digest", "never opened")
            except LinkError as error:
                errors.append(error)

        waiting = threading.Thread(target=wait_in_a_call)
        waiting.start()
        before = time.monotonic()
        with later(0.2, getattr(proxy, fault)), pytest.raises(TransportError):
            send_for_ever(link)
        waiting.join(5)
        assert time.monotonic() - before < 4
        assert len(errors) == 1
        link.close()
        assert time.monotonic() - before < 5
        proxy.resume()


def test_an_agent_killed_at_work_is_noticed_at_once(sshd: Sshd, program: Program) -> None:
    with linked(sshd.options, program) as link:
        pid = link.call("pid", None, 10)
        before = time.monotonic()
        with (
            later(0.3, os.kill, pid, signal.SIGKILL),
            pytest.raises(LinkError, match="server: ") as raised,
        ):
            send_for_ever(link)
        assert time.monotonic() - before < 4
        assert "\n" not in str(raised.value)


def test_an_agent_that_is_stopped_is_given_up_and_gives_up_itself_when_it_goes_on(
    sshd: Sshd, program: Program
) -> None:
    with linked(sshd.options, program, silence_seconds=1) as link:
        pid = link.call("pid", None, 10)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(LinkError, match="server: silent for 1 s"):
            send_for_ever(link)
    os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


def test_a_dead_network_does_not_hold_up_the_end_of_a_session_through_another_host(
    sshd: Sshd, program: Program
) -> None:
    with TcpProxy(("127.0.0.1", sshd.port)) as proxy:
        lines = server_lines(sshd)
        behind = [line.replace(f"Port {sshd.port}", f"Port {proxy.port}") for line in lines]
        options = sshd.configure("Host far", "    ProxyJump hop", *lines, "Host hop", *behind)
        with linked(options, program, silence_seconds=1, target="far") as link:
            proxy.stall()
            before = time.monotonic()
            with pytest.raises(LinkError):
                send_for_ever(link)
            link.close()
        assert time.monotonic() - before < 6
        proxy.resume()


@pytest.mark.parametrize("at", [10_000, 100_000, 1_000_000, 5_000_000])
def test_a_flipped_bit_ends_the_link_and_never_reaches_the_stream(
    sshd: Sshd, program: Program, at: int
) -> None:
    with (
        through_proxy(sshd) as (proxy, options),
        linked(options, program, silence_seconds=5) as link,
    ):
        proxy.flip_after(at)
        with pytest.raises(TransportError):
            send_for_ever(link)


def test_a_stream_cut_anywhere_is_an_error_for_the_writer(sshd: Sshd, program: Program) -> None:
    for at in (1, 50_000, 777_777):
        with through_proxy(sshd) as (proxy, options), linked(options, program) as link:
            proxy.cut_after(at)
            with pytest.raises(TransportError):
                send_for_ever(link)


def test_a_slow_link_is_met_with_a_higher_level(sshd: Sshd, program: Program) -> None:
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    words = b"".join(module.read_bytes() for module in modules)[:4_000_000]
    with through_proxy(sshd) as (proxy, options), linked(options, program) as link:
        proxy.limit(3_000_000)
        send(link, words * 5)
        assert link.conditions.link_rate < 20e6
        assert link._outbox.meter.level in {3, 6, 9}
        assert link.traffic.sent_bytes < 0.6 * 5 * len(words)


def test_keys_are_renewed_under_load_without_harm(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrate.transport.paramiko_session._REKEY_BYTES", 4_000_000)
    data = os.urandom(20_000_000)
    with linked(sshd.options, "paramiko") as link:
        send(link, data)
