"""The fields of config.json and their types, as one table.

Lives here: the table and its small language; `decoding` walks it, `model` says the
same to the type checker, a test proves that the two agree. Must not live here:
rules that need a second field (`validation`). Source: runtime-spec 1.3, config.md
and config-linux.md. Fields of other systems (windows, solaris, vm, zos) are not
listed and so, as the spec asks for unknown ones, passed over.

A node of the table is
    a name of SCALARS           that kind of value
    a tuple of strings          one of those words
    [node]                      an array
    {"*": node}                 an object with free names
    {"name": node, ...}         an object; a name that ends in "!" must be there
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_U32 = 2**32 - 1
_I64 = 2**63

# kind -> (type, lowest, highest); the bounds are for numbers only.
SCALARS: dict[str, tuple[type[Any], int, int]] = {
    "string": (str, 0, 0),
    "bool": (bool, 0, 0),
    "u16": (int, 0, 65535),
    "u32": (int, 0, _U32),
    "u64": (int, 0, 2**64 - 1),
    "i32": (int, -(2**31), 2**31 - 1),
    "i64": (int, -_I64, _I64 - 1),
    # of a device rule: -1 is any number; what the kernel's filters compare has 32 bits
    "rule_number": (int, -1, 2**31 - 1),
}

_HOOK: dict[str, Any] = {
    "path!": "string",
    "args": ["string"],
    "env": ["string"],
    "timeout": "i64",
}

HOOK_KINDS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)

_ID_MAPPING: dict[str, Any] = {"containerID!": "u32", "hostID!": "u32", "size!": "u32"}

SCHEDULER_POLICIES = (
    "SCHED_OTHER",
    "SCHED_FIFO",
    "SCHED_RR",
    "SCHED_BATCH",
    "SCHED_ISO",
    "SCHED_IDLE",
    "SCHED_DEADLINE",
)
SCHEDULER_FLAGS = (
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
)
IO_CLASSES = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")

PROCESS: dict[str, Any] = {
    "terminal": "bool",
    "consoleSize": {"height!": "u16", "width!": "u16"},
    "user": {"uid": "u32", "gid": "u32", "umask": "u32", "additionalGids": ["u32"]},
    "args": ["string"],
    "env": ["string"],
    "cwd": "string",
    "capabilities": {
        "bounding": ["string"],
        "effective": ["string"],
        "inheritable": ["string"],
        "permitted": ["string"],
        "ambient": ["string"],
    },
    "rlimits": [{"type!": "string", "soft!": "u64", "hard!": "u64"}],
    "noNewPrivileges": "bool",
    "apparmorProfile": "string",
    "oomScoreAdj": "i32",
    "scheduler": {
        "policy!": SCHEDULER_POLICIES,
        "nice": "i32",
        "priority": "i32",
        "flags": [SCHEDULER_FLAGS],
        "runtime": "u64",
        "deadline": "u64",
        "period": "u64",
    },
    "selinuxLabel": "string",
    "ioPriority": {"class!": IO_CLASSES, "priority!": "i32"},
    "execCPUAffinity": {"initial": "string", "final": "string"},
}

_THROTTLE = [{"major!": "i64", "minor!": "i64", "rate!": "u64"}]
_WEIGHT = [{"major!": "i64", "minor!": "i64", "weight": "u16", "leafWeight": "u16"}]

RESOURCES: dict[str, Any] = {
    "devices": [
        {
            "allow!": "bool",
            "type": ("a", "c", "b", ""),
            "major": "rule_number",
            "minor": "rule_number",
            "access": "string",
        }
    ],
    "memory": {
        "limit": "i64",
        "reservation": "i64",
        "swap": "i64",
        "kernel": "i64",
        "kernelTCP": "i64",
        "swappiness": "u64",
        "disableOOMKiller": "bool",
        "useHierarchy": "bool",
        "checkBeforeUpdate": "bool",
    },
    "cpu": {
        "shares": "u64",
        "quota": "i64",
        "burst": "u64",
        "period": "u64",
        "realtimeRuntime": "i64",
        "realtimePeriod": "u64",
        "cpus": "string",
        "mems": "string",
        "idle": "i64",
    },
    "pids": {"limit": "i64"},
    "blockIO": {
        "weight": "u16",
        "leafWeight": "u16",
        "weightDevice": _WEIGHT,
        "throttleReadBpsDevice": _THROTTLE,
        "throttleWriteBpsDevice": _THROTTLE,
        "throttleReadIOPSDevice": _THROTTLE,
        "throttleWriteIOPSDevice": _THROTTLE,
    },
    "hugepageLimits": [{"pageSize!": "string", "limit!": "u64"}],
    "network": {
        "classID": "u32",
        "priorities": [{"name!": "string", "priority!": "u32"}],
    },
    "rdma": {"*": {"hcaHandles": "u32", "hcaObjects": "u32"}},
    "unified": {"*": "string"},
}

NAMESPACE_KINDS = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")

# A profile of libseccomp's words, see seccomp.h and config-linux.md "Seccomp".
SECCOMP_ACTIONS = (
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
)
SECCOMP_OPERATORS = (
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
)
SECCOMP_FLAGS = (
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
)
SECCOMP_ARCHITECTURES = (
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
)

SECCOMP: dict[str, Any] = {
    "defaultAction!": SECCOMP_ACTIONS,
    "defaultErrnoRet": "u32",
    "architectures": [SECCOMP_ARCHITECTURES],
    "flags": [SECCOMP_FLAGS],
    "listenerPath": "string",
    "listenerMetadata": "string",
    "syscalls": [
        {
            "names!": ["string"],
            "action!": SECCOMP_ACTIONS,
            "errnoRet": "u32",
            "args": [
                {
                    "index!": "u32",
                    "value!": "u64",
                    "valueTwo": "u64",
                    "op!": SECCOMP_OPERATORS,
                }
            ],
        }
    ],
}

MEMORY_MODES = (
    "MPOL_DEFAULT",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_WEIGHTED_INTERLEAVE",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_LOCAL",
)
MEMORY_FLAGS = ("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES")

LINUX: dict[str, Any] = {
    "uidMappings": [_ID_MAPPING],
    "gidMappings": [_ID_MAPPING],
    "sysctl": {"*": "string"},
    "resources": RESOURCES,
    "cgroupsPath": "string",
    "namespaces": [{"type!": NAMESPACE_KINDS, "path": "string"}],
    "devices": [
        {
            "path!": "string",
            "type!": ("c", "b", "u", "p"),
            "major": "i64",
            "minor": "i64",
            "fileMode": "u32",
            "uid": "u32",
            "gid": "u32",
        }
    ],
    "netDevices": {"*": {"name": "string"}},
    "seccomp": SECCOMP,
    "rootfsPropagation": (
        "shared",
        "slave",
        "private",
        "unbindable",
        "rshared",
        "rslave",
        "rprivate",
        "runbindable",
        "",
    ),
    "maskedPaths": ["string"],
    "readonlyPaths": ["string"],
    "mountLabel": "string",
    "intelRdt": {
        "closID": "string",
        "l3CacheSchema": "string",
        "memBwSchema": "string",
        "schemata": ["string"],
        "enableMonitoring": "bool",
    },
    "memoryPolicy": {"mode!": MEMORY_MODES, "nodes": "string", "flags": [MEMORY_FLAGS]},
    "personality": {"domain!": ("LINUX", "LINUX32"), "flags": ["string"]},
    "timeOffsets": {"*": {"secs": "i64", "nanosecs": "u32"}},
}

SPEC: dict[str, Any] = {
    "ociVersion!": "string",
    "process": PROCESS,
    "root": {"path!": "string", "readonly": "bool"},
    "hostname": "string",
    "domainname": "string",
    "mounts": [
        {
            "destination!": "string",
            "type": "string",
            "source": "string",
            "options": ["string"],
            "uidMappings": [_ID_MAPPING],
            "gidMappings": [_ID_MAPPING],
        }
    ],
    "hooks": {kind: [_HOOK] for kind in HOOK_KINDS},
    "annotations": {"*": "string"},
    "linux": LINUX,
}
