"""From the bytes of a configuration to a checked dictionary.

Lives here: the walk along `schema`. Must not live here: what a value means.
Unknown members are dropped, as the runtime-spec asks. A `null` is what Go programs write for a
value that is not there, and is taken as that.
"""

from __future__ import annotations

from migrate.errors import ConfigError
from migrate.runtime import jsontext
from migrate.runtime.spec import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.runtime.spec.model import Process, Resources, Spec

_WORDS = {str: "a string", bool: "true or false", int: "a whole number"}


def decode(data: bytes, where: str) -> Spec:
    """Return the configuration a file holds.

    Args:
        data: the file's content.
        where: the file's name, for the error when it is no JSON.

    Raises:
        ConfigError: names the JSON path and the value.
    """
    value = _walk(_parse(data, where), schema.SPEC, "$")
    spec: Spec = value
    return spec


def decode_process(data: bytes, where: str) -> Process:
    """Return the process a file for `exec --process` holds, see `decode`."""
    value = _walk(_parse(data, where), schema.PROCESS, "$")
    process: Process = value
    return process


def decode_resources(data: bytes, where: str) -> Resources:
    """Return the limits a file for `update --resources` holds, see `decode`."""
    resources: Resources = _walk(_parse(data, where), schema.RESOURCES, "$")
    return resources


def _parse(data: bytes, where: str) -> Any:
    try:
        return jsontext.loads(data)
    except ValueError as error:
        raise ConfigError("$", f"{where} is not JSON: {error}") from None


def _walk(value: Any, node: Any, path: str) -> Any:
    """Return the value if it is what the node says, without unknown members."""
    if isinstance(node, str):
        return value if node == "any" else _scalar(value, node, path)
    if isinstance(node, tuple):
        if value not in node or not isinstance(value, str):
            words = ", ".join(word for word in node if word)
            raise ConfigError(path, f"{shown(value)} is none of {words}")
        return value
    if isinstance(node, list):
        return _array(value, node[0], path)
    if not isinstance(value, dict):
        raise ConfigError(path, f"{shown(value)} is not an object")
    if "*" in node:
        inner = node["*"]
        return {
            name: _walk(member, inner, f"{path}[{shown(name)}]")
            for name, member in value.items()
            if member is not None
        }
    return _members(value, node, path)


def _members(value: dict[str, Any], node: dict[str, Any], path: str) -> dict[str, Any]:
    result = {}
    for name, inner in node.items():
        plain = name.removesuffix("!")
        member = value.get(plain)
        if member is not None:
            result[plain] = _walk(member, inner, f"{path}.{plain}")
        elif plain != name:
            raise ConfigError(path, f"{plain} is missing")
    return result


def _array(value: Any, inner: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(path, f"{shown(value)} is not an array")
    if inner == "string":  # most of a configuration
        for at, item in enumerate(value):
            if type(item) is not str or "\0" in item:
                _scalar(item, inner, f"{path}[{at}]")
        return value
    return [_walk(item, inner, f"{path}[{at}]") for at, item in enumerate(value)]


def _scalar(value: Any, kind: str, path: str) -> Any:
    wanted, lowest, highest = schema.SCALARS[kind]
    if type(value) is not wanted:  # a bool is no number here
        raise ConfigError(path, f"{shown(value)} is not {_WORDS[wanted]}")
    if wanted is int and not lowest <= value <= highest:
        raise ConfigError(path, f"{value} is not between {lowest} and {highest}")
    if wanted is str and "\0" in value:
        raise ConfigError(path, f"{shown(value)} holds a zero byte")
    return value


def shown(value: object) -> str:
    """A value as JSON, cut to what fits on a line."""
    text = jsontext.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
