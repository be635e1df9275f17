"""Two hosts compared: does what one made fit the other?

Lives here: the checks that need both hosts, as pure functions. Must not live here:
looking (`host_facts`), what one container needs (`demands`). `live` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from migrate.events import Finding
from migrate.live.host_facts import HostFacts

# Programs ask the processor for these once and use them ever after; the rest of
# /proc/cpuinfo's flags is the kernel's business.
_INSTRUCTION_SETS = (
    *("sse4_", "avx", "fma", "bmi", "aes", "vaes", "pclmulqdq", "vpclmulqdq", "sha_ni"),
    *("popcnt", "movbe", "rdrand", "rdseed", "f16c", "adx", "gfni", "amx", "xsave", "abm"),
    *("rtm", "hle", "fsgsbase", "erms", "fsrm", "rdtscp", "rdpid", "pku", "movdir", "lzcnt"),
    *("asimd", "atomics", "sve", "crc32", "sm4", "bf16"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        topic: what it is about, one word.
        run: yields what it found; nothing where all is well.
        well: what is said then; {source} and {there} stand for the hosts' names.
    """

    topic: str
    run: Callable[..., Iterator[Finding]]
    well: str

    def judge(self, *facts: object, **names: str) -> list[Finding]:
        """Return its findings, at least one."""
        found = list(self.run(*facts))
        return found or [finding(self.topic, "ok", self.well.format(**names))]


def finding(
    check: str, verdict: Literal["ok", "warn", "refuse"], message: str, hint: str = ""
) -> Finding:
    """Return a finding."""
    return Finding(check=check, verdict=verdict, message=message, hint=hint)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version to compare; what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def _programs(source: HostFacts, there: HostFacts) -> Iterator[Finding]:
    """Both run the same version of this program."""
    if source.program != there.program:
        yield finding(
            "migrate",
            "warn",
            f"migrate {there.program} on {there.name} is not the {source.program} of {source.name}",
            "Install the same version on both hosts.",
        )


def _versions(source: HostFacts, there: HostFacts) -> Iterator[Finding]:
    """An image can be read by the same CRIU or a newer one."""
    if source.criu and there.criu and numbers(there.criu)[:2] < numbers(source.criu)[:2]:
        yield finding(
            "criu",
            "refuse",
            f"CRIU {there.criu} on {there.name} is older than {source.criu} on {source.name} and "
            "may not read its images",
            f"Install CRIU {source.criu} or a newer one on {there.name}.",
        )
    if numbers(there.kernel.partition("-")[0])[:2] < numbers(source.kernel.partition("-")[0])[:2]:
        yield finding(
            "kernel",
            "warn",
            f"kernel {there.kernel} on {there.name} is older than {source.kernel} on {source.name}",
            "What the container uses of the newer kernel would be missing.",
        )


def _processors(source: HostFacts, there: HostFacts) -> Iterator[Finding]:
    """Programs keep using what they found on the first processor."""
    if source.machine != there.machine:
        yield finding(
            "cpu",
            "refuse",
            f"{there.name} is {there.machine}, {source.name} is {source.machine}",
            "Choose a host of the same architecture.",
        )
        return
    used = {flag for flag in source.cpu_flags if flag.startswith(_INSTRUCTION_SETS)}
    missing = sorted(used - set(there.cpu_flags))
    if missing:
        yield finding(
            "cpu",
            "refuse",
            f"the processor of {there.name} lacks {', '.join(missing[:8])}"
            f"{' and more' if len(missing) > 8 else ''}, which programs may be using",
            "Choose a host whose processor has them.",
        )
    if source.cpu_vendor != there.cpu_vendor:
        yield finding(
            "cpu",
            "warn",
            f"processors are of two makers: {source.cpu_vendor} and {there.cpu_vendor}",
            "Programs that chose code for one maker keep running it on the other.",
        )


def _security(source: HostFacts, there: HostFacts) -> Iterator[Finding]:
    """What confines every process here does so there."""
    missing = sorted(set(source.lsm) - set(there.lsm) - {"capability", "lockdown", "integrity"})
    if missing:
        yield finding(
            "lsm",
            "warn",
            f"security modules {', '.join(missing)} are in force on {source.name}, not on "
            f"{there.name}",
            f"Boot {there.name} with them (lsm=), if the container relies on them.",
        )


def _control_groups(source: HostFacts, there: HostFacts) -> Iterator[Finding]:
    """Limits can be the same."""
    missing = sorted(set(source.cgroups) - set(there.cgroups))
    if missing:
        yield finding(
            "cgroups",
            "warn",
            f"{there.name} has not mounted the control groups {named(missing)}",
            "Limits by them do not hold there.",
        )


def named(keys: list[str]) -> str:
    """Return hierarchies of control groups as people call them."""
    return ", ".join(key or "of version 2" for key in keys)


CHECKS = (
    Check("migrate", _programs, "{there} runs the same version of migrate"),
    Check("criu", _versions, "{there} can read what CRIU writes on {source}"),
    Check("cpu", _processors, "the processor of {there} can do all that {source}'s can"),
    Check("lsm", _security, "{there} has every security module of {source}"),
    Check("cgroups", _control_groups, "{there} has every control group tree of {source}"),
)
"""Every check of source and destination; each is pure."""
