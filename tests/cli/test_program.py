"""What reaches people and engines: output, errors, logs, exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import migrate
from migrate.cli.options import COMMANDS
from tests.cli.conftest import COMMAND, Run

PACKAGE_PARENT = str(Path(migrate.__file__).parents[1])
# Each of these costs a command that runs in ten milliseconds one to thirty more.
SLOW_IMPORTS = {
    "click", "contextlib", "ctypes", "dataclasses", "enum", "inspect", "json", "pathlib", "re",
    "subprocess", "threading", "typing",
}  # fmt: skip


def test_an_error_is_one_line_that_says_what_to_do(run: Run) -> None:
    done = run("state", "nope")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith('migrate: container "nope" does not exist (Run `migrate list`')
    assert done.stderr.count("\n") == 1


def test_no_error_is_a_command_to_the_terminal(run: Run) -> None:
    done = run("state", "\x1b]0;title\x07\x9b2J")
    assert done.returncode == 1
    assert r"\x1b]0;title\x07\x9b2J" in done.stderr
    done = run("kill", "nope", "\x1b[2J\u202e")
    assert r"\x1b[2J\u202e" in done.stderr
    assert done.stderr.rstrip("\n").isprintable()


def test_the_log_holds_one_json_object(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = run("--log", str(log), "--log-format=json", "delete", "nope")
    entry = json.loads(log.read_text())
    assert done.returncode == 1
    assert entry["level"] == "error"
    assert entry["msg"] == 'container "nope" does not exist'
    assert time.strptime(entry["time"], "%Y-%m-%dT%H:%M:%SZ")
    assert "container" in done.stderr


def test_the_log_is_there_and_empty_where_nothing_went_wrong(run: Run, tmp_path: Path) -> None:
    assert run("--log", "log", "list").returncode == 0
    assert (tmp_path / "log").read_text() == ""


def test_a_text_log_is_logfmt(run: Run, tmp_path: Path) -> None:
    run("--log", "log", "state", "nope")
    line = (tmp_path / "log").read_text()
    assert line.startswith('time="20')
    assert line.endswith('Z" level=error msg="container \\"nope\\" does not exist"\n')


@pytest.mark.parametrize(
    "words",
    [["--log-format", "xml", "list"], ["--log", "/nowhere/log", "list"], ["--rootless=x", "list"]],
)
def test_global_options_that_cannot_be_are_refused(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("migrate: ")
    assert done.stderr.count("\n") == 1


def test_a_misspelt_call_is_logged_too(run: Run, tmp_path: Path) -> None:
    done = run("--log", "log", "--log-format", "json", "restore", "--lsm-mount-context")
    assert done.returncode == 1
    message = "flag needs an argument: -lsm-mount-context"
    assert message in done.stderr
    assert json.loads((tmp_path / "log").read_text())["msg"] == message


def test_exec_and_create_prefix_their_errors_as_runc_does(run: Run, tmp_path: Path) -> None:
    assert "migrate: exec failed: container" in run("exec", "nope", "ls").stderr
    assert "migrate: create failed: " in run("create", "--bundle", str(tmp_path), "a").stderr
    assert not (tmp_path / "root" / "a").exists()


def test_the_version_is_read_by_engines(run: Run) -> None:
    lines = run("--version").stdout.splitlines()
    assert lines[0] == f"migrate version {migrate.__version__}"
    assert lines[1].startswith("spec: 1.")


def test_features_are_what_the_specification_calls_them(run: Run) -> None:
    found = json.loads(run("features").stdout)
    assert found["ociVersionMin"] == "1.0.0"
    assert "createRuntime" in found["hooks"]
    assert {"ro", "rro", "rbind", "noexec", "rprivate"} <= set(found["mountOptions"])
    assert found["linux"]["cgroup"]["v2"] is True
    seccomp = found["linux"]["seccomp"]
    assert seccomp["enabled"] is True
    assert {"SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY", "SCMP_ACT_KILL_PROCESS"} <= set(seccomp["actions"])
    assert "SCMP_CMP_MASKED_EQ" in seccomp["operators"]
    assert {"SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"} <= set(seccomp["archs"])
    assert set(seccomp["supportedFlags"]) <= set(seccomp["knownFlags"])


@pytest.mark.parametrize("command", ["", *sorted(COMMANDS)])
def test_help_is_there_for_every_command(run: Run, command: str) -> None:
    done = run(*([command] if command else []), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: migrate")
    if command:
        for option in COMMANDS[command].options:
            assert f"--{option.names[0]}" in done.stdout
    else:
        for name in COMMANDS:
            assert f"\n  {name} " in done.stdout


def test_a_list_of_nothing_is_a_heading_or_null(run: Run) -> None:
    assert run("list").stdout.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert run("list", "-f", "json").stdout == "null\n"
    assert run("list", "-q").stdout == ""
    assert "invalid format option" in run("list", "-f", "xml").stderr


def test_spec_never_replaces_a_file(run: Run, tmp_path: Path) -> None:
    assert run("spec").returncode == 0
    assert json.loads((tmp_path / "config.json").read_text())["process"]["terminal"] is True
    done = run("spec")
    assert done.returncode == 1
    assert "File config.json exists. Remove it first" in done.stderr


def test_a_reader_that_went_away_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{COMMAND} features | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    assert done.stdout in ("0\n", "141\n")


def in_process(body: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program with a command replaced."""
    program = (
        "import sys, types\n"
        f"sys.path += {sys.path!r}\n"
        f"sys.argv = ['migrate', {', '.join(map(repr, words))}]\n"
        "module = types.ModuleType('migrate.cli.list_cmd')\n"
        "def run(call):\n"
        f"    {body}\n"
        "module.run = run\n"
        "from migrate.cli import main\n"
        "sys.modules['migrate.cli.list_cmd'] = module\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-IS", "-c", program], capture_output=True, text=True, check=False
    )


def test_an_unforeseen_error_is_one_line_and_a_stack_only_under_debug() -> None:
    done = in_process("raise RuntimeError('first\\nsecond')", "list")
    assert done.returncode == 1
    assert done.stderr == (
        "migrate: unexpected RuntimeError: first second (Add --debug to see where.)\n"
    )
    done = in_process("raise RuntimeError('x')", "--debug", "list")
    assert "Traceback" in done.stderr


def test_an_error_of_the_system_names_its_file() -> None:
    done = in_process("open('/nonexistent/x')", "list")
    assert done.stderr.startswith("migrate: /nonexistent/x: no such file or directory")


def test_an_interrupt_is_quiet() -> None:
    done = in_process("import os; os.kill(os.getpid(), 2)", "list")
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["start", "state", "kill", "delete"])
def test_what_engines_call_most_imports_nothing_slow(command: str, tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        f"sys.path.append({PACKAGE_PARENT!r})\n"
        f"sys.argv = ['migrate', '--root', {str(tmp_path)!r}, {command!r}, 'nope']\n"
        "os._exit = lambda status: print(*sys.modules, file=sys.__stdout__)\n"
        "from migrate.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", program], capture_output=True, text=True, check=True
    )
    assert not SLOW_IMPORTS & set(done.stdout.split())


def test_the_output_of_a_command_is_complete_when_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([COMMAND, "features"], stdout=file, check=True)
    json.loads(out.read_text())
    assert os.path.getsize(out) > 1000


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_are_opened_on_nothing(tmp_path: Path, closed: str) -> None:
    done = subprocess.run(
        f"{COMMAND} --root {tmp_path}/root --log {tmp_path}/log state nope {closed}",
        shell=True,
        check=False,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 1
    assert b"does not exist" in (tmp_path / "log").read_bytes()
    assert b"Traceback" not in done.stderr


def test_what_is_printed_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    bundle = tmp_path / "bündel"
    bundle.mkdir()
    done = subprocess.run(
        [COMMAND, "create", "--bundle", bundle, "a"],
        env={"LC_ALL": "C", "LANG": "C"},
        capture_output=True,
        check=False,
    )
    assert str(bundle).encode() in done.stderr


def test_a_bundle_whose_path_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    bundle = os.fsencode(tmp_path) + b"/b\xff"
    os.mkdir(bundle)
    done = subprocess.run(
        [COMMAND, "create", "--bundle", bundle, "a"], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"not UTF-8" in done.stderr


def test_a_shell_can_complete_commands_and_options(tmp_path: Path) -> None:
    def completed(line: str, word: int) -> str:
        environment = {
            "_MIGRATE_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(word),
            "PATH": os.environ["PATH"],
        }
        return subprocess.run(
            [COMMAND], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout

    assert completed("migrate checkp", 1) == "plain,checkpoint\n"
    assert "plain,--image-path" in completed("migrate checkpoint --im", 2)


def test_help_about_nothing_is_an_error(run: Run) -> None:
    done = run("help", "frob")
    assert done.returncode == 1
    assert done.stderr == 'migrate: there is no command "frob" (See `migrate --help`.)\n'
