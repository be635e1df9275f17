"""Another process of this program, that lives longer than whoever starts it.

Lives here: how it is started. Must not live here: what it does. May be imported by
`checkpoint` and `live`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

# This program's own modules, wherever it was installed; nothing of the environment.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from {module} import main; sys.exit(main())"


def start(
    module: str,
    arguments: Sequence[str],
    *,
    pass_fds: Sequence[int],
    output: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a module's `main` in a fresh interpreter and a session of its own.

    Args:
        module: its dotted name.
        arguments: what it finds in `sys.argv` from 1 on.
        pass_fds: descriptors that it inherits, under their numbers.
        output: descriptor for what the interpreter says when it breaks.

    Raises:
        OSError: it cannot be started.
    """
    program = _PROGRAM.format(path=sys.path, module=module)
    return subprocess.Popen(
        [sys.executable, "-IS", "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env={},
        pass_fds=pass_fds,
        start_new_session=True,
    )
