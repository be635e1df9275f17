"""The settings of a network namespace that its programs notice.

Lives here: which ones travel, reading and writing them. Must not live here:
namespaces; the caller is in the right one. `migrate.live.network` only.

A table and not everything below /proc/sys/net: much there is the machine's, differs
between kernels, or acts when it is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

_ROOT = "/proc/sys/net"

# `forwarding` switches others over, so it is written before them.
_ALONE = (
    "ipv4/ip_forward",
    "ipv4/ip_default_ttl",
    "ipv4/ip_local_port_range",
    "ipv4/ip_local_reserved_ports",
    "ipv4/ip_nonlocal_bind",
    "ipv4/ip_unprivileged_port_start",
    "ipv4/ping_group_range",
    "ipv4/icmp_echo_ignore_all",
    "ipv4/icmp_echo_ignore_broadcasts",
    "ipv4/tcp_congestion_control",
    "ipv4/tcp_ecn",
    "ipv4/tcp_fin_timeout",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_max_syn_backlog",
    "ipv4/tcp_mtu_probing",
    "ipv4/tcp_notsent_lowat",
    "ipv4/tcp_retries1",
    "ipv4/tcp_retries2",
    "ipv4/tcp_rmem",
    "ipv4/tcp_sack",
    "ipv4/tcp_slow_start_after_idle",
    "ipv4/tcp_syn_retries",
    "ipv4/tcp_synack_retries",
    "ipv4/tcp_syncookies",
    "ipv4/tcp_timestamps",
    "ipv4/tcp_tw_reuse",
    "ipv4/tcp_window_scaling",
    "ipv4/tcp_wmem",
    "ipv6/bindv6only",
    "ipv6/ip_nonlocal_bind",
    "core/somaxconn",
    "unix/max_dgram_qlen",
)
_OF_AN_INTERFACE = {
    "ipv4": (
        "forwarding",
        "accept_local",
        "accept_redirects",
        "accept_source_route",
        "arp_announce",
        "arp_filter",
        "arp_ignore",
        "arp_notify",
        "ignore_routes_with_linkdown",
        "proxy_arp",
        "route_localnet",
        "rp_filter",
        "send_redirects",
        "src_valid_mark",
    ),
    "ipv6": (
        "disable_ipv6",
        "forwarding",
        "accept_dad",
        "accept_ra",
        "accept_redirects",
        "autoconf",
        "proxy_ndp",
        "use_tempaddr",
    ),
}


def names(interfaces: Iterable[str]) -> list[str]:
    """Return the settings that travel, below /proc/sys/net, in the order of writing."""
    return [
        *_ALONE,
        *(
            f"{family}/conf/{interface}/{setting}"
            for interface in ("all", "default", *interfaces)
            for family, settings in _OF_AN_INTERFACE.items()
            for setting in settings
        ),
    ]


def read(wanted: Iterable[str]) -> dict[str, str]:
    """Return the values of those settings that this kernel has, in the same order."""
    found: dict[str, str] = {}
    for name in wanted:
        value = _read(name)
        if value is not None:
            found[name] = value
    return found


def write(values: dict[str, str]) -> list[str]:
    """Set what differs; returns the names that this kernel does not take."""
    refused: list[str] = []
    for name, value in values.items():
        if _read(name) != value:
            try:
                fd = os.open(f"{_ROOT}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, value.encode())
                finally:
                    os.close(fd)
            except OSError:
                refused.append(name)
    return refused


def _read(name: str) -> str | None:
    try:
        fd = os.open(f"{_ROOT}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).decode("utf-8", "replace").strip().replace("\t", " ")
        finally:
            os.close(fd)
    except OSError:
        return None
