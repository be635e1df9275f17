"""One login on a host for several programs, over a real sshd."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from migrate.errors import HostKeyError, TransportError
from migrate.transport.shared import SharedConnection
from migrate.transport.ssh import Options, Target, connect
from tests.transport.sshd import Sshd


def connection(sshd: Sshd, options: Options) -> str:
    """Return what a command over there sees of its connection: addresses and ports."""
    with connect(sshd.target, options, transport="openssh") as session:
        channel = session.run(["printenv", "SSH_CONNECTION"])
        said = bytearray(200)
        count = channel.recv_into(memoryview(said))
        channel.close()
    return said[:count].decode()


def test_all_that_know_the_path_go_through_one_connection(sshd: Sshd, tmp_path: Path) -> None:
    path = str(tmp_path / "0")
    options = replace(sshd.options, control_path=path)
    with SharedConnection(sshd.target, sshd.options, path):
        first = connection(sshd, options)
        assert first.startswith("127.0.0.1 ")
        assert connection(sshd, options) == first
        assert connection(sshd, sshd.options) != first


def test_without_it_everybody_goes_alone(sshd: Sshd, tmp_path: Path) -> None:
    path = str(tmp_path / "0")
    options = replace(sshd.options, control_path=path)
    assert connection(sshd, options)
    with SharedConnection(sshd.target, sshd.options, path):
        pass
    assert connection(sshd, options)


def test_it_leaves_no_process_and_no_descriptor(sshd: Sshd, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with SharedConnection(sshd.target, sshd.options, str(tmp_path / "0")):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_keeps_it_away_is_said_as_for_any_session(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    options = replace(sshd.options, known_hosts=str(tmp_path / "empty"))
    with (
        pytest.raises(HostKeyError, match="unknown host key"),
        SharedConnection(sshd.target, options, str(tmp_path / "0")),
    ):
        pytest.fail("let us in")


def test_a_host_that_is_not_there_is_named(sshd: Sshd, tmp_path: Path) -> None:
    del sshd
    with (
        pytest.raises(TransportError, match=r"nowhere\.invalid"),
        SharedConnection(
            Target("nowhere.invalid"), Options(timeout_seconds=5.0), str(tmp_path / "0")
        ),
    ):
        pytest.fail("is there")
