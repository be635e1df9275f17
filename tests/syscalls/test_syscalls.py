"""The wrappers: what they return, what they raise, and that they leave nothing open."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from migrate import syscalls
from migrate.errors import KernelError


def failure(function: object, *args: object, **named: object) -> KernelError:
    """What a call raises."""
    assert callable(function)
    with pytest.raises(KernelError) as caught:
        function(*args, **named)
    return caught.value


def test_a_failure_names_call_subject_and_reason() -> None:
    error = failure(syscalls.openat2, syscalls.AT_FDCWD, "/no/such\udcff", 0)
    assert error.errno == errno.ENOENT
    assert str(error) == "openat2 /no/such\udcff: no such file or directory"


def test_descriptors_are_close_on_exec(tmp_path: Path) -> None:
    for fd in (
        syscalls.openat2(syscalls.AT_FDCWD, str(tmp_path), os.O_RDONLY),
        syscalls.pidfd_open(os.getpid()),
    ):
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_path_stays_inside_its_root(tmp_path: Path) -> None:
    (tmp_path / "inside").write_text("inside")
    (tmp_path / "up").symlink_to("../../../../inside")
    (tmp_path / "absolute").symlink_to("/inside")
    (tmp_path / "magic").symlink_to("/proc/self/exe")
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        for name in ("up", "absolute", "../inside", "/inside"):
            fd = syscalls.openat2(root, name, os.O_RDONLY, resolve=syscalls.RESOLVE_IN_ROOT)
            assert os.read(fd, 10) == b"inside"
            os.close(fd)
            if name in {"up", "absolute"}:
                beneath = syscalls.RESOLVE_BENEATH
                assert (
                    failure(syscalls.openat2, root, name, 0, resolve=beneath).errno == errno.EXDEV
                )
        links = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        assert failure(syscalls.openat2, root, "up", 0, resolve=links).errno == errno.ELOOP
    finally:
        os.close(root)


def test_mount_roots_and_file_systems_are_told_apart() -> None:
    fd = os.open("/proc", os.O_PATH)
    try:
        assert syscalls.fstatfs(fd) == syscalls.PROC_SUPER_MAGIC
        mount, is_root = syscalls.statx_mount(fd)
        assert is_root
        assert syscalls.statx_mount(fd, "self") == (mount, False)
        assert syscalls.statx_mount(fd, "sys") == (mount, False)
    finally:
        os.close(fd)


def test_the_working_directory_is_the_kernels_own_word(tmp_path: Path) -> None:
    before = os.open(".", os.O_RDONLY)
    inner = tmp_path / "x"
    inner.mkdir()
    os.chdir(inner)
    try:
        assert syscalls.getcwd() == str(inner).encode()
        inner.rmdir()
        assert failure(syscalls.getcwd).errno == errno.ENOENT
    finally:
        os.fchdir(before)
        os.close(before)


def test_capabilities_are_read_as_proc_shows_them() -> None:
    effective, permitted, inheritable = syscalls.capget()
    status = dict(
        line.split(":\t")
        for line in Path("/proc/self/status").read_text().splitlines()
        if "Cap" in line
    )
    assert int(status["CapEff"], 16) == effective
    assert int(status["CapPrm"], 16) == permitted
    assert int(status["CapInh"], 16) == inheritable


@pytest.mark.root
def test_capabilities_are_given_up_and_do_not_come_back() -> None:
    code = """
from migrate import syscalls
syscalls.capset(1 << 5, 1 << 5 | 1 << 40, 0)
print(syscalls.capget())
try:
    syscalls.capset(0, 1 << 6, 0)
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    kill, checkpoint = 1 << 5, 1 << 40
    assert done.stdout.splitlines() == [
        str((kill, kill | checkpoint, 0)),
        "capset 0x40: operation not permitted",
    ]


def test_a_process_is_signalled_by_its_descriptor_alone() -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        pidfd = syscalls.pidfd_open(process.pid)
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert failure(syscalls.pidfd_send_signal, pidfd, signal.SIGKILL).errno == errno.ESRCH
        os.close(pidfd)
    assert failure(syscalls.pidfd_open, process.pid).errno == errno.ESRCH


def test_signals_that_the_library_keeps_to_itself_are_reset() -> None:
    code = (
        "from migrate import syscalls;"
        "[syscalls.reset_signal(n) for n in range(1, 65) if n not in (9, 19)];"
        "print([l.split()[1] for l in open('/proc/self/status') if l[:6] in ('SigIgn', 'SigCgt')])"
    )
    # subprocess leaves 32 and 33 ignored where posix_spawn is used: the case in point.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == str(["0" * 16] * 2)
    assert failure(syscalls.reset_signal, signal.SIGKILL).errno == errno.EINVAL


def test_limits_are_set_as_asked() -> None:
    import resource

    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            syscalls.prlimit(process.pid, resource.RLIMIT_NOFILE, 100, 200)
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (100, 200)
        finally:
            process.kill()


@pytest.mark.root
def test_a_file_system_says_what_it_does_not_like() -> None:
    context = syscalls.fsopen("tmpfs")
    try:
        error = failure(syscalls.fsconfig, context, syscalls.FSCONFIG_SET_STRING, "size", "many")
        assert "Bad value for 'size'" in str(error)
        assert error.errno == errno.EINVAL
    finally:
        os.close(context)
    assert failure(syscalls.fsopen, "nosuch").errno == errno.ENODEV


@pytest.mark.root
def test_a_detached_mount_is_used_by_its_descriptor_alone(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    tree = syscalls.open_tree(syscalls.AT_FDCWD, str(tmp_path), syscalls.OPEN_TREE_CLONE)
    try:
        syscalls.mount_setattr(tree, attr_set=syscalls.MOUNT_ATTR_RDONLY)
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("x", dir_fd=tree)
        (tmp_path / "x").mkdir()
        assert os.stat("x", dir_fd=tree).st_ino == (tmp_path / "x").stat().st_ino
    finally:
        os.close(tree)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_the_package_costs_no_module_that_a_command_can_do_without() -> None:
    heavy = (
        "{'ctypes', 'struct', 're', 'enum', 'typing', 'dataclasses', 'json', 'signal', 'socket'}"
    )
    code = (
        "import sys; sys.path.append('.'); import migrate.runtime.launch;"
        f"print({heavy} & set(sys.modules))"
    )
    checkout = Path(__file__).parents[2]
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-c", code],
        cwd=checkout,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.strip() == "set()"
