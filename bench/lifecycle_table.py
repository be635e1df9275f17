"""The tables of the commands of a container's life.

Lives here: turning `lifecycle.Measured`, and what `engine` measured, into text. Must not
live here: measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import TYPE_CHECKING

from bench.table import layout, ratio, verdict

if TYPE_CHECKING:
    from bench.lifecycle import Measured, PerCommand

# Judged together: what a container's life cannot do without.
FIVE = ("create", "start", "state", "kill", "delete")
FIVE_TOGETHER_AT_MOST = 2.5
LIST_SECONDS_AT_MOST = 0.5
INIT_MIB_AT_MOST = 10
# The slowest ones, each a row; the others are counted.
SHOWN_MODULES = 12


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.1f} ms"


def _mebibytes(kib: float) -> str:
    return f"{kib / 1024:.1f} MiB"


def five_together(commands: PerCommand) -> float:
    """Return the sum of the medians of the five commands."""
    return sum(median(commands[name]) for name in FIVE)


def _rows(
    runtimes: Mapping[str, PerCommand],
    show: Callable[[float], str],
    last: tuple[str, Callable[[PerCommand], float]] | None = None,
) -> list[str]:
    """Return a row a runtime and one of ratios.

    Args:
        runtimes: to be shown.
        show: how to write a value.
        last: title and value of one more column.
    """
    middle = {
        runtime: {name: median(values) for name, values in commands.items()}
        | ({last[0]: last[1](commands)} if last else {})
        for runtime, commands in runtimes.items()
    }
    names = list(next(iter(middle.values())))
    rows = [["", *names]]
    rows += [[runtime, *(show(each[name]) for name in names)] for runtime, each in middle.items()]
    rows.append(
        [
            "ratio",
            *(f"{ratio(middle['migrate'][name], middle['runc'][name]):.2f}" for name in names),
        ]
    )
    return layout(rows)


def lifecycle(measured: Measured) -> list[str]:
    """Return the tables of time, memory and imports."""
    init = {runtime: median(each) for runtime, each in measured["init_private_kib"].items()}
    return [
        "Time; `list` is of 1,000 containers, the last column of those five commands that",
        f"every life has ({', '.join(FIVE)})",
        *_rows(measured["seconds"], _milliseconds, ("five", five_together)),
        "",
        "The most memory that one process of a command held",
        *_rows(measured["peak_kib"], _mebibytes),
        "",
        "Memory that the first process of a created container has for itself: "
        + ", ".join(f"{runtime} {_mebibytes(kib)}" for runtime, kib in init.items()),
        "",
        *imports(measured),
    ]


def imports(measured: Measured) -> list[str]:
    """Return where the time of each command goes, import by import."""
    commands = measured["imports"]
    bare = 1000 * median(measured["interpreter_seconds"])
    whole = {name: 1000 * median(measured["seconds"]["migrate"][name]) for name in commands}
    together = {name: sum(modules.values()) for name, modules in commands.items()}
    longest: dict[str, float] = {}
    for modules in commands.values():
        for module, took in modules.items():
            longest[module] = max(took, longest.get(module, 0.0))
    shown = sorted(longest, key=lambda module: -longest[module])[:SHOWN_MODULES]
    rows = [["milliseconds", *commands]]
    rows.append(["the interpreter", *(f"{bare:.1f}" for _ in commands)])
    rows.append(["all imports", *(f"{together[name]:.1f}" for name in commands)])
    rows += [
        [
            f"  {module}",
            *(
                f"{modules[module]:.1f}" if module in modules else ""
                for modules in commands.values()
            ),
        ]
        for module in shown
    ]
    rest = [
        [took for module, took in modules.items() if module not in shown]
        for modules in commands.values()
    ]
    rows.append(["  others", *(f"{len(each)}: {sum(each):.1f}" for each in rest)])
    rows.append(
        ["its work", *(f"{max(0.0, whole[name] - bare - together[name]):.1f}" for name in commands)]
    )
    return [
        "Where the time of migrate's commands goes: each import by itself, without what it",
        "imports in turn (by -X importtime, which slows it). Work of `create` and `exec` has in",
        "it the second interpreter, which becomes the container's process.",
        *layout(rows),
    ]


def podman(measured: dict[str, dict[str, PerCommand]]) -> list[str]:
    """Return the table of `podman run`."""
    rows = [["", "time", "peak memory"]]
    middle = {
        runtime: [median(measured[kind][runtime]["podman run"]) for kind in ("seconds", "peak_kib")]
        for runtime in measured["seconds"]
    }
    rows += [
        [runtime, _milliseconds(seconds), _mebibytes(kib)]
        for runtime, (seconds, kib) in middle.items()
    ]
    shares = map(ratio, middle["migrate"], middle["runc"])
    rows.append(["ratio", *(f"{share:.2f}" for share in shares)])
    return [
        "podman run --rm busybox true with either runtime; memory of podman, its monitor, the",
        "runtime and the container together",
        *layout(rows),
    ]


def verdicts(measured: Measured) -> list[str]:
    """Return one line for each target."""
    seconds = measured["seconds"]
    share = ratio(five_together(seconds["migrate"]), five_together(seconds["runc"]))
    listed = median(seconds["migrate"]["list"])
    private = median(measured["init_private_kib"]["migrate"]) / 1024
    return [
        verdict(
            "five commands together",
            f"{share:.2f} of runc's, at most {FIVE_TOGETHER_AT_MOST:g} wanted",
            reached=share <= FIVE_TOGETHER_AT_MOST,
        ),
        verdict(
            "list of 1,000 containers",
            f"{listed:.3f} s, less than {LIST_SECONDS_AT_MOST:g} s wanted",
            reached=listed < LIST_SECONDS_AT_MOST,
        ),
        verdict(
            "private memory of a container's first process",
            f"{private:.1f} MiB, at most {INIT_MIB_AT_MOST} MiB wanted",
            reached=private <= INIT_MIB_AT_MOST,
        ),
    ]
