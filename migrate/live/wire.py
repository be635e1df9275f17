"""The values of calls, read with suspicion.

Lives here: typed access to what the other side sent. `live` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.errors import ProtocolError


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
