"""What is called otherwise on the destination: the file of `--map`, and the options.

Lives here: reading and checking it. Must not live here: what follows from it. Imported
by `live` and `cli`.

    {
      "bundle": "/srv/web",
      "volumes": {"/data": "sync", "/etc/web": {"path": "/etc/web2", "policy": "exists"}},
      "bridges": {"br0": "br1"},
      "hooks": {"prestart": "drop", "createRuntime": [{"path": "/usr/bin/hook"}]},
      "layers": {"/var/lib/containers/a": "/var/lib/containers/b"}
    }

The same as TOML, where the name ends in .toml. Every table may be left out.
"""

from __future__ import annotations

import json
import posixpath
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from migrate.errors import UsageError
from migrate.live.volumes.volume import POLICIES, Policy

LARGEST_BYTES = 1 << 20
DROP = "drop"
HOOK_KINDS = (
    *("prestart", "createRuntime", "createContainer", "startContainer"),
    *("poststart", "poststop"),
)
_HOOK_FIELDS = {"path": str, "args": list, "env": list, "timeout": int}

Hooks = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants of one volume.

    Attributes:
        policy: or "" to leave it to what is found.
        path: of it on the destination, or "".
    """

    policy: Policy | Literal[""] = ""
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is called otherwise over there.

    Attributes:
        bundle: path, or None for the same.
        volumes: by path on this host, or in the container.
        bridges: here and there.
        hooks: what stands in the place of each kind of hooks.
        layers: of an overlay, here and there.
    """

    bundle: str | None = None
    volumes: Mapping[str, Choice] = field(default_factory=dict)
    bridges: Mapping[str, str] = field(default_factory=dict)
    hooks: Hooks = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)


def read(path: str) -> Wanted:
    """Return what a mapping file says.

    Raises:
        UsageError: it cannot be read, or an entry is not acceptable; says which.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(raw) > LARGEST_BYTES:
        raise UsageError(f"{path}: is larger than {LARGEST_BYTES} bytes")
    try:
        text = raw.decode()
        data = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: {error}", "Write JSON, or TOML into a file whose name ends in .toml."
        ) from None
    return _Reader(path).wanted(data)


def with_options(
    wanted: Wanted, *, bundle: str | None, volumes: Sequence[str], bridges: Mapping[str, str]
) -> Wanted:
    """Return it with what the command line says, which comes before the file.

    Args:
        volumes: each `PATH=POLICY`.

    Raises:
        UsageError: one is written otherwise.
    """
    choices = dict(wanted.volumes)
    for value in volumes:
        path, equals, policy = value.rpartition("=")
        known = next((each for each in POLICIES if each == policy), None)
        if not equals or not path.startswith("/") or known is None:
            raise UsageError(
                f"invalid value for --volume: {value}",
                f"Write PATH=POLICY, PATH from the root, POLICY one of {', '.join(POLICIES)}.",
            )
        path = posixpath.normpath(path)
        choices[path] = replace(choices.get(path, Choice()), policy=known)
    return replace(
        wanted,
        bundle=bundle or wanted.bundle,
        volumes=choices,
        bridges={**wanted.bridges, **bridges},
    )


def data_of(wanted: Wanted) -> dict[str, Any]:
    """Return what `read` reads back as the same, JSON-able."""
    data: dict[str, Any] = {
        "volumes": {
            path: {name: value for name, value in asdict(choice).items() if value}
            for path, choice in wanted.volumes.items()
        },
        "bridges": dict(wanted.bridges),
        "hooks": {kind: [dict(each) for each in hooks] for kind, hooks in wanted.hooks.items()},
        "layers": dict(wanted.layers),
    }
    return data if wanted.bundle is None else {**data, "bundle": wanted.bundle}


class _Reader:
    """Checks one file's data.

    Args:
        path: of the file, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def wanted(self, data: Any) -> Wanted:
        """Return what the file says as a whole."""
        parts: dict[str, Callable[[str, Any], Any]] = {
            "bundle": self._absolute,
            "volumes": lambda at, value: self._table(at, value, self._absolute, self._choice),
            "bridges": lambda at, value: self._table(at, value, self._name, self._name),
            "hooks": lambda at, value: self._table(at, value, self._kind, self._hooks),
            "layers": lambda at, value: self._table(at, value, self._absolute, self._absolute),
        }
        if not isinstance(data, dict):
            raise self._wrong("$", "is no table")
        for key in data:
            if key not in parts:
                raise self._wrong(f"$.{key}", f"is unknown; known are {', '.join(parts)}")
        return Wanted(**{key: parts[key](f"$.{key}", value) for key, value in data.items()})

    def _table(
        self,
        at: str,
        value: Any,
        key_of: Callable[[str, Any], str],
        value_of: Callable[[str, Any], Any],
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(at, "is no table")
        return {
            key_of(f'{at}["{key}"]', key): value_of(f'{at}["{key}"]', each)
            for key, each in value.items()
        }

    def _name(self, at: str, value: Any) -> str:
        if not isinstance(value, str) or not value or "/" in value or "\0" in value:
            raise self._wrong(at, f"{value!r} is no name")
        return value

    def _absolute(self, at: str, value: Any) -> str:
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise self._wrong(at, f"{value!r} is no path from the root")
        return posixpath.normpath(value)

    def _policy(self, at: str, value: Any) -> Policy:
        for policy in POLICIES:
            if value == policy:
                return policy
        raise self._wrong(at, f"{value!r} is none of {', '.join(POLICIES)}")

    def _choice(self, at: str, value: Any) -> Choice:
        if isinstance(value, str):
            return Choice(self._policy(at, value))
        if not isinstance(value, dict):
            raise self._wrong(at, "is neither a policy nor a table of path and policy")
        for key in value:
            if key not in ("path", "policy"):
                raise self._wrong(f"{at}.{key}", "is unknown; known are path, policy")
        return Choice(
            self._policy(f"{at}.policy", value["policy"]) if "policy" in value else "",
            self._absolute(f"{at}.path", value["path"]) if "path" in value else "",
        )

    def _kind(self, at: str, value: Any) -> str:
        if value not in HOOK_KINDS:
            raise self._wrong(at, f"is none of {', '.join(HOOK_KINDS)}")
        return str(value)

    def _hooks(self, at: str, value: Any) -> list[dict[str, Any]]:
        if value == DROP:
            return []
        if not isinstance(value, list):
            raise self._wrong(at, f'is neither "{DROP}" nor a list of hooks')
        return [self._hook(f"{at}[{index}]", each) for index, each in enumerate(value)]

    def _hook(self, at: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(at, "is no table")
        for key, each in value.items():
            kind = _HOOK_FIELDS.get(key)
            if kind is None:
                raise self._wrong(f"{at}.{key}", f"is unknown; known are {', '.join(_HOOK_FIELDS)}")
            items = each if isinstance(each, list) else ()
            if type(each) is not kind or not all(isinstance(item, str) for item in items):
                raise self._wrong(f"{at}.{key}", f"{each!r} is not what it should be")
        if value.get("timeout", 1) <= 0:
            raise self._wrong(f"{at}.timeout", f"{value['timeout']} is not above 0")
        self._absolute(f"{at}.path", value.get("path"))
        return dict(value)

    def _wrong(self, at: str, problem: str) -> UsageError:
        return UsageError(f"{self._path}: {at}: {problem}")
