"""Targets as they are written, and what ~/.ssh/config adds to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import events
from migrate.errors import TransportError, UsageError
from migrate.transport import sshconfig
from migrate.transport.ssh import Options, Target, command_line
from migrate.transport.sshconfig import HostConfig, resolve


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("host2", Target("host2")),
        ("root@host2", Target("host2", "root")),
        ("root@host2:2222", Target("host2", "root", 2222)),
        ("host2:22", Target("host2", None, 22)),
        ("::1", Target("::1")),
        ("[::1]:22", Target("::1", None, 22)),
        ("root@[fe80::1%eth1]", Target("fe80::1%eth1", "root")),
        ("me@example.org@host2", Target("host2", "me@example.org")),
    ],
)
def test_a_target_is_read_and_written_as_user_host_and_port(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        *("", "-oProxyCommand=x", "root@-x", "-l@host", "@host2", "host2:", "host2:0", "host2:ssh"),
        *("host2:65536", "a b", "host;x", "$(x)", "[::1", "[::1]:", "host\n2", "host2:٣"),
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="target"):
        Target.parse(text)


@given(st.text(max_size=40))
def test_no_target_can_become_an_option_or_a_shell_word(text: str) -> None:
    try:
        target = Target.parse(text)
    except UsageError:
        return
    for part in (target.host, target.user or "x"):
        assert not part.startswith("-")
        assert not set(part) & set(" \t\n;&|<>()$`\"'*?!#~\0")


def configured(tmp_path: Path, text: str, target: str = "h", **options: str) -> HostConfig:
    path = tmp_path / "config"
    path.write_text(text)
    return resolve(Target.parse(target), Options(config_file=str(path), **options))  # type: ignore[arg-type]


FULL = """\
Host h
    HostName 10.1.2.3
    Port 2201
    User alice
    IdentityFile ~/.ssh/key-%r-%h
    IdentitiesOnly yes
    IdentityAgent none
    ProxyJump bob@jump1:23,jump2
    UserKnownHostsFile /k/one "/k/two words"
    GlobalKnownHostsFile none
    HostKeyAlias group
    HostKeyAlgorithms ssh-ed25519,rsa-sha2-512
    Ciphers aes256-gcm@openssh.com
    ConnectTimeout 7
    BindAddress 127.0.0.9
"""


@pytest.fixture(params=["ssh -G", "paramiko"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading the configuration."""
    if request.param == "paramiko":
        monkeypatch.setattr("shutil.which", {}.get)
    name: str = request.param
    return name


@pytest.mark.usefixtures("reader")
def test_every_keyword_that_decides_how_a_host_is_reached_is_honoured(tmp_path: Path) -> None:
    config = configured(tmp_path, FULL)
    home = sshconfig._home()
    assert config == HostConfig(
        target=Target("h"),
        host="10.1.2.3",
        port=2201,
        user="alice",
        key_name="group",
        key_port=22,
        known_hosts=config.known_hosts,
        identity_files=(f"{home}/.ssh/key-alice-10.1.2.3",),
        identities_only=True,
        agent_socket=None,
        proxy_jump=(Target("jump1", "bob", 23), Target("jump2")),
        proxy_command=None,
        bind_address="127.0.0.9",
        timeout_seconds=7.0,
        ciphers=("aes256-gcm@openssh.com",),
        host_key_algorithms=("ssh-ed25519", "rsa-sha2-512"),
    )
    assert config.known_hosts[0] == "/k/one"


@pytest.mark.usefixtures("reader")
def test_what_the_user_says_wins_over_the_file(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    (tmp_path / "key").touch()
    config = configured(tmp_path, FULL, "carol@h:99", identity=key, known_hosts="/my/hosts")
    assert (config.user, config.port) == ("carol", 99)
    assert config.identity_files[0] == key
    with pytest.raises(TransportError, match="identity /no/key: does not exist"):
        configured(tmp_path, FULL, identity="/no/key")
    assert config.known_hosts == ("/my/hosts",)


@pytest.mark.usefixtures("reader")
def test_a_host_without_a_word_in_the_file_is_itself_at_port_22(tmp_path: Path) -> None:
    config = configured(tmp_path, "", "host9")
    assert (config.host, config.port, config.key_name) == ("host9", 22, "host9")
    assert config.proxy_command is None
    assert config.proxy_jump == ()
    assert config.timeout_seconds == 10.0


@pytest.mark.usefixtures("reader")
def test_the_tokens_of_a_proxy_command_are_filled_in(tmp_path: Path) -> None:
    text = "Host h\n  HostName a.b\n  User u\n  ProxyCommand nc -X %% %h %p %r\n"
    assert configured(tmp_path, text).proxy_command == "nc -X % a.b 22 u"
    assert configured(tmp_path, "Host h\n  ProxyCommand none\n").proxy_command is None


def test_include_and_match_are_read_as_ssh_reads_them(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host h\n  User included\n")
    text = f"Include {tmp_path}/more\nMatch host h exec true\n  Port 77\n"
    config = configured(tmp_path, text)
    assert (config.user, config.port) == ("included", 77)


def test_an_include_that_cannot_be_read_without_ssh_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", {}.get)
    heard: list[events.Event] = []
    before = events.install(heard.append)
    try:
        configured(tmp_path, "Include more\nHost h\n  User x\n")
    finally:
        events.install(before)
    assert [event.message for event in heard if isinstance(event, events.Log)] == [
        f"{tmp_path}/config: Include is read only where the ssh program is installed"
    ]


@pytest.mark.usefixtures("reader")
def test_a_broken_or_missing_configuration_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TransportError) as raised:
        configured(tmp_path, "Host h\n  Port =\n  ===\n")
    assert "\n" not in str(raised.value)
    with pytest.raises(TransportError, match="missing"):
        resolve(Target("h"), Options(config_file=str(tmp_path / "missing")))


def test_the_agent_is_the_one_the_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/env/agent")
    monkeypatch.setenv("OTHER", "/other/agent")
    assert configured(tmp_path, "").agent_socket == "/env/agent"
    for value, socket in {
        "none": None,
        "SSH_AUTH_SOCK": "/env/agent",
        "$OTHER": "/other/agent",
        "/its/own": "/its/own",
    }.items():
        assert configured(tmp_path, f"IdentityAgent {value}\n").agent_socket == socket


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1))
def test_every_word_of_a_remote_command_arrives_as_it_was(argv: list[str]) -> None:
    read_fd, write_fd = os.pipe()
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", "printf '%s\\0' " + command_line(argv)],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, write_fd, 1)],
    )
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        out = pipe.read()
    os.waitpid(pid, 0)
    assert out.decode().split("\0")[:-1] == argv
