"""vagrant/demo, told on these machines as on Vagrant's."""

from __future__ import annotations

import os
import re
import subprocess

from tests.support.folders import CHECKOUT
from tests.vm.machines import Pair


def test_the_demo_shows_all_that_it_promises(pair: Pair) -> None:
    env = {**os.environ, "MIGRATE_SSH_CONFIG": str(pair.ssh_config), "MIGRATE_DEMO_MEMORY": "16"}
    done = subprocess.run(
        [CHECKOUT / "vagrant" / "demo"], check=False, capture_output=True, text=True, env=env
    )
    (pair.scratch / "demo").write_text(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mybusybox moved from host1 to host2" in done.stdout
    assert "none repeated, none missing" in done.stdout
    assert done.stdout.count("still the one from port") == 2
    table = done.stdout[done.stdout.index("redis, strategy") :]
    moves = re.findall(r"^ +\S+ +host\d to host\d +\d+ ms +[\d.]+ s$", table, re.MULTILINE)
    assert moves, table
