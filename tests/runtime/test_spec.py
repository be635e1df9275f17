"""config.json: what is read, what is refused and in which words."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import ConfigError
from migrate.runtime import jsontext
from migrate.runtime.spec import (
    decode,
    decode_process,
    decode_resources,
    default_spec,
    model,
    schema,
    validate,
    validation,
)

Value = Any


def decoded(value: Value) -> Value:
    """A configuration, through its bytes."""
    return decode(json.dumps(value).encode(), "config.json")


def spec(**changes: Value) -> Value:
    """The default configuration with members replaced."""
    return default_spec(rootless=False) | changes


def problem_of(value: Value, bundle: Path) -> str:
    """What is wrong with a configuration."""
    with pytest.raises(ConfigError) as caught:
        validate(decoded(value), str(bundle))
    return str(caught.value)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with an empty root file system."""
    (tmp_path / "rootfs").mkdir()
    return tmp_path


@pytest.mark.parametrize("rootless", [False, True])
def test_the_default_is_the_references_word_for_word(tmp_path: Path, *, rootless: bool) -> None:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("no runc to compare with")
    option = ["--rootless"] if rootless else []
    subprocess.run([runc, "spec", *option], cwd=tmp_path, check=True)
    written = (tmp_path / "config.json").read_text()
    # Releases of the reference differ in the version of the specification alone.
    version = json.loads(written)["ociVersion"]
    expected = default_spec(rootless) | {"ociVersion": version}
    assert jsontext.dumps(expected, indent="\t") == written.rstrip("\n")


@pytest.mark.parametrize("rootless", [False, True])
def test_the_default_is_read_as_it_is_written_and_valid(bundle: Path, *, rootless: bool) -> None:
    value = default_spec(rootless)
    assert decoded(value) == value
    validate(decoded(value), str(bundle))


def _shape(node: Any) -> Any:
    """A node of the schema in a form that a type can be brought to as well."""
    if isinstance(node, str):
        return {"any": Any, "string": str, "bool": bool}.get(node, int)
    if isinstance(node, tuple):
        return frozenset(node)
    if isinstance(node, list):
        return [_shape(node[0])]
    if "*" in node:
        return {"*": _shape(node["*"])}
    return {name: _shape(inner) for name, inner in node.items()}


def _shape_of_type(kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [_shape_of_type(arguments[0])]
    if origin is dict:
        return {"*": _shape_of_type(arguments[1])}
    if origin is typing.Literal:
        return frozenset(arguments)
    if origin in (typing.NotRequired, typing.Required):
        return _shape_of_type(arguments[0])
    if isinstance(kind, type) and hasattr(kind, "__required_keys__"):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {
            name + ("!" if name in kind.__required_keys__ else ""): _shape_of_type(inner)
            for name, inner in hints.items()
        }
    return kind


@pytest.fixture
def model_without_future(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The model, read so that required members are told from the others."""
    # With postponed annotations CPython cannot see NotRequired when the class is made.
    source = Path(model.__file__).read_text().replace("from __future__ import annotations\n", "")
    module = types.ModuleType("model")
    code = compile(source, model.__file__, "exec", dont_inherit=True)
    exec(code, module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, "model", module)
    return module


def test_the_model_and_the_schema_agree(model_without_future: types.ModuleType) -> None:
    assert _shape_of_type(model_without_future.Spec) == _shape(schema.SPEC)
    assert _shape_of_type(model_without_future.Process) == _shape(schema.PROCESS)
    assert _shape_of_type(model_without_future.Resources) == _shape(schema.RESOURCES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "$: [] is not an object"),
        ("{}", "$: ociVersion is missing"),
        ('{"ociVersion": 1}', "$.ociVersion: 1 is not a string"),
        ('{"ociVersion": "1.0", "process": {"args": [1]}}', "$.process.args[0]: 1 is not a string"),
        (
            '{"ociVersion": "1.0", "process": {"user": {"uid": -1}}}',
            "$.process.user.uid: -1 is not between 0 and 4294967295",
        ),
        (
            '{"ociVersion": "1.0", "process": {"user": {"uid": true}}}',
            "$.process.user.uid: true is not a whole number",
        ),
        (
            '{"ociVersion": "1.0", "process": {"user": {"uid": "root"}}}',
            '$.process.user.uid: "root" is not a whole number',
        ),
        (
            '{"ociVersion": "1.0", "process": {"args": ["a\\u0000b"]}}',
            '$.process.args[0]: "a\\u0000b" holds a zero byte',
        ),
        (
            '{"ociVersion": "1.0", "linux": {"namespaces": [{"type": "net"}]}}',
            '$.linux.namespaces[0].type: "net" is none of pid, network, mount, ipc, uts, ',
        ),
        (
            '{"ociVersion": "1.0", "annotations": {"a": 5}}',
            '$.annotations["a"]: 5 is not a string',
        ),
        ('{"ociVersion": "1.0", "ociVersion": "2"}', "given twice"),
        ('{"ociVersion": NaN}', "NaN"),
        ('{"ociVersion": "1.0"} x', "text after the value"),
        ("\xff", "config.json is not JSON"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(text.encode("latin-1"), "config.json")
    assert message in str(caught.value)


def test_unknown_members_and_nulls_are_passed_over() -> None:
    value = spec(zos={"x": 1}, process=None, hooks={"prestart": None}, linux={"new": {"a": []}})
    read = decoded(value)
    assert "zos" not in read
    assert "process" not in read
    assert read["hooks"] == {}
    assert read["linux"] == {}


def test_every_field_of_the_reference_is_known() -> None:
    # Each is carried out: a new one in the schema that is not would be ignored silently.
    carried = {
        "uidMappings",
        "gidMappings",
        "sysctl",
        "resources",
        "cgroupsPath",
        "namespaces",
        "devices",
        "rootfsPropagation",
        "maskedPaths",
        "readonlyPaths",
        "timeOffsets",
        "seccomp",
        "mountLabel",
        "memoryPolicy",
        "personality",
        "netDevices",
        "intelRdt",
    }
    assert set(schema.LINUX) == carried


Change = typing.Callable[[Value], object]


def change(path: str, value: Value) -> Change:
    """A change of one member, by its path with dots."""

    def apply(config: Value) -> None:
        *parents, last = path.split(".")
        for name in parents:
            config = config.setdefault(name, {})
        config[last] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (change("ociVersion", "2.0.0"), '$.ociVersion: "2.0.0" is not 1.x'),
        (change("process", None), "$.process: process property must not be empty"),
        (change("process.args", []), "$.process.args: args must not be empty"),
        (change("process.cwd", ""), "$.process.cwd: Cwd property must not be empty"),
        (change("process.cwd", "tmp"), '$.process.cwd: "tmp": Cwd must be an absolute path'),
        (change("process.env", ["A"]), '$.process.env[0]: "A" is not NAME=VALUE'),
        (change("process.env", ["=A"]), '$.process.env[0]: "=A" is not NAME=VALUE'),
        (change("process.user.uid", 2**32 - 1), "$.process.user: uids and gids must be in range"),
        (change("process.user.gid", 2**32 - 1), "$.process.user: uids and gids must be in range"),
        (
            change("process.user.additionalGids", [0, 2**31]),
            "uids and gids must be in range 0-2147483647",
        ),
        (
            change("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            '$.process.rlimits[0]: unknown limit "RLIMIT_X"',
        ),
        (
            change("process.rlimits", [{"type": "RLIMIT_AS", "soft": 2, "hard": 1}]),
            "the soft limit is above the hard one",
        ),
        (
            change("process.rlimits", [{"type": "RLIMIT_AS", "soft": 1, "hard": 1}] * 2),
            "$.process.rlimits[1]: RLIMIT_AS is given twice",
        ),
        (change("process.oomScoreAdj", 1001), "$.process.oomScoreAdj"),
        (change("process.user.umask", 0o1000), "$.process.user.umask"),
        (change("root", None), "$.root: Root must be specified"),
        (change("root.path", "nosuch"), "does not exist"),
        (change("root.path", "/"), "the host's own root"),
        (change("root.path", "config.json"), "$.root.path"),
        (change("linux.namespaces", []), "a container needs a mount namespace"),
        (
            change("linux.namespaces", [{"type": "mount"}] * 2),
            "$.linux.namespaces[1]: a namespace of type mount is given twice",
        ),
        (
            change("linux.namespaces", [{"type": "mount"}, {"type": "uts", "path": "x"}]),
            '$.linux.namespaces[1].path: "x" is not an absolute path',
        ),
        (
            change("linux.namespaces", [{"type": "mount"}]),
            "$.hostname: unable to set hostname without a private UTS namespace",
        ),
        (change("linux.timeOffsets", {"monotonic": {"secs": 1}}), "needs a new time namespace"),
        (
            change("linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}]),
            "id mappings need a user namespace",
        ),
        (
            change("linux.namespaces", [{"type": "mount"}, {"type": "uts"}, {"type": "user"}]),
            "needs uidMappings and gidMappings",
        ),
        (
            change("linux.sysctl", {"kernel.panic": "1"}),
            "$.linux.sysctl[kernel.panic]: is not in a separate kernel namespace",
        ),
        (
            change(
                "linux",
                {
                    "namespaces": [
                        {"type": "mount"},
                        {"type": "uts"},
                        {"type": "network", "path": "/proc/self/ns/net"},
                    ],
                    "sysctl": {"net.ipv4.ip_forward": "1"},
                },
            ),
            "$.linux.sysctl[net.ipv4.ip_forward]: is not allowed in the hosts network namespace",
        ),
        (change("linux.sysctl", {"kernel.hostname": "x"}), "is set by $.hostname"),
        (change("linux.sysctl", {"net.../../kernel.x": "x"}), "is no parameter"),
        (change("linux.maskedPaths", ["x"]), "$.linux.maskedPaths[0]"),
        (
            change("linux.devices", [{"path": "/dev/x", "type": "c"}]),
            "$.linux.devices[0]: needs major and minor",
        ),
        (
            change("linux.devices", [{"path": "/proc/x", "type": "p"}]),
            "cannot be in /proc or /sys",
        ),
        (change("hooks.poststop", [{"path": "x"}]), "$.hooks.poststop[0].path"),
        (
            change("hooks.prestart", [{"path": "/x", "timeout": 0}]),
            "must be greater than zero",
        ),
    ],
)
def test_rules_across_fields(bundle: Path, apply: Change, message: str) -> None:
    value = copy.deepcopy(spec())
    apply(value)
    assert message in problem_of(value, bundle)


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({"destination": "/"}, "cannot be the root"),
        ({"destination": "/a/.."}, "cannot be the root"),
        ({"destination": "/x"}, "$.mounts[7].type: is missing"),
        ({"destination": "/x", "type": "bind"}, "a bind mount needs a source"),
        ({"destination": "/proc/self", "type": "tmpfs"}, "inside /proc"),
        ({"destination": "/proc/../proc/1", "type": "tmpfs"}, "inside /proc"),
        ({"destination": "//proc//sys", "type": "bind", "source": "/x"}, "inside /proc"),
        ({"destination": "/proc/", "type": "tmpfs"}, 'not of type "proc"'),
        ({"destination": "/x", "type": "proc"}, "procfs can only be mounted on /proc"),
        ({"destination": "/x", "type": "tmpfs", "options": ["idmap"]}, "id-mapped"),
        ({"destination": "/x", "type": "tmpfs", "options": ["a", "idmap=x"]}, "options[1]"),
        ({"destination": "/x", "type": "sysfs", "options": ["tmpcopyup"]}, "of type tmpfs"),
        (
            {"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup", "remount"]},
            "$.mounts[7].options",
        ),
    ],
)
def test_mounts_that_are_refused(bundle: Path, mount: Value, message: str) -> None:
    value = spec()
    value["mounts"].append(mount)
    assert message in problem_of(value, bundle)


def test_lxcfs_may_cover_files_of_procfs(bundle: Path) -> None:
    value = spec()
    value["mounts"].append({"destination": "/proc/meminfo", "type": "bind", "source": "/x"})
    validate(decoded(value), str(bundle))


def test_a_process_file_and_a_resources_file_are_read_alike() -> None:
    process = decode_process(b'{"args": ["a"], "cwd": "/", "more": 1}', "file")
    assert process == {"args": ["a"], "cwd": "/"}
    validation.validate_process(process, "$")
    with pytest.raises(ConfigError, match=r"\$\.apparmorProfile"):
        decode_process(b'{"apparmorProfile": 1}', "file")
    assert decode_resources(b'{"memory": {"limit": -1}}', "file") == {"memory": {"limit": -1}}
    with pytest.raises(ConfigError, match=r"\$\.memory\.limit"):
        decode_resources(b'{"memory": {"limit": "1"}}', "file")


def test_what_is_left_out_is_a_warning() -> None:
    process: Any = {"capabilities": {"ambient": ["CAP_KILL", "CAP_NONE"]}}
    mounts: Any = [{"destination": "/x"}, {"destination": "x"}]
    first, second = validation.warnings(process, "$.process", mounts)
    assert first.startswith('$.process.capabilities.ambient[1]: unknown capability "CAP_NONE"')
    assert second.startswith('$.mounts[1].destination: "x" is taken as relative to "/"')
    assert validation.warnings({}, "$") == []


def test_capabilities_are_numbered_as_the_kernel_does() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert len(validation.CAPABILITIES) == last + 1
    assert validation.CAPABILITIES[21] == "CAP_SYS_ADMIN"
    assert validation.CAPABILITIES[40] == "CAP_CHECKPOINT_RESTORE"
