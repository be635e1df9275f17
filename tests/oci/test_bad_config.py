"""config.json that is wrong: refused at once, nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest

from .driver import Bundle, Runtime, cgroups_named, is_oracle, mounts_below


def refused(runtime: Runtime, bundle: Bundle) -> str:
    """`create` must fail with one line of text and leave nothing; returns what it said."""
    container = runtime.new_id()
    result = runtime("create", "--bundle", str(bundle.path), container)
    assert result.status == 1, str(result)
    assert result.out == ""
    assert "Traceback" not in result.err
    assert runtime.ids() == []
    assert cgroups_named(container) == []
    assert mounts_below(bundle.path) == []
    return result.err


def put(config: dict[str, Any], path: str, value: object) -> None:
    """Set the value at a JSON path such as `$.process.args[0]`."""
    *parents, last = path.removeprefix("$.").replace("[", ".[").split(".")
    where: Any = config
    for step in parents:
        where = where[int(step[1:-1])] if step[0] == "[" else where.setdefault(step, {})
    where[int(last[1:-1]) if last[0] == "[" else last] = value


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "nonsense", '{"ociVersion": "1.0.2"}', "\x00", '{"process": 1}']
)
def test_a_config_that_is_no_config_is_refused(runtime: Runtime, text: str) -> None:
    bundle = runtime.bundle()
    (bundle.path / "config.json").write_text(text)
    refused(runtime, bundle)


def test_a_bundle_without_a_config_is_refused(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    (bundle.path / "config.json").unlink()
    assert "config.json" in refused(runtime, bundle)


def test_a_bundle_that_is_missing_is_named(runtime: Runtime) -> None:
    error = runtime.refuses("create", "--bundle", "/no/such/bundle", runtime.new_id())
    assert "/no/such/bundle" in error


WRONG_FOR_ALL = [
    ("$.process.args", "sleep"),
    ("$.process.args", []),
    ("$.process.args[0]", 7),
    ("$.process.cwd", "relative"),
    ("$.process.cwd", ""),
    ("$.process.user.uid", "root"),
    ("$.process.user.uid", -1),
    ("$.process.user.uid", 1 << 40),
    ("$.process.user.additionalGids", [1.5]),
    ("$.process.terminal", "yes"),
    ("$.process.env", {"A": "b"}),
    ("$.process.rlimits[0].type", "RLIMIT_NONESUCH"),
    ("$.process.rlimits[0].soft", -1),
    ("$.process.capabilities", ["CAP_KILL"]),
    ("$.root", None),
    ("$.root.path", 5),
    ("$.mounts", {}),
    ("$.mounts[0].destination", 5),
    ("$.mounts[0].options", "ro"),
    ("$.linux.namespaces[0].type", "nonesuch"),
    ("$.linux.rootfsPropagation", "sideways"),
    ("$.linux.maskedPaths", "/proc/kcore"),
    ("$.linux.resources.memory", {"limit": "1G"}),
    ("$.linux.sysctl", {"net.ipv4.ip_forward": 1}),
    ("$.hooks", []),
    ("$.annotations", {"key": 1}),
]


@pytest.mark.parametrize(("path", "value"), WRONG_FOR_ALL)
def test_a_wrong_value_is_refused(runtime: Runtime, path: str, value: object) -> None:
    bundle = runtime.bundle()
    put(bundle.config, path, value)
    bundle.write()
    error = refused(runtime, bundle)
    if not is_oracle():
        assert path in error or path.rpartition(".")[0] in error
        assert innermost(value) in error


def innermost(value: object) -> str:
    """The text of the scalar that is wrong in `value`, "" where nothing is to be quoted."""
    while isinstance(value, (dict, list)) and value:
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return "" if value in (None, "", [], {}) else str(value)


# What the reference lets pass, and is a mistake all the same.
WRONG_FOR_US = [
    ("$.ociVersion", "3.0.0"),
    ("$.ociVersion", "nonsense"),
    ("$.process.env[0]", "NOEQUALS"),
    ("$.process.env[0]", "=value"),
    ("$.process.rlimits[0].soft", 4096),
    ("$.process.args[0]", "a\x00b"),
    ("$.mounts[0].destination", "with\x00zero"),
    ("$.mounts[1].options[0]", "nonesuch-option=\n"),
    ("$.linux.namespaces[1].type", "pid"),
    ("$.hostname", "x" * 65),
]


@pytest.mark.parametrize(("path", "value"), WRONG_FOR_US)
def test_a_value_that_cannot_be_meant_is_refused(
    runtime: Runtime, path: str, value: object
) -> None:
    bundle = runtime.bundle()
    put(bundle.config, path, value)
    bundle.write()
    error = refused(runtime, bundle)
    # Where only the kernel can tell, the value or the member is named all the same.
    member = path.rpartition(".")[2].partition("[")[0]
    assert is_oracle() or path in error or member in error or str(value).strip("=\n") in error


def test_unknown_members_are_ignored_as_the_specification_says(runtime: Runtime) -> None:
    bundle = runtime.bundle("echo", "fine")
    bundle.config["org.example"] = {"x": 1}
    bundle.config["process"]["future"] = True
    bundle.config["linux"]["future"] = [1, 2]
    bundle.write()
    assert runtime.run(bundle).out == "fine\n"


def test_sections_for_other_systems_are_ignored(runtime: Runtime) -> None:
    bundle = runtime.bundle("echo", "fine")
    bundle.config["windows"] = {"layerFolders": ["x"]}
    bundle.config["solaris"] = {}
    bundle.write()
    assert runtime.run(bundle).out == "fine\n"


def test_a_config_with_as_little_as_possible_runs(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    bundle.config.clear()
    bundle.config.update(
        ociVersion="1.0.0",
        root={"path": "rootfs"},
        process={"cwd": "/", "args": ["/bin/echo", "fine"], "user": {"uid": 0, "gid": 0}},
        mounts=[{"destination": "/proc", "type": "proc", "source": "proc"}],
        linux={"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    )
    bundle.write()
    result = runtime.run(bundle)
    assert (result.status, result.out) == (0, "fine\n"), str(result)
