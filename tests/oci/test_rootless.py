"""Containers of a user without privileges: create, run, exec, delete, and ranges of ids."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import Config, Runtime, runtime_command
from .fixtures import lent
from .test_namespaces import open_to_all

USER = 65534  # nobody: an account that every Debian has
FIRST, COUNT = 400_000, 65_536


@pytest.fixture
def ranges(tmp_path: Path) -> Iterator[None]:
    """Give the user a range of ids, as /etc/subuid has it, in this mount namespace alone."""
    table = tmp_path / "subid"
    table.write_text(f"nobody:{FIRST}:{COUNT}\n")
    table.chmod(0o644)
    places = ("/etc/subuid", "/etc/subgid")
    for place in places:
        subprocess.run(["mount", "--bind", table, place], check=True)
    try:
        yield
    finally:
        for place in places:
            subprocess.run(["umount", place], check=True)


@pytest.fixture
def rootless(tmp_path: Path, image: Path) -> Iterator[Runtime]:
    """The runtime as the user runs it, with what its `spec --rootless` writes."""
    work = tmp_path / "work"
    work.mkdir()
    open_to_all(work)
    os.chown(work, USER, USER)
    command = tmp_path / "as-user"
    identity = f"--reuid {USER} --regid {USER} --clear-groups"
    program = subprocess.run(
        ["sh", "-c", 'command -v "$0"', runtime_command()],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.strip()  # fmt: skip
    command.write_text(f'#!/bin/sh\nexec setpriv {identity} {shlex.quote(program)} "$@"\n')
    command.chmod(0o755)
    spec = work / "spec"
    spec.mkdir()
    os.chown(spec, USER, USER)
    subprocess.run([command, "spec", "--rootless"], cwd=spec, check=True)
    config: Config = json.loads((spec / "config.json").read_text())
    config["process"]["terminal"] = False
    config["root"]["readonly"] = False
    with lent(str(command), work, image, config) as runtime:
        runtime.environment["XDG_RUNTIME_DIR"] = str(work)
        yield runtime


def owned(runtime: Runtime, *arguments: str, change: object = None) -> str:
    """A bundle that is the user's, all of it; returns its path."""
    bundle = runtime.bundle(*arguments, change=change)  # type: ignore[arg-type]
    subprocess.run(["chown", "-R", f"{USER}:{USER}", bundle.path], check=True)
    return str(bundle.path)


def with_ranges(config: Config) -> None:
    """Its own id is root inside, the range follows."""
    maps = [
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": FIRST, "size": COUNT},
    ]
    config["linux"].update(uidMappings=maps, gidMappings=maps)


def test_a_user_creates_starts_enters_and_deletes_a_container(rootless: Runtime) -> None:
    bundle = rootless.bundle()
    subprocess.run(["chown", "-R", f"{USER}:{USER}", bundle.path], check=True)
    container = rootless.create(bundle)
    assert container.status == "created"
    container("start")
    assert container.status == "running"
    assert container.exec("id", "-u") == "0\n"
    assert container.exec("cat", "/proc/self/uid_map").split() == ["0", str(USER), "1"]
    assert os.stat(f"/proc/{container.pid}").st_uid == USER
    container("kill", "KILL")
    container.wait_until("stopped")
    container("delete")
    assert rootless.ids() == []


def test_a_user_runs_a_container_to_its_end(rootless: Runtime) -> None:
    path = owned(rootless, "sh", "-c", "id -u; touch /made; exit 7")
    result = rootless("run", "--bundle", path, rootless.new_id())
    assert (result.status, result.out) == (7, "0\n"), str(result)
    assert (Path(path) / "rootfs/made").stat().st_uid == USER


@pytest.mark.usefixtures("ranges")
def test_a_range_of_ids_is_mapped_by_the_helpers(rootless: Runtime) -> None:
    script = "cat /proc/self/uid_map /proc/self/gid_map; touch /made; chown 1000:1001 /made"

    def change(config: Config) -> None:
        with_ranges(config)
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind] += ["CAP_CHOWN"]

    path = owned(rootless, "sh", "-c", script, change=change)
    result = rootless("run", "--bundle", path, rootless.new_id())
    expected = ["0", str(USER), "1", "1", str(FIRST), str(COUNT)] * 2
    assert result.out.split() == expected, str(result)
    status = (Path(path) / "rootfs/made").stat()
    assert (status.st_uid, status.st_gid) == (FIRST + 999, FIRST + 1000)


@pytest.mark.usefixtures("ranges")
def test_another_user_of_the_range_runs_and_is_entered(rootless: Runtime) -> None:
    def change(config: Config) -> None:
        with_ranges(config)
        config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [50]}

    bundle = rootless.bundle(change=change)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", bundle.path], check=True)
    container = rootless.started(bundle)
    assert os.stat(f"/proc/{container.pid}").st_uid == FIRST + 999
    assert container.exec("id").split()[0] == "uid=1000(worker)"
    assert container("exec --user 7:8", "id", "-u").out == "7\n"
    assert "50(staff)" in container.exec("id")


@pytest.mark.usefixtures("ranges")
def test_a_range_that_is_not_the_users_is_refused_and_leaves_nothing(rootless: Runtime) -> None:
    def change(config: Config) -> None:
        with_ranges(config)
        config["linux"]["uidMappings"] = [config["linux"]["uidMappings"][0]]
        config["linux"]["uidMappings"].append({"containerID": 1, "hostID": 1, "size": 9})

    path = owned(rootless, "true", change=change)
    error = rootless.refuses("create", "--bundle", path, rootless.new_id())
    assert "newuidmap" in error
    assert "not allowed" in error
    assert error.count("\n") == 1
    assert rootless.ids() == []


@pytest.mark.parametrize("nested", [False, True])
def test_root_of_a_user_namespace_is_a_user_without_privileges(
    rootless: Runtime, *, nested: bool
) -> None:
    """As rootless engines call a runtime: they are in a user namespace of their own."""
    command = Path(rootless.command)
    *start, program = command.read_text().rsplit(" ", 2)[:2]
    command.write_text(f'{" ".join(start)} unshare -Urm {program} "$@"\n')

    def change(config: Config) -> None:
        if nested:
            maps = [{"containerID": 0, "hostID": 0, "size": 1}]
            config["linux"].update(uidMappings=maps, gidMappings=maps)
            return
        kinds = [each for each in config["linux"]["namespaces"] if each["type"] != "user"]
        config["linux"]["namespaces"] = kinds
        del config["linux"]["uidMappings"], config["linux"]["gidMappings"]

    path = owned(rootless, "cat", "/proc/self/uid_map", change=change)
    result = rootless("run", "--bundle", path, rootless.new_id())
    expected = ["0", "0" if nested else str(USER), "1"]
    assert result.out.split() == expected, str(result)


def test_what_takes_root_is_refused_by_name(rootless: Runtime) -> None:
    ids = [{"containerID": 0, "hostID": 1, "size": 1}]
    mount = {
        "destination": "/mnt", "type": "bind", "source": "/bin", "options": ["bind", "idmap"],
        "uidMappings": ids, "gidMappings": ids,
    }  # fmt: skip
    path = owned(rootless, "true", change=lambda config: config["mounts"].append(mount))
    assert "$.mounts[" in rootless.refuses("create", "--bundle", path, rootless.new_id())
    path = owned(
        rootless, "true",
        change=lambda config: config["linux"].update(
            netDevices={"lo": {}}, namespaces=[*config["linux"]["namespaces"], {"type": "network"}]
        ),
    )  # fmt: skip
    assert "netDevices" in rootless.refuses("create", "--bundle", path, rootless.new_id())


def test_a_users_containers_are_below_its_own_runtime_directory(rootless: Runtime) -> None:
    path = owned(rootless)
    name = rootless.new_id()
    output = Path(path) / "out"
    with output.open("w") as out:
        environment = {**rootless.environment, "XDG_RUNTIME_DIR": str(rootless.workspace)}
        process = subprocess.Popen(
            [rootless.command, "create", "--bundle", path, name],
            env=environment, stdout=out, stderr=out,
        )  # fmt: skip
        assert process.wait(30) == 0, output.read_text()
    own = rootless.workspace / Path(runtime_command()).name
    assert [each.name for each in own.iterdir()] == [name]
    subprocess.run([rootless.command, "delete", "--force", name], env=environment, check=True)
    assert list(own.iterdir()) == []
