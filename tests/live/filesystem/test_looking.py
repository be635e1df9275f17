"""What a walk notices, and what is noticed only by content."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.live.filesystem import content
from migrate.live.filesystem.content import BlockReader
from migrate.live.filesystem.inventory import Changes, Inventory
from migrate.live.filesystem.mapped import shared_mappings

from .conftest import Sync


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    yield Inventory(fd)
    os.close(fd)


def settled(inventory: Inventory) -> Changes:
    """Walk as if everything were old: only what changes from here on is found."""
    changes = inventory.walk()
    inventory._floor_ns = 2**62
    return changes


def names(inventory: Inventory, entries: list[int]) -> set[str]:
    return {inventory.path(entry) for entry in entries}


def test_nothing_changed_is_nothing_found(inventory: Inventory, tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir()
    (tmp_path / "root/a/b").write_text("x")
    first = settled(inventory)
    assert names(inventory, first.fresh) == {"", "a", "a/b"}
    second = settled(inventory)
    assert (second.fresh, second.changed, second.content, second.gone) == ([], [], [], [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: os.chmod(p, 0o600), ({"f"}, {"f"})),
        (lambda p: os.chown(p, 7, 7), ({"f"}, {"f"})),
        (lambda p: os.setxattr(p, "user.x", b"1"), ({"f"}, {"f"})),
        (lambda p: os.utime(p, ns=(1, 2)), ({"f"}, {"f"})),
        (lambda p: p.write_text("y"), ({"f"}, {"f"})),
        (lambda p: os.link(p, f"{p}2"), (set(), {"f"})),
    ],
)
def test_each_change_of_a_file_is_found(
    inventory: Inventory, tmp_path: Path, change: object, expected: tuple[set[str], set[str]]
) -> None:
    path = tmp_path / "root/f"
    path.write_text("x")
    settled(inventory)
    change(path)  # type: ignore[operator]
    found = inventory.walk()
    changed = names(inventory, found.changed) - {""}
    assert (changed, names(inventory, found.content)) == expected


def test_a_write_within_the_same_tick_is_looked_at_again(
    inventory: Inventory, tmp_path: Path
) -> None:
    path = tmp_path / "root/f"
    path.write_text("x")
    inventory.walk()
    # Whether or not its times differ: it was too young to be trusted.
    assert names(inventory, inventory.walk().content) == {"f"}


def test_an_inode_number_that_is_used_again_is_another_link(
    inventory: Inventory, tmp_path: Path
) -> None:
    link = tmp_path / "root/link"
    link.symlink_to("one")
    settled(inventory)
    link.unlink()
    link.symlink_to("two")
    found = inventory.walk()
    assert len(found.gone) == len(found.fresh) == 1
    assert inventory.targets[found.fresh[0]] == "two"


def test_a_removed_tree_is_gone_from_the_bottom_up(inventory: Inventory, tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/c").write_text("x")
    settled(inventory)
    (tmp_path / "root/a").rename(tmp_path / "elsewhere")
    found = inventory.walk()
    assert [inventory.names[entry] for entry in found.gone] == ["c", "b", "a"]


def test_the_batch_names_the_first_of_several_names(inventory: Inventory, tmp_path: Path) -> None:
    (tmp_path / "root/one").write_text("x")
    os.link(tmp_path / "root/one", tmp_path / "root/two")
    changes = inventory.walk()
    batch = inventory.batch(changes)
    linked = [link for link in batch.links if link != 0xFFFFFFFF]
    assert linked == changes.content


# --- content ---


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, 10)],
        [(0, 128 * 1024)],
        [(0, 300_000)],
        [(200_000, 5)],
        [(0, 5), (1_000_000, 5)],
        [(131_072, 131_072), (500_000, 1)],
        [(4096, 4096), (20_480, 4096), (135_168, 4096)],
    ],
)
def test_blocks_and_holes_are_the_whole_file(tmp_path: Path, pieces: list[tuple[int, int]]) -> None:
    path = tmp_path / "file"
    size = 1_200_001
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, length in pieces:
            file.seek(offset)
            file.write(os.urandom(length))
    whole = path.read_bytes()
    seen = bytearray(size)
    data_bytes = 0
    with open(path, "rb") as file:
        for offset, data, extents in BlockReader().blocks(file.fileno(), size):
            if isinstance(data, int):
                continue
            for start, length in extents if extents is not None else [(0, len(data))]:
                seen[offset + start : offset + start + length] = data[start : start + length]
                data_bytes += length
        digests = content.file_blocks(BlockReader(), file.fileno(), size)
    assert bytes(seen) == whole
    assert data_bytes <= sum(length for _, length in pieces) + 4096 * 2 * len(pieces)
    step = content.BLOCK_BYTES
    plain = b"".join(content.digest(whole[at : at + step]) for at in range(0, size, step))
    assert digests == plain


def test_holes_within_a_block_stay_holes(sync: Sync) -> None:
    with open(sync.here / "file", "wb") as file:
        for at in range(0, 2_000_000, 65_536):
            file.seek(at)
            file.write(b"x" * 4096)
    sync.run()
    assert (sync.here / "file").read_bytes() == (sync.there / "file").read_bytes()
    assert (sync.there / "file").stat().st_blocks <= (sync.here / "file").stat().st_blocks


def test_what_became_a_hole_is_zeros_on_the_other_side(sync: Sync) -> None:
    path = sync.here / "file"
    path.write_bytes(os.urandom(1_000_000))
    sync.run()
    with open(path, "r+b") as file:
        file.truncate(100_000)
        file.truncate(1_000_000)
    report = sync.run(frozen=True)
    assert path.read_bytes() == (sync.there / "file").read_bytes()
    assert report.content_bytes <= 128 * 1024


# --- mappings ---

_MAPPER = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    shared = mmap.mmap(file.fileno(), 4096)
with open(sys.argv[2], "r+b") as file:
    private = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE)
print("mapped", flush=True)
sys.stdin.read()
"""


def test_files_mapped_shared_are_found_and_private_ones_are_not(tmp_path: Path) -> None:
    shared, private = tmp_path / "shared file", tmp_path / "private"
    for path in (shared, private):
        path.write_bytes(bytes(4096))
    with subprocess.Popen(
        [sys.executable, "-c", _MAPPER, str(shared), str(private)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = shared_mappings([process.pid, 2**22 - 1])
        process.communicate()
    assert (str(shared), shared.stat().st_ino) in found
    assert str(private) not in {path for path, _ in found}


def test_a_store_through_a_mapping_arrives_whatever_the_times_say(sync: Sync) -> None:
    path = sync.here / "mapped"
    path.write_bytes(bytes(1_000_000))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 1
        sync.run()
        sync.source._inventory._floor_ns = 2**62
        mapping[500_000] = 7
        sync.run(frozen=True, mapped=[("/mapped", path.stat().st_ino)])
    assert (sync.there / "mapped").read_bytes() == path.read_bytes()
