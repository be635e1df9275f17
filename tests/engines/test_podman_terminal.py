"""A person at a terminal in front of podman."""

from __future__ import annotations

from tests.support.hosts import wait_until

from .podman import IMAGE, Podman


def test_run_gives_a_terminal_of_the_windows_size(podman: Podman) -> None:
    with podman.terminal("run", "-it", "--rm", IMAGE, "sh", size=(33, 99)) as terminal:
        terminal.wait_for("# ")
        terminal.type("tty; stty size; exit 6\n")
        terminal.wait_for("/dev/pts/0")
        terminal.wait_for("33 99")
        assert terminal.wait() == 6


def test_exec_gives_a_terminal_too(podman: Podman) -> None:
    name = podman.start()
    with podman.terminal("exec", "-it", name, "sh", size=(40, 120)) as terminal:
        terminal.wait_for("# ")
        terminal.type("stty size; exit 8\n")
        terminal.wait_for("40 120")
        assert terminal.wait() == 8


def test_a_new_size_of_the_window_reaches_the_container(podman: Podman) -> None:
    with podman.terminal("run", "-it", "--rm", IMAGE, "sh", size=(33, 99)) as terminal:
        terminal.wait_for("# ")
        terminal.resize(50, 150)
        terminal.type("until stty size | grep '^50 150'; do sleep 0.05; done; exit\n")
        terminal.wait_for("50 150\r")
        assert terminal.wait() == 0


def test_control_c_interrupts_what_runs_inside(podman: Podman) -> None:
    with podman.terminal("run", "-it", "--rm", "--name", "box", IMAGE, "sh") as terminal:
        terminal.wait_for("# ")
        terminal.type("sleep 10000\n")
        wait_until(lambda: "sleep 10000" in podman.says("top", "box"), "it sleeps")
        terminal.type("\x03")
        terminal.type("echo inter''rupted; exit 4\n")
        terminal.wait_for("interrupted")
        assert terminal.wait() == 4


def test_one_attaches_to_a_container_in_the_background(podman: Podman) -> None:
    name = podman.start("sh", options=["--interactive", "--tty"])
    with podman.terminal("attach", name) as terminal:
        terminal.type("echo he''re; exit 3\n")
        terminal.wait_for("here")
        terminal.wait()
    assert podman.says("wait", name) == "3"
