"""Code of the image or of the bundle that must never run as the host's (import, dlopen, NSS)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.driver import Bundle, Config, Runtime, is_alive, wait_for_death

TRAP = """
import os
with open({canary!r}, "a") as f:
    f.write(__name__ + chr(10))
os.abort()
"""
LIBRARIES = (
    "libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "libffi.so.8", "libseccomp.so.2",
    "libnss_files.so.2", "libnss_trap.so.2", "libnss_compat.so.2", "libnss_dns.so.2",
    "libpthread.so.0", "libdl.so.2", "libutil.so.1",
)  # fmt: skip


def interpreter_path() -> list[str]:
    """Where the interpreter that runs `migrate` looks for modules."""
    script = "import sys; print('\\n'.join(sys.path))"
    return subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()


def module_names() -> Iterator[str]:
    """Names of every module of the standard library, and of what lies beside it."""
    yield from (name for name in sys.stdlib_module_names if name.isidentifier())
    yield from ("sitecustomize", "usercustomize", "migrate", "click", "pycriu")


@pytest.fixture
def trapped(runtime: Runtime, built: Path) -> Bundle:
    """A bundle whose root file system has a trap wherever the host's Python might look."""
    bundle = runtime.bundle("sh", "-c", "echo up; sleep 99")
    text = TRAP.format(canary="/TRAPPED")
    folders = [bundle.rootfs / path.lstrip("/") for path in interpreter_path()]
    folders += [bundle.rootfs / "usr/lib/python3/dist-packages", bundle.rootfs]
    for folder in folders:
        if folder.suffix == ".zip":
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.write_bytes(b"not a zip file")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for name in module_names():
            (folder / f"{name}.py").write_text(text)
    # Packages whose submodules are imported late: codecs, and ours.
    for package in ("encodings", "ctypes", "json", "migrate"):
        for folder in folders[:-1]:
            if folder.suffix != ".zip":
                (folder / package).mkdir(exist_ok=True)
                for name in ("__init__", "idna", "ascii", "utf_8", "util", "decoder", "errors"):
                    (folder / package / f"{name}.py").write_text(text)
    library = (built / "trap.so").read_bytes()
    for folder_name in ("lib", "lib64", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        folder = bundle.rootfs / folder_name
        folder.mkdir(parents=True, exist_ok=True)
        for name in LIBRARIES:
            (folder / name).write_bytes(library)
    (bundle.rootfs / "etc/nsswitch.conf").write_text("passwd: trap files\ngroup: trap files\n")
    (bundle.rootfs / "etc/ld.so.preload").write_text("/lib/libc.so.6\n")
    return bundle


def assert_not_trapped(bundle: Bundle) -> None:
    for canary in (bundle.rootfs / "TRAPPED", Path("/TRAPPED"), bundle.path / "TRAPPED"):
        assert not canary.exists(), canary.read_text()


def test_no_module_and_no_library_of_the_image_is_loaded(runtime: Runtime, trapped: Bundle) -> None:
    container = runtime.create(trapped)
    container("start")
    container.wait_for_output("up")
    assert container.exec("echo", "inside") == "inside\n"
    users = ["exec", "--user", "1000:1000", "--cap", "CAP_KILL", container.id]
    assert runtime.ok(*users, "id", "-u").out == "1000\n"
    container("pause")
    container("resume")
    pid = container.pid
    container("kill", "KILL")
    wait_for_death(pid)
    assert not is_alive(pid)
    container.wait_until("stopped")
    container("delete")
    assert_not_trapped(trapped)


def test_a_stage_that_fails_late_loads_nothing_of_the_image_either(
    runtime: Runtime, trapped: Bundle
) -> None:
    trapped.config["process"]["args"] = [
        "/no/such/program\udcff".encode("utf-8", "replace").decode()
    ]
    trapped.write()
    runtime.refuses("run", "--bundle", str(trapped.path), runtime.new_id())
    trapped.config["process"]["args"] = ["/etc/passwd"]
    trapped.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    trapped.config["process"]["cwd"] = "/home/wörker"
    trapped.write()
    runtime.refuses("run", "--bundle", str(trapped.path), runtime.new_id())
    assert_not_trapped(trapped)


def test_the_bundle_as_working_directory_and_the_environment_name_no_code(
    runtime: Runtime,
) -> None:
    bundle = runtime.bundle("sh", "-c", "echo up; sleep 99")
    text = TRAP.format(canary=str(bundle.path / "TRAPPED"))
    for name in module_names():
        (bundle.path / f"{name}.py").write_text(text)
    here = str(bundle.path)
    environment = {
        "PYTHONPATH": here, "PYTHONHOME": here, "PYTHONSTARTUP": f"{here}/json.py",
        "PYTHONINSPECT": "1", "PYTHONUSERBASE": here, "HOME": here,
        "PYTHONWARNINGS": "error::evil.Warning", "PYTHONBREAKPOINT": "json.x",
    }  # fmt: skip
    name = runtime.new_id()
    output = bundle.path / "output"
    how = {"cwd": bundle.path, "env": environment}
    runtime.ok("create", name, output=output, **how)  # type: ignore[arg-type]
    by_id = ["start", "ps", "pause", "resume", "state", "kill", "delete"]
    calls = [[verb, name] for verb in by_id]
    calls[2:2] = [["list"], ["exec", name, "true"], ["--help"], ["spec"]]
    for call in calls:
        runtime(*call, **how)  # type: ignore[arg-type]
    assert_not_trapped(bundle)


def test_a_rootfs_owned_by_the_container_gives_hooks_nothing(
    runtime: Runtime, trapped: Bundle
) -> None:
    def hook(config: Config) -> None:
        config["hooks"] = {
            "createContainer": [{"path": "/bin/true"}],
            "startContainer": [{"path": "/bin/true"}],
        }

    hook(trapped.config)
    trapped.write()
    container = runtime.create(trapped)
    container("start")
    container.wait_for_output("up")
    assert_not_trapped(trapped)
