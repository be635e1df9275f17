"""What is not the migration's, though it has its name: never touched, whatever broke.

The same id again, a bundle of somebody else, a bundle in use: recovery and removal go by
what a migration made, not by what lies where it would have been.
"""

from __future__ import annotations

import signal

from tests.live.moving import BUNDLE, ID, Moved, stopped
from tests.support.bundle import make_bundle

OTHER = ["sh", "-c", "while :; do sleep 1; done"]


def busybox(container: Moved, name: str, bundle: str) -> None:
    """Run a container of somebody else on host2."""
    make_bundle(
        container.host2.folder(bundle),
        change=lambda config: config["process"].update(args=OTHER),
    )
    container.host2.run_detached(["migrate", "run", "-d", "--bundle", bundle, name])


def test_a_container_that_came_back_is_not_taken_for_the_one_that_left(container: Moved) -> None:
    killed = container.live(fault="source:before:DONE:kill", check=False)
    assert killed.returncode == -signal.SIGKILL
    container.host2.run(["migrate", "live", ID, "--to", "host1"])
    container.recover()
    container.must_run_on("host1")


def test_one_whose_mover_was_killed_comes_back_with_its_connection(container: Moved) -> None:
    killed = container.live(fault="source:after:COMMITTED:kill", check=False)
    assert killed.returncode == -signal.SIGKILL
    container.recover()
    container.must_run_on("host2")
    # Its first connection here was ended by hand: nothing of that is left in its namespace.
    container.host2.run(["migrate", "live", ID, "--to", "host1"])
    container.must_run_on("host1")


def test_an_id_taken_before_the_agent_had_it_is_somebody_else_s(container: Moved) -> None:
    with container.stopped_at("destination:after:intent.RESERVED:stop"):
        busybox(container, ID, "/srv/other")
        for pid in stopped(container.host2):
            container.host2.run(["kill", "-KILL", str(pid)])
    container.recover()
    container.recover(container.host2)
    assert container.status(container.host1) == "running"
    assert container.status(container.host2) == "running"


def test_a_bundle_made_meanwhile_is_somebody_else_s(container: Moved) -> None:
    kept = container.host2.folder(f"{BUNDLE}/rootfs/kept")
    with container.stopped_at("destination:after:RESERVED:stop") as process:
        kept.parent.mkdir(parents=True)
        kept.write_text("dear")
        container.go_on()
        assert process.wait() == 1
    assert kept.read_text() == "dear"
    kept.unlink()
    container.must_run_on("host1")


def test_a_bundle_that_another_container_lives_in_is_refused(container: Moved) -> None:
    container.live()
    container.host1.run_detached(["migrate", "run", "-d", "--bundle", BUNDLE, "other"])
    try:
        back = container.host2.run(["migrate", "live", ID, "--to", "host1"], check=False)
        assert back.returncode == 1
        assert 'container "other"' in back.stderr
    finally:
        container.host1.run(["migrate", "delete", "--force", "other"])
    assert container.where() == ["host2"]


def test_a_command_at_work_on_the_container_is_waited_for(container: Moved) -> None:
    lock = f"/run/migrate/{ID}/lock"
    with container.host1.popen(["flock", "--no-fork", lock, "sleep", "30"]) as holder:
        try:
            refused = container.live(check=False)
        finally:
            holder.signal(signal.SIGKILL)
    assert refused.returncode == 1
    assert "in use" in refused.stderr
    container.must_run_on("host1")
