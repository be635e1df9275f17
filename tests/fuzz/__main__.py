"""Make up configurations until the time is over or one is taken wrongly.

    python -m tests.fuzz [--seconds N] [--keep]

The corpus in the repository is where it starts; what it finds goes to .prefix/fuzz, the
input that shows a fault too. With --keep, those that reach code no other reaches are
copied into the corpus. Needs atheris, which `make fuzz` installs, and runs as nobody: a
configuration may name any path of the machine, and looking is all that is done with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import atheris

from tests.fuzz import mutator
from tests.support.folders import CHECKOUT

with atheris.instrument_imports(include=["migrate"]):
    from migrate.runtime.spec import schema
    from tests.fuzz import target

CORPUS = Path(__file__).parent / "corpus"
FOUND = CHECKOUT / ".prefix" / "fuzz"
INNER = "--libfuzzer"
NOBODY = 65534
LONGEST_INPUT_BYTES = 16384


def main() -> None:
    """Fuzz, or merge what was found into the corpus."""
    if sys.argv[1:2] == [INNER]:
        _fuzz(sys.argv[0], sys.argv[3:], sys.argv[2])
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="See the module.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    FOUND.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="migrate-fuzz-"))
    (work / "rootfs").mkdir()
    words = work / "words"
    words.write_text("".join(f'"{word}"\n' for word in sorted(_words(schema.SPEC) - {"", "*"})))
    options = [f"-max_len={LONGEST_INPUT_BYTES}", "-timeout=10", f"-artifact_prefix={FOUND}/fault-"]
    if asked.keep:
        options += ["-merge=1", str(CORPUS), str(FOUND)]
    else:
        options += [f"-dict={words}", f"-max_total_time={asked.seconds}", str(FOUND), str(CORPUS)]
    # libFuzzer ends the process itself, so what is to be removed is removed by its parent.
    if os.fork():
        _, status = os.wait()
        shutil.rmtree(work, ignore_errors=True)
        sys.exit(os.waitstatus_to_exitcode(status))
    if not asked.keep:
        _become_nobody(work)
    _fuzz(_program(work), options, str(work))


def _fuzz(program: str, options: list[str], bundle: str) -> NoReturn:
    """Hand over to libFuzzer, which does not come back."""
    change = mutator.Mutator(
        [path.read_bytes() for path in sorted(CORPUS.glob("seed-*"))], sorted(_words(schema.SPEC))
    )

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        # Every third time the bytes, so that the JSON scanner is not left out.
        changed = change(data, largest, seed) if seed % 3 else None
        return atheris.Mutate(data, largest) if changed is None else changed

    def examine(data: bytes) -> None:
        target.examine(data, bundle)

    atheris.Setup([program, *options], examine, custom_mutator=mutate)
    atheris.Fuzz()
    sys.exit(0)


def _program(work: Path) -> str:
    """Return a program that is this one, for libFuzzer, which merges in processes of its own."""
    path = work / "again"
    path.write_text(
        f'#!/bin/sh\ncd {CHECKOUT} && exec {sys.executable} -m tests.fuzz {INNER} {work} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def _become_nobody(work: Path) -> None:
    """Give up every privilege, but for the folders the fuzzer writes to."""
    if os.geteuid() != 0:
        return
    for path in (work, work / "rootfs", FOUND):
        os.chown(path, NOBODY, NOBODY)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _words(node: Any) -> set[str]:
    """The names and fixed values of the schema, for the fuzzer to put together."""
    if isinstance(node, dict):
        inner = (_words(each) for each in node.values())
        return {name.removesuffix("!") for name in node}.union(*inner)
    if isinstance(node, tuple):
        return {word for word in node if isinstance(word, str)}
    return _words(node[0]) if isinstance(node, list) else set()


if __name__ == "__main__":
    main()
