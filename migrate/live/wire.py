"""The values of calls, read with suspicion.

Lives here: typed access to what the other side sent. `live` only.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from migrate.errors import ProtocolError

_Sent = TypeVar("_Sent")


def fill(target: _Sent, data: object, about: str) -> _Sent:
    """Set a dataclass's fields to what was sent; what a newer peer adds is left out.

    Args:
        target: its own values stand for what was not sent.
        data: an object with the fields' names.
        about: names it in errors.

    Raises:
        ProtocolError: it is no object, or a value is not of its field's type.
    """
    if not isinstance(data, dict):
        raise ProtocolError(f"{about}: is not readable")
    kinds = typing.get_type_hints(type(target))
    for each in fields(target):  # type: ignore[arg-type]  # the caller's is a dataclass
        if each.name in data:
            if not _fits(data[each.name], kinds[each.name]):
                raise ProtocolError(f"{about}: {each.name} is not what it should be")
            setattr(target, each.name, data[each.name])
    return target


def _fits(value: object, kind: Any) -> bool:
    """Tell whether JSON data is of an annotated type: a plain one, or list or dict of such."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, arguments[0]) and _fits(each, arguments[1]) for key, each in value.items()
        )
    # A bool is an int to isinstance.
    return type(value) is kind


# The stream that shows how fast the link is, and how long it may be.
PROBE = "probe"
PROBE_BYTES = 16 << 20


class Fields:
    """The value of one call, whose fields are asked for by type.

    Args:
        method: named in errors.
        value: as it came; None is an empty one.

    Raises:
        ProtocolError: it is no object; likewise below, for a field that is missing or
            of another type.
    """

    def __init__(self, method: str, value: object) -> None:
        if value is not None and not isinstance(value, dict):
            raise ProtocolError(f"{method}: is called with no object")
        self.method = method
        self.value: Mapping[str, Any] = value or {}

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.value.get(name)
        if not isinstance(value, str) or "\0" in value:
            raise self._wrong(name, "text")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None where there is none."""
        return None if self.value.get(name) is None else self.text(name)

    def claim(self, name: str) -> bool:
        """Return yes or no."""
        value = self.value.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "claim")
        return value

    def number(self, name: str) -> int:
        """Return a whole number, not negative."""
        value = self.value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(name, "number")
        return value

    def object(self, name: str) -> dict[str, Any]:
        """Return an object."""
        value = self.value.get(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "object")
        return value

    def _wrong(self, name: str, kind: str) -> ProtocolError:
        return ProtocolError(f"{self.method}: {name} is no {kind}")
