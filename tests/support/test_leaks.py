"""The leak check finds what it is there for; a check that finds nothing proves nothing."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conftest import NEST
from tests.support import kernel, leaks
from tests.support.hosts import Site


def found_since(before: leaks.Snapshot, request: pytest.FixtureRequest) -> str:
    nest = request.config.stash[NEST]
    return "\n".join(leaks.left(before, lambda: leaks.of_this_process(nest), 0))


@pytest.mark.root
def test_a_process_mount_group_descriptor_and_thread_are_found(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    nest = request.config.stash[NEST]
    before = leaks.of_this_process(nest)
    group = next(iter(nest.tops.values())) / "forgotten"
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="forgotten thread")
    try:
        group.mkdir()
        kernel.mount("tmpfs", str(tmp_path), "tmpfs")
        thread.start()
        with open(os.devnull) as file, subprocess.Popen(["sleep", "60"]) as sleeper:
            found = found_since(before, request)
            assert f"descriptor: {file.fileno()} /dev/null" in found
            assert f"process: {sleeper.pid} sleep 60" in found
            sleeper.kill()
        assert str(tmp_path) in found
        assert "/forgotten" in found
        assert "forgotten thread" in found
    finally:
        go_on.set()
        thread.join()
        kernel.umount2(str(tmp_path), kernel.MNT_DETACH)
        group.rmdir()
    assert found_since(before, request) == ""


def test_what_is_left_in_a_host_is_found(hosts: Site) -> None:
    host = hosts.host1
    before = leaks.of_host(host)
    host.ip("link add forgotten type veth peer name forgotten2")
    host.run(["sh", "-c", "mkdir /srv/forgotten; nft add table inet forgotten"])
    with host.popen(["sleep", "61"]):
        found = "\n".join(leaks.left(before, lambda: leaks.of_host(host), 0))
    host.ip("link delete forgotten")
    host.run(["sh", "-c", "rmdir /srv/forgotten; nft delete table inet forgotten"])
    for line in ("link: forgotten", "file: /srv/forgotten", "table inet forgotten", "sleep 61"):
        assert line in found
