"""Two halves of a sync, joined by a real link within one process."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from migrate.live.filesystem.mapped import Held
from migrate.live.filesystem.passes import PassReport
from migrate.live.filesystem.receiver import TreeReceiver
from migrate.live.filesystem.source import TreeSource
from migrate.transport.channel import channel_pair
from migrate.transport.link import Link


@dataclass
class Sync:
    """A tree here, its copy there, and the two halves between them."""

    here: Path
    there: Path
    source: TreeSource
    receiver: TreeReceiver

    def run(
        self,
        *,
        frozen: bool = False,
        mapped: Iterable[Held] = (),
        writing: Iterable[Held] | None = None,
    ) -> PassReport:
        """One pass; raises what the source's half raises, then what the other does."""
        failed: list[Exception] = []

        def receive() -> None:
            try:
                self.receiver.run()
            except Exception as error:  # noqa: BLE001 - raised again below
                failed.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            report = self.source.run(frozen=frozen, mapped=mapped, writing=writing)
        finally:
            thread.join(20)
        assert not thread.is_alive()
        if failed:
            raise failed[0]
        return report


@pytest.fixture
def links() -> Iterator[tuple[Link, Link]]:
    left, right = channel_pair()
    near, far = Link(left, "source"), Link(right, "destination")
    thread = threading.Thread(target=far.handshake)
    thread.start()
    near.handshake()
    thread.join()
    try:
        yield near, far
    finally:
        near.close()
        far.close()


@pytest.fixture
def sync(links: tuple[Link, Link], tmp_path: Path) -> Iterator[Sync]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with (
        TreeSource(links[0], "rootfs", str(here)) as source,
        TreeReceiver(links[1], "rootfs", str(there)) as receiver,
    ):
        yield Sync(here, there, source, receiver)


def listing(root: Path) -> str:
    """All that a tree is, content included, as text to compare."""
    lines = []
    numbers: dict[tuple[int, int], str] = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(root))
        first = numbers.setdefault((status.st_dev, status.st_ino), name)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in sorted(os.listxattr(path, follow_symlinks=False))
        }
        content: object = ""
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = subprocess.check_output(["sha256sum", str(path)])[:64]
        lines.append(
            f"{name!r} {status.st_mode:o} {status.st_uid}:{status.st_gid} {status.st_mtime_ns} "
            f"{status.st_rdev} ={first!r} {xattrs} {content!r}"
        )
    return "\n".join(lines)


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """An overlay of two layers."""
    for name in ("lower/directory", "lower/opaque", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("lower-only", "changed", "removed", "directory/file", "opaque/old"):
        (tmp_path / "lower" / name).write_text(name)
    os.link(tmp_path / "lower/changed", tmp_path / "lower/directory/linked")
    layers = ",".join(f"{key}dir={tmp_path}/{key}" for key in ("lower", "upper", "work"))
    place = tmp_path / "merged"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
