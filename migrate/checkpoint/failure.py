"""Why CRIU failed, in plain words.

Lives here: finding the cause in CRIU's log, what it means and what to do about it.
Must not live here: printing, retrying. May be imported by `checkpoint` only.

CRIU's own error message is the first error it logged, which on many machines is a
harmless one about the limit of open files. The cause is the first error line that is
not known to be harmless; a later line may say it better, so known causes go first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from migrate.errors import CriuError

# Times are there from log level 3 on.
_ERROR = re.compile(r"^(?:\([\d.]+\))?\s*(?:\d+: )?Error \([^)]*\): (.*)$")
_LOG_TAIL_BYTES = 1 << 20

# Logged by runs that succeed, or said again, less well, after the cause.
_HARMLESS = re.compile(
    r"RLIMIT_NOFILE for self|TCP_CORK|TCP_NODELAY|Dumping FAILED|Restoring FAILED|"
    r"script (?:error|ret code|failed)|Aborting (?:restore|dump) due|Killing processes because|"
    r"Unable to wait|kdat cache|Can't load kdat|PAGEMAP_SCAN|Unable to create tun|"
    r"cgroupd: recv req"
)


@dataclass(slots=True, frozen=True)
class _Cause:
    """A message of CRIU, what it means (its groups filled in), and the way out."""

    pattern: re.Pattern[str]
    meaning: str
    hint: str


def _cause(pattern: str, meaning: str, hint: str) -> _Cause:
    """Return one row of the table."""
    return _Cause(re.compile(pattern), meaning, hint)


# What a restore says, in any case, that was refused at `post-restore`: it then kills what
# it restored (criu/cr-restore.c, restore_root_task).
# The whole line: other lines show names that the container has chosen.
_REFUSED = re.compile(
    rb"^(?:\([0-9.]+\) *)?(?:Error|Warn) *\(criu/cr-restore\.c:\d+\): "
    rb"Aborting restore due to post-restore script[^\n]*$",
    re.MULTILINE,
)


def was_refused(log_path: str) -> bool:
    """Tell whether a restore's log says that it was refused at `post-restore`.

    Then nothing of it has ever run, also where the one who was asked had died.
    """
    try:
        with open(log_path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
            return _REFUSED.search(log.read()) is not None
    except OSError:
        return False


_CAUSES = (
    _cause(
        r"Can't lookup mount=\S+ for fd=(-?\d+) path=(.*)",
        r"descriptor \1 is open on \2, which is outside the container",
        "Start the container with its files inside its rootfs or in a mount of config.json.",
    ),
    _cause(
        r"Unsupported proto 262|multipathtcp",
        "a socket uses Multipath TCP, which CRIU cannot carry",
        'Start Go programs with GODEBUG="multipathtcp=0".',
    ),
    _cause(
        r"Connected TCP socket",
        "there is an established TCP connection, and carrying it was refused",
        "Leave out --tcp-established=false, or close the connections with --tcp-close.",
    ),
    _cause(
        r"In-flight connection|In-flight connections",
        "a TCP connection is only half accepted",
        "Try again, or drop such connections with --tcp-skip-in-flight.",
    ),
    _cause(
        r"Non-empty write queue on an in-flight socket",
        "somebody has connected to a UNIX socket in the container and has sent already, and the "
        "connection is not accepted yet",
        "Try again, or see why the listener accepts nothing.",
    ),
    _cause(
        r"mqueue isn't empty",
        "there is a POSIX message queue in the container, which CRIU cannot carry",
        "Unlink it first, see mq_overview(7).",
    ),
    _cause(
        r"Some file locks are hold",
        "a process holds a file lock, and carrying it was refused",
        "Give --file-locks.",
    ),
    _cause(
        r"External socket is used|External socket found in image",
        "a UNIX socket is connected to a process outside the container",
        "Give --ext-unix-sk where that process can be connected to again.",
    ),
    _cause(
        r"Can't dump half of stream unix connection\. name: (.*); peer name: (.*)",
        r"a UNIX stream socket (\1) is connected to \2 outside the container",
        "Close that connection first: a stream cannot be taken up again.",
    ),
    _cause(
        r"session leader of|dangling tty|outside of (?:its )?pid namespace|" + "--shell-job",
        "a process belongs to a terminal session outside the container",
        "Give --shell-job, and keep the same terminal for the restore.",
    ),
    _cause(
        r"(\d+):(\S+) doesn't have a proper root mount",
        r"mount \2 shows something of the host that was not named to CRIU",
        "Mount it by config.json, so that it is known.",
    ),
    _cause(
        r"FS mnt (\S+) dev \S+ root \S+ unsupported",
        r"mount \1 is of a file system CRIU cannot carry",
        "Unmount it first, or mount it by config.json as a bind mount.",
    ),
    _cause(
        r"No mapping for (\S+)",
        r"mount \1 has no counterpart here",
        "Add it to config.json as a bind mount.",
    ),
    _cause(
        r"File (\S+) has bad size (\d+) \(expect (\d+)\)",
        r"file \1 changed since the checkpoint: \2 bytes now, \3 then",
        "Restore with the rootfs as it was at the checkpoint.",
    ),
    _cause(
        r"File (\S+) has bad mode",
        r"file \1 has another mode than at the checkpoint",
        "Restore with the rootfs as it was at the checkpoint.",
    ),
    _cause(
        r"(?:Can't open file|Unable to open) (/?\S+?)(?: on restore)?: No such file or directory",
        r"file \1 is not there",
        "Restore with the rootfs as it was at the checkpoint.",
    ),
    _cause(
        r"Can't bind inet socket.*: (?:Cannot assign requested address|Address already in use)",
        "the address of a TCP socket is not there or is in use on this host",
        "Give the restored container a network namespace with the same address.",
    ),
    _cause(
        r"[Uu]nknown shit .*io_uring|anon_inode:\[io_uring\]",
        "a process uses io_uring, which CRIU cannot carry",
        "Turn io_uring off in the program's configuration.",
    ),
    _cause(
        r"[Uu]nknown shit \S+ \((.*)\)",
        r"a process has \1 open, which CRIU cannot carry",
        "Close it first.",
    ),
    _cause(
        r"Can't dump that handle|irmap",
        "a process watches a file by inotify on a file system that cannot find it again",
        "Stop the watch first, or put the watched directory on a bind mount.",
    ),
    _cause(
        r"Unable to freeze cgroup|Timeout reached",
        "the processes did not stop in time",
        "Look for a process in uninterruptible sleep (state D), or try again.",
    ),
    _cause(
        r"No space left on device",
        "there is no room for the images",
        "Give an image directory with more room than the container has memory.",
    ),
    _cause(
        r"page server doesn't answer|Can't write pages to socket|Can't send PSI",
        "the stream of memory pages broke",
        "Look at the error of the other end.",
    ),
    _cause(
        r"(?:prctl|Can't raise|limits?|rlimit|capabilit).*: Operation not permitted|"
        r"CAP_SYS_RESOURCE",
        "this host does not let CRIU read or raise limits (CAP_SYS_RESOURCE is missing)",
        "Run the container's processes as root, or in a user namespace, or get the capability.",
    ),
    _cause(
        r"(?:nft|iptables|ip6tables|network).*(?:lock|unlock|restore|failed)",
        "the network could not be locked",
        "Install nftables, or give --network-lock iptables.",
    ),
    _cause(
        r"(?:FPU|CPU|cpu|xsave|instruction).*(?:missing|mismatch|required|not supported)",
        "this host's processor lacks what the container's programs use",
        "Restore on a processor with the same features.",
    ),
    _cause(
        r"Can't fork for (\d+): File exists|Pid (\d+) do not match expected",
        "a process number of the container is taken",
        "Restore into a PID namespace of the container's own.",
    ),
)


def explain(action: str, container_id: str, log_path: str, fallback: str) -> CriuError:
    """Return the error that tells why CRIU failed.

    Args:
        action: checkpoint or restore.
        log_path: CRIU's log; may be missing.
        fallback: CRIU's own message, for want of a better one.
    """
    lines = _error_lines(log_path)
    meaning, hint = _find_cause(lines) or (_first(lines) or fallback, "")
    where = f"The whole log is {log_path}." if os.path.exists(log_path) else ""
    return CriuError(
        f'criu cannot {action} container "{container_id}": {meaning}',
        " ".join(part for part in (hint, where) if part),
    )


def _find_cause(lines: Iterable[str]) -> tuple[str, str] | None:
    """Return meaning and hint of the first line that is a known cause."""
    for line in lines:
        for cause in _CAUSES:
            match = cause.pattern.search(line)
            if match:
                return match.expand(cause.meaning), cause.hint
    return None


def _first(lines: list[str]) -> str:
    """Return the first error line, worded as a message."""
    text = lines[0].strip().rstrip(".!") if lines else ""
    return text[:1].lower() + text[1:]


def _error_lines(log_path: str) -> list[str]:
    """Return the errors of a log that may matter, in order."""
    try:
        with open(log_path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    matches = (_ERROR.match(line) for line in text.splitlines())
    return [match[1] for match in matches if match and not _HARMLESS.search(match[1])]
