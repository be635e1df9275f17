"""Changing a configuration such that it still is one, mostly.

Lives here: one change of a JSON value, at a place and of a kind that chance decides. Bytes
changed at random rarely come past the JSON scanner; what is to be found lies behind it.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

Place = tuple[Any, Any]  # an object or array, and the key or index in it

NUMBERS = (0, 1, -1, 2, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, -(1 << 63), 1 << 64, 0.5)
TEXTS = (
    "",
    "/",
    ".",
    "..",
    "/proc",
    "/dev/null",
    "a:b",
    "a.slice:b:c",
    "\0",
    "\r\n",
    "\u202e",
    "x" * 300,
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": {}})


class Mutator:
    """Changes configurations.

    Args:
        seeds: whole configurations; parts of them are put into others.
        words: names and values of the schema.
    """

    def __init__(self, seeds: Sequence[bytes], words: Sequence[str]) -> None:
        self._words = list(words)
        self._parts: dict[Any, list[Any]] = {}
        for seed in seeds:
            value = _read(seed)
            for holder, key in _places(value):
                self._parts.setdefault(key, []).append(holder[key])

    def __call__(self, data: bytes, largest: int, seed: int) -> bytes | None:
        """Return a changed configuration, or None for what is none or became too large."""
        value = _read(data)
        places = list(_places(value))
        if not places:
            return None
        chance = random.Random(seed)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            holder, key = chance.choice(places)
            self._change(holder, key, chance)
            places = list(_places(value))
            if not places:
                break
        changed = json.dumps(value, separators=(",", ":")).encode()
        return changed if len(changed) <= largest else None

    def _change(self, holder: Any, key: Any, chance: random.Random) -> None:
        """Change one place: take away, add, repeat, or put something else there."""
        kind = chance.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif kind in {1, 2}:
            name = chance.choice(self._words)
            target = holder[key] if isinstance(holder[key], dict) else holder
            if isinstance(target, dict):
                target[name] = self._something(name, chance)
        elif kind == 3 and key in self._parts:
            holder[key] = copy.deepcopy(chance.choice(self._parts[key]))
        else:
            holder[key] = self._something(key, chance)

    def _something(self, key: Any, chance: random.Random) -> Any:
        """Return a value: of the same name elsewhere, or any."""
        if key in self._parts and chance.random() < 0.5:
            return copy.deepcopy(chance.choice(self._parts[key]))
        pool: Sequence[Any] = chance.choice((NUMBERS, TEXTS, OTHERS, self._words))
        return copy.deepcopy(chance.choice(pool))


def _read(data: bytes) -> Any:
    """Return the JSON value, or None."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _places(value: Any) -> list[Place]:
    """Return every place below a value."""
    found: list[Place] = []
    left = [value]
    while left:
        at = left.pop()
        keys: Any = at if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
        for key in keys:
            found.append((at, key))
            left.append(at[key])
    return found
