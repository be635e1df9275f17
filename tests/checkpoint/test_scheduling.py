"""What CRIU forgets of how threads share the machine; carried whole in tests/live."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.checkpoint import scheduling
from migrate.checkpoint.images import ImageDirectory
from migrate.errors import ImageError


def test_a_list_of_processors_is_read_as_the_kernel_writes_it() -> None:
    assert list(scheduling._numbers("0-2,7\n")) == [0, 1, 2, 7]
    assert not list(scheduling._numbers("\n"))


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b'{"1": []}', b'{"1": {"cpus": ["x"]}}', b'{"1": {"io": -1}}']
)
def test_a_damaged_image_is_refused(tmp_path: Path, content: bytes) -> None:
    with ImageDirectory(str(tmp_path / "images"), create=True) as images:
        images.write(scheduling.NAME, content)
        with pytest.raises(ImageError, match="damaged"):
            scheduling.give_back(images, 1)


def test_without_an_image_nothing_is_looked_for(tmp_path: Path) -> None:
    with ImageDirectory(str(tmp_path / "images"), create=True) as images:
        scheduling.give_back(images, 0)
