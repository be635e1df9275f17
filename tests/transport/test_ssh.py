"""Sessions and links over a real sshd, by paramiko and by the ssh program."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from migrate.errors import AuthenticationError, HostKeyError, LinkError, PeerError, TransportError
from migrate.transport.link import Link
from migrate.transport.ssh import Options, Program, Target, connect
from tests.transport.session import AGENT, greeting_error, linked, server_lines, through_proxy
from tests.transport.sshd import Sshd, make_key

# Working.


def test_calls_events_and_streams_go_over_ssh(sshd: Sshd, program: Program) -> None:
    data = os.urandom(3_000_000) + bytes(5_000_000)
    events: list[object] = []
    with linked(sshd.options, program) as link:
        link.on_event(events.append)
        assert link.call("add", [1, 2], 10) == 3
        with pytest.raises(PeerError) as raised:
            link.call("fail", "no room", 10)
        assert (raised.value.code, str(raised.value)) == ("refused", "server: no room")
        with link.open_stream("data") as writer:
            writer.write(data)
        digest = link.call("digest", "data", 10)
        assert digest == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        assert writer.wire_bytes < len(data) // 2
    assert events == [{"read": len(data)}]


def test_nothing_is_left_of_a_session(sshd: Sshd, program: Program) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with linked(sshd.options, program) as link:
        link.call("add", [1], 10)
    before = count()
    with linked(sshd.options, program) as link:
        link.call("add", [1], 10)
    assert count() == before


def test_words_arrive_at_the_remote_command_unharmed(sshd: Sshd, program: Program) -> None:
    words = ["a b", "$(touch /tmp/x)", "'\"", ";", "", "*", "~", "é", "-x", "a\nb"]
    show = "import sys; print(sys.argv[1:], file=sys.stderr); sys.exit(7)"
    with connect(sshd.target, sshd.options, transport=program) as session:
        channel = session.run([sys.executable, "-c", show, *words])
        assert channel.recv_into(memoryview(bytearray(1))) == 0
        error = channel.explain()
        channel.close()
    assert error is not None
    assert str(error).endswith(f"ended with status 7: {words!r}")


def test_a_host_behind_two_others_is_reached_through_them(sshd: Sshd, program: Program) -> None:
    options = sshd.configure(
        "Host far", "    ProxyJump hop1,hop2", "Host far hop1 hop2", *server_lines(sshd)
    )
    with linked(options, program, target="far") as link:
        assert link.call("add", [2, 2], 10) == 4


def test_a_proxy_command_is_run_by_the_shell_and_ended(sshd: Sshd, program: Program) -> None:
    forward = (
        "import os,socket,sys,threading as t;"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
        "t.Thread(target=lambda:[os.write(1,d) for d in iter(lambda:s.recv(65536),b'')],"
        "daemon=True).start();"
        "[s.sendall(d) for d in iter(lambda:os.read(0,65536),b'')]"
    )
    script = sshd.folder / "forward.py"
    script.write_text(forward)
    options = sshd.configure(
        "Host far",
        f"    ProxyCommand {sys.executable} {script} %h %p 2>/dev/null",
        *server_lines(sshd),
    )
    with linked(options, program, target="far") as link:
        assert link.call("add", [2, 3], 10) == 5
    listing = subprocess.run(["ps", "ax"], check=True, capture_output=True, text=True).stdout
    assert str(script) not in listing


def test_what_a_failing_proxy_command_says_is_in_the_error(
    sshd: Sshd, program: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    options = sshd.configure(
        "Host far", "    ProxyCommand sh -c 'echo no way through >&2'", *server_lines(sshd)
    )
    error = greeting_error(options, program, target="far")
    assert "no way through" in str(error)
    assert capfd.readouterr() == ("", "")


def test_a_proxy_command_that_hangs_and_its_children_are_ended(
    sshd: Sshd, program: Program
) -> None:
    options = sshd.configure(
        "Host far", "    ProxyCommand sleep 4567 & sleep 4567", *server_lines(sshd)
    )
    short = Options(options.config_file, timeout_seconds=1)
    before = time.monotonic()
    with pytest.raises(TransportError):
        greet_for_a_second(Target("far"), short, program)
    assert time.monotonic() - before < 8
    listing = subprocess.run(["ps", "ax"], check=True, capture_output=True, text=True).stdout
    assert "sleep 4567" not in listing


def greet_for_a_second(target: Target, options: Options, program: Program) -> None:
    with (
        connect(target, options, transport=program) as session,
        Link(session.run(AGENT), "source") as link,
    ):
        link.handshake(timeout_seconds=1)


# Who is there?


def test_an_unknown_host_is_refused_with_the_command_that_adds_it(
    sshd: Sshd, program: Program, tmp_path: Path
) -> None:
    known = tmp_path / "known hosts"
    known.touch()
    options = Options(config_file=str(sshd.config), known_hosts=str(known))
    error = greeting_error(options, program)
    assert isinstance(error, HostKeyError)
    assert "unknown host key, ED25519" in str(error)
    assert known.read_text() == "", "nothing is added by itself"
    if program == "paramiko":
        command = error.hint.partition("add the key: ")[2]
        subprocess.run(["sh", "-c", command], check=True)
        with linked(options, program) as link:
            assert link.call("add", [1], 10) == 1
    else:
        assert "ssh-keyscan" in error.hint


def test_a_changed_host_key_is_refused_loudly(sshd: Sshd, program: Program, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    other = make_key(tmp_path / "other")
    known.write_text(f"# moved\n[127.0.0.1]:{sshd.port} {other}\n")
    error = greeting_error(Options(str(sshd.config), str(known)), program)
    assert isinstance(error, HostKeyError)
    assert "HOST KEY HAS CHANGED" in str(error)
    assert f"{known}:2" in str(error)
    assert f"ssh-keygen -f {known} -R" in error.hint


def test_a_revoked_host_key_is_refused(sshd: Sshd, program: Program, tmp_path: Path) -> None:
    kind, encoded = sshd.host_key
    known = tmp_path / "known_hosts"
    known.write_text(sshd.known_hosts.read_text() + f"@revoked * {kind} {encoded}\n")
    error = greeting_error(Options(str(sshd.config), str(known)), program)
    assert isinstance(error, HostKeyError)
    assert "REVOKED" in str(error)


def test_hashed_names_and_an_rsa_key_alone_are_enough(
    sshd: Sshd, program: Program, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    rsa = (sshd.folder / "host_rsa.pub").read_text()
    known.write_text(f"[127.0.0.1]:{sshd.port} {rsa}")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    with linked(Options(str(sshd.config), str(known)), program) as link:
        assert link.call("add", [1], 10) == 1


def test_a_host_key_alias_is_what_the_key_is_known_by(
    sshd: Sshd, program: Program, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("the-cluster {} {}\n".format(*sshd.host_key))
    config = tmp_path / "config"
    config.write_text(sshd.config.read_text() + "    HostKeyAlias the-cluster\n")
    with linked(Options(str(config), str(known)), program) as link:
        assert link.call("add", [1], 10) == 1


def test_no_key_is_ever_added_whatever_the_configuration_says(
    sshd: Sshd, program: Program, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(sshd.known_hosts.read_text())
    config = tmp_path / "config"
    config.write_text(
        sshd.config.read_text() + "    UpdateHostKeys yes\n    StrictHostKeyChecking no\n"
    )
    with linked(Options(str(config), str(known)), program) as link:
        assert link.call("add", [1], 10) == 1
    assert known.read_text() == sshd.known_hosts.read_text()
    known.write_text("")
    assert isinstance(greeting_error(Options(str(config), str(known)), program), HostKeyError)
    assert known.read_text() == ""


# Who are we?


def test_a_key_of_the_agent_opens_the_door(
    sshd: Sshd, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sshd.folder / "agent-config"
    text = sshd.config.read_text().replace("IdentityAgent none", "IdentitiesOnly no")
    config.write_text(
        "\n".join(line for line in text.splitlines() if "IdentityFile" not in line).replace(
            "    IdentitiesOnly yes\n", ""
        )
    )
    agent_socket = sshd.folder / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent_socket)], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent_socket))
        key = str(sshd.folder / "client")
        subprocess.run(["ssh-add", "-q", key], check=True, capture_output=True)
        with linked(Options(str(config)), program) as link:
            assert link.call("add", [1], 10) == 1
    finally:
        agent.terminate()
        agent.communicate()


def test_a_key_that_nobody_let_in_is_a_clear_refusal(
    sshd: Sshd, program: Program, tmp_path: Path
) -> None:
    make_key(tmp_path / "stranger")
    config = tmp_path / "config"
    config.write_text(
        sshd.config.read_text().replace(str(sshd.folder / "client"), str(tmp_path / "stranger"))
    )
    error = greeting_error(Options(str(config)), program)
    assert isinstance(error, AuthenticationError)
    assert "permission denied" in str(error)
    assert "authorized_keys" in error.hint


def test_a_user_who_is_not_there_is_a_clear_refusal(sshd: Sshd, program: Program) -> None:
    error = greeting_error(sshd.options, program, target="nobody-at-all@server")
    assert isinstance(error, AuthenticationError)
    assert "nobody-at-all@server: permission denied" in str(error)


def test_a_key_with_a_passphrase_is_named_with_the_command_that_unlocks_it(
    sshd: Sshd, tmp_path: Path
) -> None:
    make_key(tmp_path / "locked", passphrase="secret")
    config = tmp_path / "config"
    config.write_text(
        sshd.config.read_text().replace(str(sshd.folder / "client"), str(tmp_path / "locked"))
    )
    error = greeting_error(Options(str(config)), "paramiko")
    assert error.hint == f"Unlock the key for the agent first: ssh-add {tmp_path / 'locked'}"


def test_an_identity_given_by_hand_is_tried_first(
    sshd: Sshd, program: Program, tmp_path: Path
) -> None:
    make_key(tmp_path / "stranger")
    config = tmp_path / "config"
    config.write_text(
        sshd.config.read_text().replace(str(sshd.folder / "client"), str(tmp_path / "stranger"))
    )
    options = Options(str(config), identity=str(sshd.folder / "client"))
    with linked(options, program) as link:
        assert link.call("add", [1], 10) == 1


# Nobody there.


def test_a_closed_port_a_false_name_and_silence_are_each_one_line(
    sshd: Sshd, program: Program
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        closed = sock.getsockname()[1]
        assert "refused" in str(greeting_error(sshd.configure(port=closed), program))
        sock.listen(1)  # takes the connection, never says a word
        silent = Options(sshd.configure(port=closed).config_file, timeout_seconds=1)
        before = time.monotonic()
        greeting_error(silent, program)
        assert time.monotonic() - before < 5
    error = greeting_error(Options("/dev/null"), program, target="no-such-host.invalid")
    assert "name cannot be resolved" in str(error)


def test_a_missing_remote_command_says_what_to_install_where(sshd: Sshd, program: Program) -> None:
    error = greeting_error(sshd.options, program, ["migrate-is-not-here", "agent"])
    assert str(error) == "server: migrate-is-not-here: command not found"
    assert "Install migrate on server" in error.hint


def test_the_last_words_of_a_dying_command_are_in_the_error(sshd: Sshd, program: Program) -> None:
    script = "seq 100000 >&2; echo 'ImportError: no zstandard' >&2; exit 3"
    error = greeting_error(sshd.options, program, ["sh", "-c", script])
    assert str(error) == "server: sh ended with status 3: ImportError: no zstandard"


def test_a_command_killed_by_a_signal_and_a_connection_cut_are_told_apart(
    sshd: Sshd, program: Program
) -> None:
    error = greeting_error(sshd.options, program, ["sh", "-c", "echo oh >&2; kill -9 $$"])
    # The ssh program does not say by which end of it a command went.
    assert str(error).startswith({"paramiko": "server: sh ended: ", "openssh": "server: "}[program])
    assert str(error).endswith("oh")
    with through_proxy(sshd) as (proxy, options), linked(options, program) as link:
        proxy.cut()
        with pytest.raises(LinkError, match=r"server: (?!env)"):
            link.receive(10)


def test_a_command_that_prints_before_it_greets_is_named_as_that(
    sshd: Sshd, program: Program
) -> None:
    error = greeting_error(sshd.options, program, ["echo", "Welcome!"])
    assert "something printed 'Welcome!'" in str(error)
