"""The end of importing.

Lives here: the audit hook that is laid before the first step into the container.
From there on `sys.path` names files of the container, and a dlopen would load a
library of its: both would run the image's code with the host's privileges.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REFUSED = frozenset(
    {
        "import",
        "ctypes.dlopen",
        "ctypes.dlsym",
        "compile",
        "exec",
        "os.system",
        "subprocess.Popen",
    }
)


def close_imports() -> None:
    """Refuse every import and dlopen of this process and its children from now on."""
    sys.addaudithook(_refuse)
    # The hook is the wall; without a path and finders nobody gets as far.
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()


def _refuse(event: str, arguments: Any) -> None:
    if event in REFUSED:
        raise RuntimeError(f"{event} of {arguments[:1]} inside the container")
