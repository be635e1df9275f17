"""Root file systems that are overlays: what travels of them, and what is left of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.live.volumes import layers
from migrate.live.volumes.layers import Layers, Overlay
from tests.live.filesystem.conftest import listing
from tests.live.moving import BUNDLE, ID, Moved
from tests.support.bundle import Config
from tests.support.hosts import Host

LAYERS = "/srv/layers"
ROOTFS = f"{BUNDLE}/rootfs"
LARGE_BYTES = 3 << 20

Layering = Callable[..., Moved]


def mount(host: Host, lower: str, *options: str) -> None:
    """Mount an overlay on the bundle's root file system of a host."""
    host.run(["mkdir", "-p", ROOTFS, "/srv/own/upper", "/srv/own/work"])
    chosen = ",".join([f"lowerdir={lower}", "upperdir=/srv/own/upper", "workdir=/srv/own/work"])
    host.run(["mount", "-t", "overlay", "-o", ",".join([chosen, *options]), "own", ROOTFS])


@pytest.fixture
def layered(unmade: Moved) -> Iterator[Layering]:
    """Make the container in an overlay of two lower layers, the same on both hosts."""

    def make(*options: str, there: str = LAYERS) -> Moved:
        host = unmade.host1

        def lay(_: Config) -> None:
            host.run(["mkdir", "-p", LAYERS, f"{LAYERS}/top/old", f"{LAYERS}/top/opaque"])
            host.run(["mv", ROOTFS, f"{LAYERS}/base"])
            top = host.folder(f"{LAYERS}/top")
            (top / "removed").write_text("removed")
            (top / "old/file").write_text("in an old folder")
            (top / "opaque/hidden").write_text("hidden")
            (top / "large").write_bytes(os.urandom(LARGE_BYTES))
            unmade.host2.run(["mkdir", "-p", os.path.dirname(there)])
            subprocess.run(
                ["cp", "-a", host.folder(LAYERS), unmade.host2.folder(there)], check=True
            )
            mount(host, f"{LAYERS}/top:{LAYERS}/base", *options)

        unmade.create(change=lay)
        return unmade

    try:
        yield make
    finally:
        for host in (unmade.host1, unmade.host2):
            host.run(["umount", "-l", ROOTFS], check=False)


def change(container: Moved, name: str = "host1") -> None:
    """Change the root file system from within, in every way that leaves a mark."""
    script = (
        "rm /removed; rm -r /opaque; mkdir /opaque; echo seen > /opaque/new; echo more >> /large;"
        "mv /old /renamed; ln /opaque/new /opaque/linked; chmod 700 /var"
    )
    container.site.hosts[name].run(["migrate", "exec", ID, "sh", "-ec", script])


def sent(done: subprocess.CompletedProcess[str]) -> int:
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return int(events[-1]["report"]["bytes"]["rootfs"]["raw"])


def without_log(root: Path) -> str:
    """Everything but what the payload writes all the time."""
    lines = listing(root).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("'log'", "'status'", "'.' ")))


@pytest.mark.parametrize("options", [(), ("redirect_dir=on",), ("metacopy=on",)])
def test_only_the_upper_layer_travels_where_the_lower_ones_are_there(
    layered: Layering, options: tuple[str, ...]
) -> None:
    container = layered(*options)
    change(container)
    before = without_log(container.host1.folder(ROOTFS))
    done = container.live("--json")
    container.must_run_on("host2")
    assert without_log(container.host2.folder(ROOTFS)) == before
    assert "only the upper layer" in done.stdout
    upper = container.host2.folder(f"{BUNDLE}/overlay/upper")
    assert (upper / "removed").is_char_device(), "the whiteout did not stay one"
    assert not (upper / "bin").exists(), "a lower layer came along"
    command = (container.host2.folder(BUNDLE) / "overlay/mount-command").read_text()
    assert f"lowerdir={LAYERS}/top:{LAYERS}/base" in command
    container.host2.run(["migrate", "delete", "--force", ID])
    assert f" {ROOTFS} " not in container.host2.run(["cat", "/proc/mounts"]).stdout


def test_it_goes_on_to_write_and_comes_back(layered: Layering) -> None:
    container = layered()
    change(container)
    container.live()
    container.must_run_on("host2")
    container.host2.run(["migrate", "exec", ID, "sh", "-c", "echo there > /opaque/new"])
    container.host2.run(["migrate", "live", ID, "--to", "host1"])
    container.must_run_on("host1")
    assert (container.host1.folder(ROOTFS) / "opaque/linked").read_text() == "there\n"
    assert f" {ROOTFS} " not in container.host2.run(["cat", "/proc/mounts"]).stdout
    container.live()
    container.must_run_on("host2")


def test_layers_may_have_other_names_over_there(layered: Layering) -> None:
    container = layered(there="/srv/images/layers")
    refused = container.host1.run(["migrate", "check", ID, "--to", "host2"], check=False)
    assert f"layer {LAYERS}/top is not on host2" in refused.stdout
    names = {f"{LAYERS}/{name}": f"/srv/images/layers/{name}" for name in ("top", "base")}
    (container.host1.folder("/srv") / "map.json").write_text(json.dumps({"layers": names}))
    done = container.live("--map", "/srv/map.json", "--json")
    container.must_run_on("host2")
    assert sent(done) < LARGE_BYTES


def test_a_layer_that_differs_in_a_byte_makes_all_of_it_travel(layered: Layering) -> None:
    container = layered()
    other = container.host2.folder(f"{LAYERS}/top/large")
    status = other.stat()
    raw = bytearray(other.read_bytes())
    raw[LARGE_BYTES // 2] ^= 1
    other.write_bytes(raw)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    before = without_log(container.host1.folder(ROOTFS))
    done = container.live("--json")
    container.must_run_on("host2")
    assert f"layer {LAYERS}/top of host2 differs" in done.stdout
    assert sent(done) > LARGE_BYTES
    assert without_log(container.host2.folder(ROOTFS)) == before


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_failed_migration_leaves_no_overlay(layered: Layering, how: str) -> None:
    container = layered()
    failed = container.live(fault=f"destination:before:HELD:{how}", check=False)
    assert failed.returncode != 0
    container.recover(container.host2, check=False)
    container.must_run_on("host1")
    assert not container.host2.folder(BUNDLE).exists()
    assert f" {ROOTFS} " not in container.host2.run(["cat", "/proc/mounts"]).stdout


# --- reading a mount ---


@pytest.fixture
def overlay_of(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount an overlay of one lower layer."""
    places = []

    def make(*options: str, name: str = "lower") -> Path:
        for each in (name, "upper", "work", "merged"):
            (tmp_path / each).mkdir()
        chosen = [
            f"lowerdir={str(tmp_path / name).replace(',', chr(92) + ',')}",
            f"upperdir={tmp_path}/upper",
            f"workdir={tmp_path}/work",
            *options,
        ]
        place = tmp_path / "merged"
        command = ["mount", "-t", "overlay", "-o", ",".join(chosen), "overlay", str(place)]
        subprocess.run(command, check=True)
        places.append(place)
        return place

    try:
        yield make
    finally:
        for place in places:
            subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_layers_of_a_mount_are_found(overlay_of: Callable[..., Path], tmp_path: Path) -> None:
    place = overlay_of("redirect_dir=on")
    found = layers.find(str(place))
    assert isinstance(found, Layers)
    assert (found.lower, found.upper) == ((f"{tmp_path}/lower",), f"{tmp_path}/upper")
    assert "redirect_dir=on" in found.options
    assert layers.find(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("options", "name", "reason"),
    [
        (("index=on",), "lower", "it is mounted with index=on"),
        (("userxattr",), "lower", "it is mounted with userxattr"),
        ((), "lo,wer", "its layers have no plain names"),
    ],
)
def test_a_mount_whose_upper_layer_means_nothing_elsewhere_travels_whole(
    overlay_of: Callable[..., Path], options: tuple[str, ...], name: str, reason: str
) -> None:
    assert layers.find(str(overlay_of(*options, name=name))) == reason


def test_more_names_than_a_mount_takes_are_known_before() -> None:
    few, many = Overlay(lower=["/a", "/b"]), Overlay(lower=[f"/{'x' * 200}"] * 25)
    assert few.has_room("/srv")
    assert not many.has_room("/srv")
    assert not Overlay(lower=["/a:b"]).has_room("/srv")
