"""Bytes between two hosts: SSH, frames, the multiplexed link, compression.

Lives here: everything that knows how bytes get to the other host and back.
Must not live here: what they mean (that is `migrate.live`). `migrate.live` and
`migrate.cli` may import it; nothing is imported by this file, so that an agent
never pays for paramiko.

    ssh            a session on the other host, and a ByteChannel to a command there
      openssh      ... by the ssh program
      paramiko_session, paramiko_login   ... by paramiko
      sshconfig, hostkeys   what ~/.ssh says
    channel        the ByteChannel interface, and one over two descriptors
    frames         the fixed header: what is on the wire
    link           the Link: handshake, messages, streams, liveness
      calls        requests, replies and events on it
      sending      its outgoing half: priorities, credit, the compressors
      receiving    its incoming half: streams being read
      fate         the one way in which all of it fails
    compression    one chunk in, one chunk out, and which level
"""
