"""config.json: what it may say, what it says, and what `spec` writes.

Lives here: decoding, the checks across fields, and the default configuration.
Must not live here: anything that touches the host but to look at the bundle.
May be imported by every room above `runtime`; each function is loaded with its
module when it is first used, since `start`, `state` and `kill` need none.

| module | what |
|---|---|
| schema | the fields and their types, as one table |
| model | the same as typed dictionaries, for the type checker |
| decoding | bytes to a checked dictionary |
| validation | rules across fields |
| belongings | rules of network devices and of classes of service |
| scheduling | rules and numbers of priorities, memory policy and personality |
| confinement | rules of system call filters and security labels |
| mounting | rules of id-mapped mounts, tmpcopyup and remount |
| mountoptions | the words of `mounts[].options` |
| defaults | what `migrate spec` writes |
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.decoding import decode, decode_process, decode_resources
    from migrate.runtime.spec.defaults import default_spec
    from migrate.runtime.spec.validation import validate, validate_process

__all__ = [
    "decode",
    "decode_process",
    "decode_resources",
    "default_spec",
    "validate",
    "validate_process",
]

_MODULES = {
    "decode": "decoding",
    "decode_process": "decoding",
    "decode_resources": "decoding",
    "default_spec": "defaults",
    "validate": "validation",
    "validate_process": "validation",
}


def __getattr__(name: str) -> object:
    """Load the module a name lives in, see PEP 562."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(name)
    value: object = getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
    globals()[name] = value
    return value
