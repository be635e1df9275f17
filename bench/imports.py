"""What each command imports, and how long that takes, by `python -X importtime`.

Lives here: running a command so, and reading what it said. Must not live here: layout.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

LINE = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)

Modules = dict[str, float]


def interpreter() -> list[str]:
    """Return the command of the interpreter as `migrate` starts it, with nothing to run."""
    script = shutil.which("migrate") or "migrate"
    words = Path(script).read_text().split("\n", 1)[0].removeprefix("#!").split()
    return [*words, "-c", "pass"]


def _traced(argv: Sequence[str]) -> Modules:
    """Run a command of `migrate` and return what it imported, in milliseconds."""
    *start, _, _ = interpreter()
    with tempfile.TemporaryFile("w+") as said:
        script = shutil.which(argv[0])
        words = [*start, "-X", "importtime", str(script), *argv[1:]]
        subprocess.run(
            words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        said.seek(0)
        return {name: int(took) / 1000 for took, name in LINE.findall(said.read())}


def of_each(
    life: Callable[[Callable[[list[str]], float]], object], commands: Iterable[str]
) -> dict[str, Modules]:
    """Return what each command imports beyond the interpreter itself.

    Args:
        life: runs the commands by what it is given.
        commands: their names, in the order in which they are run.
    """
    found: list[Modules] = []

    def run(argv: list[str]) -> float:
        found.append(_traced(argv))
        return 0.0

    life(run)
    start, *nothing = interpreter()
    bare = subprocess.run(
        [start, "-X", "importtime", *nothing], check=True, capture_output=True, text=True
    )
    own = {name for _, name in LINE.findall(bare.stderr)}
    return {
        command: {name: took for name, took in modules.items() if name not in own}
        for command, modules in zip(commands, found, strict=True)
    }


def medians(traced: Sequence[dict[str, Modules]]) -> dict[str, Modules]:
    """Return the median of each module's time in each command."""
    return {
        command: {name: median(each[command].get(name, 0.0) for each in traced) for name in modules}
        for command, modules in traced[0].items()
    }
