"""Live migration: whatever knows that there are two hosts.

A newcomer's way in: `phases` (what may follow what, and the messages), `journal`
(what survives a crash), `decision` (what recovery does, as a pure function), then
`source` and `agent`, the two ends of one migration. May be imported by `cli`.
"""
