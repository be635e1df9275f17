"""The far end of a link in the tests: run as a program over SSH.

    python -m tests.transport.agent [SILENCE_SECONDS]

It answers `add`, `fail`, `pid` and `digest` (which reads the stream named), and sends
an event before it answers `digest`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any

from migrate.errors import LinkError, Refused
from migrate.transport.channel import stdio_channel
from migrate.transport.link import Link


def main() -> None:
    """Serve one link on stdin and stdout."""
    silence_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with Link(stdio_channel(), "destination", silence_seconds=silence_seconds) as link:
        link.handshake()

        def digest(name: str) -> dict[str, Any]:
            total = hashlib.sha256()
            with link.accept_stream(name, timeout_seconds=10) as reader:
                for chunk in reader:
                    total.update(chunk)
            link.send_event({"read": reader.raw_bytes})
            return {"sha256": total.hexdigest(), "bytes": reader.raw_bytes}

        def fail(text: str) -> None:
            raise Refused(text, "Do something else.")

        try:
            link.serve({"add": sum, "fail": fail, "digest": digest, "pid": lambda _: os.getpid()})
        except LinkError as error:
            sys.exit(f"agent: {error}")


if __name__ == "__main__":
    main()
