"""Whole migrations of containers with volumes, each by its policy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from tests.live.filesystem.conftest import listing
from tests.live.filesystem.test_sync import fill
from tests.live.moving import BUNDLE, ID, Moved

from .conftest import Mounts, bind, folder


def inside(container: Moved, name: str, command: str) -> str:
    """Run a shell command in the container on a host; return what it says."""
    return container.site.hosts[name].run(["migrate", "exec", ID, "sh", "-c", command]).stdout


def test_a_writable_volume_that_nobody_decided_about_is_refused_with_the_way_out(
    mounting: Mounts, unmade: Moved
) -> None:
    folder(unmade.host1, "/srv/data")
    folder(unmade.host2, "/srv/data")
    container = mounting(bind("/srv/data", "/data"))
    refused = container.live(check=False)
    assert refused.returncode == 1
    assert "volume /srv/data (mounted at /data)" in refused.stderr
    assert "--volume /srv/data=POLICY" in refused.stderr
    container.must_run_on("host1")
    checked = container.host1.run(["migrate", "check", ID, "--to", "host2"], check=False)
    assert checked.returncode == 3
    assert "--volume /srv/data=POLICY" in checked.stdout


def test_a_volume_is_copied_there_and_back_with_all_kinds_of_files(
    mounting: Mounts, unmade: Moved
) -> None:
    here = folder(unmade.host1, "/srv/data")
    fill(here)
    container = mounting(bind("/srv/data", "/data"))
    inside(container, "host1", "echo host1 > /data/who; ln /data/who /data/who-else")
    before = listing(here)
    container.live("--volume", "/srv/data=sync")
    container.must_run_on("host2")
    there = container.host2.folder("/srv/data")
    assert listing(there) == before
    assert listing(here) == before, "the source's copy was touched"
    inside(container, "host2", "echo host2 > /data/who; rm /data/empty")
    before = listing(there)
    container.host2.run(["migrate", "live", ID, "--to", "host1", "--volume", "/data=sync"])
    container.must_run_on("host1")
    assert listing(here) == before
    assert inside(container, "host1", "cat /data/who-else") == "host2\n"


def test_a_deleted_file_that_is_open_in_a_volume_is_open_over_there(
    mounting: Mounts, unmade: Moved
) -> None:
    folder(unmade.host1, "/srv/data")
    folder(unmade.host1, "/srv/linked")
    container = mounting(bind("/srv/data", "/data"), bind("/srv/linked", "/linked"))
    script = (
        "exec 3<>/data/gone 4<>/linked/one; echo kept >&3; echo too >&4;"
        "ln /linked/one /linked/two;"
        "rm /data/gone /linked/one; touch /data/ready; while sleep 0.1; do :; done"
    )
    container.host1.run_detached(["migrate", "exec", "-d", ID, "sh", "-c", script])
    container.site.host1.run(["sh", "-c", "until [ -e /srv/data/ready ]; do sleep 0.05; done"])
    container.live("--volume", "/srv/data=sync", "--volume", "/srv/linked=sync")
    container.must_run_on("host2")
    find = "for p in /proc/[0-9]*; do case $(readlink $p/fd/3) in /data*) break; esac; done"
    assert inside(container, "host2", f"{find}; cat $p/fd/3 $p/fd/4") == "kept\ntoo\n"
    assert sorted(os.listdir(container.host2.folder("/srv/linked"))) == ["two"]
    assert os.listdir(container.host2.folder("/srv/data")) == ["ready"]


def test_what_times_do_not_tell_of_a_volume_arrives(mounting: Mounts, unmade: Moved) -> None:
    here = folder(unmade.host1, "/srv/data")
    (here / "same-size").write_bytes(b"a" * 70_000)
    container = mounting(bind("/srv/data", "/data"))
    script = (
        "i=0; while :; do i=$((i+1)); printf %06d $i | dd of=/data/same-size conv=notrunc bs=6 "
        "seek=5000 2>/dev/null; touch -d @1000000000 /data/same-size; done"
    )
    container.host1.run_detached(["migrate", "exec", "-d", ID, "sh", "-c", script])
    container.live("--volume", "/srv/data=sync")
    container.must_run_on("host2")
    container.host2.run(["migrate", "pause", ID])
    there = (container.host2.folder("/srv/data") / "same-size").read_bytes()
    assert len(there) == 70_000
    before = (here / "same-size").read_bytes()
    assert int(there[30_000:30_006]) >= int(before[30_000:30_006]) > 0
    container.host2.run(["migrate", "resume", ID])


def test_a_folder_of_somebody_else_is_not_overwritten(mounting: Mounts, unmade: Moved) -> None:
    (folder(unmade.host1, "/srv/data") / "mine").touch()
    theirs = folder(unmade.host2, "/srv/data") / "theirs"
    theirs.touch()
    container = mounting(bind("/srv/data", "/data"))
    refused = container.live("--volume", "/srv/data=sync", check=False)
    assert refused.returncode == 1
    assert "is not empty, nor left by a migration" in refused.stderr
    assert theirs.exists()
    container.must_run_on("host1")


def test_a_failed_migration_leaves_no_volume_and_empties_the_one_that_was_empty(
    mounting: Mounts, unmade: Moved
) -> None:
    for name in ("data", "more"):
        (folder(unmade.host1, f"/srv/{name}") / "file").write_text(name)
    (folder(unmade.host1, "/srv/files") / "conf").write_text("conf")
    empty = folder(unmade.host2, "/srv/more")
    empty.chmod(0o751)
    container = mounting(
        bind("/srv/data", "/data"), bind("/srv/more", "/more"), bind("/srv/files/conf", "/conf")
    )
    volumes = [f"--volume={path}=sync" for path in ("/data", "/more", "/conf")]
    failed = container.live(*volumes, fault="destination:before:HELD:raise", check=False)
    assert failed.returncode == 1, failed.stderr
    container.must_run_on("host1")
    assert not container.host2.folder("/srv/data").exists()
    assert not container.host2.folder("/srv/files").exists()
    assert os.listdir(empty) == []
    assert empty.stat().st_mode & 0o7777 == 0o751
    container.live(*volumes)
    container.must_run_on("host2")
    assert inside(container, "host2", "cat /data/file /more/file /conf") == "datamoreconf"


def test_read_only_volumes_of_the_same_content_are_taken_as_they_are(
    mounting: Mounts, unmade: Moved
) -> None:
    here = folder(unmade.host1, "/srv/fixed")
    fill(here)
    (unmade.host1.folder("/srv") / "conf").write_text("one")
    copy_on = unmade.host2
    subprocess.run(["cp", "-a", here, copy_on.folder("/srv") / "fixed"], check=True)
    (copy_on.folder("/srv") / "conf").write_text("two")
    container = mounting(bind("/srv/fixed", "/fixed", "ro"), bind("/srv/conf", "/conf", "ro"))
    refused = container.live(check=False)
    assert "/srv/conf (mounted at /conf): host2 has another content" in refused.stderr
    assert "/srv/fixed (" not in refused.stderr
    (copy_on.folder("/srv") / "conf").write_text("one")
    before = copy_on.folder("/srv/fixed").stat().st_ctime_ns
    container.live()
    container.must_run_on("host2")
    assert copy_on.folder("/srv/fixed").stat().st_ctime_ns == before
    assert inside(container, "host2", "cat /conf") == "one"


def test_shared_storage_is_proven_and_what_is_not_shared_refused(
    mounting: Mounts, unmade: Moved
) -> None:
    one = folder(unmade.host1, "/srv/data")
    folder(unmade.host2, "/srv/data")
    container = mounting(bind("/srv/data", "/data"))
    before = one.stat().st_mtime_ns
    refused = container.live("--volume", "/srv/data=shared", check=False)
    assert "what is written to it on host1 is not seen" in refused.stderr
    assert os.listdir(one) == []
    assert one.stat().st_mtime_ns == before
    container.must_run_on("host1")


def test_one_folder_of_both_hosts_is_shared(mounting: Mounts) -> None:
    common = f"/tmp/migrate-shared-{os.getpid()}"
    os.mkdir(common)
    try:
        container = mounting(bind(common, "/data"))
        inside(container, "host1", "echo here > /data/file")
        container.live("--volume", f"{common}=shared")
        container.must_run_on("host2")
        assert inside(container, "host2", "cat /data/file; ls -A /data") == "here\nfile\n"
    finally:
        shutil.rmtree(common)


def test_a_volume_that_exists_is_left_alone_and_one_that_is_skipped_is_empty(
    mounting: Mounts, unmade: Moved
) -> None:
    for host in (unmade.host1, unmade.host2):
        (folder(host, "/srv/data") / "name").write_text(host.name)
    (folder(unmade.host1, "/srv/cache") / "much").write_text("much")
    unmade.host1.folder("/srv/cache").chmod(0o1777)
    container = mounting(
        bind("/srv/cache/much", "/much"), bind("/srv/data", "/data"), bind("/srv/cache", "/cache")
    )
    done = container.live(*("--volume=/data=exists", "--volume=/cache=skip", "--volume=/much=skip"))
    assert "the content here does not come along" in done.stderr
    container.must_run_on("host2")
    assert inside(container, "host2", "cat /data/name /much; ls -A /cache; stat -c %a /cache") == (
        "host21777\n"
    )
    assert not container.host2.folder("/srv/cache").exists()
    config = json.loads((container.host2.folder(BUNDLE) / "config.json").read_text())
    assert config["mounts"][-1]["source"] == f"{BUNDLE}/volumes/0"


def test_a_skipped_volume_that_is_in_use_is_refused_by_name(
    mounting: Mounts, unmade: Moved
) -> None:
    folder(unmade.host1, "/srv/cache")
    container = mounting(bind("/srv/cache", "/cache"))
    script = "cd /cache; while sleep 1; do :; done"
    container.host1.run_detached(["migrate", "exec", "-d", ID, "sh", "-c", script])
    refused = container.live("--volume", "/cache=skip", check=False)
    assert refused.returncode == 1
    assert "has /cache open" in refused.stderr


def test_volumes_of_the_bundle_go_with_it_wherever_it_goes(mounting: Mounts, unmade: Moved) -> None:
    (folder(unmade.host1, f"{BUNDLE}/data") / "file").write_text("mine")
    (folder(unmade.host1, f"{BUNDLE}/conf") / "web.conf").write_text("conf")
    container = mounting(
        bind("data", "/data"), bind(f"{BUNDLE}/conf/web.conf", "/etc/web.conf", "ro")
    )
    container.live("--bundle", "/srv/elsewhere")
    assert container.where() == ["host2"]
    assert inside(container, "host2", "cat /data/file /etc/web.conf") == "mineconf"
    assert (container.host2.folder("/srv/elsewhere/data") / "file").read_text() == "mine"


def test_nested_volumes_come_along_once(mounting: Mounts, unmade: Moved) -> None:
    (folder(unmade.host1, "/srv/data/inner") / "file").write_text("inner")
    container = mounting(bind("/srv/data", "/data"), bind("/srv/data/inner", "/inner"))
    container.live("--volume", "/data=sync")
    container.must_run_on("host2")
    inside(container, "host2", "echo again > /inner/file")
    assert inside(container, "host2", "cat /data/inner/file") == "again\n"
