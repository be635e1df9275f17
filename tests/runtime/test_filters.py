"""System call filters, run instruction by instruction beside what their words mean."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import ConfigError, StageError
from migrate.runtime import filters
from migrate.runtime.filter_front import SCMP_ARCH_X32 as X32
from migrate.runtime.filter_front import SCMP_ARCH_X86_64 as X86_64
from migrate.runtime.filter_front import front
from migrate.runtime.init import labels
from migrate.runtime.spec import confinement, decode, schema

from .conftest import PYTHON, Runner

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0
I386 = 0x40000003
X32_BIT = 1 << 30
UMASK = 95
LITTLE_ENDIAN = {
    f"SCMP_ARCH_{name}"
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "PPC64LE", "RISCV64", "LOONGARCH64", "SH"),
        *("MIPSEL", "MIPSEL64", "MIPSEL64N32"),
    )
}
LIBRARY = "libseccomp.so.2"


def outcome(program: bytes, number: int, arguments: list[int], architecture: int = X86_64) -> int:
    """What a program of classic BPF returns for a system call; see linux/seccomp.h."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *(arguments + [0] * 6)[:6])
    at, accumulator = 0, 0
    while True:
        code, yes, no, operand = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, operand)[0]
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            at += operand
        elif code == 0x06:
            return int(operand)
        else:
            holds = {
                0x15: accumulator == operand,
                0x25: accumulator > operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[code]
            at += yes if holds else no


def holds(condition: dict[str, Any], arguments: list[int]) -> bool:
    """Whether a condition is met, by the words of seccomp_rule_add(3)."""
    given_value, value = arguments[condition["index"]], condition["value"]
    meets: dict[str, bool] = {
        "SCMP_CMP_NE": given_value != value,
        "SCMP_CMP_LT": given_value < value,
        "SCMP_CMP_LE": given_value <= value,
        "SCMP_CMP_EQ": given_value == value,
        "SCMP_CMP_GE": given_value >= value,
        "SCMP_CMP_GT": given_value > value,
        "SCMP_CMP_MASKED_EQ": given_value & value == condition.get("valueTwo", 0),
    }
    return meets[condition["op"]]


WORDS = st.one_of(
    st.integers(0, 3),
    st.integers(2**32 - 2, 2**32 + 2),
    st.integers(2**64 - 3, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
CONDITIONS = st.lists(
    st.fixed_dictionaries(
        {
            "index": st.integers(0, 5),
            "value": WORDS,
            "valueTwo": WORDS,
            "op": st.sampled_from(schema.SECCOMP_OPERATORS),
        }
    ),
    min_size=1,
    max_size=4,
    # Two on one argument are two rules, and releases of libseccomp get some of those wrong.
    unique_by=lambda condition: condition["index"],
)


def sensible(condition: dict[str, Any]) -> dict[str, Any]:
    """A masked value beyond its mask never matches; libseccomp takes it as cut to the mask."""
    if condition["op"] == "SCMP_CMP_MASKED_EQ":
        return condition | {"valueTwo": condition["valueTwo"] & condition["value"]}
    return condition


@settings(max_examples=300, deadline=None)
@given(CONDITIONS, st.lists(WORDS, min_size=6, max_size=6), st.data())
def test_a_rule_matches_what_its_conditions_say(
    drawn: list[dict[str, Any]], arguments: list[int], data: st.DataObject
) -> None:
    conditions = [sensible(condition) for condition in drawn]
    for condition in conditions:  # at the very border, half of the time
        if data.draw(st.booleans()):
            arguments[condition["index"]] = condition["value"]
    seccomp: Any = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": conditions}
        ],
    }
    program, _, _ = filters.compiled(seccomp)
    is_hit = all(holds(condition, arguments) for condition in conditions)
    assert outcome(program, UMASK, arguments) == (ERRNO | 9 if is_hit else ALLOW)
    assert outcome(program, UMASK + 1, arguments) == ALLOW


@settings(max_examples=100, deadline=None)
@given(
    newest=st.dictionaries(st.sampled_from([I386, X86_64, X32, 0xC00000B7]), st.integers(1, 600)),
    architecture=st.sampled_from([I386, X86_64, 0xC00000B7, 0x1234]),
    number=st.integers(0, 1000),
    x32=st.booleans(),
)
def test_what_is_newer_than_the_rules_is_missing_and_the_rest_is_theirs(
    *, newest: dict[int, int], architecture: int, number: int, x32: bool
) -> None:
    for token in newest:
        if token == X32:
            newest[token] |= X32_BIT
    if x32:
        number |= X32_BIT
    program = front(newest, sys.byteorder) + struct.pack("=HBBI", 0x06, 0, 0, ALLOW)
    token = X32 if architecture == X86_64 and x32 else architecture
    if token != X32 and x32 and architecture == X86_64:
        token = X86_64
    is_newer = token in newest and number > newest[token]
    assert outcome(program, number, [], architecture) == (ERRNO | 38 if is_newer else ALLOW)


@pytest.mark.parametrize(
    ("default", "more", "expected"),
    [
        ("ERRNO", {}, ERRNO | 38),
        ("ERRNO", {"defaultErrnoRet": 13}, ERRNO | 38),
        ("ERRNO", {"defaultErrnoRet": 38}, ERRNO | 38),
        ("KILL", {}, ERRNO | 38),
        ("KILL_PROCESS", {}, ERRNO | 38),
        ("TRAP", {}, ERRNO | 38),
        ("ALLOW", {}, ALLOW),
        ("LOG", {}, 0x7FFC0000),
        ("TRACE", {"defaultErrnoRet": 5}, 0x7FF00005),
    ],
)
def test_only_a_default_that_forbids_is_softened_for_new_calls(
    default: str, more: dict[str, Any], expected: int
) -> None:
    seccomp: Any = {
        "defaultAction": f"SCMP_ACT_{default}",
        "syscalls": [{"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 3}],
        **more,
    }
    program, _, _ = filters.compiled(seccomp)
    assert outcome(program, UMASK, []) == ERRNO | 3
    assert outcome(program, 900, []) == expected


def test_every_action_is_the_kernels_number() -> None:
    kernels = {
        "ALLOW": ALLOW,
        "ERRNO": ERRNO | 1,
        "KILL": KILL,
        "KILL_PROCESS": 0x80000000,
        "KILL_THREAD": KILL,
        "LOG": 0x7FFC0000,
        "NOTIFY": 0x7FC00000,
        "TRACE": 0x7FF00001,
        "TRAP": 0x00030000,
    }
    assert {f"SCMP_ACT_{name}" for name in kernels} == set(schema.SECCOMP_ACTIONS)
    for name, number in kernels.items():
        default = "SCMP_ACT_LOG" if name == "ALLOW" else "SCMP_ACT_ALLOW"
        rules = [{"names": ["umask"], "action": f"SCMP_ACT_{name}"}]
        seccomp: Any = {"defaultAction": default, "syscalls": rules}
        program, flags, has_listener = filters.compiled(seccomp)
        assert outcome(program, UMASK, []) == number
        assert has_listener == (name == "NOTIFY") == bool(flags & 8)


def test_flags_are_the_kernels_and_by_default_speculation_is_left_alone() -> None:
    seccomp: Any = {"defaultAction": "SCMP_ACT_ALLOW"}
    assert filters.compiled(seccomp)[1] == 4
    seccomp["flags"] = []
    assert filters.compiled(seccomp)[1] == 0
    seccomp["flags"] = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW")]
    assert filters.compiled(seccomp)[1] == 2 | 4
    # Of a listener alone: the kernel takes it with one only.
    seccomp["flags"] = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    assert filters.compiled(seccomp)[1] == 0
    seccomp["syscalls"] = [{"names": ["umask"], "action": "SCMP_ACT_NOTIFY"}]
    assert filters.compiled(seccomp)[1] == 8 | 32


def test_an_architecture_that_the_library_lacks_is_named() -> None:
    known = filters.known_architectures()
    assert {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"} <= set(known)
    for at, name in enumerate(schema.SECCOMP_ARCHITECTURES):
        seccomp: Any = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86"] * at + [name],
        }
        if name in LITTLE_ENDIAN and name in known:
            filters.compiled(seccomp)
        elif name in known:  # of another byte order than this machine
            with pytest.raises(ConfigError, match=rf"architectures\[{at}\]: libseccomp does not"):
                filters.compiled(seccomp)
        else:
            with pytest.raises(ConfigError, match=rf"architectures\[{at}\]: {name} is not known"):
                filters.compiled(seccomp)


def test_a_program_that_the_kernel_would_not_take_is_refused() -> None:
    arguments = [[{"index": 0, "value": value << 32, "op": "SCMP_CMP_EQ"}] for value in range(3000)]
    seccomp: Any = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "args": each} for each in arguments
        ],
    }
    with pytest.raises(ConfigError, match="4096 are the most"):
        filters.compiled(seccomp)


def test_the_word_may_be_written_in_escapes(runner: Runner) -> None:
    # Every process of the container is filtered, however its configuration is written.
    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        }

    bundle = runner.bundle("sleep", "100", change=change)
    text = (bundle / "config.json").read_text()
    (bundle / "config.json").write_text(text.replace('"seccomp"', r'"\u0073eccomp"'))
    record = runner.create()
    runner.start(record, wait=False)
    process = {"args": ["mkdir", "/tmp/made"], "cwd": "/", "env": ["PATH=/bin"]}
    assert runner.call("exec", name=record["id"], process=process) == 1
    assert "Operation not permitted" in runner.text()


def test_without_the_library_a_filter_is_refused_and_nothing_else(runner: Runner) -> None:
    paths = Path("/proc/self/maps").read_text().split()
    library = next(path for path in paths if Path(path).name.startswith("libseccomp.so"))
    hidden = runner.folder / "empty"
    hidden.touch()
    script = f"mount --bind {hidden} {library} && exec {sys.executable or PYTHON}"
    prefix = ("unshare", "--mount", "sh", "-c", f'{script.rpartition(" ")[0]} "$@"', "sh")

    def filtered(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}

    for change, expected in ((filtered, "error"), (None, "value")):
        bundle = runner.bundle("true", change=change)
        process, reply = runner.popen(
            "create", prefix=prefix, name=runner.name(), bundle=str(bundle)
        )
        assert process.wait(60) == 0, runner.text()
        said = decoded_reply(reply)
        assert expected in said
        if expected == "error":
            assert "libseccomp cannot be used" in said["error"]
            assert "Install libseccomp2" in said["hint"]
            assert list(runner.root.iterdir()) == []


def decoded_reply(path: Path) -> dict[str, Any]:
    import json

    said: dict[str, Any] = json.loads(path.read_text())
    return said


# --- labels -------------------------------------------------------------------


def test_a_label_the_kernel_does_not_know_is_refused_by_the_kernel_itself() -> None:
    # Whatever modules this kernel has, none knows these.
    for process in (
        {"apparmor": "no-such-profile", "selinux": ""},
        {"apparmor": "", "selinux": "no:such:label:s0"},
    ):
        with pytest.raises(StageError, match="the kernel does not take"):
            labels.label_next_execve(process)
    with pytest.raises(StageError, match=r"\$\.process\.selinuxLabel"):
        labels.label_keys({"selinux": "no:such:label:s0"})
    labels.label_next_execve({"apparmor": "", "selinux": ""})
    labels.label_keys({"selinux": ""})


def test_a_label_without_its_module_is_refused_before_anything_is_made() -> None:
    if not confinement.has_apparmor():
        with pytest.raises(ConfigError, match="AppArmor is not enabled") as caught:
            confinement.check_labels({"apparmorProfile": "x"}, "$.process")
        assert caught.value.path == "$.process.apparmorProfile"
    if not confinement.has_selinux():
        with pytest.raises(ConfigError, match="selinux is disabled") as caught:
            confinement.check_labels({"selinuxLabel": "x"}, "$.process")
        assert caught.value.path == "$.process.selinuxLabel"
        with pytest.raises(ConfigError, match=r"\$\.linux\.mountLabel"):
            confinement.check_linux({"mountLabel": "x"}, "$.linux")


def test_a_mount_label_goes_to_the_file_systems_that_are_made() -> None:
    from migrate.runtime import plan
    from migrate.runtime.spec import default_spec

    spec: Any = default_spec(rootless=False)
    spec["linux"]["mountLabel"] = "system_u:object_r:container_file_t:s0:c1,c2"
    made = plan.for_create(
        decode(__import__("json").dumps(spec).encode(), "config.json"),
        container_id="x", bundle="/b", rootfs="/b/rootfs", hierarchies=[("", "", "/sys/fs/cgroup")],
        no_pivot=False, keyring="", preserve_fds=0,
    )  # fmt: skip
    label = ("context", spec["linux"]["mountLabel"])
    found = {
        fields["kind"]: (label in fields["data"], fields.get("root_label"))
        for name, *rest in made["operations"]
        if name == "filesystem"
        for fields in rest
    }
    assert found["tmpfs"] == found["devpts"] == (True, None)
    assert found["proc"] == found["sysfs"] == (False, None)
    assert found["mqueue"] == (False, label[1])
    assert made["mask_label"] == [label]
