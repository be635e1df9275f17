"""The root CRIU is given: private, with every mount point, and gone afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate.runtime.rootfs_for_restore import restore_root
from migrate.runtime.spec import decode
from tests.runtime.conftest import Config, Runner

pytestmark = pytest.mark.root


def test_mount_points_are_made_where_the_images_do_not_have_them(
    runner: Runner, tmp_path: Path
) -> None:
    volume, file = tmp_path / "volume", tmp_path / "file"
    volume.mkdir()
    file.write_text("x")

    def change(config: Config) -> None:
        config["mounts"] += [
            {"destination": "/mnt/volume", "source": str(volume), "options": ["rbind"]},
            {"destination": "/mnt/volume/in/file", "source": str(file), "options": ["bind"]},
            {"destination": "/dev/shm/only/in/images", "type": "tmpfs", "source": "x"},
            {"destination": "/etc/file", "source": str(file), "options": ["bind"]},
        ]

    bundle = runner.bundle(change=change)
    spec = decode((bundle / "config.json").read_bytes(), "config.json")
    before = Path("/proc/self/mountinfo").read_text()
    with restore_root(spec, str(bundle), str(tmp_path)) as path:
        mounted = Path("/proc/self/mountinfo").read_text()
        lines = [line for line in mounted.splitlines() if line.split()[4].startswith(path)]
        assert len(lines) == 2
        assert not any("shared:" in line for line in lines)
        assert os.path.samefile(f"{path}/bin", runner.rootfs / "bin")
        assert (Path(path) / "mnt" / "volume").is_dir()
        assert (Path(path) / "etc" / "file").is_file()
    assert (volume / "in" / "file").is_file()
    assert not (runner.rootfs / "dev" / "shm").exists()
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not Path(path).exists()
