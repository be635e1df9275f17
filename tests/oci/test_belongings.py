"""What a container is given of the host's: netDevices, made by the test itself; intelRdt."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .driver import Config, Runtime, cgroups_named, eventually

Change = Callable[[Config], None]


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def names() -> set[str]:
    """The devices of the test's own network namespace."""
    lines = ip("-o", "link").splitlines()
    return {line.split(": ")[1].partition("@")[0] for line in lines}


@pytest.fixture
def device() -> Iterator[str]:
    """A veth with an address of either family; its other end stays."""
    ip("link", "add", "t-dev", "type", "veth", "peer", "name", "t-peer")
    try:
        ip("link", "set", "t-peer", "up")
        ip("address", "add", "10.99.1.2/24", "broadcast", "10.99.1.255", "dev", "t-dev")
        ip("address", "add", "fd99::2/64", "dev", "t-dev", "nodad")
        ip("address", "add", "169.254.7.7/16", "dev", "t-dev", "scope", "link")
        ip("link", "set", "t-dev", "up")
        yield "t-dev"
    finally:
        subprocess.run(["ip", "link", "delete", "t-peer"], check=False)
        subprocess.run(["ip", "link", "delete", "t-dev"], check=False, stderr=subprocess.DEVNULL)


def with_devices(devices: dict[str, Any], **linux: Any) -> Change:
    def change(config: Config) -> None:
        config["linux"].update({"netDevices": devices, **linux})

    return change


SHOW = "ip -o link; ip -o address"


def test_a_device_is_moved_with_its_addresses_and_is_up(runtime: Runtime, device: str) -> None:
    container = runtime.started(runtime.bundle(change=with_devices({device: {}})))
    assert device not in names()
    shown = container.exec("sh", "-c", SHOW)
    assert " t-dev" in shown
    assert "10.99.1.2/24 brd 10.99.1.255" in shown
    assert "fd99::2/64" in shown
    assert "169.254.7.7" not in shown, "what belongs to a link stays with it"
    flags = next(line for line in container.exec("ip", "-o", "link").splitlines() if device in line)
    assert "UP" in flags.partition("<")[2].partition(">")[0].split(",")
    assert "state UP" in ip("link", "show", "t-peer")


def test_a_device_gets_the_name_it_has_inside(runtime: Runtime, device: str) -> None:
    change = with_devices({device: {"name": "eth0"}})
    out = runtime.shell(SHOW, change=change)
    assert " eth0" in out
    assert "t-dev:" not in out
    assert "10.99.1.2/24" in out


def test_a_name_with_a_number_takes_the_first_that_is_free(runtime: Runtime, device: str) -> None:
    out = runtime.shell("ip -o link", change=with_devices({device: {"name": "net%d"}}))
    assert " net0" in out


def test_a_device_goes_into_a_user_namespace_too(runtime: Runtime, device: str) -> None:
    ids = [{"containerID": 0, "hostID": 0, "size": 65536}]

    def change(config: Config) -> None:
        with_devices({device: {}}, uidMappings=ids, gidMappings=ids)(config)
        config["linux"]["namespaces"].append({"type": "user"})

    assert "10.99.1.2/24" in runtime.shell(SHOW, change=change)


def test_with_the_container_a_virtual_device_ends(runtime: Runtime, device: str) -> None:
    container = runtime.started(runtime.bundle(change=with_devices({device: {}})))
    container("delete --force")
    eventually(lambda: not {"t-dev", "t-peer"} & names(), "the kernel removes the pair")


def test_a_parameter_is_named_with_the_dot_of_a_device(runtime: Runtime, device: str) -> None:
    def change(config: Config) -> None:
        with_devices({device: {"name": "t.dev"}}, sysctl={
            "net/ipv4/conf/t.dev/forwarding": "1",
            "net.ipv4.conf.t/dev.proxy_arp": "1",
        })(config)  # fmt: skip

    script = "cd /proc/sys/net/ipv4/conf/t.dev; cat forwarding proxy_arp"
    assert runtime.shell(script, change=change) == "1\n1\n"


def test_a_container_that_cannot_be_made_gives_its_devices_back(
    runtime: Runtime, device: str
) -> None:
    change = with_devices({device: {"name": "eth0"}})
    bundle = runtime.bundle("/no/such/program", change=change)
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert device in names()
    shown = ip("-o", "address", "show", device)
    assert "10.99.1.2/24" in shown
    assert "fd99::2/64" in shown
    assert runtime.ids() == []


def test_of_several_devices_all_are_back_when_one_cannot_be_moved(
    runtime: Runtime, device: str
) -> None:
    change = with_devices({device: {}, "t-none": {}})
    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "t-none" in error
    assert device in names()
    assert cgroups_named(runtime.prefix) == []


@pytest.mark.parametrize(
    ("devices", "named"),
    [
        ({"t-none": {}}, "t-none"),
        ({"t-dev": {"name": "lo"}}, "lo exists"),
        ({"a/b": {}}, "a/b"),
        ({"": {}}, '""'),
        ({"x" * 16: {}}, "x" * 16),
        ({"t-dev": {"name": "a b"}}, "a b"),
        ({"t-dev": {"name": "a%s"}}, "a%s"),
        ({"eth%d": {}}, "eth%d"),
        ({"t-dev": {"name": "e0"}, "t-peer": {"name": "e0"}}, "twice"),
        ({"t-dev": {"name": 5}}, "name"),
        ({"t-dev": 5}, "not an object"),
    ],
)
def test_a_device_that_cannot_be_moved_is_refused(
    runtime: Runtime, device: str, devices: dict[str, Any], named: str
) -> None:
    bundle = runtime.bundle(change=with_devices(devices))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.linux.netDevices" in error
    assert named in error
    assert device in names()


def test_without_a_network_namespace_of_its_own_a_device_is_refused(
    runtime: Runtime, device: str
) -> None:
    def change(config: Config) -> None:
        with_devices({device: {}})(config)
        kinds = [each for each in config["linux"]["namespaces"] if each["type"] != "network"]
        config["linux"]["namespaces"] = kinds

    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.linux.netDevices" in error
    assert device in names()


def test_a_class_of_service_takes_a_mounted_resctrl(runtime: Runtime) -> None:
    bundle = runtime.bundle("true", change=lambda config: config["linux"].update(intelRdt={}))
    if Path("/sys/fs/resctrl/info").is_dir():
        assert runtime.run(bundle).status == 0
        return
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "intelRdt" in error
    assert runtime.ids() == []
    container = runtime.started()
    runtime.refuses("update", "--l3-cache-schema", "L3:0=f", container.id)
    runtime.refuses("update", "--mem-bw-schema", "MB:0=50", container.id)
