"""The far end of `bench.throughput`: reads one stream of the link and says how much came."""

from __future__ import annotations

import sys

from migrate.errors import LinkError
from migrate.transport.channel import stdio_channel
from migrate.transport.link import Link

STREAM = "bulk"


def main() -> None:
    """Serve one link on stdin and stdout."""
    with Link(stdio_channel(), "destination") as link:
        link.handshake()
        try:
            with link.accept_stream(STREAM, timeout_seconds=20) as reader:
                for _ in reader:
                    pass
            link.serve({"read": lambda _: reader.raw_bytes})
        except LinkError as error:
            sys.exit(f"sink: {error}")


if __name__ == "__main__":
    main()
