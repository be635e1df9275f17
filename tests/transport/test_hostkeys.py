"""Known hosts, read as ssh reads them: the oracle is ssh-keygen -F."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import HostKeyError
from migrate.transport.hostkeys import HostKey, KnownHosts, known_name, parse_line

KEY = HostKey("ssh-ed25519", b"\x00\x00\x00\x0bssh-ed25519" + b"\x00\x00\x00\x20" + bytes(32))
OTHER = HostKey("ssh-ed25519", b"\x00\x00\x00\x0bssh-ed25519" + b"\x00\x00\x00\x20" + b"1" * 32)
RSA = HostKey("ssh-rsa", b"\x00\x00\x00\x07ssh-rsa" + bytes(20))


def entry(names: str, key: HostKey = KEY, marker: str = "") -> str:
    return f"{marker} {names} {key.kind} {base64.b64encode(key.blob).decode()} comment\n".lstrip()


def known(tmp_path: Path, *lines: str) -> KnownHosts:
    path = tmp_path / "known_hosts"
    path.write_text("# a comment\n\n" + "".join(lines))
    return KnownHosts.read([str(tmp_path / "missing"), str(path)])


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("host2", "host2", 22),
        ("a,host2,b", "HOST2", 22),
        ("[host2]:2222", "host2", 2222),
        ("*.example.org,!bad.example.org", "good.example.org", 22),
        ("host?", "host2", 22),
        ("[*]:2222", "host2", 2222),
        ("10.0.0.*", "10.0.0.7", 22),
        ("fe80::1", "fe80::1", 22),
    ],
)
def test_a_known_key_is_accepted_under_every_way_to_write_the_name(
    tmp_path: Path, names: str, host: str, port: int
) -> None:
    known(tmp_path, entry(names)).check(host, port, KEY, "x")


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("host2", "host2", 2222),
        ("[host2]:2222", "host2", 22),
        ("host", "host2", 22),
        ("*.example.org,!bad.example.org", "bad.example.org", 22),
        ("[ho]st2", "host2", 22),
    ],
)
def test_a_key_known_for_another_name_or_port_is_unknown(
    tmp_path: Path, names: str, host: str, port: int
) -> None:
    with pytest.raises(HostKeyError, match="unknown host key"):
        known(tmp_path, entry(names)).check(host, port, KEY, "x")


@given(st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), st.sampled_from([22, 2222]))
def test_names_that_ssh_keygen_hashed_are_found(
    tmp_path_factory: pytest.TempPathFactory, host: str, port: int
) -> None:
    folder = tmp_path_factory.mktemp("hashed")
    path = folder / "known_hosts"
    path.write_text(entry(known_name(host, port)) + entry("elsewhere", OTHER))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert host not in path.read_text().split()
    KnownHosts.read([str(path)]).check(host, port, KEY, "x")


def test_an_unknown_key_is_refused_with_its_fingerprint_and_the_command_that_adds_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "my hosts"
    with pytest.raises(HostKeyError) as raised:
        KnownHosts.read([str(path)]).check("host2", 2222, KEY, str(path))
    assert KEY.fingerprint in str(raised.value)
    command = raised.value.hint.partition("add the key: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    KnownHosts.read([str(path)]).check("host2", 2222, KEY, str(path))
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(path)], check=True, capture_output=True, text=True
    ).stdout
    assert KEY.fingerprint in shown


def test_a_changed_key_is_refused_loudly_with_file_and_line_and_the_command_that_removes_it(
    tmp_path: Path,
) -> None:
    hosts = known(tmp_path, entry("other", OTHER), entry("host2", OTHER))
    path = tmp_path / "known_hosts"
    with pytest.raises(HostKeyError, match="HOST KEY HAS CHANGED") as raised:
        hosts.check("host2", 22, KEY, "x")
    assert f"{path}:4" in str(raised.value)
    assert KEY.fingerprint in str(raised.value)
    assert OTHER.fingerprint in str(raised.value)
    command = raised.value.hint.partition("remove the old one: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert "host2" not in path.read_text()


def test_a_known_host_that_comes_with_another_kind_of_key_has_changed(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="HAS CHANGED"):
        known(tmp_path, entry("host2", RSA)).check("host2", 22, KEY, "x")


def test_a_revoked_key_is_refused_even_where_another_line_knows_it(tmp_path: Path) -> None:
    hosts = known(tmp_path, entry("host2"), entry("*", marker="@revoked"))
    with pytest.raises(HostKeyError, match=r"HOST KEY IS REVOKED.*known_hosts:4"):
        hosts.check("host2", 22, KEY, "x")
    known(tmp_path, entry("host2"), entry("*", OTHER, "@revoked")).check("host2", 22, KEY, "x")


def test_a_certificate_authority_is_not_a_host_key(tmp_path: Path) -> None:
    hosts = known(tmp_path, entry("host2", marker="@cert-authority"))
    with pytest.raises(HostKeyError, match=r"unknown host key.*known_hosts:3.*openssh"):
        hosts.check("host2", 22, KEY, "x")


def test_one_of_several_keys_is_enough_and_the_known_kinds_are_named(tmp_path: Path) -> None:
    hosts = known(tmp_path, entry("host2", RSA), entry("host2", OTHER), entry("host2", KEY))
    hosts.check("host2", 22, KEY, "x")
    assert hosts.kinds("host2", 22) == ["ssh-rsa", "ssh-ed25519", "ssh-ed25519"]


@given(st.text(max_size=100))
def test_no_line_whatever_it_holds_stops_the_reader(text: str) -> None:
    line = parse_line(text, "known_hosts", 1)
    if line is not None:
        line.is_for("host2")


def test_a_file_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="cannot be read: is a directory"):
        KnownHosts.read([str(tmp_path)])
