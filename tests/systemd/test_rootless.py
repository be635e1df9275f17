"""Containers of a user without privileges, as units of the user's own service manager."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.bundle import make_bundle
from tests.support.hosts import wait_until
from tests.support.systemd import Machine
from tests.systemd.conftest import Runtime

pytestmark = pytest.mark.hosts

# "nobody", the one user beside root that every machine has.
UID = 65534
HOME = f"/run/user/{UID}"
BUNDLE = f"{HOME}/bundle"
MANAGER = "users-manager.service"
SETTINGS = (f"User={UID}", f"Group={UID}", "Delegate=yes", f"Environment=XDG_RUNTIME_DIR={HOME}")
USER = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "env"]
USER += [f"XDG_RUNTIME_DIR={HOME}", f"HOME={HOME}"]


@pytest.fixture
def user(v2_machine: Machine) -> Iterator[Machine]:
    """A machine where a user's service manager runs, with a bus and a bundle."""
    make_bundle(v2_machine.host.folder("/srv/users"), ["sleep", "10000"])
    copy = f"mkdir -p {HOME} && cp -r /srv/users {BUNDLE} && chown -R {UID}:{UID} {HOME}"
    v2_machine.enter(["sh", "-c", copy])
    words = ["systemd-run", "--quiet", f"--unit={MANAGER}", f"--slice=user-{UID}.slice"]
    words += ["--property=Type=notify", "--property=NotifyAccess=all"]
    words += [f"--property={setting}" for setting in SETTINGS]
    v2_machine.enter([*words, "--", "/lib/systemd/systemd", "--user", "--unit=dbus.socket"])
    wait_until(lambda: as_user(v2_machine, "test", "-S", f"{HOME}/bus") == "", "the user's bus")
    rootless = (
        f"cd {BUNDLE} && rm config.json && migrate spec --rootless && sed -i "
        """'s/"terminal": true/"terminal": false/; s/"sh"/"sleep", "10000"/' config.json"""
    )
    as_user(v2_machine, "sh", "-c", rootless)
    yield v2_machine
    v2_machine.enter(["systemctl", "stop", MANAGER, "user.slice", f"user-{UID}.slice"])
    v2_machine.enter(["rm", "-rf", HOME])


def as_user(machine: Machine, *words: str, check: bool = True) -> str:
    """Run a command as the user, outside of all that is delegated to the user."""
    done = machine.enter([*USER, *words], check=check)
    return done.stdout + done.stderr


def test_a_users_container_is_a_scope_of_the_users_manager(user: Machine) -> None:
    def migrate(*words: str) -> str:
        return as_user(user, "migrate", "--systemd-cgroup", *words)

    migrate("run", "--detach", "--bundle", BUNDLE, "c1")
    place = f"/user.slice/user-{UID}.slice/{MANAGER}/user.slice/runc-c1.scope"
    assert place in migrate("exec", "c1", "cat", "/proc/self/cgroup")
    shown = as_user(user, "systemctl", "--user", "show", "runc-c1.scope", "--property=ActiveState")
    assert shown == "ActiveState=active\n"
    migrate("pause", "c1")
    assert json.loads(migrate("state", "c1"))["status"] == "paused"
    migrate("resume", "c1")
    migrate("delete", "--force", "c1")
    assert "runc-c1.scope" not in as_user(user, "systemctl", "--user", "list-units", "--all")


def test_without_a_manager_of_ones_own_the_driver_says_what_is_missing(runtime: Runtime) -> None:
    runtime.machine.enter(["mkdir", "-p", f"{HOME}/empty"])
    copy = f"cp -r $0/* {HOME}/empty && chown -R {UID}:{UID} {HOME}"
    runtime.machine.enter(["sh", "-c", copy, runtime.bundle()])
    words = ("--systemd-cgroup", "create", "--bundle", f"{HOME}/empty", "c1")
    said = as_user(runtime.machine, "migrate", *words, check=False)
    missing = f"{HOME}/bus cannot be reached" if runtime.is_v2 else "cgroup v2 host only"
    assert missing in said
    assert said.count("\n") == 1
    runtime.machine.enter(["rm", "-rf", HOME])
