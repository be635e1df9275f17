"""How the tests of tests/oci run a runtime and look at what it did.

Lives here: starting the runtime's command, bundles, waiting for conditions, and
what the host shows of a container (processes, mounts, cgroups). Must not live
here: any knowledge of a runtime's own files; tests/oci only sees a command line.

The output of a command goes to files, never to a pipe: a container inherits the
descriptors of `create` and would keep a pipe open for its whole life.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypedDict, TypeVar, Unpack

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROJECT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.01

Config = dict[str, Any]
T = TypeVar("T")


class How(TypedDict, total=False):
    """How a command is run: see `Runtime.__call__`."""

    cwd: Path | None
    env: Mapping[str, str] | None
    stdin: int | IO[Any]
    output: Path | None
    before: str
    timeout_seconds: float


def runtime_command() -> str:
    """The runtime under test: RUNTIME, or the project's own command."""
    return os.environ.get("RUNTIME") or str(PROJECT / ".venv" / "bin" / "migrate")


def oracle() -> str | None:
    """The reference under test, `runc` or `crun`; None for the project's own runtime."""
    name = os.path.basename(runtime_command())
    return name if name in {"runc", "crun"} else None


def is_oracle() -> bool:
    """Whether the runtime under test is a reference, which need not say what ours says."""
    return oracle() is not None


def says_unknown(error: str) -> bool:
    """Whether an error says of an id that there is none; crun has words of its own for it."""
    return "does not exist" in error or (oracle() == "crun" and "No such file" in error)


def eventually(condition: Callable[[], T], what: str = "", *, within: float = 10.0) -> T:
    """Wait until `condition` is true and return its value; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or condition}")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    arguments: tuple[str, ...]
    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"{' '.join(self.arguments)}\n= {self.status}\n{self.out}{self.err}"


@dataclass(slots=True)
class Bundle:
    """A bundle directory: config.json beside a busybox rootfs of its own."""

    path: Path
    config: Config

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    def write(self) -> None:
        """Bring config.json up to date with `config`."""
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))


@dataclass(slots=True)
class Container:
    """A container that a test made, with the file its processes write to."""

    runtime: Runtime
    id: str
    bundle: Bundle
    output: Path

    def __call__(self, verb: str, *arguments: str, **how: Unpack[How]) -> Result:
        """Run `runtime VERB ID ARGUMENTS`, which must succeed; VERB may carry its options."""
        return self.runtime.ok(*verb.split(), self.id, *arguments, **how)

    def state(self) -> Config:
        state: Config = json.loads(self("state").out)
        return state

    @property
    def status(self) -> str:
        return str(self.state()["status"])

    @property
    def pid(self) -> int:
        return int(self.state()["pid"])

    def pids(self) -> list[int]:
        """Its processes, as the host numbers them."""
        pids: list[int] = json.loads(self.runtime.ok("ps", "--format", "json", self.id).out)
        return pids

    def exec(self, *arguments: str) -> str:
        """What a program run inside wrote; it must succeed."""
        return self("exec", *arguments).out

    def written(self) -> str:
        """What the container's own processes wrote so far."""
        return self.output.read_text()

    def wait_for_output(self, text: str) -> str:
        eventually(lambda: text in self.written(), f"{self.id} writes {text!r}")
        return self.written()

    def wait_until(self, status: str) -> None:
        eventually(lambda: self.status == status, f"{self.id} is {status}")


@dataclass(slots=True)
class Runtime:
    """A runtime with a state root of its own for one test."""

    command: str
    workspace: Path
    image: Path
    base_config: Config
    environment: dict[str, str] = field(default_factory=dict)
    bundles: int = 0
    containers: int = 0

    @property
    def root(self) -> Path:
        return self.workspace / "state"

    @property
    def prefix(self) -> str:
        """How every id of this test begins."""
        return f"oci-{os.getpid()}-{self.workspace.name}-"

    def argv(self, *arguments: str) -> list[str]:
        """The whole command line for `arguments`."""
        return [self.command, "--root", str(self.root), *arguments]

    def __call__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        output: Path | None = None,
        before: str = "",
        timeout_seconds: float = DEADLINE_SECONDS,
    ) -> Result:
        """Run one command and wait for it.

        Args:
            arguments: what follows the runtime's global options.
            cwd: working directory, by default the test's own.
            env: variables beside PATH and HOME.
            stdin: by default nothing.
            output: a file for its standard output, which its container may keep.
            before: shell text that sets the caller's scene (descriptors, limits, signals).
            timeout_seconds: after which it is killed and the test fails.
        """
        with (
            output.open("w+") if output else tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            process = self.popen(
                *arguments, cwd=cwd, env=env, stdin=stdin, stdout=out, stderr=err, before=before
            )
            try:
                status = process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            out.seek(0)
            err.seek(0)
            return Result(arguments, status, out.read(), err.read())

    def popen(
        self,
        *arguments: str,
        stdout: int | IO[Any],
        stderr: int | IO[Any] | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        before: str = "",
    ) -> subprocess.Popen[Any]:
        """Start one command; its end is the caller's to await."""
        scene = ["bash", "-c", f'{before}\nexec "$@"', "bash"] if before else []
        return subprocess.Popen(
            [*scene, *self.argv(*arguments)],
            cwd=cwd or self.workspace,
            env={**self.environment, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def ok(self, *arguments: str, **how: Unpack[How]) -> Result:
        """Run one command that must succeed."""
        result = self(*arguments, **how)
        assert result.status == 0, str(result)
        return result

    def refuses(self, *arguments: str, **how: Unpack[How]) -> str:
        """Run one command that must fail; return what it said on stderr."""
        result = self(*arguments, **how)
        assert result.status not in (0, None), str(result)
        assert result.err.strip(), f"failed without a word: {result}"
        assert "Traceback" not in result.err, str(result)
        return result.err

    def bundle(
        self,
        *arguments: str,
        change: Callable[[Config], object] | None = None,
    ) -> Bundle:
        """Make a bundle that runs `arguments` (default: sleep 10000), then `change` it."""
        self.bundles += 1
        path = self.workspace / f"bundle{self.bundles}"
        path.mkdir()
        shutil.copytree(self.image, path / "rootfs", symlinks=True)
        config = copy.deepcopy(self.base_config)
        config["process"]["args"] = list(arguments) or ["sleep", "10000"]
        bundle = Bundle(path, config)
        if change:
            change(config)
        bundle.write()
        return bundle

    def new_id(self) -> str:
        """An id that no other test and no other run has."""
        self.containers += 1
        return f"{self.prefix}{self.containers}"

    def create(self, bundle: Bundle | None = None, *options: str, **how: Unpack[How]) -> Container:
        """`create` a container of `bundle` (default: one that sleeps)."""
        return self._made_by(["create"], bundle, options, how)

    def started(self, bundle: Bundle | None = None, *options: str, **how: Unpack[How]) -> Container:
        """A running container of `bundle`, by `run -d`."""
        return self._made_by(["run", "-d"], bundle, options, how)

    def _made_by(
        self, verb: list[str], bundle: Bundle | None, options: Sequence[str], how: How
    ) -> Container:
        bundle = bundle or self.bundle()
        output = bundle.path / "output"
        container = Container(self, self.new_id(), bundle, output)
        how["output"] = output
        self.ok(*verb, "--bundle", str(bundle.path), *options, container.id, **how)
        return container

    def run(self, bundle: Bundle, *options: str, **how: Unpack[How]) -> Result:
        """`run` a container in the foreground to its end."""
        return self("run", "--bundle", str(bundle.path), *options, self.new_id(), **how)

    def shell(
        self, script: str, change: Callable[[Config], object] | None = None, **how: Unpack[How]
    ) -> str:
        """What `sh -c SCRIPT` wrote as the process of a container of its own."""
        result = self.run(self.bundle("sh", "-c", script, change=change), **how)
        assert result.status == 0, str(result)
        return result.out

    def delete_everything(self, spared: frozenset[int]) -> None:
        """`delete --force` whatever is there, and reap what becomes ours meanwhile.

        The first process of a pid namespace cannot end before the zombies in it are
        reaped, and those of `exec --detach` are the caller's to reap.

        Args:
            spared: children that are none of this runtime's, such as other tests' hosts.
        """
        with open(os.devnull, "w") as devnull:
            deleting = {
                process.pid: process
                for name in self.ids()
                for process in [
                    self.popen("delete", "--force", name, stdout=devnull, stderr=devnull)
                ]
            }
        deadline = time.monotonic() + DEADLINE_SECONDS
        while left := children() - spared:
            if time.monotonic() > deadline:
                raise AssertionError(f"processes are left: {sorted(left)}")
            reaped = [pid for pid in left if _reap(pid, deleting)]
            if not reaped:
                time.sleep(POLL_SECONDS)

    def ids(self) -> list[str]:
        """The containers under this state root, as directories."""
        return sorted(p.name for p in self.root.iterdir()) if self.root.is_dir() else []


def children() -> frozenset[int]:
    """The children of this process, whichever thread started them."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return frozenset(int(word) for text in lists for word in text.split())


def _reap(pid: int, deleting: dict[int, subprocess.Popen[Any]]) -> bool:
    """Take the end of a child, if it has ended."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    if ended in deleting:
        deleting.pop(ended).returncode = os.waitstatus_to_exitcode(status)
    return bool(ended)


def cgroups_named(name: str) -> list[Path]:
    """Every cgroup directory, of any hierarchy, whose path has `name` in it."""
    found = []
    for hierarchy in [CGROUP_ROOT, *CGROUP_ROOT.iterdir()]:
        if not hierarchy.is_symlink() and hierarchy.is_dir():
            found += [path for path in hierarchy.iterdir() if name in path.name]
    return found


def mounts_below(path: Path) -> list[str]:
    """The mount points at or below `path` that this mount namespace shows."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in points if point == str(path) or point.startswith(f"{path}/")]


def is_alive(pid: int) -> bool:
    """Whether `pid` is a process that still runs, not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for_death(pid: int, within: float = 10.0) -> None:
    """Wait until `pid` has exited; it need not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], within)
        assert ready, f"process {pid} is still there after {within} s"
    finally:
        os.close(descriptor)


def status_fields(text: str) -> dict[str, str]:
    """A /proc/PID/status as a mapping."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def stray_signals(fields: Mapping[str, str]) -> dict[str, str]:
    """The masks of signals in a process's status that are not clean, by name.

    A reference hands on what its caller ignores, such as the two signals make does.
    """
    callers = Path("/proc/self/status").read_text() if is_oracle() else "SigIgn: 0"
    ignored = int(status_fields(callers)["SigIgn"], 16)
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    return {name: fields[name] for name in names if int(fields[name], 16) & ~ignored}


@contextlib.contextmanager
def killed_at_end(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Give `process` to the block and make sure that it is gone afterwards."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
