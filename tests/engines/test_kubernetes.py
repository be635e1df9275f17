"""Pods under containerd's plug-in for Kubernetes, by the runtime that its file names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import leaks
from tests.support.folders import CHECKOUT
from tests.support.hosts import Host, wait_until

from .containerd import Containerd
from .kubelet import Kubelet
from .place import RUNTIME, snapshot
from .podman import Podman

PAUSE = "localhost/pause:latest"
NAMESPACE = "k8s.io"


def lines_of_the_readme() -> str:
    """What the README says belongs into containerd's file, for the runtime under test."""
    readme = (CHECKOUT / "README.md").read_text()
    (text,) = re.findall(r"```toml\n(\[plugins\.\"io\.containerd\.grpc.*?)```", readme, re.DOTALL)
    assert "/usr/local/bin/migrate" in text
    return str(text).replace("/usr/local/bin/migrate", RUNTIME)


@pytest.fixture
def kubelet(place: Host, podman_once: Podman, tmp_path: Path) -> Iterator[Kubelet]:
    """A kubelet's side of a containerd with the plug-in and an image for pods."""
    archive = tmp_path / "image.tar"
    image = place.scratch / "image.tar"
    podman_once("import", "--quiet", "--change", 'CMD ["/bin/sleep", "10000"]', image, PAUSE)
    podman_once("save", "--quiet", "--format", "oci-archive", "--output", archive, PAUSE)
    before = snapshot(place)
    containerd = Containerd(place, tmp_path, kubernetes=pods_of(PAUSE) + lines_of_the_readme())
    with containerd.up():
        containerd("--namespace", NAMESPACE, "image", "import", "--index-name", PAUSE, archive)
        yield Kubelet(place, tmp_path, f"{tmp_path}/socket")
    # The group of all pods is the kubelet's own: runc leaves it too.
    place.run(["sh", "-c", f"rmdir /sys/fs/cgroup/*/{NAMESPACE}"])
    podman_once("rmi", PAUSE)
    found = leaks.left(before, lambda: snapshot(place))
    assert not found, "left behind:\n" + "\n".join(found)


def pods_of(image: str) -> str:
    """The plug-in's own lines: an image of this machine, and what needs no capability."""
    return (
        '[plugins."io.containerd.grpc.v1.cri"]\n'
        f'sandbox_image = "{image}"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n'
        '[plugins."io.containerd.grpc.v1.cri".containerd]\ndefault_runtime_name = "migrate"\n'
    )


def states(host: Host) -> list[dict[str, Any]]:
    """What the runtime itself says of containerd's pods."""
    root = f"/run/containerd/runc/{NAMESPACE}"
    listed = host.run([RUNTIME, "--root", root, "list", "--format", "json"]).stdout
    return json.loads(listed) or []


def test_a_pod_runs_by_the_readmes_lines(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod("first", "migrate")
    box = kubelet.start(pod, "box", PAUSE, "/bin/sleep", "10000")
    assert kubelet.exec(box, ["/bin/sh", "-c", "echo in the pod; exit 3"]) == (3, "in the pod\n")
    found = {each["id"]: each["status"] for each in states(kubelet.host)}
    assert found == {pod[0]: "running", box: "running"}
    kubelet.remove_pod(pod[0])
    wait_until(lambda: not states(kubelet.host), "the pod is gone")
