"""state, list and ps: what they show, as table and as JSON."""

from __future__ import annotations

import json
import re

import pytest

from .driver import Config, Runtime, eventually, is_oracle, killed_at_end

HEADER = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def test_state_has_the_fields_engines_read(runtime: Runtime) -> None:
    container = runtime.create()
    state = container.state()
    assert state["id"] == container.id
    assert state["status"] == "created"
    assert state["pid"] > 0
    assert state["bundle"] == str(container.bundle.path)
    assert state["rootfs"] == str(container.bundle.rootfs)
    assert state["ociVersion"].startswith("1.")
    assert RFC3339.fullmatch(state["created"])
    assert state["owner"] == ""


def test_state_carries_the_annotations(runtime: Runtime) -> None:
    def annotate(config: Config) -> None:
        config["annotations"] = {"org.example.key": "vålue", "empty": ""}

    container = runtime.create(runtime.bundle(change=annotate))
    assert container.state()["annotations"] == {"org.example.key": "vålue", "empty": ""}


def test_state_follows_the_life_of_the_container(runtime: Runtime) -> None:
    container = runtime.create()
    seen = [container.status]
    container("start")
    seen.append(container.status)
    container("pause")
    seen.append(container.status)
    container("resume")
    seen.append(container.status)
    container("kill", "KILL")
    container.wait_until("stopped")
    assert seen == ["created", "running", "paused", "running"]


def test_an_empty_root_lists_nothing(runtime: Runtime) -> None:
    assert runtime.ok("list").out.split() == HEADER
    assert runtime.ok("list", "--quiet").out == ""
    assert json.loads(runtime.ok("list", "--format", "json").out) in (None, [])


def test_list_shows_every_container_in_three_forms(runtime: Runtime) -> None:
    containers = [runtime.create(), runtime.started()]
    rows = runtime.ok("list").out.splitlines()[1:]
    assert {row.split()[0]: row.split()[2] for row in rows} == {
        containers[0].id: "created",
        containers[1].id: "running",
    }
    assert sorted(runtime.ok("list", "-q").out.split()) == sorted(c.id for c in containers)
    entries = json.loads(runtime.ok("list", "-f", "json").out)
    assert {entry["id"]: entry["pid"] for entry in entries} == {c.id: c.pid for c in containers}
    for entry in entries:
        assert entry["owner"] == "root"
        assert RFC3339.fullmatch(entry["created"])


def test_the_table_keeps_its_columns_under_each_other(runtime: Runtime) -> None:
    runtime.create()
    header, row = runtime.ok("list").out.splitlines()
    for name in HEADER:
        column = header.index(name)
        assert row[column] != " "
        assert column == 0 or row[column - 1] == " "


@pytest.mark.parametrize("verb", [["list"], ["ps"]])
def test_an_unknown_format_is_refused(runtime: Runtime, verb: list[str]) -> None:
    container = runtime.create()
    names = [container.id] if verb == ["ps"] else []
    assert "format" in runtime.refuses(*verb, "--format", "yaml", *names)


def test_ps_shows_the_processes_of_the_container_only(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("sh", "-c", "sleep 9999 & echo up; wait"))
    container.wait_for_output("up")
    lines = container("ps").out.splitlines()
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert sorted(line.split(maxsplit=7)[7] for line in lines[1:]) == [
        "sh -c sleep 9999 & echo up; wait",
        "sleep 9999",
    ]


def test_ps_json_is_a_list_of_host_pids(runtime: Runtime) -> None:
    container = runtime.started()
    assert container.pids() == [container.pid]


def test_ps_hands_its_arguments_to_ps(runtime: Runtime) -> None:
    container = runtime.started()
    lines = container("ps", "-o", "pid,args").out.splitlines()
    assert lines[0].split() == ["PID", "COMMAND"]
    assert lines[1].split() == [str(container.pid), "sleep", "10000"]


def test_events_stats_carries_the_numbers_of_the_cgroup(runtime: Runtime) -> None:
    container = runtime.started()
    event = json.loads(container("events --stats").out)
    data = event["data"]
    assert event["type"] == "stats"
    assert event["id"] == container.id
    assert data["pids"]["current"] == 1
    assert data["memory"]["usage"]["usage"] > 0
    assert data["memory"]["usage"]["limit"] > 0
    assert data["memory"]["raw"]
    usage = data["cpu"]["usage"]
    # Version 2 of cgroups does not count by processor.
    assert usage["total"] >= sum(usage.get("percpu", ())) // 2


def test_events_of_a_stopped_container_are_refused(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("true"))
    container.wait_until("stopped")
    assert "not running" in runtime.refuses("events", "--stats", container.id)


def test_events_go_on_until_the_container_ends(runtime: Runtime) -> None:
    container = runtime.started()
    stream = runtime.workspace / "events"
    with (
        stream.open("w") as stdout,
        killed_at_end(
            runtime.popen("events", "--interval=50ms", container.id, stdout=stdout)
        ) as events,
    ):
        eventually(lambda: stream.read_text().count("\n") >= 3, "three events")
        container("delete --force")
        assert events.wait(10) == 0
    for line in stream.read_text().splitlines():
        assert json.loads(line)["type"] == "stats"


def test_the_version_names_the_spec(runtime: Runtime) -> None:
    lines = runtime.ok("--version").out.splitlines()
    assert " version " in lines[0]
    assert any(line.startswith("spec: 1.") for line in lines)


def test_features_tell_what_the_runtime_can(runtime: Runtime) -> None:
    features = json.loads(runtime.ok("features").out)
    assert features["ociVersionMin"].startswith("1.0")
    assert "bind" in features["mountOptions"]
    assert "pid" in features["linux"]["namespaces"]
    assert "createRuntime" in features["hooks"]
    assert is_oracle() or "CAP_KILL" in features["linux"]["capabilities"]
