"""Every command and every option, once.

Lives here: the table that the parser, the help, the completion and the manual are made
from. Must not live here: what a command does. Imported by `parse` and `help`.

The runtime's commands have runc's options with runc's names, because engines write them;
the others are this program's own.
"""

from __future__ import annotations

from migrate.cli.command import DURATION, LIST, NUMBER, TEXT, Command, Option

GLOBALS = (
    Option("debug", "say what is done, and show where an unexpected error comes from"),
    Option("log", "write errors to this file too", TEXT, "", "FILE"),
    Option("log-format", "of the log: text or json", TEXT, "text", "FORMAT"),
    Option("root", "directory of the containers' state, best in a tmpfs", TEXT, "", "DIR"),
    Option("criu", "CRIU's program, found by itself if not given", TEXT, "", "PATH"),
    Option("systemd-cgroup", "make control groups through systemd"),
    Option("cgroup-manager", "cgroupfs or systemd", TEXT, "", "NAME"),
    Option("rootless", "accepted as runc does: true, false or auto", TEXT, "auto", "VALUE"),
    Option("version v", "print the version"),
    Option("help h", "show this"),
)

_BUNDLE = Option("bundle b", "directory of the bundle, here if not given", TEXT, "", "DIR")
_CONSOLE = Option(
    "console-socket", "UNIX socket that receives the terminal's master end", TEXT, "", "PATH"
)
_PIDFD = Option(
    "pidfd-socket", "UNIX socket that receives a pidfd of the process", TEXT, "", "PATH"
)
_PID_FILE = Option("pid-file", "file to write the process id to", TEXT, "", "FILE")
_NO_PIVOT = Option("no-pivot", "change the root without pivot_root, for a rootfs on a ramdisk")
_NO_KEYRING = Option("no-new-keyring", "keep the caller's session key ring")
_PRESERVE = Option(
    "preserve-fds", "descriptors passed on beyond 0 to 2 and LISTEN_FDS", NUMBER, 0, "N"
)
_DETACH = Option("detach d", "leave it running and return")
_NO_SUBREAPER = Option("no-subreaper", "do not adopt orphans of the container")
_FORMAT = Option("format f", "table or json", TEXT, "table", "FORMAT")

_CREATE = (_BUNDLE, _CONSOLE, _PIDFD, _PID_FILE, _NO_PIVOT, _NO_KEYRING, _PRESERVE)

_EXEC = (
    _CONSOLE,
    _PIDFD,
    Option("cwd", "working directory in the container", TEXT, "", "DIR"),
    Option("env e", "set a variable of the environment", LIST, None, "NAME=VALUE"),
    Option("tty t", "give it a terminal"),
    Option("user u", "numeric user, and group", TEXT, "", "UID[:GID]"),
    Option("additional-gids g", "a further group", LIST, None, "GID"),
    Option("process p", "take all of it from this process.json", TEXT, "", "FILE"),
    _DETACH,
    _PID_FILE,
    Option("process-label", "SELinux label", TEXT, "", "LABEL"),
    Option("apparmor", "AppArmor profile", TEXT, "", "PROFILE"),
    Option("no-new-privs", "set no_new_privs"),
    Option("cap c", "a further capability", LIST, None, "CAP"),
    _PRESERVE,
    Option("cgroup", "run in a control group below the container's", LIST, None, "[CTRL:]PATH"),
    Option("ignore-paused", "wait in a paused container instead of refusing"),
)

_UPDATE = (
    Option("resources r", "file with the limits as JSON, - for standard input", TEXT, "", "FILE"),
    Option("blkio-weight", "weight of block devices, 10 to 1000", NUMBER, 0, "N"),
    Option("cpu-period", "period of the processor's limit, microseconds", TEXT, "", "N"),
    Option("cpu-quota", "processor time in a period, microseconds", TEXT, "", "N"),
    Option("cpu-burst", "processor time saved up at most, microseconds", TEXT, "", "N"),
    Option("cpu-share", "weight of the processor", TEXT, "", "N"),
    Option("cpu-rt-period", "real-time period, microseconds", TEXT, "", "N"),
    Option("cpu-rt-runtime", "real-time processor time, microseconds", TEXT, "", "N"),
    Option("cpuset-cpus", "processors to use", TEXT, "", "LIST"),
    Option("cpuset-mems", "memory nodes to use", TEXT, "", "LIST"),
    Option("cpu-idle", "idle class: 0 or 1", TEXT, "", "N"),
    Option("kernel-memory", "accepted and ignored: the kernel has it no more", TEXT, "", "BYTES"),
    Option("kernel-memory-tcp", "memory of TCP buffers", TEXT, "", "BYTES"),
    Option("memory", "memory", TEXT, "", "BYTES"),
    Option("memory-reservation", "memory that is kept as long as possible", TEXT, "", "BYTES"),
    Option("memory-swap", "memory and swap together, -1 for no limit", TEXT, "", "BYTES"),
    Option("pids-limit", "processes and threads, -1 for no limit", NUMBER, 0, "N"),
    Option("l3-cache-schema", "part of the L3 caches, as resctrl writes it", TEXT, "", "SCHEMA"),
    Option("mem-bw-schema", "share of memory bandwidth, likewise", TEXT, "", "SCHEMA"),
)

_IMAGES = (
    Option("image-path", "directory of the images, ./checkpoint if not given", TEXT, "", "DIR"),
    Option("work-path", "directory of CRIU's log and statistics", TEXT, "", "DIR"),
)
_TCP = Option("tcp-established", "take open TCP connections along")
_UNIX = Option("ext-unix-sk", "accept UNIX sockets that lead out of the container")
_SHELL_JOB = Option("shell-job", "accept a terminal of the caller's session")
_LOCKS = Option("file-locks", "take file locks along")
_LAZY = Option("lazy-pages", "leave memory behind and bring it page by page")
_CGROUPS = Option("manage-cgroups-mode", "soft, full, strict or ignore", TEXT, "", "MODE")
_EMPTY_NS = Option("empty-ns", "keep a namespace without its content: network", LIST, None, "NS")
_DEDUP = Option("auto-dedup", "drop memory that later images replace")
_NETWORK_LOCK = Option(
    "network-lock", "how packets are held: iptables, nftables or skip", TEXT, "", "METHOD"
)

_CHECKPOINT = (
    *_IMAGES,
    Option("parent-path", "images of the pre-dump before (not supported)", TEXT, "", "DIR"),
    Option("leave-running", "let it run on afterwards"),
    _TCP,
    Option("tcp-skip-in-flight", "leave connections out that are being opened"),
    _UNIX,
    _SHELL_JOB,
    _LAZY,
    Option("status-fd", "told by a zero byte once pages can be fetched", NUMBER, -1, "N"),
    Option(
        "page-server",
        "where lazy pages are fetched",
        TEXT,
        "",
        "ADDRESS:PORT",
    ),
    _LOCKS,
    Option("pre-dump", "only write memory, and let it run on (not supported)"),
    _CGROUPS,
    _EMPTY_NS,
    _DEDUP,
    Option("link-remap", "take files along whose names are gone"),
    _NETWORK_LOCK,
)

_RESTORE = (
    _CONSOLE,
    *_IMAGES,
    _TCP,
    Option("tcp-close", "restore TCP connections as closed"),
    _UNIX,
    _SHELL_JOB,
    _LOCKS,
    _CGROUPS,
    _BUNDLE,
    _DETACH,
    _PID_FILE,
    _NO_SUBREAPER,
    _NO_PIVOT,
    _EMPTY_NS,
    _DEDUP,
    _LAZY,
    Option("lsm-profile", "security profile to restore with", TEXT, "", "TYPE:NAME"),
    Option("lsm-mount-context", "security context of mounts", TEXT, "", "CONTEXT"),
    Option("link-remap", "put files back whose names are gone"),
    _NETWORK_LOCK,
    _PRESERVE,
)

_JOURNAL = Option("journal-dir", "directory of the journals, /var/lib/migrate", TEXT, "", "DIR")
_JSON = Option("json", "print what happens as JSON, one object a line")
_LOGIN = (
    Option("identity i", "private key to log in with", TEXT, "", "FILE"),
    Option("ssh-config F", "ssh_config to use, ~/.ssh/config if not given", TEXT, "", "FILE"),
    Option("known-hosts", "known_hosts to check the host's key with", TEXT, "", "FILE"),
    Option("remote-command", "this program on the other host", TEXT, "migrate", "PATH"),
    Option("remote-root", "state directory on the other host", TEXT, "", "DIR"),
    Option("connect-timeout", "how long to try to connect", DURATION, 15.0, "DURATION"),
)
_REACH = (
    *_LOGIN,
    Option("transport", "paramiko, or openssh for the ssh program", TEXT, "paramiko", "NAME"),
)

_BRIDGE = Option(
    "bridge",
    "a bridge the container is on, and the one that stands for it on the other host",
    LIST,
    None,
    "HERE=THERE",
)
_WANTED = (
    Option(
        "volume",
        "what becomes of a bind mount: sync, shared, exists or skip",
        LIST,
        None,
        "PATH=POLICY",
    ),
    Option("map", "what is called otherwise on the other host: JSON, or .toml", TEXT, "", "FILE"),
)
_WHERE = (
    Option("to", "the other host, as ssh names it", TEXT, "", "[USER@]HOST[:PORT]"),
    Option(
        "bundle b", "where the bundle is on the other host, as here if not given", TEXT, "", "DIR"
    ),
    _BRIDGE,
    *_WANTED,
    *_REACH,
)
_CONTROL = Option(
    "control-path",
    "go through the connection of an `ssh -M` that listens there, by --transport openssh",
    TEXT,
    "",
    "PATH",
)
_STRATEGY = Option(
    "strategy", "how memory goes: auto, stop-copy, pre-copy", TEXT, "auto", "STRATEGY"
)
_LIMITS = (
    Option(
        "max-downtime",
        "stay here rather than stand still for longer, as far as that can be foretold",
        DURATION,
        0.0,
        "TIME",
    ),
    Option(
        "bandwidth",
        "bytes a second at most while it runs, as 50M: K, M and G are powers of 1024",
        TEXT,
        "",
        "BYTES",
    ),
)
# How one migration is done; `drain` hands these on to each of its own.
_MANNER = (_STRATEGY, *_LIMITS, _JOURNAL)
_OUTPUT = (
    Option("stdout", "file on the other host that takes the container's output", TEXT, "", "FILE"),
    Option("stderr", "the same for its errors", TEXT, "", "FILE"),
)
_DRY_RUN = Option("dry-run", "move nothing: say what would happen, and how long it would take")
_LIVE = (*_WHERE, *_MANNER, _DRY_RUN, *_OUTPUT, _CONTROL, _JSON)
_DRAIN = (
    Option("to", "the other hosts, as ssh names them", TEXT, "", "HOST[,HOST...]"),
    Option("parallel", "how many move at the same time, at most", NUMBER, 2, "N"),
    _BRIDGE,
    *_WANTED,
    *_LOGIN,
    Option(
        "transport",
        "openssh, with one connection to a host for all that go there, or paramiko with one "
        "each; openssh if not given and the ssh program is there",
        TEXT,
        "",
        "NAME",
    ),
    *_MANNER,
    _JSON,
)

COMMANDS = {
    "check": Command(
        "say whether a container could move, and what stands in its way",
        (*_WHERE, _JSON),
        arguments="[ID]",
        least=0,
        details="With ID and --to: all that `live` checks before it touches anything. Without "
        "--to: what of the container could not follow anywhere. Without ID: the two machines, "
        "or this one.\n\nA finding is ok, a note (it would move, and something about it "
        "changes) or refused; notes and refusals come with the way out. Nothing is changed on "
        "either host.\n\nThe exit status is 0 where nothing is refused, 3 where something is, "
        "and 1 where the check could not be made.",
    ),
    "checkpoint": Command("save a running container as images", _CHECKPOINT),
    "create": Command("create a container", _CREATE, in_messages="create failed: "),
    "delete": Command(
        "delete a container that has stopped",
        (Option("force f", "kill it first if it still runs, and whatever is broken"),),
    ),
    "events": Command(
        "show a container's counters, and when memory ran out",
        (
            Option("interval", "time between two", DURATION, 5.0, "DURATION"),
            Option("stats", "print the counters once and end"),
        ),
    ),
    "exec": Command(
        "run a further process in a container",
        _EXEC,
        arguments="ID COMMAND [ARGUMENT...]",
        most=-1,
        stops=True,
        in_messages="exec failed: ",
    ),
    "features": Command("show what this runtime can do, as JSON", arguments="", least=0, most=0),
    "kill": Command(
        "send a signal to a container's first process",
        (Option("all a", "send it to every process of the container"),),
        arguments="ID [SIGNAL]",
        most=2,
        details="SIGNAL is a number or a name, with or without SIG; TERM if not given.",
    ),
    "list": Command(
        "list the containers",
        (_FORMAT, Option("quiet q", "only their ids")),
        arguments="",
        least=0,
        most=0,
    ),
    "pause": Command("stop all processes of a container where they are"),
    "ps": Command(
        "list the processes of a container",
        (_FORMAT,),
        arguments="ID [PS OPTIONS]",
        most=-1,
        stops=True,
    ),
    "restore": Command(
        "bring a container back from images", _RESTORE, in_messages="restore failed: "
    ),
    "resume": Command("let a paused container go on"),
    "run": Command(
        "create and start a container, and wait for its end",
        (
            *_CREATE,
            _DETACH,
            Option("keep", "do not delete it at its end"),
            _NO_SUBREAPER,
        ),
        in_messages="run failed: ",
    ),
    "spec": Command(
        "write a config.json to start from",
        (
            Option("bundle b", "directory to write it to, here if not given", TEXT, "", "DIR"),
            Option("rootless", "one for a user without privileges"),
        ),
        arguments="",
        least=0,
        most=0,
    ),
    "start": Command("start the process of a created container"),
    "state": Command("show a container's state as JSON"),
    "update": Command("change a running container's limits", _UPDATE),
    "live": Command(
        "move a running container to another host",
        _LIVE,
        details="The other host needs SSH and this program, and nothing that listens.",
    ),
    "drain": Command(
        "move every container of this host to other hosts",
        _DRAIN,
        arguments="",
        least=0,
        most=0,
        details="Every running or paused container below --root is looked at, and every host is "
        "asked about each, as `check` does. The largest choose first, each the host about which "
        "least would change for it, and of those the one with most memory left.\n\nEach then "
        "moves as by `live`, --parallel of them at a time; one that fails stops no other. Ctrl-C "
        "ends it at the next safe point: nothing more begins, what has not been committed rolls "
        "back and runs on here, and the rest is finished.\n\nThe exit status is 0 where all have "
        "moved, 1 where one has not, 4 where it is not known of one (see `recover`), and 5 where "
        "one is lost.",
    ),
    "attach": Command(
        "take the terminal of a container that has come by `live`",
        details="Ctrl-P Ctrl-Q gives it back; the container runs on.",
    ),
    "recover": Command(
        "settle a migration that was cut off, from the journals of both hosts",
        (
            Option("to", "the other host, from the journal if not given", TEXT, "", "HOST"),
            *_REACH,
            _JOURNAL,
            _JSON,
        ),
    ),
    "agent": Command(
        "be the other end of `live`, on standard input and output",
        (_JOURNAL,),
        arguments="",
        least=0,
        most=0,
    ),
}
