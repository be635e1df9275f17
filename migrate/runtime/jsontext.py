"""JSON text to plain data and back, without the cost of importing `json`.

Lives here: `loads` and `dumps` over the C scanner and encoder that the standard
library's `json` is built on. `import json` brings `re` and `enum` along and costs
as much as the interpreter's whole start; this costs nothing measurable. Must not
live here: what the data means. May be imported by every room.

Stricter than `json`: NaN, Infinity, a name given twice in one object, a byte order
mark, a lone surrogate and anything after the value are refused, each with line
and column. Where the C scanner is absent (another Python than CPython) `json`
itself does the same work.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

WHITESPACE = " \t\n\r"
_INFINITY = float("inf")


class JsonError(ValueError):
    """The text is no JSON; the message says what and where."""


class _Duplicate(Exception):
    """A name came twice in one object; carries the name."""


class _Constant(Exception):
    """NaN or an infinity was met, or what would become one; carries its spelling."""


def loads(text: str | bytes) -> Any:
    """Return the value a JSON text holds.

    Args:
        text: the whole text; bytes are UTF-8.

    Raises:
        JsonError: what is wrong, with line and column where they are known.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise JsonError(f"not UTF-8 at byte {error.start}") from None
    start = _skip_whitespace(text, 0)
    try:
        value, end = _scan_with_words(text, start)
    except StopIteration as stop:
        _fail("expecting a value", text, stop.value)
    except _Duplicate as duplicate:
        _fail(f"name {duplicate.args[0]!r} is given twice", text, None)
    except _Constant as constant:
        word = constant.args[0]
        what = "is not JSON" if word[-1:].isalpha() else "is too large a number"
        _fail(f"{word[:40]} {what}", text, text.find(word))
    except RecursionError:
        _fail("nested too deeply", text, None)
    except ValueError as error:
        # json.JSONDecodeError, named only once something went wrong.
        message = str(getattr(error, "msg", error))
        message = (message[:1].lower() + message[1:]).removesuffix(" at")
        _fail(message, text, getattr(error, "pos", None))
    end = _skip_whitespace(text, end)
    if end != len(text):
        _fail("text after the value", text, end)
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def dumps(value: object, *, indent: str = "") -> str:
    """Return a value as JSON text, not escaped beyond what JSON asks for.

    Args:
        value: of dict (with str keys), list, tuple, str, int, float, bool, None.
        indent: "" for one line without spaces, else what one level is set in by;
            the layout is then that of Go's `json.MarshalIndent`.

    Raises:
        JsonError: a float that is not finite, or a type JSON has no word for.
    """
    parts: list[str] = []
    _write(value, parts.append, indent, "\n")
    return "".join(parts)


def _scan_with_words(text: str, start: int) -> tuple[Any, int]:
    """Scan, making sure that a failure has words.

    The C scanner takes its exception out of `json.decoder` if that is loaded and
    otherwise fails without one (CPython before 3.12): load it then, and scan again.
    """
    try:
        return _scan(text, start)
    except SystemError:
        import json.decoder  # noqa: F401 - for the C scanner to find

        return _scan(text, start)


def _refuse_surrogates(value: Any) -> None:
    """Refuse half a surrogate pair: no file name, argument or output could hold it."""
    try:
        dumps(value).encode()
    except UnicodeEncodeError:
        raise JsonError("a lone surrogate is no character") from None


def _skip_whitespace(text: str, at: int) -> int:
    """Return where the next token starts."""
    length = len(text)
    while at < length and text[at] in WHITESPACE:
        at += 1
    return at


def _fail(problem: str, text: str, at: int | None) -> NoReturn:
    """Raise, with line and column where the place is known."""
    if at is None:
        raise JsonError(problem)
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    raise JsonError(f"{problem} at line {line} column {column}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs as a dict; a name given twice is an attack or an error."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise _Duplicate(name)
            seen.add(name)
    return result


def _constant(name: str) -> NoReturn:
    """Refuse NaN, Infinity and -Infinity."""
    raise _Constant(name)


def _float(digits: str) -> float:
    """Return a number with a fraction or an exponent; Python makes infinity of a large one."""
    value = float(digits)
    if value in (_INFINITY, -_INFINITY):
        raise _Constant(digits)
    return value


class _Context:
    """What the C scanner reads its settings from."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner's own, emptied by it


def _engine() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[str], str]]:
    """Return what scans a value and what quotes a text: the C ones where they are."""
    try:
        import _json as c
    except ImportError:  # not CPython
        import json.encoder

        decoder = json.JSONDecoder(
            object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
        scan: Any = decoder
        return scan.scan_once, json.encoder.encode_basestring
    context: Any = _Context
    return c.make_scanner(context), c.encode_basestring


_scan, _quote = _engine()


def _write(value: object, out: Callable[[str], None], indent: str, newline: str) -> None:
    """Write one value; `newline` is the line break and indentation it stands at."""
    if value is None:
        out("null")
    elif value is True:
        out("true")
    elif value is False:
        out("false")
    elif isinstance(value, str):
        out(_quote(value))
    elif isinstance(value, int):
        out(int.__repr__(value))
    elif isinstance(value, float):
        if not -_INFINITY < value < _INFINITY:  # NaN fails both
            raise JsonError(f"{value!r} has no JSON form")
        out(float.__repr__(value))
    elif isinstance(value, dict):
        _write_object(value, out, indent, newline)
    elif isinstance(value, list | tuple):
        _write_array(value, out, indent, newline)
    else:
        raise JsonError(f"{type(value).__name__} has no JSON form")


def _write_object(
    value: dict[Any, Any], out: Callable[[str], None], indent: str, newline: str
) -> None:
    """Write an object, one member a line where there is an indentation."""
    if not value:
        out("{}")
        return
    deeper = newline + indent if indent else ""
    before, colon = "{" + deeper, ": " if indent else ":"
    for name, member in value.items():
        if not isinstance(name, str):
            raise JsonError(f"{name!r} is no name for a member")
        out(before)
        out(_quote(name))
        out(colon)
        _write(member, out, indent, deeper)
        before = "," + deeper
    out(newline + "}" if indent else "}")


def _write_array(
    value: list[Any] | tuple[Any, ...],
    out: Callable[[str], None],
    indent: str,
    newline: str,
) -> None:
    """Write an array, one element a line where there is an indentation."""
    if not value:
        out("[]")
        return
    deeper = newline + indent if indent else ""
    before = "[" + deeper
    for element in value:
        out(before)
        _write(element, out, indent, deeper)
        before = "," + deeper
    out(newline + "]" if indent else "]")
