"""What a kubelet says to containerd: pods, over the interface of Kubernetes.

Lives here: gRPC over HTTP/2 by curl, the few messages of the runtime.v1 API that a pod
needs, pods. Must not live here: pytest. Debian has no client of this interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.hosts import Host

SERVICE = "http://localhost/runtime.v1.RuntimeService"
# runtime.v1.NamespaceMode: the host's network, so that no network plug-in is asked for.
NODE = 2
# A message as its fields' numbers and values; a list is a field that repeats.
Message = dict[int, Any]


def encode(message: Message) -> bytes:
    """Write a message as protobuf has it on the wire."""
    out = b""
    for number, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                out += _varint(number << 3) + _varint(one)
            else:
                data = encode(one) if isinstance(one, dict) else one.encode()
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def decode(data: bytes) -> dict[int, Any]:
    """Read the numbers and byte strings of a message."""
    found: dict[int, Any] = {}
    numbers = iter(data)
    for key in numbers:
        assert key < 128, "a field beyond 15"
        value: Any = _read_varint(numbers)
        if key & 7 == 2:
            value = bytes(next(numbers) for _ in range(value))
        found[key >> 3] = value
    return found


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read_varint(numbers: Iterator[int]) -> int:
    value = shift = 0
    while (byte := next(numbers)) > 127:
        value |= (byte & 127) << shift
        shift += 7
    return value | byte << shift


class Kubelet:
    """A client of a containerd.

    Args:
        host: where it runs.
        folder: for messages on their way.
        socket: of containerd.
    """

    def __init__(self, host: Host, folder: Path, socket: str) -> None:
        self.host = host
        self.folder = folder
        self._socket = socket

    def __call__(self, method: str, message: Message) -> dict[int, Any]:
        """Call a method of the runtime service; it must succeed."""
        asked, said, heads = (self.folder / name for name in ("asked", "said", "heads"))
        body = encode(message)
        asked.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
        words = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket"]
        words += [self._socket, "--header", "content-type: application/grpc"]
        words += ["--header", "te: trailers", "--data-binary", f"@{asked}"]
        words += ["--dump-header", str(heads), "--output", str(said), f"{SERVICE}/{method}"]
        self.host.run(words, check=False)
        assert "grpc-status: 0" in heads.read_text(), f"{method}: {heads.read_text()}{self._log()}"
        return decode(said.read_bytes()[5:])

    def _log(self) -> str:
        return (self.folder / "log").read_text()

    def run_pod(self, name: str, handler: str) -> tuple[str, Message]:
        """Start a pod by a runtime handler; return its id and its configuration."""
        metadata = {1: name, 2: f"{name}-uid", 3: "default"}
        pod: Message = {1: metadata, 8: {2: {1: {1: NODE}}}}
        return self("RunPodSandbox", {1: pod, 2: handler})[1].decode(), pod

    def start(self, pod: tuple[str, Message], name: str, image: str, *command: str) -> str:
        """Create and start a container in a pod; return its id."""
        config: Message = {1: {1: name}, 2: {1: image}, 3: list(command)}
        config[15] = {2: {3: {1: NODE}}}
        made = self("CreateContainer", {1: pod[0], 2: config, 3: pod[1]})[1].decode()
        self("StartContainer", {1: made})
        return str(made)

    def exec(self, container: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a program in a container; return its exit status and what it printed."""
        done = self("ExecSync", {1: container, 2: list(command), 3: 20})
        return int(done.get(3, 0)), done.get(1, b"").decode()

    def remove_pod(self, pod: str) -> None:
        """Stop and remove a pod with its containers."""
        self("StopPodSandbox", {1: pod})
        self("RemovePodSandbox", {1: pod})
