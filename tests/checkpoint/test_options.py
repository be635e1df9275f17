"""CRIU's options, as a function of what a container is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint import options
from migrate.checkpoint.facts import CgroupPath, Connection, Facts, Mount, NetworkNamespace, Stdio
from migrate.checkpoint.options import Request, Target
from migrate.errors import UsageError

NETWORK = NetworkNamespace(inode=4026531840, kind="own", only_loopback=True, loopback_is_up=True)
PLAIN = Facts(
    container_id="box",
    pid=7,
    rootfs="/bundle/rootfs",
    terminal=False,
    cgroup_namespace=True,
    has_nested_cgroups=False,
    user_namespace=False,
    network=NETWORK,
)
TARGET = Target(root="/t/root", masked="/t/masked", cgroup={"freezer": "/cg/freezer/box"})
LOCAL = Connection(
    local="127.0.0.1:1", remote="127.0.0.1:2", state="ESTAB", is_loopback=True, process="1 (a)"
)

names = st.text("abcdefgh", min_size=1, max_size=6)
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
mounts = st.builds(
    Mount,
    destination=paths,
    kind=st.sampled_from(["cgroup", "null", "masked", "bind"]),
    controller=st.just("freezer"),
    source=paths,
)
streams = st.builds(
    Stdio,
    descriptor=st.integers(-1, 2),
    kind=st.sampled_from(["pipe", "file", "terminal"]),
    key=names.map("file[{}]".format),
    path=paths,
)
networks = st.builds(
    NetworkNamespace,
    inode=st.integers(1, 2**32),
    kind=st.sampled_from(["own", "joined", "host"]),
    only_loopback=st.booleans(),
    loopback_is_up=st.booleans(),
)
facts = st.builds(
    Facts,
    container_id=names,
    pid=st.integers(1, 2**22),
    rootfs=paths,
    terminal=st.booleans(),
    cgroup_namespace=st.booleans(),
    has_nested_cgroups=st.booleans(),
    user_namespace=st.booleans(),
    network=networks,
    mounts=st.lists(mounts, max_size=5, unique_by=lambda each: each.destination).map(tuple),
    stdio=st.lists(streams, max_size=4, unique_by=lambda each: each.key).map(tuple),
    connections=st.lists(st.just(LOCAL), max_size=1).map(tuple),
    host_unix_sockets=st.lists(names, max_size=1).map(tuple),
    ghost_bytes=st.integers(0, 2**40),
    has_remapped_links=st.booleans(),
)
maybe = st.none() | st.booleans()
requests = st.builds(
    Request,
    leave_running=st.booleans(),
    tcp_established=maybe,
    tcp_close=st.booleans(),
    ext_unix_sk=maybe,
    shell_job=st.booleans(),
    file_locks=maybe,
    link_remap=maybe,
    cgroup_mode=st.none() | st.sampled_from(sorted(options.CGROUP_MODES)),
    network=st.none() | st.sampled_from(["external", "image", "empty"]),
    network_lock=st.none() | st.sampled_from(options.NETWORK_LOCKS),
    log_level=st.integers(0, 4),
)


def target_for(container: Facts) -> Target:
    """Return a target that has a counterpart for everything."""
    return replace(
        TARGET,
        binds={each.destination: f"/there{each.destination}" for each in container.mounts},
        cgroup_paths=(CgroupPath(controller="freezer", path="/box"),),
        network=9,
        inherited={each.key: 20 + number for number, each in enumerate(container.stdio)},
    )


def message(fields: dict[str, Any]) -> Any:
    """Return the fields as CRIU's message, which refuses names and types it has not."""
    from pycriu import rpc

    made = rpc.criu_opts(images_dir_fd=3)
    options.apply(fields, made)
    return made


@given(facts, requests)
def test_every_option_is_one_that_criu_knows(container: Facts, request: Request) -> None:
    assert message(options.dump_options(container, request)).SerializeToString()
    target = target_for(container)
    assert message(options.restore_options(container, target, request)).SerializeToString()


@given(facts, requests)
def test_whatever_is_external_at_the_dump_has_a_counterpart_at_the_restore(
    container: Facts, request: Request
) -> None:
    dumped = options.dump_options(container, request)["external"]
    restored = options.restore_options(container, target_for(container), request)
    inherited = [key for key, _ in restored["inherit_fd"]]
    for external in dumped:
        if external.startswith("mnt["):
            cookie = external.partition("]:")[2]
            assert sum(each.startswith(f"mnt[{cookie}]:") for each in restored["external"]) == 1
        elif external.startswith("net["):
            assert external.partition("]:")[2] in inherited
        else:
            assert external in inherited


@given(facts, requests)
def test_both_sides_agree_on_what_must_be_equal(container: Facts, request: Request) -> None:
    dumped = options.dump_options(container, request)
    restored = options.restore_options(container, target_for(container), request)
    for name in ("tcp_established", "file_locks", "manage_cgroups_mode", "network_lock"):
        assert dumped[name] == restored[name]
    assert dumped.get("empty_ns") == restored.get("empty_ns")


@given(facts, requests)
def test_what_is_asked_overrides_what_follows_from_the_container(
    container: Facts, request: Request
) -> None:
    dumped = options.dump_options(container, request)
    for name in ("tcp_established", "ext_unix_sk", "file_locks", "link_remap"):
        asked = getattr(request, name)
        if asked is not None:
            assert dumped[name] is asked
    if request.network_lock is not None:
        assert dumped["network_lock"] == request.network_lock.upper()


@given(facts, requests)
def test_packets_are_kept_away_unless_none_can_come(container: Facts, request: Request) -> None:
    request = replace(request, network_lock=None)
    if options.network_lock(container, request) == "skip":
        assert container.network.kind == "own"
        assert container.network.only_loopback
        assert not container.connections


def test_files_without_a_name_are_always_in_the_image() -> None:
    huge = replace(PLAIN, ghost_bytes=1 << 30)
    assert options.dump_options(huge, Request())["ghost_limit"] > 1 << 30
    endless = replace(PLAIN, ghost_bytes=1 << 40)
    assert message(options.dump_options(endless, Request())).ghost_limit == 0xFFFFFFFF


def test_connections_and_locks_are_carried_without_being_asked() -> None:
    assert options.dump_options(PLAIN, Request())["tcp_established"]
    assert options.dump_options(PLAIN, Request())["file_locks"]


def test_a_joined_network_namespace_comes_from_outside_again() -> None:
    joined = replace(PLAIN, network=replace(NETWORK, kind="joined", path="/run/netns/a"))
    assert options.network_mode(joined, Request()) == "external"
    assert options.network_mode(PLAIN, Request()) == "image"
    with pytest.raises(UsageError, match="no network namespace"):
        options.restore_options(joined, TARGET, Request())


def test_a_mount_without_a_counterpart_is_named() -> None:
    bound = replace(PLAIN, mounts=(Mount(destination="/data", kind="bind", source="/old"),))
    with pytest.raises(UsageError, match=r"mount /data \(from /old\) has no source here"):
        options.restore_options(bound, TARGET, Request())


@pytest.mark.parametrize("path", ["/etc/shadow", "/dev/../etc/shadow", "/devil"])
def test_a_device_is_one_of_this_hosts_dev(path: str) -> None:
    for destination, is_fine in ((path, False), ("/dev/null", True)):
        mounts = (Mount(destination=destination, kind="device"),)
        if is_fine:
            made = options.restore_options(replace(PLAIN, mounts=mounts), TARGET, Request())
            assert made["external"] == ["mnt[/dev/null]:/dev/null"]
        else:
            with pytest.raises(UsageError, match="has no source here"):
                options.restore_options(replace(PLAIN, mounts=mounts), TARGET, Request())


def test_another_layout_of_control_groups_is_named() -> None:
    mount = Mount(destination="/sys/fs/cgroup/memory", kind="cgroup", controller="memory")
    with pytest.raises(UsageError, match="control groups of memory"):
        options.restore_options(replace(PLAIN, mounts=(mount,)), TARGET, Request())


def test_controllers_match_whatever_their_order() -> None:
    mount = Mount(destination="/cg", kind="cgroup", controller="cpuacct,cpu")
    target = replace(TARGET, cgroup={"cpu,cpuacct": "/cg/cpu/box"})
    made = options.restore_options(replace(PLAIN, mounts=(mount,)), target, Request())
    assert made["external"] == ["mnt[/cg]:/cg/cpu/box"]


def test_a_file_outside_without_a_counterpart_is_named() -> None:
    outside = Stdio(descriptor=1, kind="file", key="file[1:2]", path="/var/log/out")
    with pytest.raises(UsageError, match="/var/log/out"):
        options.restore_options(replace(PLAIN, stdio=(outside,)), TARGET, Request())


def test_nested_control_groups_are_left_to_criu() -> None:
    nested = replace(PLAIN, has_nested_cgroups=True)
    here = (CgroupPath(controller="freezer", path="/box"),)
    target = replace(TARGET, cgroup_paths=here)
    made = options.restore_options(nested, target, Request())
    assert made["manage_cgroups_mode"] == "SOFT"
    assert made["cg_root"] == [("freezer", "/box")]
    same = options.restore_options(replace(nested, cgroup=here), target, Request())
    assert "cg_root" not in same
