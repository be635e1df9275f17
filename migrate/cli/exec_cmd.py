"""`migrate exec`: a further process in a container."""

from __future__ import annotations

from migrate.cli.bundles import say_warning
from migrate.errors import ConfigError, UsageError, WrongStatus
from migrate.runtime import state
from migrate.runtime.execute import ExecOptions, exec_process
from migrate.runtime.spec import decode, decode_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from migrate.cli.command import Call
    from migrate.runtime.spec.model import Process
    from migrate.runtime.state import Record, Store

# Not inheritable, which would hand them to every program run later (CVE-2022-29162),
# and so not ambient either.
CAPABILITY_SETS: tuple[Literal["bounding", "effective", "permitted"], ...] = (
    "bounding",
    "effective",
    "permitted",
)


def run(call: Call) -> int:
    """Run it; wait for its end, unless told otherwise, and return its exit status."""
    store = call.store
    record = store.load(call.id)
    process = _process(call, store, record)
    _check_status(call, record)
    options = ExecOptions(
        cgroup=_groups(record, call.texts("cgroup")) if call.texts("cgroup") else None,
        console_socket=call.text("console-socket"),
        pid_file=call.text("pid-file"),
        pidfd_socket=call.text("pidfd-socket"),
        preserve_fds=call.number("preserve-fds"),
        warn=say_warning,
    )
    if call.has("detach"):
        # Engines, which wait for it, ask for its pid.
        options.adopted = not any(
            call.text(name) for name in ("pid-file", "pidfd-socket", "console-socket")
        )
        exec_process(store, record, process, options)
        return 0
    from migrate.runtime.relay import Relay

    terminal = bool(process.get("terminal")) and not options.console_socket
    with Relay(terminal=terminal) as relay:
        take: Callable[[int], None] | None = relay.take_console if terminal else None
        options.take_console = take
        return relay.wait(exec_process(store, record, process, options))


def _check_status(call: Call, record: Record) -> None:
    """Refuse a container that has stopped, or is paused."""
    status = state.status(record)
    if status in ("stopped", "creating"):
        raise WrongStatus(f"cannot exec in a container that is {status}: container not running")
    if status == "paused" and not call.has("ignore-paused"):
        raise WrongStatus(
            "cannot exec in a paused container (use --ignore-paused to override)",
            f"Run `migrate resume {call.id}` first.",
        )


def _process(call: Call, store: Store, record: Record) -> Process:
    """Return what is to be run: the file's process, or the container's own, changed."""
    if call.text("process"):
        path = call.text("process")
        return decode_process(_content(path), path)
    process = decode(store.read(record["id"], "config.json"), "config.json")["process"]
    process["args"] = list(call.arguments[1:])
    if not process["args"]:
        raise UsageError("process args cannot be empty", "Name the command to run.")
    process["terminal"] = call.has("tty")
    process.pop("consoleSize", None)
    process["env"] = [*process.get("env", []), *call.texts("env")]
    if call.text("cwd"):
        process["cwd"] = call.text("cwd")
    if call.has("no-new-privs"):
        process["noNewPrivileges"] = True
    if call.text("process-label"):
        process["selinuxLabel"] = call.text("process-label")
    if call.text("apparmor"):
        process["apparmorProfile"] = call.text("apparmor")
    _set_user(call, process)
    _add_capabilities(process, call.texts("cap"))
    return process


def _set_user(call: Call, process: Process) -> None:
    """Apply --user and --additional-gids; a name is nothing the host could look up."""
    user = process.setdefault("user", {"uid": 0, "gid": 0})
    if call.text("user"):
        uid, colon, gid = call.text("user").partition(":")
        user["uid"] = _id(uid, "--user")
        if colon:
            user["gid"] = _id(gid, "--user")
    if call.texts("additional-gids"):
        more = [_id(gid, "--additional-gids") for gid in call.texts("additional-gids")]
        user["additionalGids"] = [*user.get("additionalGids", []), *more]


def _id(text: str, option: str) -> int:
    """Return a numeric id."""
    # Ten digits at most: int() itself refuses thousands of them.
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**32 - 1:
        return int(text)
    raise UsageError(f'invalid value "{text}" for {option}: a numeric id is expected')


def _add_capabilities(process: Process, names: list[str]) -> None:
    """Add to the sets that the process itself has."""
    if names:
        sets = process.setdefault("capabilities", {})
        for name in CAPABILITY_SETS:
            had = sets.get(name, [])
            sets[name] = [*had, *(each for each in names if each not in had)]


def _groups(record: Record, wanted: list[str]) -> dict[str, str]:
    """Return the cgroups of --cgroup: [CONTROLLER,…:]PATH below the container's own."""
    paths = dict(record["cgroup"])
    for each in wanted:
        controllers, colon, path = each.rpartition(":")
        if ".." in path.split("/"):
            raise UsageError(f"--cgroup {each} leaves the container's group", 'Leave ".." out.')
        inner = "/".join(part for part in path.split("/") if part not in ("", "."))
        keys = list(paths) if not colon else [_key(paths, name) for name in controllers.split(",")]
        for key in keys:
            paths[key] = f"{record['cgroup'][key]}/{inner}".rstrip("/")
    return paths


def _key(paths: dict[str, str], controller: str) -> str:
    """Return the hierarchy a controller is in."""
    for key in paths:
        if controller in (key, *key.split(",")):
            return key
    raise UsageError(f"--cgroup: unknown controller {controller}", "See the container's groups.")


def _content(path: str) -> bytes:
    """Return a file's bytes."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError("$", f"{path}: {str(error.strerror).lower()}") from None
