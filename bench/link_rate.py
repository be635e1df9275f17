"""A link of a given rate between two hosts, by tbf on their ends of it.

Lives here: tc(8) on `eth0` of each host, inside its own network namespace. No device of
the machine is touched. Used by `matrix`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.cells import Link
    from tests.support.hosts import Host

# The bucket holds what arrives between two looks of the kernel at it, see tc-tbf(8).
RATES: dict[Link, Sequence[str]] = {
    "unlimited": (),
    "1 Gbit/s": ("rate", "1gbit", "burst", "512kb", "latency", "50ms"),
    "100 Mbit/s": ("rate", "100mbit", "burst", "64kb", "latency", "50ms"),
}


@contextmanager
def limited(hosts: Sequence[Host], link: Link) -> Iterator[None]:
    """Let no more than that out of each host, for the length of the block."""
    with ExitStack() as stack:
        if RATES[link]:
            for host in hosts:
                host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *RATES[link]])
                stack.callback(
                    host.run, ["tc", "qdisc", "delete", "dev", "eth0", "root"], check=False
                )
        yield
