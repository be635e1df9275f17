"""The mapping file: what it says, and how it says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.errors import UsageError
from migrate.live.volumes.mapping import Choice, Wanted, data_of, read, with_options

JSON = """{
  "bundle": "/srv/web/",
  "volumes": {"/data": "sync", "/etc/web": {"path": "/etc/web2", "policy": "exists"},
              "/logs": {"path": "/var/logs"}},
  "bridges": {"br0": "br1"},
  "hooks": {"prestart": "drop", "createRuntime": [{"path": "/h", "args": ["h"], "timeout": 3}]},
  "layers": {"/a": "/b"}
}"""
TOML = """
bundle = "/srv/web"
bridges = {br0 = "br1"}
[volumes]
"/data" = "sync"
"/etc/web" = {path = "/etc/web2", policy = "exists"}
"/logs" = {path = "/var/logs"}
[hooks]
prestart = "drop"
createRuntime = [{path = "/h", args = ["h"], timeout = 3}]
[layers]
"/a" = "/b"
"""
WANTED = Wanted(
    bundle="/srv/web",
    volumes={
        "/data": Choice("sync"),
        "/etc/web": Choice("exists", "/etc/web2"),
        "/logs": Choice("", "/var/logs"),
    },
    bridges={"br0": "br1"},
    hooks={"prestart": [], "createRuntime": [{"path": "/h", "args": ["h"], "timeout": 3}]},
    layers={"/a": "/b"},
)


@pytest.mark.parametrize(("name", "text"), [("map.json", JSON), ("map.toml", TOML)])
def test_both_forms_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read(str(tmp_path / name)) == WANTED


@pytest.mark.parametrize("wanted", [WANTED, Wanted()])
def test_what_is_written_down_is_read_back_as_the_same(tmp_path: Path, wanted: Wanted) -> None:
    (tmp_path / "map.json").write_text(json.dumps(data_of(wanted)))
    assert read(str(tmp_path / "map.json")) == wanted


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "$: is no table"),
        ('{"volume": {}}', "$.volume: is unknown; known are bundle, volumes"),
        ('{"bundle": "srv"}', "$.bundle: 'srv' is no path from the root"),
        ('{"bundle": "/a\\u0000"}', "$.bundle: '/a\\x00' is no path from the root"),
        ('{"volumes": 1}', "$.volumes: is no table"),
        ('{"volumes": {"data": "sync"}}', "$.volumes[\"data\"]: 'data' is no path"),
        ('{"volumes": {"/d": "copy"}}', "$.volumes[\"/d\"]: 'copy' is none of sync, shared"),
        ('{"volumes": {"/d": 1}}', '$.volumes["/d"]: is neither a policy nor a table'),
        ('{"volumes": {"/d": {"policy": 1}}}', '$.volumes["/d"].policy: 1 is none of'),
        ('{"volumes": {"/d": {"path": "x"}}}', "$.volumes[\"/d\"].path: 'x' is no path"),
        ('{"volumes": {"/d": {"to": "/x"}}}', '$.volumes["/d"].to: is unknown'),
        ('{"bridges": {"br0": ""}}', "$.bridges[\"br0\"]: '' is no name"),
        ('{"bridges": {"a/b": "c"}}', "$.bridges[\"a/b\"]: 'a/b' is no name"),
        ('{"hooks": {"start": "drop"}}', '$.hooks["start"]: is none of prestart'),
        ('{"hooks": {"prestart": "no"}}', '$.hooks["prestart"]: is neither "drop" nor'),
        ('{"hooks": {"prestart": [7]}}', '$.hooks["prestart"][0]: is no table'),
        ('{"hooks": {"prestart": [{}]}}', '$.hooks["prestart"][0].path: None is no path'),
        (
            '{"hooks": {"prestart": [{"path": "/h", "args": [1]}]}}',
            '$.hooks["prestart"][0].args: [1] is not what it should be',
        ),
        (
            '{"hooks": {"prestart": [{"path": "/h", "timeout": 0}]}}',
            '$.hooks["prestart"][0].timeout: 0 is not above 0',
        ),
        (
            '{"hooks": {"prestart": [{"path": "/h", "x": 0}]}}',
            '$.hooks["prestart"][0].x: is unknown',
        ),
        ('{"layers": {"/a": 1}}', '$.layers["/a"]: 1 is no path'),
        ("{", "Expecting property name"),
        ("\x00", "Expecting value"),
    ],
)
def test_a_bad_entry_is_named_by_its_path(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "map.json"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read(str(file))
    assert caught.value.message.startswith(f"{file}: {complaint}")
    assert "\n" not in caught.value.message


def test_a_file_that_is_missing_or_huge_or_no_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(str(tmp_path / "none.json"))
    (tmp_path / "huge.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(UsageError, match="is larger than"):
        read(str(tmp_path / "huge.json"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="decode"):
        read(str(tmp_path / "bytes.toml"))


def test_options_come_before_the_file() -> None:
    wanted = with_options(
        WANTED, bundle="/b", volumes=["/etc/web/=sync", "/a=b=skip"], bridges={"br2": "br3"}
    )
    assert wanted.bundle == "/b"
    assert wanted.volumes["/etc/web"] == Choice("sync", "/etc/web2")
    assert wanted.volumes["/data"] == Choice("sync")
    assert wanted.volumes["/a=b"] == Choice("skip")
    assert wanted.bridges == {"br0": "br1", "br2": "br3"}


@pytest.mark.parametrize("value", ["/data", "/data=copy", "data=sync", "=sync", "/data="])
def test_a_volume_option_written_otherwise_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="invalid value for --volume") as caught:
        with_options(Wanted(), bundle=None, volumes=[value], bridges={})
    assert "PATH=POLICY" in caught.value.hint
