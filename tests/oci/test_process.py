"""process of config.json: user, capabilities, limits, privileges, environment, signals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from .driver import (
    Config,
    Runtime,
    status_fields,
    stray_signals,
)

CAP = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_KILL": 5, "CAP_SETUID": 7, "CAP_NET_RAW": 13}


def mask(*names: str) -> int:
    return sum(1 << CAP[name] for name in names)


def fields_of(runtime: Runtime, **process: Any) -> dict[str, str]:
    """/proc/self/status of a process made with the values given."""

    def change(config: Config) -> None:
        config["process"].update(process)

    # Not through a shell: busybox's sh installs handlers of its own.
    result = runtime.run(runtime.bundle("cat", "/proc/self/status", change=change))
    assert result.status == 0, str(result)
    return status_fields(result.out)


def test_user_and_groups_are_exactly_those_asked_for(runtime: Runtime) -> None:
    user = {"uid": 1000, "gid": 100, "additionalGids": [5, 6]}
    fields = fields_of(runtime, user=user)
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["100"] * 4
    assert sorted(fields["Groups"].split()) == ["5", "6"]


def test_the_callers_groups_do_not_come_along(runtime: Runtime) -> None:
    assert fields_of(runtime)["Groups"].split() == []


def test_a_user_without_a_passwd_entry_runs(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": 4321, "gid": 4321}

    assert runtime.shell("id -u; echo $HOME", change=change) == "4321\n/\n"


@pytest.mark.parametrize(("uid", "home"), [(0, "/root"), (1000, "/home/worker")])
def test_home_comes_from_the_containers_passwd(runtime: Runtime, uid: int, home: str) -> None:
    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": uid, "gid": 0}

    assert runtime.shell("echo $HOME", change=change) == f"{home}\n"


def test_home_of_the_config_wins(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["env"] += ["HOME=/elsewhere"]

    assert runtime.shell("echo $HOME", change=change) == "/elsewhere\n"


def test_the_environment_is_the_configs_and_nothing_else(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["env"] = ["PATH=/bin", "A=with space", "B=", "A2=x=y", "U=ü"]

    result = runtime.run(runtime.bundle("env", change=change), env={"LEAK": "secret"})
    assert sorted(result.out.splitlines()) == [
        "A2=x=y",
        "A=with space",
        "B=",
        "HOME=/root",
        "PATH=/bin",
        "U=ü",
    ]


def test_the_program_is_looked_up_in_the_containers_path(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["env"] = ["PATH=/opt/tools"]

    bundle = runtime.bundle("mytool", change=change)
    tools = bundle.rootfs / "opt/tools"
    tools.mkdir(parents=True)
    (tools / "mytool").write_text("#!/bin/sh\necho mine\n")
    (tools / "mytool").chmod(0o755)
    assert runtime.run(bundle).out == "mine\n"


def test_a_working_directory_that_is_missing_is_made(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["cwd"] = "/made/for/it"

    assert runtime.shell("pwd", change=change) == "/made/for/it\n"


def test_a_working_directory_only_the_user_may_enter_works(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["cwd"] = "/home/worker"
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    bundle = runtime.bundle("pwd", change=change)
    home = bundle.rootfs / "home/worker"
    home.chmod(0o700)
    os.chown(home, 1000, 1000)
    assert runtime.run(bundle).out == "/home/worker\n"


def test_each_capability_set_is_exactly_what_was_asked_for(runtime: Runtime) -> None:
    fields = fields_of(
        runtime,
        capabilities={
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
            "ambient": ["CAP_KILL"],
        },
    )
    assert int(fields["CapBnd"], 16) == mask("CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW")
    assert int(fields["CapInh"], 16) == mask("CAP_KILL", "CAP_NET_RAW")
    assert int(fields["CapAmb"], 16) == mask("CAP_KILL")


def test_a_process_of_root_gets_all_of_its_bounding_set_at_execve(runtime: Runtime) -> None:
    names = ["CAP_CHOWN", "CAP_KILL"]
    sets = dict.fromkeys(("bounding", "permitted", "effective"), names)
    fields = fields_of(runtime, capabilities=sets)
    for name in ("CapBnd", "CapPrm", "CapEff"):
        assert int(fields[name], 16) == mask(*names)
    assert int(fields["CapInh"], 16) == 0
    assert int(fields["CapAmb"], 16) == 0


def test_another_user_has_only_its_ambient_capabilities(runtime: Runtime) -> None:
    names = ["CAP_KILL", "CAP_NET_RAW"]
    sets: dict[str, list[str]] = dict.fromkeys(
        ("bounding", "permitted", "effective", "inheritable"), names
    )
    user = {"uid": 1000, "gid": 1000}
    plain = fields_of(runtime, user=user, capabilities=sets)
    assert int(plain["CapEff"], 16) == 0
    ambient = fields_of(runtime, user=user, capabilities={**sets, "ambient": ["CAP_KILL"]})
    assert int(ambient["CapEff"], 16) == mask("CAP_KILL")


def test_no_capabilities_at_all_means_none(runtime: Runtime) -> None:
    fields = fields_of(runtime, capabilities={})
    for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(fields[name], 16) == 0


def test_no_new_privileges_is_what_the_config_says(runtime: Runtime) -> None:
    for wanted in (True, False):
        assert fields_of(runtime, noNewPrivileges=wanted)["NoNewPrivs"] == str(int(wanted))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("RLIMIT_AS", "Max address space"),
        ("RLIMIT_CORE", "Max core file size"),
        ("RLIMIT_CPU", "Max cpu time"),
        ("RLIMIT_DATA", "Max data size"),
        ("RLIMIT_FSIZE", "Max file size"),
        ("RLIMIT_LOCKS", "Max file locks"),
        ("RLIMIT_MEMLOCK", "Max locked memory"),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size"),
        ("RLIMIT_NICE", "Max nice priority"),
        ("RLIMIT_NOFILE", "Max open files"),
        ("RLIMIT_NPROC", "Max processes"),
        ("RLIMIT_RSS", "Max resident set"),
        ("RLIMIT_RTPRIO", "Max realtime priority"),
        ("RLIMIT_RTTIME", "Max realtime timeout"),
        ("RLIMIT_SIGPENDING", "Max pending signals"),
        ("RLIMIT_STACK", "Max stack size"),
    ],
)
def test_a_resource_limit_is_set(runtime: Runtime, name: str, title: str) -> None:
    most = limits_in(Path("/proc/self/limits").read_text())[title][1]
    # Without CAP_SYS_RESOURCE nobody may go beyond the caller's own.
    hard = 1 << 30 if most == "unlimited" else int(most)
    soft = hard // 2

    def change(config: Config) -> None:
        config["process"]["rlimits"] = [{"type": name, "soft": soft, "hard": hard}]

    out = runtime.run(runtime.bundle("cat", "/proc/self/limits", change=change)).out
    assert limits_in(out)[title] == (str(soft), str(hard))


def limits_in(text: str) -> dict[str, tuple[str, str]]:
    """A /proc/PID/limits as title to soft and hard limit."""
    rows = (line for line in text.splitlines()[1:])
    return {row[:26].strip(): (row[26:46].strip(), row[47:67].strip()) for row in rows}


def test_the_oom_score_adjustment_is_set(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["oomScoreAdj"] = 321

    assert runtime.shell("cat /proc/self/oom_score_adj", change=change) == "321\n"


def test_the_oom_score_adjustment_of_the_caller_stays_without_one(runtime: Runtime) -> None:
    ours = Path("/proc/self/oom_score_adj").read_text()
    assert runtime.shell("cat /proc/self/oom_score_adj") == ours


def test_the_umask_is_22_unless_the_config_has_one(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["user"]["umask"] = 0o077

    assert runtime.shell("umask") == "0022\n"
    assert runtime.shell("umask", change=change) == "0077\n"


def test_the_process_starts_with_clean_signals(runtime: Runtime) -> None:
    fields = fields_of(runtime)
    assert stray_signals(fields) == {}


def test_the_process_has_three_descriptors(runtime: Runtime) -> None:
    # ls opens the directory itself as the fourth.
    assert runtime.run(runtime.bundle("ls", "/proc/self/fd")).out.split() == ["0", "1", "2", "3"]


def test_the_process_leads_a_session_of_its_own(runtime: Runtime) -> None:
    # Fields 5 and 6 of stat are the process group and the session.
    out = runtime.run(runtime.bundle("cat", "/proc/self/stat")).out.split()
    assert out[0] == out[4] == out[5] == "1"


def test_preserve_fds_hands_descriptors_in(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "cat <&3; ls /proc/self/fd")
    note = bundle.path / "note"
    note.write_text("passed in\n")
    result = runtime.run(bundle, "--preserve-fds", "1", before=f"exec 3<{note} 4<{note}")
    # The fourth is the directory that ls reads.
    assert result.out.split() == ["passed", "in", "0", "1", "2", "3", "4"], str(result)


def test_preserve_fds_of_descriptors_that_are_not_open_is_refused(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    runtime.refuses(
        "run", "--preserve-fds", "5", "--bundle", str(bundle.path), runtime.new_id(),
        before="exec 3<&- 4<&- 5<&- 6<&- 7<&-",
    )  # fmt: skip


def test_listen_fds_hands_descriptors_in_and_names_them(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "cat <&3; echo $LISTEN_FDS $LISTEN_PID")
    note = bundle.path / "note"
    note.write_text("activated\n")
    before = f"exec 3<{note}; export LISTEN_PID=$$ LISTEN_FDS=1"
    result = runtime.run(bundle, before=before)
    assert result.out == "activated\n1 1\n", str(result)


def test_an_unknown_capability_is_a_warning_and_left_out(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["capabilities"]["bounding"] = ["CAP_FLY", "CAP_KILL"]

    result = runtime.run(runtime.bundle("cat", "/proc/self/status", change=change))
    assert result.status == 0, str(result)
    assert "warning" in result.err
    assert "CAP_FLY" in result.err
    assert int(status_fields(result.out)["CapBnd"], 16) == 1 << 5
