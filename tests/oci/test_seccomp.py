"""linux.seccomp: which system calls a container's processes may make, and what else happens."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from .driver import Bundle, Config, Runtime, eventually, status_fields
from .seccomp import Agent, Profile, on, profile, rule

EPERM, EACCES, EFAULT, ENOSYS = 1, 13, 14, 38
MKDIR, UMASK, CHROOT = 83, 95, 161
# A number that no system call has yet.
FUTURE = 900
FIRST_UMASK = 0o022


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that makes one system call and writes the kernel's answer."""
    built = tmp_path_factory.mktemp("probe") / "probe"
    source = Path(__file__).with_name("probe.c")
    flags = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-O1"]
    subprocess.run(["gcc", *flags, "-o", str(built), str(source)], check=True)
    return built


Filtered = Callable[..., Bundle]


@pytest.fixture
def filtered(runtime: Runtime, probe: Path) -> Filtered:
    """Makes a bundle that runs a command under a profile, with /probe in its root."""

    def make(wanted: Profile, *arguments: str, privileged: bool = False, **more: Any) -> Bundle:
        def change(config: Config) -> None:
            config["linux"]["seccomp"] = wanted
            config["process"]["noNewPrivileges"] = not privileged
            config["process"].update(more)

        bundle = runtime.bundle(*arguments, change=change)
        shutil.copy2(probe, bundle.rootfs / "probe")
        return bundle

    return make


def answer(runtime: Runtime, bundle: Bundle) -> int:
    """What the kernel said to the one call of a probe."""
    result = runtime.run(bundle)
    assert result.status == 0, str(result)
    return int(result.out)


def denied(*names: str, number: int | None = None) -> Profile:
    """A profile that allows everything but some calls."""
    return profile("ALLOW", rule("ERRNO", *names, errnoRet=number))


# --- actions ------------------------------------------------------------------


@pytest.mark.parametrize("privileged", [False, True])
def test_a_call_that_is_not_allowed_fails_and_others_go_on(
    runtime: Runtime, filtered: Filtered, *, privileged: bool
) -> None:
    bundle = filtered(
        denied("mkdir", "mkdirat"),
        "sh", "-c", "mkdir /tmp/made; touch /tmp/touched && grep Seccomp: /proc/self/status",
        privileged=privileged,
    )  # fmt: skip
    result = runtime.run(bundle)
    assert result.out.split() == ["Seccomp:", "2"]
    assert "Operation not permitted" in result.err
    assert (bundle.rootfs / "tmp/touched").exists()
    assert not (bundle.rootfs / "tmp/made").exists()


@pytest.mark.parametrize("number", [EACCES, 0, 4094])
def test_the_error_is_the_one_asked_for(runtime: Runtime, filtered: Filtered, number: int) -> None:
    assert (
        answer(runtime, filtered(denied("umask", number=number), "/probe", str(UMASK))) == -number
    )


def test_the_default_has_an_error_of_its_own(runtime: Runtime, filtered: Filtered) -> None:
    allowed = rule("ALLOW", *everything_but("umask", "chroot"))
    wanted = profile("ERRNO", allowed, rule("ERRNO", "chroot"), defaultErrnoRet=EACCES)
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == -EACCES
    assert answer(runtime, filtered(wanted, "/probe", str(CHROOT))) == -EPERM


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("KILL", 128 + signal.SIGSYS),
        ("KILL_THREAD", 128 + signal.SIGSYS),
        ("KILL_PROCESS", 128 + signal.SIGSYS),
        ("TRAP", 128 + signal.SIGSYS),
        ("LOG", 0),
        ("ALLOW", 0),
    ],
)
def test_what_else_may_happen(
    runtime: Runtime, filtered: Filtered, action: str, status: int
) -> None:
    default = "ERRNO" if action == "ALLOW" else "ALLOW"
    rules = [rule(action, "umask")]
    if default == "ERRNO":
        rules.append(rule("ALLOW", *everything_but("umask")))
    bundle = filtered(profile(default, *rules), "sh", "-c", f"/probe {UMASK}; exit $?")
    assert runtime.run(bundle).status == status


def test_a_call_to_be_traced_is_missing_without_a_tracer(
    runtime: Runtime, filtered: Filtered
) -> None:
    wanted = profile("ALLOW", rule("TRACE", "umask", errnoRet=7))
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == -ENOSYS


def test_a_rule_that_says_what_the_default_says_changes_nothing(
    runtime: Runtime, filtered: Filtered
) -> None:
    wanted = profile("ALLOW", rule("ALLOW", "umask"), rule("ERRNO", "chroot"))
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == FIRST_UMASK


# --- arguments ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "value", "second", "matched"),
    [
        ("EQ", 8, 0, [8]),
        ("NE", 8, 0, [7, 9, 2**40 + 8]),
        ("LT", 8, 0, [7]),
        ("LE", 8, 0, [7, 8]),
        ("GT", 8, 0, [9, 2**40 + 8]),
        ("GE", 8, 0, [8, 9, 2**40 + 8]),
        ("MASKED_EQ", 2**40 + 1, 1, [7, 9]),
        ("MASKED_EQ", 2**40 + 1, 2**40, [2**40 + 8]),
    ],
)
def test_a_rule_looks_at_all_64_bits_of_an_argument(
    runtime: Runtime,
    filtered: Filtered,
    operator: str,
    value: int,
    second: int,
    matched: list[int],
) -> None:
    condition = on(0, value, f"SCMP_CMP_{operator}", second)
    wanted = profile("ALLOW", rule("ERRNO", "umask", args=[condition]))
    values = [7, 8, 9, 2**40 + 8]
    script = "; ".join(f"/probe {UMASK} {each}" for each in values)
    answers = runtime.run(filtered(wanted, "sh", "-c", script)).out.split()
    hit = [each for each, said in zip(values, answers, strict=True) if said == f"-{EPERM}"]
    assert hit == matched


def test_two_conditions_on_two_arguments_must_both_hold_and_on_one_either(
    runtime: Runtime, filtered: Filtered
) -> None:
    script = f"/probe {UMASK} 1 2; /probe {UMASK} 1 3; /probe {UMASK} 2 2"
    both = profile("ALLOW", rule("ERRNO", "umask", errnoRet=5, args=[on(0, 1), on(1, 2)]))
    said = runtime.run(filtered(both, "sh", "-c", script)).out.split()
    assert [each == "-5" for each in said] == [True, False, False]
    either = profile("ALLOW", rule("ERRNO", "umask", errnoRet=5, args=[on(0, 1), on(0, 2)]))
    said = runtime.run(filtered(either, "sh", "-c", script)).out.split()
    assert said == ["-5", "-5", "-5"]


# --- what nobody knows --------------------------------------------------------


def test_a_call_nobody_knows_is_passed_over(runtime: Runtime, filtered: Filtered) -> None:
    wanted = profile("ALLOW", rule("ERRNO", "no_such_call", "umask", "another_one"))
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == -EPERM


@pytest.mark.parametrize("architectures", [["SCMP_ARCH_X86_64"], []], ids=["named", "native"])
def test_a_call_newer_than_the_profile_is_missing_and_an_older_one_forbidden(
    runtime: Runtime, filtered: Filtered, architectures: list[str]
) -> None:
    # A C library takes the old way after ENOSYS, but believes EPERM.
    allowed = rule("ALLOW", *everything_but("umask"))
    wanted = profile("ERRNO", allowed, architectures=architectures)
    assert answer(runtime, filtered(wanted, "/probe", str(FUTURE))) == -ENOSYS
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == -EPERM


def test_a_call_newer_than_a_profile_that_allows_is_the_kernels_to_answer(
    runtime: Runtime, filtered: Filtered
) -> None:
    wanted = profile("ALLOW", rule("KILL", "umask"))
    assert answer(runtime, filtered(wanted, "/probe", str(FUTURE))) == -ENOSYS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(change, named, id=name)
        for name, change, named in (
            ("action", {"defaultAction": "SCMP_ACT_MAYBE"}, "SCMP_ACT_MAYBE"),
            ("type", {"defaultAction": 1}, "defaultAction"),
            ("architecture", {"architectures": ["SCMP_ARCH_Z80"]}, "SCMP_ARCH_Z80"),
            ("flag", {"flags": ["SECCOMP_FILTER_FLAG_FAST"]}, "SECCOMP_FILTER_FLAG_FAST"),
            ("rule", {"syscalls": [rule("PERHAPS", "umask")]}, "SCMP_ACT_PERHAPS"),
            ("operator", {"syscalls": [rule("ERRNO", "umask", args=[on(0, 1, "IS")])]}, "IS"),
            ("index", {"syscalls": [rule("ERRNO", "umask", args=[on(6, 1)])]}, ""),
            ("no-names", {"syscalls": [rule("ERRNO")]}, "names"),
            ("empty-name", {"syscalls": [rule("ERRNO", "")]}, ""),
            ("errno-of-allow", {"syscalls": [rule("ALLOW", "umask", errnoRet=1)]}, "errnoRet"),
            ("large-errno", {"syscalls": [rule("ERRNO", "umask", errnoRet=4095)]}, "4095"),
            ("errno-of-default", {"defaultErrnoRet": 1}, "defaultErrnoRet"),
            ("metadata", {"listenerMetadata": "x"}, "listenerMetadata"),
            ("nobody", {"syscalls": [rule("NOTIFY", "mkdir")]}, "listenerPath"),
            (
                "notify-all",
                {"defaultAction": "SCMP_ACT_NOTIFY"},
                "SCMP_ACT_NOTIFY cannot be used as default action",
            ),
            (
                "notify-write",
                {"listenerPath": "/x", "syscalls": [rule("NOTIFY", "write")]},
                "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ),
        )
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused_and_leaves_nothing(
    runtime: Runtime, filtered: Filtered, change: dict[str, Any], named: str
) -> None:
    wanted = {**profile("ALLOW", rule("ERRNO", "chroot")), **change}
    error = runtime.refuses("create", "--bundle", str(filtered(wanted).path), runtime.new_id())
    assert named in error
    assert runtime.ids() == []


# --- flags and architectures --------------------------------------------------


@pytest.mark.parametrize(
    "flags", [None, [], ["TSYNC"], ["LOG"], ["SPEC_ALLOW"], ["TSYNC", "LOG", "SPEC_ALLOW"]]
)
def test_flags_are_taken(runtime: Runtime, filtered: Filtered, flags: list[str] | None) -> None:
    wanted = denied("umask")
    if flags is not None:
        wanted["flags"] = [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == -EPERM


def test_other_architectures_may_be_named(runtime: Runtime, filtered: Filtered) -> None:
    wanted = profile(
        "ERRNO",
        rule("ALLOW", *everything_but("umask")),
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
    )
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == -EPERM
    assert answer(runtime, filtered(wanted, "/probe", str(FUTURE))) == -ENOSYS
    # Of x32, which the kernel may not have, but the filter has.
    assert answer(runtime, filtered(wanted, "/probe", str((1 << 30) + UMASK))) == -EPERM
    assert answer(runtime, filtered(wanted, "/probe", str((1 << 30) + FUTURE))) == -ENOSYS


# --- who is filtered, and when ------------------------------------------------


def test_the_least_that_a_program_needs_is_enough(runtime: Runtime, filtered: Filtered) -> None:
    # Nothing that the runtime does by itself has to be in the profile.
    wanted = profile("KILL_PROCESS", rule("ALLOW", "execve", "write", "exit_group"))
    assert answer(runtime, filtered(wanted, "/probe", str(FUTURE))) == -ENOSYS
    assert runtime.run(filtered(wanted, "/probe", str(UMASK))).status == 128 + signal.SIGSYS
    privileged = filtered(wanted, "/probe", str(FUTURE), privileged=True)
    assert answer(runtime, privileged) == -ENOSYS


@pytest.mark.parametrize("uid", [0, 1000])
def test_loading_without_no_new_privs_leaves_no_privilege_behind(
    runtime: Runtime, filtered: Filtered, uid: int
) -> None:
    capabilities = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")}
    bundle = filtered(
        denied("umask"),
        "cat",
        "/proc/self/status",
        privileged=True,
        user={"uid": uid, "gid": uid},
        capabilities=capabilities,
    )
    fields = status_fields(runtime.run(bundle).out)
    held = "0000000000000020" if uid == 0 else "0000000000000000"
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "0")
    assert fields["CapPrm"] == fields["CapEff"] == held
    assert fields["CapBnd"] == "0000000000000020"
    assert fields["CapInh"] == fields["CapAmb"] == "0000000000000000"


@pytest.mark.parametrize("privileged", [False, True])
def test_a_process_of_exec_is_filtered_as_the_first(
    runtime: Runtime, filtered: Filtered, *, privileged: bool
) -> None:
    container = runtime.started(filtered(denied("umask"), "sleep", "100", privileged=privileged))
    assert container.exec("/probe", str(UMASK)) == f"-{EPERM}\n"
    process = {"args": ["/probe", str(UMASK)], "cwd": "/", "noNewPrivileges": not privileged}
    path = runtime.workspace / "process.json"
    path.write_text(json.dumps(process | {"user": {"uid": 1000, "gid": 1000}}))
    done = runtime.ok("exec", "--process", str(path), container.id)
    assert done.out == f"-{EPERM}\n"


def test_a_program_that_may_not_be_executed_is_told_by_exec(
    runtime: Runtime, filtered: Filtered
) -> None:
    wanted = denied("execve")
    result = runtime.run(filtered(wanted, "true"))
    assert result.status != 0
    assert "not permitted" in result.err


def test_a_hook_in_the_container_is_filtered_and_those_outside_are_not(
    runtime: Runtime, filtered: Filtered
) -> None:
    # What it runs is the image's, as the process is.
    bundle = filtered(denied("chroot", number=77), "true")
    bundle.config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"{program} {CHROOT} > {target}; true"]}]
        for kind, program, target in (
            ("startContainer", "/probe", "/inside"),
            ("createRuntime", bundle.rootfs / "probe", bundle.path / "outside"),
        )
    }
    bundle.write()
    assert runtime.run(bundle).status == 0
    assert (bundle.rootfs / "inside").read_text() == "-77\n"
    assert (bundle.path / "outside").read_text() == f"-{EFAULT}\n"


def test_a_terminal_and_descriptors_of_the_caller_are_there_under_a_filter(
    runtime: Runtime, filtered: Filtered
) -> None:
    wanted = profile("ERRNO", rule("ALLOW", *everything_but("umask", "socket", "sendmsg")))
    bundle = filtered(wanted, "sh", "-c", "cat <&3; echo $LISTEN_FDS; /probe 95")
    result = runtime.run(bundle, "--preserve-fds", "1", before="exec 3< <(echo preserved)")
    assert result.out.split() == ["preserved", f"-{EPERM}"]
    script = "exec 3< <(echo activated); export LISTEN_FDS=1 LISTEN_PID=$$"
    result = runtime.run(bundle, before=script)
    assert result.out.split() == ["activated", "1", f"-{EPERM}"]


# --- notifications ------------------------------------------------------------


def asking(agent: Agent, **more: Any) -> Profile:
    return profile("ALLOW", rule("NOTIFY", "mkdir"), listenerPath=agent.path, **more)


@pytest.mark.parametrize("privileged", [False, True])
def test_an_agent_decides_about_a_call(
    runtime: Runtime, filtered: Filtered, *, privileged: bool
) -> None:
    with Agent() as agent:
        wanted = asking(agent, listenerMetadata="what the agent knows it by")
        bundle = filtered(wanted, "sh", "-c", f"/probe {MKDIR}; sleep 100", privileged=privileged)
        bundle.config["annotations"] = {"org.example": "yes"}
        bundle.write()
        container = runtime.started(bundle)
        said = agent.receive()
        assert said["fds"] == ["seccompFd"]
        assert said["metadata"] == "what the agent knows it by"
        assert said["pid"] == container.pid
        state = said["state"]
        assert (state["id"], state["pid"]) == (container.id, container.pid)
        assert state["bundle"] == str(bundle.path)
        assert state["status"] in ("creating", "created")
        assert state["annotations"]["org.example"] == "yes"
        assert said["ociVersion"]
        assert state["ociVersion"]
        agent.answer(MKDIR, error=71)
        container.wait_for_output("-71\n")


def test_an_agent_is_asked_about_processes_of_exec_by_another_connection(
    runtime: Runtime, filtered: Filtered
) -> None:
    with Agent() as agent:
        container = runtime.started(filtered(asking(agent), "sleep", "100"))
        agent.receive()
        output = runtime.workspace / "executed"
        container(f"exec --detach --pid-file {runtime.workspace}/pid", "/probe", str(MKDIR),
                  output=output)  # fmt: skip
        said = agent.receive()
        assert said["pid"] == int((runtime.workspace / "pid").read_text())
        assert said["state"]["pid"] == container.pid
        assert said["state"]["status"] == "running"
        assert "metadata" not in said
        agent.answer(MKDIR, error=72)
        eventually(lambda: output.read_text() == "-72\n", "the answer arrives")
        os.waitpid(said["pid"], 0)


def test_an_agent_that_is_not_there_keeps_the_container_from_running(
    runtime: Runtime, filtered: Filtered
) -> None:
    wanted = profile("ALLOW", rule("NOTIFY", "mkdir"), listenerPath="/nobody/listens")
    bundle = filtered(wanted, "sh", "-c", "sleep 1; echo ran")
    result = runtime.run(bundle)
    assert result.status != 0
    assert "/nobody/listens" in result.err
    assert "ran" not in result.out


def test_a_path_is_passed_over_where_nobody_is_asked(runtime: Runtime, filtered: Filtered) -> None:
    wanted = denied("umask") | {"listenerPath": "/nobody/listens", "listenerMetadata": "x"}
    assert answer(runtime, filtered(wanted, "/probe", str(UMASK))) == -EPERM


# --- as engines have it -------------------------------------------------------


def test_a_shell_works_under_a_profile_as_large_as_an_engines(
    runtime: Runtime, filtered: Filtered
) -> None:
    forbidden = ("mount", "umount2", "reboot", "kexec_load", "init_module", "swapon", "umask")
    allowed = everything_but(*forbidden, "personality", "clone", "clone3", "socket")
    wanted = profile(
        "ERRNO",
        rule("ALLOW", *allowed),
        *(
            rule("ALLOW", "personality", args=[on(0, value)])
            for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
        ),
        rule("ALLOW", "clone", args=[
            on(0, 0x7E020000, "SCMP_CMP_MASKED_EQ")
        ]),
        rule("ERRNO", "clone3", errnoRet=ENOSYS),
        rule("ALLOW", "socket", args=[on(0, 16, "SCMP_CMP_NE")]),
        rule("ALLOW", "socket", args=[on(2, 9, "SCMP_CMP_NE")]),
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    )  # fmt: skip
    script = "ls / | sort | head -n 1; for i in 1 2 3; do echo $i | cat; done; /probe 95; mount"
    result = runtime.run(filtered(wanted, "sh", "-c", script))
    assert result.out.split()[:5] == ["bin", "1", "2", "3", f"-{EPERM}"]


@pytest.mark.parametrize("wanted", ["apparmorProfile", "selinuxLabel"])
def test_a_label_the_kernel_would_not_enforce_is_refused(runtime: Runtime, wanted: str) -> None:
    def change(config: Config) -> None:
        config["process"][wanted] = "a_label"

    bundle = runtime.bundle("true", change=change)
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []
    container = runtime.started()
    option = {"apparmorProfile": "--apparmor", "selinuxLabel": "--process-label"}[wanted]
    runtime.refuses("exec", option, "a_label", container.id, "true")


def test_a_profile_of_apparmor_is_applied_where_the_kernel_has_it(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["apparmorProfile"] = "unconfined"  # the one that is always there

    bundle = runtime.bundle("cat", "/proc/self/attr/current", change=change)
    result = runtime.run(bundle)
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if enabled.exists() and enabled.read_text().startswith("Y"):
        assert result.out.startswith("unconfined")
    else:
        assert result.status != 0
        assert "apparmor" in result.err.lower()


def test_features_name_what_profiles_may_say(runtime: Runtime) -> None:
    seccomp = json.loads(runtime.ok("features").out)["linux"]["seccomp"]
    assert seccomp["enabled"] is True
    assert {"SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY", "SCMP_ACT_KILL_PROCESS"} <= set(seccomp["actions"])
    assert len(seccomp["operators"]) == 7
    assert {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"} <= set(seccomp["archs"])


def everything_but(*names: str) -> Sequence[str]:
    """The names of all system calls libseccomp knows on this machine, but some."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    found = (library.seccomp_syscall_resolve_num_arch(0, number) for number in range(500))
    return [name.decode() for name in found if name and name.decode() not in names]
