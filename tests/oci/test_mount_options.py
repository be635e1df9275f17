"""What `mounts[]` may ask for beside plain flags: id maps, copying up, remount, recursion."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .driver import CGROUP_ROOT, Bundle, Config, Runtime, cgroups_named, mounts_below
from .test_namespaces import open_to_all

Change = Callable[[Config], None]


def with_mounts(*mounts: dict[str, Any]) -> Change:
    return lambda config: config["mounts"].extend(mounts)


def with_user_namespace(config: Config) -> None:
    """Container ids from 0 are the host's from 200000."""
    ids = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"].update(uidMappings=ids, gidMappings=ids)


def mapping(inside: int, outside: int, size: int = 1) -> list[dict[str, int]]:
    return [{"containerID": inside, "hostID": outside, "size": size}]


def fields_of(mountinfo: str, destination: str) -> list[str]:
    return [line.split() for line in mountinfo.splitlines() if line.split()[4] == destination][-1]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with a file of uid 1000 and gid 1001, and another one mounted in it."""
    path = tmp_path / "source"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "outer", path], check=True)
    (path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", path / "inner"], check=True)
    try:
        for name in ("file", "inner/file"):
            (path / name).write_text("x\n")
            os.chown(path / name, 1000, 1001)
        yield path
    finally:
        subprocess.run(["umount", "-R", path], check=True)


# config.md, "Linux mount options", without those that have tests of their own.
WORDS = frozenset(
    {
        "async",
        "atime",
        "defaults",
        "dev",
        "diratime",
        "dirsync",
        "exec",
        "iversion",
        "lazytime",
        "loud",
        "mand",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "noiversion",
        "nolazytime",
        "nomand",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "nosymfollow",
        "private",
        "ratime",
        "rdev",
        "rdiratime",
        "relatime",
        "rexec",
        "rnoatime",
        "rnodiratime",
        "rnoexec",
        "rnorelatime",
        "rnostrictatime",
        "rnosuid",
        "rnosymfollow",
        "ro",
        "rprivate",
        "rrelatime",
        "rro",
        "rrw",
        "rshared",
        "rslave",
        "rstrictatime",
        "rsuid",
        "rsymfollow",
        "runbindable",
        "rw",
        "shared",
        "silent",
        "slave",
        "strictatime",
        "suid",
        "symfollow",
        "sync",
        "unbindable",
    }
)

OWNERS = "stat -c '%u %g' /mnt/file /mnt/inner/file"


def bind(source: Path, *options: str, **more: Any) -> dict[str, Any]:
    return {
        "destination": "/mnt",
        "type": "bind",
        "source": str(source),
        "options": list(options),
        **more,
    }


@pytest.mark.parametrize(
    ("options", "inner"), [(["rbind", "idmap"], "1000 1001"), (["rbind", "ridmap"], "0 7")]
)
def test_an_id_mapped_mount_shows_other_owners(
    runtime: Runtime, source: Path, options: list[str], inner: str
) -> None:
    mount = bind(source, *options, uidMappings=mapping(1000, 0), gidMappings=mapping(1001, 7))
    assert runtime.shell(OWNERS, change=with_mounts(mount)) == f"0 7\n{inner}\n"


def test_mappings_alone_map_the_ids(runtime: Runtime, source: Path) -> None:
    mount = bind(source, "bind", uidMappings=mapping(1000, 0), gidMappings=mapping(1001, 0))
    script = "stat -c '%u %g' /mnt/file"
    assert runtime.shell(script, change=with_mounts(mount)) == "0 0\n"


def test_what_is_written_through_a_map_belongs_to_the_other(runtime: Runtime, source: Path) -> None:
    maps = {"uidMappings": mapping(1000, 0), "gidMappings": mapping(1001, 0)}
    mount = bind(source, "bind", "idmap", **maps)
    (source / "open").mkdir()
    os.chown(source / "open", 1000, 1001)
    runtime.shell("touch /mnt/open/new", change=with_mounts(mount))
    status = (source / "open/new").stat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)


def test_without_mappings_those_of_the_container_hold(runtime: Runtime, source: Path) -> None:
    def change(config: Config) -> None:
        with_user_namespace(config)
        with_mounts(bind(source, "rbind", "ridmap"))(config)

    def owners(change: Change) -> list[str]:
        bundle = runtime.bundle("sh", "-c", OWNERS, change=change)
        (bundle.rootfs / "mnt").mkdir()
        open_to_all(bundle.path)
        result = runtime.run(bundle)
        assert result.status == 0, str(result)
        return result.out.splitlines()

    # What the host's 1000 owns, the container's 1000 owns.
    assert owners(change) == ["1000 1001", "1000 1001"]
    plain = bind(source, "rbind")

    def unmapped(config: Config) -> None:
        with_user_namespace(config)
        with_mounts(plain)(config)

    assert owners(unmapped) == ["65534 65534", "65534 65534"]


@pytest.mark.parametrize(
    ("mount", "named"),
    [
        ({"options": ["bind", "idmap"]}, "user namespace"),
        ({"options": ["bind", "idmap"], "uidMappings": mapping(0, 1)}, "together"),
        (
            {"type": "tmpfs", "options": ["idmap"], "uidMappings": mapping(0, 1),
             "gidMappings": mapping(0, 1)},
            "bind mounts",
        ),
        ({"options": ["bind", "idmap=uids=0-1-1"]}, "uidMappings"),
        ({"options": ["bind", "size=5"]}, "size=5"),
        ({"options": ["bind", "tmpcopyup"]}, "tmpcopyup"),
        ({"type": "sysfs", "options": ["tmpcopyup"]}, "tmpcopyup"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    runtime: Runtime, source: Path, mount: dict[str, Any], named: str
) -> None:
    bundle = runtime.bundle(change=with_mounts({**bind(source), **mount}))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.mounts[" in error
    assert named in error
    assert runtime.ids() == []


def test_a_file_system_that_cannot_be_mapped_is_named(runtime: Runtime) -> None:
    maps = {"uidMappings": mapping(0, 1), "gidMappings": mapping(0, 1)}
    bundle = runtime.bundle(change=with_mounts(bind(Path("/proc/sys"), "bind", "idmap", **maps)))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "/mnt" in error
    assert runtime.ids() == []
    assert cgroups_named(runtime.prefix) == []


def copied(bundle: Bundle) -> Path:
    """A directory of the image with one of everything in it."""
    top = bundle.rootfs / "data"
    (top / "deep/er").mkdir(parents=True)
    (top / "deep/er/file").write_text("content\n")
    os.chown(top / "deep/er/file", 1000, 1001)
    (top / "deep/er/file").chmod(0o4755)
    (top / "link").symlink_to("/etc/passwd")
    os.mkfifo(top / "pipe", 0o640)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    os.utime(top / "deep/er/file", (1000, 2000))
    top.chmod(0o751)
    return top


def tmpfs(*options: str) -> dict[str, Any]:
    return {
        "destination": "/data",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": list(options),
    }


def test_tmpcopyup_fills_the_tmpfs_with_what_it_covers(runtime: Runtime) -> None:
    script = """
        cat /data/deep/er/file; stat -c '%a %u %g' /data/deep/er/file
        readlink /data/link; stat -c '%F %a' /data/pipe; stat -c %a /data/sticky
        stat -c %a /data; echo more >/data/more; rm /data/deep/er/file
    """
    bundle = runtime.bundle("sh", "-c", script, change=with_mounts(tmpfs("tmpcopyup")))
    top = copied(bundle)
    result = runtime.run(bundle)
    assert result.out.splitlines() == [
        "content", "4755 1000 1001", "/etc/passwd", "fifo 640", "1777", "751",
    ], str(result)  # fmt: skip
    assert (top / "deep/er/file").exists()
    assert not (top / "more").exists()


def test_tmpcopyup_and_read_only_are_both_done(runtime: Runtime) -> None:
    script = "cat /data/deep/er/file; touch /data/x || echo refused"
    bundle = runtime.bundle("sh", "-c", script, change=with_mounts(tmpfs("tmpcopyup", "ro")))
    copied(bundle)
    assert runtime.run(bundle).out == "content\nrefused\n"


def test_tmpcopyup_over_nothing_is_an_empty_tmpfs(runtime: Runtime) -> None:
    assert runtime.shell("ls /data | wc -l", change=with_mounts(tmpfs("tmpcopyup"))) == "0\n"


def test_tmpcopyup_into_too_little_room_is_said(runtime: Runtime) -> None:
    bundle = runtime.bundle(change=with_mounts(tmpfs("tmpcopyup", "size=16k")))
    copied(bundle)
    (bundle.rootfs / "data/large").write_bytes(b"x" * 100_000)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "/data" in error
    assert "no space left" in error
    assert runtime.ids() == []


def test_tmpcopyup_follows_no_link_out_of_the_root(runtime: Runtime, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret\n")
    bundle = runtime.bundle("sh", "-c", "ls /data", change=with_mounts(tmpfs("tmpcopyup")))
    (bundle.rootfs / "data").symlink_to(outside)
    assert "secret" not in runtime.run(bundle).out


def test_a_remount_changes_what_is_named_and_nothing_else(runtime: Runtime) -> None:
    change = with_mounts(
        {**tmpfs("nosuid", "size=64k")},
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs",
         "options": ["remount", "ro", "nodev", "size=128k"]},
    )  # fmt: skip
    out = runtime.shell("cat /proc/self/mountinfo", change=change)
    assert len([line for line in out.splitlines() if line.split()[4] == "/data"]) == 1
    fields = fields_of(out, "/data")
    assert {"ro", "nosuid", "nodev"} <= set(fields[5].split(","))
    assert "size=128k" in fields[-1].split(",")


def test_a_bind_is_remounted_without_its_file_system(runtime: Runtime, source: Path) -> None:
    change = with_mounts(
        bind(source, "bind"),
        {"destination": "/mnt", "type": "bind", "options": ["bind", "remount", "ro"]},
    )
    assert runtime.shell("touch /mnt/x || echo refused", change=change) == "refused\n"
    (source / "still-writable").touch()


def test_a_remount_of_nothing_is_refused(runtime: Runtime) -> None:
    mount = {"destination": "/home", "type": "tmpfs", "options": ["remount", "ro"]}
    bundle = runtime.bundle(change=with_mounts(mount))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "/home" in error


@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_word_of_the_spec_is_carried_out_or_known(
    runtime: Runtime, source: Path, word: str
) -> None:
    for mount in (tmpfs(word), bind(source, "rbind", word)):
        assert runtime.shell("echo up", change=with_mounts(mount)) == "up\n"


def test_features_name_every_word_of_the_spec(runtime: Runtime) -> None:
    assert set(json.loads(runtime.ok("features").out)["mountOptions"]) >= set(WORDS)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnodiratime", "nodiratime"),
        ("rnoatime", "noatime"),
        ("rnosymfollow", "nosymfollow"),
    ],
)
def test_a_recursive_attribute_reaches_every_mount_of_the_tree(
    runtime: Runtime, source: Path, word: str, expected: str
) -> None:
    change = with_mounts(bind(source, "rbind", word))
    out = runtime.shell("cat /proc/self/mountinfo", change=change)
    for destination in ("/mnt", "/mnt/inner"):
        assert expected in fields_of(out, destination)[5].split(","), out


def test_a_recursive_attribute_is_taken_off_again_below(runtime: Runtime, source: Path) -> None:
    subprocess.run(["mount", "-o", "remount,bind,noexec", source / "inner"], check=True)
    change = with_mounts(bind(source, "rbind", "rexec", "noexec"))
    out = runtime.shell("cat /proc/self/mountinfo", change=change)
    assert "noexec" not in fields_of(out, "/mnt/inner")[5].split(",")


def test_a_relative_destination_is_below_the_root_and_warned_of(
    runtime: Runtime, source: Path
) -> None:
    bundle = runtime.bundle("cat", "/some/place/file")
    bundle.config["mounts"].append({**bind(source, "bind"), "destination": "some/place"})
    bundle.write()
    result = runtime.run(bundle)
    assert result.out == "x\n", str(result)
    assert "relative" in result.err


def test_a_private_mount_stays_out_of_the_hosts_table(runtime: Runtime, source: Path) -> None:
    before = mounts_below(source)
    container = runtime.started(runtime.bundle(change=with_mounts(bind(source, "rbind"))))
    assert mounts_below(source) == before
    assert container.exec("cat", "/mnt/file") == "x\n"


@pytest.mark.parametrize("own", [False, True])
def test_the_cgroup_mount_begins_at_the_containers_group(runtime: Runtime, *, own: bool) -> None:
    def change(config: Config) -> None:
        kinds = [item for item in config["linux"]["namespaces"] if item["type"] != "cgroup"]
        config["linux"]["namespaces"] = kinds + [{"type": "cgroup"}] * own
        for mount in config["mounts"]:
            if mount["type"] == "cgroup":
                mount["options"] = ["nosuid", "noexec", "nodev", "relatime", "ro", "rslave"]

    out = runtime.shell("cat /proc/self/mountinfo; cat /proc/self/cgroup", change=change)
    mounted = [line for line in out.splitlines() if " - cgroup" in line]
    assert mounted
    for line in mounted:
        assert "ro" in line.split()[5].split(",")
        # Seen from the namespace the group is the root; else the mount's root names it.
        assert (line.split()[3] == "/") is own, line
    listed = [line for line in out.splitlines() if line.count(":") == 2 and line[0].isdigit()]
    if own:
        assert {line.rpartition(":")[2] for line in listed} <= {"/"}, listed
    assert CGROUP_ROOT.is_dir()
