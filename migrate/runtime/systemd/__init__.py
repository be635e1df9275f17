"""A container's control group as a unit of systemd's: the driver of `--systemd-cgroup`.

Lives here: the unit's name and place, its properties, and what is said to systemd over
D-Bus. Must not live here: files of a control group (`runtime.cgroup`), which set what
systemd has no word for once the unit is there. Loaded only where that driver is asked
for, or a record names a unit. May be imported by every room above `runtime`.

| module | what |
|---|---|
| names | `cgroupsPath` "slice:prefix:name" to unit, slice and directories |
| properties | `linux.resources` and annotations as properties of a unit |
| device_allow | the device rules in systemd's words |
| bus | one connection to a service manager, the system's or the user's |
| driver | the unit of a container: started, changed, stopped |
"""
