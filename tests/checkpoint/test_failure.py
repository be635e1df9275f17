"""CRIU's log in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.checkpoint.failure import explain, was_refused

NOISE = (
    "(00.006) Error (criu/tun.c:85): tun: Unable to create tun: Operation not permitted\n"
    "(00.007) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation"
    " not permitted\n"
)


def said(tmp_path: Path, *lines: str) -> tuple[str, str]:
    """Return message and hint for a log of these error texts."""
    log = tmp_path / "dump.log"
    texts = [f"(00.1{number}) Error (criu/x.c:1): {line}\n" for number, line in enumerate(lines)]
    log.write_text(NOISE + "".join(texts))
    error = explain("checkpoint", "box", str(log), "fallback")
    return error.message, error.hint


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (
            "Can't lookup mount=27 for fd=1 path=/var/log/x y",
            "descriptor 1 is open on /var/log/x y, which is outside the container",
        ),
        ("inet: Connected TCP socket, consider using --tcp-established option.", "established"),
        ("Unsupported proto 262 for socket 1f", "Multipath TCP"),
        ("Some file locks are hold by dumping tasks! You can try --file-locks", "file lock"),
        ("External socket is used. Consider using --ext-unix-sk option.", "UNIX socket"),
        ("A session leader of 12(12) is outside of its pid namespace", "terminal session"),
        ("mnt: 51:./data doesn't have a proper root mount", "mount ./data"),
        ("mnt: No mapping for /data mountpoint", "mount /data has no counterpart"),
        ("File bin/payload has bad size 5 (expect 7)", "bin/payload changed"),
        ("Can't open file tmp/x on restore: No such file or directory", "file tmp/x is not there"),
        ("Unknown shit 600 (anon_inode:[io_uring])", "io_uring"),
        ("Unable to freeze cgroup /x (100 x 100ms attempts, timeout: 10s)", "did not stop in time"),
        ("Can't write: No space left on device", "no room"),
        ("page-xfer: The page server doesn't answer", "stream of memory pages broke"),
        ("inet: Can't bind inet socket (id 4): Cannot assign requested address", "address"),
    ],
)
def test_known_causes_are_said_in_plain_words(tmp_path: Path, line: str, meaning: str) -> None:
    message, hint = said(tmp_path, "something unimportant", line, "Dumping FAILED.")
    assert message.startswith('criu cannot checkpoint container "box": ')
    assert meaning in message
    assert "\n" not in message
    assert str(tmp_path / "dump.log") in hint


def test_an_unknown_cause_is_the_first_error_that_is_no_noise(tmp_path: Path) -> None:
    message, _ = said(tmp_path, "The moon is full.", "And so on")
    assert message.endswith(": the moon is full")


def test_a_log_without_times_is_read_as_well(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_text("Error (criu/sk-unix.c:506): unix: Non-empty write queue on an in-flight socket")
    assert "is not accepted yet" in explain("checkpoint", "a", str(log), "no").message


def test_harmless_lines_are_no_cause(tmp_path: Path) -> None:
    message, _ = said(tmp_path)
    assert message.endswith(": fallback")


def test_without_a_log_criu_has_the_word(tmp_path: Path) -> None:
    error = explain("restore", "box", str(tmp_path / "none"), "criu was killed by signal 9")
    assert error.message.endswith("criu was killed by signal 9")
    assert error.hint == ""


@pytest.mark.parametrize(
    ("begin", "verdict"),
    [
        ("(00.19) Warn  (criu/cr-restore.c:2519)", "refused"),
        ("Error (criu/cr-restore.c:2519)", "refused"),  # logged without times
        ("(1.2) Warn  (criu/files.c:9)", "unknown"),
        ("(1.2) name (1.2) Warn  (criu/cr-restore.c:9)", "unknown"),
        ("name: Error (criu/cr-restore.c:9)", "unknown"),
        ("", "unknown"),
    ],
)
def test_only_criu_s_own_line_says_that_a_restore_was_refused(
    tmp_path: Path, begin: str, verdict: str
) -> None:
    log = tmp_path / "restore.log"
    line = f"{begin}: Aborting restore due to post-restore script ret code -1"
    log.write_text("x\n" * (1 << 20) + f"(0.1) begin\n{line}\n(1.3) end\n")
    assert was_refused(str(log)) is (verdict == "refused")
    assert not was_refused(str(tmp_path / "nothing"))
