"""The image directory: what it vouches for, and every kind of damage it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint.images import MANIFEST, ImageDirectory, Manifest
from migrate.checkpoint.pages import StreamSummary
from migrate.errors import ImageError
from tests.checkpoint.conftest import Maker, eventually
from tests.checkpoint.test_options import PLAIN

CONTENT = {
    "core-1.img": b"core" * 100,
    "pages-1.img": b"page" * 2048,
    "inventory.img": b"inventory",
    "empty.img": b"",
}


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageDirectory]:
    """A finished set of images."""
    with ImageDirectory(str(tmp_path / "images"), create=True) as made:
        for name, content in CONTENT.items():
            made.write(name, content)
        (tmp_path / "images" / "dump.log").write_text("a log\n")
        made.sign_off(PLAIN, criu="4.2.1", migration="m1")
        yield made


def test_the_directory_is_nobody_elses(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir(mode=0o755)
    for name in ("wide", "new/below"):
        with ImageDirectory(str(tmp_path / name), create=True) as made:
            assert os.fstat(made.descriptor).st_mode & 0o777 == 0o700
            made.write("core-1.img", b"secret")
        assert (tmp_path / name / "core-1.img").stat().st_mode & 0o777 == 0o600


def test_what_is_whole_is_accepted(images: ImageDirectory) -> None:
    manifest = images.manifest()
    images.verify(manifest)
    assert manifest.facts == PLAIN
    assert manifest.migration == "m1"
    assert manifest.files[-1].name == "inventory.img"
    assert {each.name for each in manifest.files} == CONTENT.keys()


def test_reading_takes_as_much_memory_as_there_is_to_read(images: ImageDirectory) -> None:
    # Room for the limit could not be had on any machine.
    assert images.read("core-1.img", 1 << 60) == CONTENT["core-1.img"]
    assert images.read("empty.img", 0) == b""
    with pytest.raises(ImageError, match=r"core-1\.img is longer than 399 bytes"):
        images.read("core-1.img", 399)


def damage(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Return a damage to one file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def replace_by_link(folder: Path) -> None:
    """Put a symbolic link to the same content in a file's place."""
    (folder / "core-1.img").rename(folder / "elsewhere")
    (folder / "core-1.img").symlink_to("elsewhere")


def replace_by_fifo(folder: Path) -> None:
    """Put a FIFO in a file's place, at which a reader would wait."""
    (folder / "empty.img").unlink()
    os.mkfifo(folder / "empty.img")


def replace_by_folder(folder: Path) -> None:
    """Put a folder in a file's place."""
    (folder / "empty.img").unlink()
    (folder / "empty.img").mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": damage("core-1.img", lambda data: data[:-1] + b"X"),
    "a flipped byte of memory": damage("pages-1.img", lambda data: b"X" + data[1:]),
    "a cut file": damage("core-1.img", lambda data: data[:-1]),
    "a longer file": damage("core-1.img", lambda data: data + b"X"),
    "a missing file": lambda folder: (folder / "core-1.img").unlink(),
    "a file too many": lambda folder: (folder / "core-2.img").write_bytes(b"evil"),
    "no inventory": lambda folder: (folder / "inventory.img").unlink(),
    "a link": replace_by_link,
    "a fifo": replace_by_fifo,
    "a folder": replace_by_folder,
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "an empty manifest": damage(MANIFEST, lambda _: b""),
    "half a manifest": damage(MANIFEST, lambda data: data[: len(data) // 2]),
    "a manifest of another": damage(MANIFEST, lambda data: data.replace(b'"m1"', b'"m2"')),
    "changed facts": damage(MANIFEST, lambda data: data.replace(b'"pid": 7', b'"pid": 8')),
    "a newer manifest": damage(MANIFEST, lambda data: data.replace(b'"schema": 1', b'"schema": 2')),
    "a nested manifest": damage(MANIFEST, lambda _: b"[" * 100_000),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_refused_in_one_line(
    images: ImageDirectory, tmp_path: Path, kind: str
) -> None:
    DAMAGES[kind](tmp_path / "images")
    with pytest.raises(ImageError) as caught:
        images.verify(images.manifest())
    assert "\n" not in caught.value.message


@given(st.data())
def test_no_byte_of_a_manifest_can_change(data: st.DataObject) -> None:
    manifest = Manifest(
        migration="", order=0, parent="", criu="4.2.1", facts=PLAIN, files=(), memory=None
    )
    content = bytearray(manifest.encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        assert Manifest.decode(bytes(content)) == manifest
    except ImageError:
        pass


@pytest.mark.parametrize("name", ["../evil.img", "/etc/passwd", "a/b.img", "..img", "x.sh", ""])
def test_a_manifest_names_images_only(name: str) -> None:
    data = json.loads(
        Manifest(
            migration="", order=0, parent="", criu="", facts=PLAIN, files=(), memory=None
        ).encode()
    )
    from migrate.checkpoint import images as module

    del data["digest"]
    data["files"] = [{"name": name, "bytes": 1, "digest": "sha256:00"}]
    data["digest"] = module._signature(data)
    with pytest.raises(ImageError, match="no image"):
        Manifest.decode(json.dumps(data).encode())


def test_a_directory_with_images_is_not_written_to(images: ImageDirectory) -> None:
    with pytest.raises(ImageError, match="already holds images"):
        ImageDirectory(images.path, create=True)


def test_images_are_carried_and_verified_on_their_way(
    images: ImageDirectory, tmp_path: Path
) -> None:
    manifest = images.manifest()
    whole = b"".join(images.contents(manifest))
    for size in (1, 7, len(whole)):
        chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
        with ImageDirectory(str(tmp_path / f"there{size}"), create=True) as there:
            assert there.receive(manifest, chunks) == CONTENT["inventory.img"]
            assert there.names() == ["core-1.img", "empty.img", "pages-1.img"]
            there.write("inventory.img", CONTENT["inventory.img"])
            there.verify(manifest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "ended 1 bytes early"),
        (lambda data: data + b"X", "goes on after its last file"),
        (lambda data: b"X" + data[1:], "core-1.img was damaged"),
        (lambda data: data[:-1] + b"X", "inventory.img was damaged"),
    ],
)
def test_damage_on_the_way_is_named(
    images: ImageDirectory, tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    manifest = images.manifest()
    whole = change(b"".join(images.contents(manifest)))
    with (
        ImageDirectory(str(tmp_path / "there"), create=True) as there,
        pytest.raises(ImageError, match=said),
    ):
        there.receive(manifest, [whole])


def test_streamed_memory_is_vouched_for_by_its_stream(tmp_path: Path) -> None:
    memory = StreamSummary(stream_bytes=9, page_bytes=0, digest="00", complete=True)
    with ImageDirectory(str(tmp_path / "images"), create=True) as images:
        for name in ("inventory.img", "pages-65537.img", "pagemap-1.img"):
            images.write(name, b"x")
        manifest = images.sign_off(PLAIN, criu="4.2.1", memory=memory)
        assert [each.name for each in manifest.files] == ["inventory.img"]
        images.verify(Manifest.decode(manifest.encode()), memory)
        with pytest.raises(ImageError, match="not made from the stream"):
            images.verify(manifest, replace(memory, digest="01"))
        with pytest.raises(ImageError, match="not made from the stream"):
            images.verify(manifest)


@pytest.mark.criu
def test_a_newer_checkpoint_replaces_an_older_one_when_it_is_complete(box: Maker) -> None:
    counter = box("sleep", "1000")
    counter.start()
    counter.checkpoint("--leave-running")
    (counter.images / "left-over.img").write_bytes(b"of another")
    (counter.images / ".unfinished").mkdir()
    (counter.images / ".unfinished" / "core-1.img").write_bytes(b"of one that was killed")
    before = (counter.images / MANIFEST).read_bytes()
    assert counter.checkpoint("--leave-running", "--network-lock", "bogus", check=False) == 1
    assert (counter.images / MANIFEST).read_bytes() == before
    counter.checkpoint()
    assert (counter.images / MANIFEST).read_bytes() != before
    assert sorted(path.suffix for path in counter.images.iterdir() if path.is_dir()) == []
    counter.restore()
    assert counter.status == "running"


@pytest.mark.criu
def test_an_older_checkpoint_outlives_a_failed_newer_one(box: Maker) -> None:
    counter = box("sleep", "1000")
    counter.start()
    counter.checkpoint("--leave-running")
    wrong = counter.folder / "criu"
    wrong.write_text("#!/bin/sh\nexit 3\n")
    wrong.chmod(0o755)
    at_first = {path.name: path.read_bytes() for path in counter.images.glob("*.img")}
    arguments = ("checkpoint", "--image-path", str(counter.images), counter.id)
    assert counter.migrate("--criu", str(wrong), *arguments, check=False) == 1
    assert {path.name: path.read_bytes() for path in counter.images.glob("*.img")} == at_first
    assert counter.status == "running"
    counter.delete()
    counter.restore()


@pytest.mark.criu
def test_a_damaged_checkpoint_never_reaches_criu(box: Maker) -> None:
    counter = box("sleep", "1000")
    counter.start()
    counter.checkpoint()
    path = counter.images / "core-1.img"
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert counter.restore(check=False) == 1
    assert "core-1.img is damaged" in (counter.folder / "log").read_text()
    assert not (counter.images / "restore.log").exists()
    assert counter.store.ids() == []


@pytest.mark.criu
def test_a_failed_checkpoint_leaves_no_image_and_a_running_container(box: Maker) -> None:
    holder = box("sh", "-c", "exec 5</dev/null; sleep 1000")
    holder.start()
    eventually(lambda: holder.status == "running", "it runs")
    assert holder.checkpoint("--network-lock", "bogus", check=False) == 1
    assert holder.status == "running"
    assert not holder.images.exists()
