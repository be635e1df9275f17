"""Programs of the distribution, copied into a container's root file system.

Lives here: what redis, PostgreSQL, nginx and Python need of the machine they are installed
on, found by `ldd` where it is libraries. Nothing is kept between tests: a copy takes no
longer than the question whether an older one is still right. Must not live here: what a
container runs of them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

REDIS = Path("/usr/bin/redis-server")
NGINX = Path("/usr/sbin/nginx")
PYTHON = Path("/usr/bin/python3").resolve()
# A library to preload: who asks for the user's number is told another one.
NOT_ROOT = "not-root.so"
_NOT_ROOT = (
    "#include <unistd.h>\nuid_t geteuid(void) { return UID; }\nuid_t getuid(void) { return UID; }\n"
)
# Parts of Python's library that are large and that no program under test uses.
UNUSED = shutil.ignore_patterns(
    "__pycache__", "test", "idlelib", "ensurepip", "lib2to3", "pydoc_data", "config-*"
)


def postgres_folders() -> tuple[Path, Path]:
    """Return the folders of PostgreSQL's programs and of what they read.

    Raises:
        FileNotFoundError: it is not installed.
    """
    for programs in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True):
        version = programs.parent.parent
        return version, Path("/usr/share/postgresql", version.name)
    raise FileNotFoundError("/usr/lib/postgresql/*/bin/postgres")


def install_redis(rootfs: Path) -> None:
    """Give a root file system redis-server."""
    _install(rootfs, [REDIS])


def install_nginx(rootfs: Path) -> None:
    """Give a root file system nginx and the folders it wants to be there."""
    _install(rootfs, [NGINX])
    for folder in ("var/log/nginx", "var/lib/nginx", "run"):
        (rootfs / folder).mkdir(parents=True, exist_ok=True)


def install_postgres(rootfs: Path, uid: int) -> str:
    """Give a root file system PostgreSQL, and a user `postgres` to run it.

    Returns:
        The folder of its programs.
    """
    version, shared = postgres_folders()
    programs = [version / "bin" / name for name in ("postgres", "initdb", "psql", "pgbench")]
    _install(rootfs, [*programs, *(version / "lib").glob("*.so")], [shared])
    with open(rootfs / "etc" / "passwd", "a") as file:
        file.write(f"postgres:x:{uid}:{uid}::/data:/bin/sh\n")
    return str(version / "bin")


def install_not_root(rootfs: Path, uid: int) -> None:
    """Give a root file system the library of NOT_ROOT, that says `uid`."""
    command = ["gcc", "-shared", "-fPIC", f"-DUID={uid}", "-o", str(rootfs / NOT_ROOT)]
    subprocess.run([*command, "-xc", "-"], check=True, input=_NOT_ROOT.encode())


def install_python(rootfs: Path) -> None:
    """Give a root file system the distribution's Python and its standard library."""
    library = Path("/usr/lib", PYTHON.name)
    _install(rootfs, [PYTHON, *(library / "lib-dynload").glob("*.so")], [library])


def _install(rootfs: Path, files: Sequence[Path], folders: Sequence[Path] = ()) -> None:
    """Copy files with the libraries they need, and folders, to the paths they have here."""
    for folder in folders:
        shutil.copytree(
            folder, _inside(rootfs, folder), ignore=UNUSED, dirs_exist_ok=True, symlinks=False
        )
    for file in {*files, *_libraries(files)}:
        place = _inside(rootfs, file)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)


def _inside(rootfs: Path, path: Path) -> Path:
    return rootfs / path.relative_to("/")


def _libraries(files: Sequence[Path]) -> set[Path]:
    """Return the shared libraries and the loader of programs, by the names they ask for."""
    said = subprocess.run(["ldd", *files], check=True, capture_output=True, text=True).stdout
    words = [line.strip().rpartition("=> ")[2].split(" (")[0] for line in said.splitlines()]
    return {Path(word) for word in words if word.startswith("/") and not word.endswith(":")}
