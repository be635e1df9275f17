"""config.json as bytes: read from a bundle, kept in a container's state directory.

Lives here: the two ways. Must not live here: what the bytes mean (`spec.decoding`). May be
imported by every room above `runtime`.
"""

from __future__ import annotations

import os

from migrate.errors import ConfigError
from migrate.runtime import statedir

LARGEST_CONFIG_BYTES = 64 << 20


def read_config(bundle: str) -> bytes:
    """Return the bytes of a bundle's config.json.

    Raises:
        ConfigError: there is none, or it is no file of a sensible size.
    """
    path = f"{bundle}/config.json"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            "$",
            f"{path}: {str(error.strerror).lower()}",
            "Give --bundle, or make a configuration with `migrate spec`.",
        ) from None
    try:
        size = os.fstat(fd).st_size
        if size > LARGEST_CONFIG_BYTES:
            raise ConfigError("$", f"{path} has {size} bytes")
        data = b""
        while part := os.read(fd, 1 << 20):
            data += part
    except OSError as error:
        raise ConfigError("$", f"{path}: {str(error.strerror).lower()}") from None
    finally:
        os.close(fd)
    return data


def write_config(directory: str, config: bytes, name: str = statedir.CONFIG) -> None:
    """Keep the configuration a container was made of, byte for byte."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(f"{directory}/{name}", flags, 0o600)
    try:
        view = memoryview(config)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
