"""An image directory, and the manifest that says what must be in it.

Lives here: making, listing, signing off, verifying and carrying image files. Must not
live here: what is in an image (CRIU's own), how bytes travel (`transport`). May be
imported by `checkpoint`, `live` and `cli`.

Whoever supplies images is root on the machine that restores them, and CRIU does not
check them: of images damaged in one place a tenth is restored "successfully". So no
image is given to CRIU that `manifest.json` does not vouch for:

    {"schema": 1, "migration": ID, "order": 0, "parent": "", "criu": "4.2.1",
     "facts": {...}, "files": [{"name", "bytes", "digest"}, ...],
     "memory": {"stream_bytes", "page_bytes", "digest", "complete"} or null,
     "digest": "sha256:..." of all that is above}

Small images are vouched for by sha256, pages by xxh3: a damage, not an attacker, is
what a digest beside the data can find. Files of a streamed memory are not listed;
`memory` vouches for the stream they were made from, or that brought what they leave out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from migrate.checkpoint.facts import Facts
from migrate.checkpoint.gate import INVENTORY
from migrate.checkpoint.pages import StreamSummary
from migrate.errors import ImageError

MANIFEST = "manifest.json"
SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][A-Za-z0-9_.-]{0,120}\.img")
_PAGES = re.compile(r"pages-\d+\.img")
_STREAMED = re.compile(r"pages-\d+\.img|pagemap-(shmem-)?\d+\.img")
_CHUNK_BYTES = 1 << 20
_LARGEST_MANIFEST_BYTES = 64 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True, frozen=True, kw_only=True)
class ImageFile:
    """One file a manifest vouches for; digest is `ALGORITHM:HEX`."""

    name: str
    bytes: int
    digest: str


@dataclass(slots=True, frozen=True, kw_only=True)
class Manifest:
    """What an image directory holds.

    Attributes:
        migration: id of the migration it belongs to, "" for a plain checkpoint.
        order, parent: place in a chain of pre-dumps and digest of the one before.
        criu: version that made the images.
        files: in the order they are sent, the inventory last.
        memory: the stream the memory images were made from, None where CRIU
            wrote them itself.
    """

    migration: str
    order: int
    parent: str
    criu: str
    facts: Facts
    files: tuple[ImageFile, ...]
    memory: StreamSummary | None

    def encode(self) -> bytes:
        """Return the manifest as the bytes of its file."""
        data: dict[str, Any] = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps({**data, "digest": _signature(data)}, indent=1).encode() + b"\n"

    @staticmethod
    def decode(content: bytes) -> Manifest:
        """Return the manifest of a file's bytes, every value checked.

        Raises:
            ImageError: damaged, of another version, or not a manifest.
        """
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{MANIFEST} is damaged: {error}") from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ImageError(
                f"{MANIFEST} is not one this version writes",
                "Use the same version of migrate for checkpoint and restore.",
            )
        if data.pop("digest", None) != _signature(data):
            raise ImageError(f"{MANIFEST} is damaged: its digest does not match")
        try:
            memory = data["memory"]
            return Manifest(
                migration=str(data["migration"]),
                order=int(data["order"]),
                parent=str(data["parent"]),
                criu=str(data["criu"]),
                facts=Facts.from_json(data["facts"]),
                files=tuple(_image_file(each) for each in data["files"]),
                memory=None if memory is None else StreamSummary(**memory),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ImageError(f"{MANIFEST} is incomplete: {error}") from None


class ImageDirectory:
    """One image directory, held open.

    Args:
        path: where it is.
        create: make it, 0700; one that exists must hold no images, unless `replace`.

    Attributes:
        descriptor: of the directory, for CRIU (`images_dir_fd`).
    """

    def __init__(self, path: str, *, create: bool = False, replace: bool = False) -> None:
        self.path = os.path.abspath(path)
        try:
            if create:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(
                f"image directory {self.path}: {str(error.strerror).lower()}",
                "Give the directory of a checkpoint with --image-path.",
            ) from None
        if create:
            left = [name for name in self.names() if not name.startswith("parent")]
            if left and not replace:
                self.close()
                raise ImageError(
                    f"image directory {self.path} already holds images, such as {left[0]}",
                    "Give an empty directory with --image-path.",
                )
            # It may have been there with a wider mode: images hold the container's secrets.
            os.fchmod(self.descriptor, 0o700)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """Return the names of the image files, sorted."""
        return sorted(name for name in os.listdir(self.descriptor) if name.endswith(".img"))

    def read(self, name: str, limit_bytes: int = _LARGEST_MANIFEST_BYTES) -> bytes:
        """Return a small file's content."""
        with self._open(name) as file:
            # Room is taken for as much as is asked for, so no more is asked for than is there.
            size = os.fstat(file.fileno()).st_size
            if size > limit_bytes:
                raise ImageError(f"{self.path}/{name} is longer than {limit_bytes} bytes")
            return bytes(file.read(size))

    def write(self, name: str, content: bytes) -> None:
        """Make a file; one that exists already is an error."""
        descriptor = os.open(name, _WRITE, 0o600, dir_fd=self.descriptor)
        with open(descriptor, "wb") as file:
            file.write(content)

    def sign_off(
        self,
        facts: Facts,
        *,
        criu: str,
        migration: str = "",
        memory: StreamSummary | None = None,
        streamed: bool = True,
    ) -> Manifest:
        """Write and return the manifest of a finished dump.

        Args:
            memory: what was sent beside the images.
            streamed: its images will be made from that; else they are here, and only
                contents of pages were sent.
        """
        names = self.names()
        if memory is not None and streamed:
            names = [name for name in names if not _STREAMED.fullmatch(name)]
        names.sort(key=lambda name: (name == INVENTORY, name))
        manifest = Manifest(
            migration=migration,
            order=0,
            parent="",
            criu=criu,
            facts=facts,
            files=tuple(self._vouch(name) for name in names),
            memory=memory,
        )
        temporary = f".{MANIFEST}"
        self.write(temporary, manifest.encode())
        os.rename(temporary, MANIFEST, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        return manifest

    def let_read(self, group: int) -> None:
        """Let a group read the images that are there, and nobody write them.

        Within a user namespace CRIU is nobody to files of root. Whoever may write an
        image is root in the end, so the files stay root's.
        """
        for name in self.names():
            os.chown(name, -1, group, dir_fd=self.descriptor, follow_symlinks=False)
            if stat.S_ISREG(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode):
                os.chmod(name, 0o640, dir_fd=self.descriptor)
        os.fchown(self.descriptor, -1, group)
        os.fchmod(self.descriptor, 0o750)

    def let_nobody_read(self) -> None:
        """Take back what `let_read` gave."""
        for name in self.names():
            os.chown(name, -1, os.getegid(), dir_fd=self.descriptor, follow_symlinks=False)
        os.fchmod(self.descriptor, 0o700)
        os.fchown(self.descriptor, -1, os.getegid())

    def take_over(self, other: ImageDirectory) -> None:
        """Replace the images here by those of a directory inside this one, which goes.

        What is here stays until the others are complete. A cut in between leaves a
        manifest that does not fit, which is refused.
        """
        self.clear()
        for name in (*other.names(), MANIFEST):
            os.rename(name, name, src_dir_fd=other.descriptor, dst_dir_fd=self.descriptor)
        os.rmdir(other.path)

    def clear(self) -> None:
        """Remove what a dump that failed has written; logs stay."""
        for name in (*self.names(), MANIFEST):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.descriptor)

    def manifest(self) -> Manifest:
        """Return the manifest that lies in the directory.

        Raises:
            ImageError: there is none, or it is damaged.
        """
        try:
            content = self.read(MANIFEST)
        except FileNotFoundError:
            raise ImageError(
                f"image directory {self.path} has no {MANIFEST}, so its images cannot be trusted",
                "Make the checkpoint with `migrate checkpoint`; images of other programs "
                "are not restored.",
            ) from None
        return Manifest.decode(content)

    def verify(self, manifest: Manifest, memory: StreamSummary | None = None) -> None:
        """Refuse images that are not what the manifest says.

        Args:
            memory: what arrived as the memory stream, where there was one.

        Raises:
            ImageError: names the first file that is missing, damaged or unknown.
        """
        if manifest.memory != memory:
            raise ImageError("memory images are not made from the stream the manifest names")
        known = {each.name: each for each in manifest.files}
        if INVENTORY not in known:
            raise ImageError(f"{MANIFEST} names no {INVENTORY}: the dump was not finished")
        for name in self.names():
            streamed = memory is not None and _STREAMED.fullmatch(name)
            if name not in known and not streamed:
                raise ImageError(f"{self.path}/{name} is not in the manifest")
        for expected in manifest.files:
            found = self._vouch(expected.name)
            if found.bytes != expected.bytes:
                raise ImageError(
                    f"{self.path}/{expected.name} has {found.bytes} bytes, "
                    f"the manifest says {expected.bytes}"
                )
            if found.digest != expected.digest:
                raise ImageError(f"{self.path}/{expected.name} is damaged: its digest differs")

    def contents(self, manifest: Manifest) -> Iterator[bytes]:
        """Yield the files of the manifest, one after the other, in chunks."""
        for each in manifest.files:
            with self._open(each.name) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk

    def receive(self, manifest: Manifest, chunks: Iterable[bytes | memoryview]) -> bytes:
        """Write the files of a manifest as `contents` yielded them elsewhere.

        Each is verified as it comes. The inventory is not written but returned, for it
        opens the gate of a waiting restore.

        Raises:
            ImageError: damaged, too short or too long.
        """
        source = _Exactly(iter(chunks))
        inventory = b""
        for each in manifest.files:
            algorithm = each.digest.partition(":")[0]
            digest = _hash(algorithm)
            parts = []
            descriptor = -1
            if each.name != INVENTORY:
                descriptor = os.open(each.name, _WRITE, 0o600, dir_fd=self.descriptor)
            try:
                for part in source.take(each.bytes):
                    digest.update(part)
                    if descriptor < 0:
                        parts.append(bytes(part))
                    else:
                        _write_all(descriptor, part)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            if each.digest != f"{algorithm}:{digest.hexdigest()}":
                raise ImageError(f"{each.name} was damaged on its way: its digest differs")
            inventory = inventory or b"".join(parts)
        source.end()
        return inventory

    def _open(self, name: str) -> Any:
        """Return a regular file of the directory, opened for reading."""
        descriptor = os.open(name, _READ | os.O_NONBLOCK, dir_fd=self.descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ImageError(f"{self.path}/{name} is not a regular file")
        return open(descriptor, "rb", buffering=0)

    def _vouch(self, name: str) -> ImageFile:
        """Return what a manifest says of a file as it is now."""
        try:
            file = self._open(name)
        except OSError as error:
            raise ImageError(f"{self.path}/{name}: {str(error.strerror).lower()}") from None
        with file:
            algorithm = "xxh3_128" if _PAGES.fullmatch(name) else "sha256"
            digest = _hash(algorithm)
            size = 0
            buffer = memoryview(bytearray(_CHUNK_BYTES))
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                size += count
        return ImageFile(name=name, bytes=size, digest=f"{algorithm}:{digest.hexdigest()}")


class _Exactly:
    """Cuts a stream of chunks into pieces of known length."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes."""
        while size:
            if not self._left:
                try:
                    self._left = memoryview(next(self._chunks))
                except StopIteration:
                    raise ImageError(f"image stream ended {size} bytes early") from None
                continue
            part, self._left = self._left[:size], self._left[size:]
            size -= len(part)
            yield part

    def end(self) -> None:
        """Refuse what comes after the last file."""
        if self._left or any(len(chunk) for chunk in self._chunks):
            raise ImageError("image stream goes on after its last file")


def _image_file(data: Any) -> ImageFile:
    """Return one entry of the list of files, checked."""
    name, size, digest = data["name"], data["bytes"], data["digest"]
    if type(name) is not str or not _NAME.fullmatch(name):
        raise ImageError(f"{MANIFEST} names a file {name!r}, which is no image")
    if type(size) is not int or type(digest) is not str or size < 0:
        raise ImageError(f"{MANIFEST} has no size or digest for {name}")
    return ImageFile(name=name, bytes=size, digest=digest)


def _signature(data: dict[str, Any]) -> str:
    """Return the digest of a manifest's values, whatever their order."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _hash(algorithm: str) -> Any:
    """Return a fresh hash object."""
    if algorithm == "sha256":
        return hashlib.sha256()
    import xxhash

    return xxhash.xxh3_128()


def _write_all(descriptor: int, view: memoryview) -> None:
    """Write every byte, however often the kernel takes fewer."""
    while view:
        view = view[os.write(descriptor, view) :]
