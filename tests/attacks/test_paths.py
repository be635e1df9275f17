"""Paths of the image that lead elsewhere (CVE-2019-16884, 2021-30465, 2023-27561, 2025-31133)."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.oci.driver import Bundle, Config, Runtime, killed_at_end, mounts_below

# renameat2(2) exchanging two names for as long as it lives.
EXCHANGER = """
import ctypes, sys
libc = ctypes.CDLL(None)
a, b = (name.encode() for name in sys.argv[1:3])
print("up", flush=True)
while True:
    libc.renameat2(-100, a, -100, b, 2)
"""
RACE_SECONDS = 6


def bind(config: Config, source: Path, destination: str) -> None:
    config["mounts"].append(
        {"destination": destination, "type": "bind", "source": str(source), "options": ["bind"]}
    )


def without_mount(config: Config, destination: str) -> None:
    config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith(destination)]


def listing(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_links_exchanged_during_create_lead_no_mount_out(runtime: Runtime) -> None:
    source = runtime.workspace / "source"
    source.mkdir()
    (source / "file").write_text("mounted")
    outside = runtime.workspace / "outside"
    (outside / "volume").mkdir(parents=True)

    def change(config: Config) -> None:
        bind(config, source, "/swap/volume")
        bind(config, source / "file", "/swap/made/file")
        config["linux"]["maskedPaths"] += ["/swap/volume"]

    bundle = runtime.bundle("true", change=change)
    (bundle.rootfs / "swap/volume").mkdir(parents=True)
    (bundle.rootfs / "link").symlink_to(outside)
    before = listing(outside)
    host = Path("/proc/self/mountinfo").read_text()
    names = [str(bundle.rootfs / "swap"), str(bundle.rootfs / "link")]
    with killed_at_end(
        subprocess.Popen([sys.executable, "-c", EXCHANGER, *names], stdout=subprocess.PIPE)
    ) as exchanger:
        assert exchanger.stdout
        exchanger.stdout.readline()
        until = time.monotonic() + RACE_SECONDS
        while time.monotonic() < until:
            # Either end is right: made inside, or refused. Nothing else may happen.
            runtime.run(bundle)
            assert listing(outside) == before
            assert runtime.ids() == []
        exchanger.stdout.close()
    assert Path("/proc/self/mountinfo").read_text() == host
    assert mounts_below(runtime.workspace) == []


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
@pytest.mark.parametrize("target", ["/elsewhere", "../../../outside", "{outside}"])
def test_a_link_for_a_system_directory_leads_nowhere_else(
    runtime: Runtime, name: str, target: str
) -> None:
    outside = runtime.workspace / "outside"
    outside.mkdir()
    (outside / "file").write_text("of the host")
    script = f"ls -A /{name} | head -3; stat -f -c %T /{name}; cat /{name}/file"
    bundle = runtime.bundle("sh", "-c", script)
    (bundle.rootfs / "elsewhere").mkdir()
    (bundle.rootfs / "outside").mkdir()
    shutil.rmtree(bundle.rootfs / name)
    (bundle.rootfs / name).symlink_to(target.format(outside=outside))
    result = runtime.run(bundle)
    assert "of the host" not in result.out
    assert listing(outside) == ["file"]
    # procfs anywhere but at /proc would leave what has to be masked in reach.
    assert name != "proc" or result.status != 0, str(result)


def test_a_proc_that_another_mount_covers_is_refused_or_is_procfs(runtime: Runtime) -> None:
    source = runtime.workspace / "source"
    (source / "self/attr").mkdir(parents=True)
    (source / "self/attr/exec").touch()

    def change(config: Config) -> None:
        bind(config, source, "/proc")

    result = runtime.run(runtime.bundle("true", change=change))
    assert result.status != 0, str(result)


def bare_dev(runtime: Runtime, *arguments: str) -> Bundle:
    """A bundle whose /dev is the image's own directory, so that the image can prepare it."""

    def change(config: Config) -> None:
        without_mount(config, "/dev")
        config["linux"]["maskedPaths"] += ["/etc/passwd", "/home"]

    return runtime.bundle(*arguments, change=change)


@pytest.mark.parametrize("what", ["link to a file", "link out", "file", "link to proc"])
def test_a_false_dev_null_does_not_unmask(runtime: Runtime, what: str) -> None:
    """CVE-2025-31133: what is bound over a masked path must be the real null device."""
    outside = runtime.workspace / "outside"
    outside.write_text("of the host")
    bundle = bare_dev(
        runtime, "sh", "-c", "stat -c '%F %t %T' /etc/passwd; cat /etc/passwd /dev/null"
    )
    null = bundle.rootfs / "dev/null"
    targets = {
        "link to a file": "/secret",
        "link out": str(outside),
        "link to proc": "/proc/1/environ",
    }
    (bundle.rootfs / "secret").write_text("unmasked")
    if what == "file":
        null.write_text("unmasked")
    else:
        null.symlink_to(targets[what])
    result = runtime.run(bundle)
    assert "of the host" not in result.out
    if result.status == 0:
        assert result.out.startswith("character special file 1 3\n"), str(result)
        assert "unmasked" not in result.out
    assert outside.read_text() == "of the host"


@pytest.mark.parametrize("name", ["console", "ptmx", "null", "fd", "pts"])
def test_a_false_node_in_dev_is_not_followed(runtime: Runtime, name: str) -> None:
    """CVE-2025-52565 and older: nothing is bound, opened or made through a link in /dev."""
    outside = runtime.workspace / "outside"
    outside.mkdir()
    (outside / "file").write_text("of the host")
    bundle = bare_dev(runtime, "true")
    shutil.rmtree(bundle.rootfs / "dev")
    (bundle.rootfs / "dev").mkdir()
    (bundle.rootfs / "dev" / name).symlink_to(outside / "made")
    runtime.run(bundle)
    assert listing(outside) == ["file"]


def test_a_console_that_is_a_link_receives_no_terminal(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        without_mount(config, "/dev")
        config["mounts"].append(
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}
        )  # fmt: skip
        config["process"]["terminal"] = True

    bundle = runtime.bundle("sh", "-c", "cat /secret; cat /proc/sys/kernel/hostname", change=change)
    (bundle.rootfs / "secret").write_text("still mine\n")
    (bundle.rootfs / "dev/console").symlink_to("/secret")
    master, slave = pty.openpty()
    try:
        line = runtime.argv("run", "--bundle", str(bundle.path), runtime.new_id())
        subprocess.run(
            ["setsid", "--ctty", *line], stdin=slave, stdout=slave, stderr=slave,
            env=runtime.environment, timeout=20, check=False,
        )  # fmt: skip
    finally:
        os.close(slave)
        os.close(master)
    assert (bundle.rootfs / "secret").read_text() == "still mine\n"
    assert mounts_below(runtime.workspace) == []


@pytest.mark.parametrize(
    "destination",
    ["/proc", "/proc/", "/proc/self/attr/exec", "/proc/sys", "/x/../proc/1", "//proc//self//fd"],
)
def test_nothing_but_procfs_is_mounted_on_proc(runtime: Runtime, destination: str) -> None:
    source = runtime.workspace / "source"
    source.mkdir()
    (source / "file").touch()

    def change(config: Config) -> None:
        bind(config, source / "file" if "exec" in destination else source, destination)

    bundle = runtime.bundle("true", change=change)
    runtime.refuses("run", "--bundle", str(bundle.path), runtime.new_id())


def test_nothing_but_procfs_is_mounted_in_the_place_of_procfs(runtime: Runtime) -> None:
    source = runtime.workspace / "source"
    source.mkdir()

    def change(config: Config) -> None:
        without_mount(config, "/proc")
        bind(config, source, "/proc")

    bundle = runtime.bundle("true", change=change)
    error = runtime.refuses("run", "--bundle", str(bundle.path), runtime.new_id())
    assert "it is not of type" in error


def test_a_destination_with_dots_stays_in_the_root(runtime: Runtime) -> None:
    source = runtime.workspace / "source"
    source.mkdir()
    outside = runtime.workspace / "outside"
    outside.mkdir()

    def change(config: Config) -> None:
        bind(config, source, f"/../../../../../../../..{outside}/made")
        bind(config, source, "../../../../outside/made-too")

    runtime.run(runtime.bundle("true", change=change))
    assert listing(outside) == []


def test_a_rootfs_that_is_a_link_is_what_it_leads_to_and_nothing_above(runtime: Runtime) -> None:
    bundle = runtime.bundle("ls", "/..")
    os.rename(bundle.rootfs, bundle.path / "real")
    bundle.rootfs.symlink_to("real")
    result = runtime.run(bundle)
    assert "config.json" not in result.out


def test_devices_are_made_where_they_are_asked_for_and_never_outside(runtime: Runtime) -> None:
    outside = runtime.workspace / "outside"
    outside.mkdir()

    def change(config: Config) -> None:
        config["linux"]["devices"] = [
            {"path": "/link/node", "type": "c", "major": 1, "minor": 3},
            {"path": f"/../../../../../../..{outside}/node", "type": "c", "major": 1, "minor": 3},
        ]

    bundle = runtime.bundle("true", change=change)
    (bundle.rootfs / "link").symlink_to(outside)
    runtime.run(bundle)
    assert listing(outside) == []


def test_a_working_directory_through_a_link_is_made_inside(runtime: Runtime) -> None:
    outside = runtime.workspace / "outside"
    outside.mkdir()

    def change(config: Config) -> None:
        config["process"]["cwd"] = "/link/made/for/it"

    bundle = runtime.bundle("true", change=change)
    (bundle.rootfs / "link").symlink_to(outside)
    runtime.run(bundle)
    assert listing(outside) == []


def test_a_working_directory_through_a_process_of_the_host_is_made_nowhere(
    runtime: Runtime,
) -> None:
    """Where the container sees the host's processes, their roots are a link away."""
    outside = runtime.workspace / "outside"
    outside.mkdir()

    def change(config: Config) -> None:
        config["process"]["cwd"] = f"/link{outside}/made/for/it"
        namespaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [each for each in namespaces if each["type"] != "pid"]

    bundle = runtime.bundle("true", change=change)
    (bundle.rootfs / "link").symlink_to(f"/proc/{os.getpid()}/root")
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert listing(outside) == []
