"""The matrix as one picture: SVG, written as text.

Lives here: pure functions from cells to SVG. Must not live here: measuring, files.

One panel for each link and load, side by side on the same scales: memory to the right,
time upwards, by powers of ten. A method has a colour and a shape of its own; its downtime
is a line, what it takes in all a dashed one. Only what was measured is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from bench.cells import LINKS, METHODS, Cell, Measured, find, middle, size_name

WIDTH, HEIGHT = 300, 240  # of a panel
LEFT, TOP, GAP, FOOT = 84, 112, 28, 64
# Colours that people of all kinds of sight can tell apart, for white and for black.
STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
text { fill: #303030; } .title { font-size: 18px; font-weight: 600; } .soft { fill: #666666; }
.grid { stroke: #e2e2e2; } .axis { stroke: #8a8a8a; } .surface { fill: #ffffff; }
.line { fill: none; stroke-width: 2; } .whole { stroke-dasharray: 4 4; stroke-width: 1.5; }
.script { stroke: #c2410c; } .stop-copy { stroke: #2563c9; } .pre-copy { stroke: #0f8a5f; }
.mark.script { fill: #c2410c; } .mark.stop-copy { fill: #2563c9; } .mark.pre-copy { fill: #0f8a5f; }
.key { stroke: #303030; }
@media (prefers-color-scheme: dark) {
svg { background: #161616; } .surface { fill: #161616; }
text { fill: #e4e4e4; } .soft { fill: #a0a0a0; }
.grid { stroke: #333333; } .axis { stroke: #7a7a7a; } .key { stroke: #e4e4e4; }
.script { stroke: #f28a4f; } .stop-copy { stroke: #6aa3f5; } .pre-copy { stroke: #3fc794; }
.mark.script { fill: #f28a4f; } .mark.stop-copy { fill: #6aa3f5; } .mark.pre-copy { fill: #3fc794; }
}
"""
KINDS = (("downtime_seconds", "downtime", ""), ("seconds", "in all", " whole"))


def duration(seconds: float) -> str:
    """Return a duration as an axis or a label has it."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def decades(values: Sequence[float]) -> range:
    """Return the powers of ten from below the least of the values to above the largest."""
    positive = [value for value in values if value > 0] or [1.0]
    lowest = math.floor(math.log10(min(positive)))
    highest = math.ceil(math.log10(max(positive)))
    return range(lowest, max(highest, lowest + 1) + 1)


class Scales:
    """Where a value is within a panel; all panels have the same."""

    def __init__(self, memories: Sequence[int], powers: range) -> None:
        self.memories = memories
        self.powers = powers

    def x(self, memory_mib: int) -> float:
        """Return how far to the right; sizes stand at equal distances."""
        return WIDTH * (self.memories.index(memory_mib) + 0.5) / len(self.memories)

    def y(self, seconds: float) -> float:
        """Return how far down; a power of ten is as high as any other."""
        lowest, highest = self.powers[0], self.powers[-1]
        share = (math.log10(max(seconds, 10.0**lowest)) - lowest) / (highest - lowest)
        return HEIGHT * (1 - share)


def _text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{" " + extra if extra else ""}>{escape(words)}</text>'


def _mark(method: str, x: float, y: float, title: str) -> str:
    """Return a method's own shape: square, triangle or circle, about (x, y)."""
    outline = {
        "script": "m-4 -4 h8 v8 h-8 z",
        "stop-copy": "m0 -5 l5 9 h-10 z",
        "pre-copy": "m-4.5 0 a4.5 4.5 0 1 0 9 0 a4.5 4.5 0 1 0 -9 0 z",
    }[method]
    return (
        f'<path d="M{x:.1f} {y:.1f} {outline}" class="mark {method}">'
        f"<title>{escape(title)}</title></path>"
    )


def _legend() -> Iterator[str]:
    x = float(LEFT)
    for method in METHODS:
        yield f'<path d="M{x} 78 h28" class="line {method}"/>'
        yield _mark(method, x + 14, 78, method)
        yield _text(x + 36, 82, "runc script" if method == "script" else method)
        x += 130
    for _, name, extra in KINDS:
        yield f'<path d="M{x} 78 h28" class="line key{extra}"/>'
        yield _text(x + 36, 82, name)
        x += 120


def _curve(
    cells: Sequence[Measured], method: str, link: str, dirty: int, scales: Scales, kind: int
) -> Iterator[str]:
    """Draw one method's line of one kind; busybox stands in both rows, it writes nothing."""
    field, name, extra = KINDS[kind]
    points: list[tuple[float, float, Cell, float]] = []
    path, is_drawing = "", False
    for memory in scales.memories:
        cell = Cell(
            memory_mib=memory,
            dirty_pages=dirty if memory else 0,
            link=link,  # type: ignore[arg-type]
            method=method,
        )
        value = middle(find(cells, cell), field)
        if value is not None:
            x, y = scales.x(memory), scales.y(value)
            points.append((x, y, cell, value))
            path += f"{'L' if is_drawing else 'M'}{x:.1f} {y:.1f} "
        # A line over a size that was not measured would say what it was.
        is_drawing = value is not None
    if "L" in path:
        yield f'<path d="{path.rstrip()}" class="line {method}{extra}"/>'
    for x, y, cell, value in points:
        title = f"{cell.load}, {link}, {method}: {name} {duration(value)}"
        if not extra:
            yield _mark(method, x, y, title)
        else:
            yield (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" class="mark {method}">'
                f"<title>{escape(title)}</title></circle>"
            )


def _panel(
    cells: Sequence[Measured], link: str, dirty: int, scales: Scales, *, has_scale: bool
) -> Iterator[str]:
    yield _text(0, -10, f"link: {link}; {dirty} pages written a ms")
    for power in scales.powers:
        y = scales.y(10.0**power)
        yield f'<path d="M0 {y:.1f} h{WIDTH}" class="grid"/>'
        if has_scale:
            yield _text(-8, y + 4, duration(10.0**power), 'text-anchor="end" class="soft"')
    yield f'<path d="M0 0 v{HEIGHT} h{WIDTH}" class="line axis" style="stroke-width: 1"/>'
    for memory in scales.memories:
        middle_of_it = 'text-anchor="middle" class="soft"'
        yield _text(scales.x(memory), HEIGHT + 18, size_name(memory), middle_of_it)
    curves = [
        part
        for kind in (1, 0)
        for method in METHODS
        for part in _curve(cells, method, link, dirty, scales, kind)
    ]
    yield from curves or [_text(WIDTH / 2, HEIGHT / 2, "not measured", 'text-anchor="middle"')]


def draw(cells: Sequence[Measured], where: str) -> str:
    """Return the whole picture.

    Args:
        cells: of the matrix; those without runs leave a gap.
        where: machine and date, in one line.
    """
    known = [cell for cell in cells if cell["runs"]]
    values = [middle(cell, field) or 0.0 for cell in known for field, _, _ in KINDS]
    scales = Scales(sorted({cell["memory_mib"] for cell in known}) or [0], decades(values))
    links = [link for link in LINKS if any(cell["link"] == link for cell in known)]
    loads = sorted({cell["dirty_pages"] for cell in known})
    width = max(LEFT + len(links) * (WIDTH + GAP), 800)
    row = HEIGHT + 76
    height = TOP + len(loads) * row + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Downtime and total time of moving a container</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" class="surface"/>',
        _text(LEFT, 30, "How long a container stands still when it moves", 'class="title"'),
        _text(LEFT, 52, where, 'class="soft"'),
        *_legend(),
    ]
    for down, dirty in enumerate(loads):
        top = TOP + 20 + down * row
        turned = f'text-anchor="middle" transform="rotate(-90 20 {top + HEIGHT / 2:.0f})"'
        parts.append(_text(20, top + HEIGHT / 2, "time, powers of ten", turned))
        for right, link in enumerate(links):
            parts.append(f'<g transform="translate({LEFT + right * (WIDTH + GAP)} {top})">')
            parts += _panel(cells, link, dirty, scales, has_scale=right == 0)
            parts.append(_text(WIDTH / 2, HEIGHT + 38, "memory", 'text-anchor="middle"'))
            parts.append("</g>")
    gaps = len(cells) - len(known)
    note = f"Medians. {len(known)} of {len(cells)} cells measured"
    note += f"; the other {gaps} are left out, see the table." if gaps else "."
    parts.append(_text(LEFT, height - 20, note, 'class="soft"'))
    return "\n".join([*parts, "</svg>"]) + "\n"
