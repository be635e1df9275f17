"""What runs as the container's first process, from a bare interpreter to execve.

Lives here: the stages, and one file a subject of what they set up. Must not live
here: decisions (`runtime.plan` has made them) and anything that imports beyond
os, sys, marshal, C modules of the interpreter, `migrate.syscalls`,
`migrate.errors` and `runtime.protocol`: once the root is the container's, an
import would run a file of the container as root of the host.

| module | what |
|---|---|
| main | entry of the spawned interpreter |
| namespaces | stage 1: join and make namespaces, fork |
| create | stage 2 of `create`: set up, wait for `start`, execve |
| execute | stage 2 of `exec`: take on the container's limits, execve |
| rootfs | the root: attach, resolve inside, pivot |
| mounts, devices, console, kernelfiles | what is set up in it |
| copyup | the content of a tmpfs with tmpcopyup; loaded where there is one |
| credentials, process | what the payload is: user, capabilities, directory, filter, execve |
| labels | what it is called under AppArmor and SELinux |
| hooks | programs run at moments of the life cycle |
| closing, signals | the end of imports, and signals as at birth |
"""
