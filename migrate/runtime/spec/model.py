"""config.json as typed dictionaries, for the type checker alone.

Lives here: what `schema` says, in the words of `typing`; a test proves that both
say the same. Imported under TYPE_CHECKING only: `typing` would cost every
command 5 ms.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class IdMapping(TypedDict):
    """A range of ids of a user namespace."""

    containerID: int
    hostID: int
    size: int


class Hook(TypedDict):
    """A program run at a moment of the life cycle."""

    path: str
    args: NotRequired[list[str]]
    env: NotRequired[list[str]]
    timeout: NotRequired[int]


class Hooks(TypedDict, total=False):
    """The six moments."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class ConsoleSize(TypedDict):
    """Of the terminal, in characters."""

    height: int
    width: int


class User(TypedDict, total=False):
    """Whom the process runs as; ids are of the container's user namespace."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]


class Capabilities(TypedDict, total=False):
    """The five sets, by name."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Rlimit(TypedDict):
    """One limit, see getrlimit(2)."""

    type: str
    soft: int
    hard: int


SchedulerPolicy = Literal[
    "SCHED_OTHER",
    "SCHED_FIFO",
    "SCHED_RR",
    "SCHED_BATCH",
    "SCHED_ISO",
    "SCHED_IDLE",
    "SCHED_DEADLINE",
]
SchedulerFlag = Literal[
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
]


class Scheduler(TypedDict):
    """How the process shares processors, see sched_setattr(2); times in nanoseconds."""

    policy: SchedulerPolicy
    nice: NotRequired[int]
    priority: NotRequired[int]
    flags: NotRequired[list[SchedulerFlag]]
    runtime: NotRequired[int]
    deadline: NotRequired[int]
    period: NotRequired[int]


# "class" is a word of Python's.
IOPriority = TypedDict(
    "IOPriority",
    {
        "class": Literal["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"],
        "priority": int,
    },
)


class CPUAffinity(TypedDict, total=False):
    """Processors of a process of `exec`, before and after it is in the cgroup."""

    initial: str
    final: str


class Process(TypedDict, total=False):
    """The container's first process, or one of `exec`."""

    terminal: bool
    consoleSize: ConsoleSize
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    oomScoreAdj: int
    scheduler: Scheduler
    selinuxLabel: str
    ioPriority: IOPriority
    execCPUAffinity: CPUAffinity


class Root(TypedDict):
    """The container's root file system."""

    path: str
    readonly: NotRequired[bool]


class Mount(TypedDict):
    """One mount, in the order they are made."""

    destination: str
    type: NotRequired[str]
    source: NotRequired[str]
    options: NotRequired[list[str]]
    uidMappings: NotRequired[list[IdMapping]]
    gidMappings: NotRequired[list[IdMapping]]


class DeviceRule(TypedDict):
    """A device the cgroup allows or denies."""

    allow: bool
    type: NotRequired[Literal["a", "c", "b", ""]]
    major: NotRequired[int]
    minor: NotRequired[int]
    access: NotRequired[str]


class Memory(TypedDict, total=False):
    """Limits in bytes, -1 for none."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class Cpu(TypedDict, total=False):
    """Shares, and quota and period in microseconds."""

    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class Pids(TypedDict, total=False):
    """How many tasks."""

    limit: int


class WeightDevice(TypedDict):
    """A block device's weight."""

    major: int
    minor: int
    weight: NotRequired[int]
    leafWeight: NotRequired[int]


class ThrottleDevice(TypedDict):
    """A block device's rate, bytes or operations a second."""

    major: int
    minor: int
    rate: int


class BlockIO(TypedDict, total=False):
    """Weights and rates of block devices."""

    weight: int
    leafWeight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugepageLimit(TypedDict):
    """A limit in bytes for one size of huge pages."""

    pageSize: str
    limit: int


class InterfacePriority(TypedDict):
    """The priority of traffic of an interface."""

    name: str
    priority: int


class Network(TypedDict, total=False):
    """net_cls and net_prio."""

    classID: int
    priorities: list[InterfacePriority]


class Rdma(TypedDict, total=False):
    """Limits of one RDMA device."""

    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    """What the control groups limit."""

    devices: list[DeviceRule]
    memory: Memory
    cpu: Cpu
    pids: Pids
    blockIO: BlockIO
    hugepageLimits: list[HugepageLimit]
    network: Network
    rdma: dict[str, Rdma]
    unified: dict[str, str]


class Namespace(TypedDict):
    """A namespace to make, or with a path to join."""

    type: Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]
    path: NotRequired[str]


class Device(TypedDict):
    """A device node to make."""

    path: str
    type: Literal["c", "b", "u", "p"]
    major: NotRequired[int]
    minor: NotRequired[int]
    fileMode: NotRequired[int]
    uid: NotRequired[int]
    gid: NotRequired[int]


class TimeOffset(TypedDict, total=False):
    """How far a clock of the time namespace is from the host's."""

    secs: int
    nanosecs: int


Propagation = Literal[
    "shared",
    "slave",
    "private",
    "unbindable",
    "rshared",
    "rslave",
    "rprivate",
    "runbindable",
    "",
]


SeccompAction = Literal[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
]
SeccompArchitecture = Literal[
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
]
SeccompFlag = Literal[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
]
SeccompOperator = Literal[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
]


class SeccompArgument(TypedDict):
    """A condition on an argument of a system call."""

    index: int
    value: int
    valueTwo: NotRequired[int]
    op: SeccompOperator


class SeccompRule(TypedDict):
    """What is to happen on some system calls."""

    names: list[str]
    action: SeccompAction
    errnoRet: NotRequired[int]
    args: NotRequired[list[SeccompArgument]]


class Seccomp(TypedDict):
    """Which system calls the container's processes may make."""

    defaultAction: SeccompAction
    defaultErrnoRet: NotRequired[int]
    architectures: NotRequired[list[SeccompArchitecture]]
    flags: NotRequired[list[SeccompFlag]]
    listenerPath: NotRequired[str]
    listenerMetadata: NotRequired[str]
    syscalls: NotRequired[list[SeccompRule]]


class NetDevice(TypedDict, total=False):
    """A network device of the host's that the container gets."""

    name: str


class IntelRdt(TypedDict, total=False):
    """A class of service of resctrl's."""

    closID: str
    l3CacheSchema: str
    memBwSchema: str
    schemata: list[str]
    enableMonitoring: bool


class MemoryPolicy(TypedDict):
    """Where memory comes from, see set_mempolicy(2)."""

    mode: Literal[
        "MPOL_DEFAULT",
        "MPOL_BIND",
        "MPOL_INTERLEAVE",
        "MPOL_WEIGHTED_INTERLEAVE",
        "MPOL_PREFERRED",
        "MPOL_PREFERRED_MANY",
        "MPOL_LOCAL",
    ]
    nodes: NotRequired[str]
    flags: NotRequired[
        list[Literal["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]]
    ]


class Personality(TypedDict):
    """Which system the process is shown, see personality(2)."""

    domain: Literal["LINUX", "LINUX32"]
    flags: NotRequired[list[str]]


class Linux(TypedDict, total=False):
    """What only Linux has."""

    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    sysctl: dict[str, str]
    resources: Resources
    cgroupsPath: str
    namespaces: list[Namespace]
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    seccomp: Seccomp
    rootfsPropagation: Propagation
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: IntelRdt
    memoryPolicy: MemoryPolicy
    personality: Personality
    timeOffsets: dict[str, TimeOffset]


class Spec(TypedDict):
    """The whole of config.json."""

    ociVersion: str
    process: NotRequired[Process]
    root: NotRequired[Root]
    hostname: NotRequired[str]
    domainname: NotRequired[str]
    mounts: NotRequired[list[Mount]]
    hooks: NotRequired[Hooks]
    annotations: NotRequired[dict[str, str]]
    linux: NotRequired[Linux]
