"""Attacks on the runtime: each tries to get out, in, or at somebody else's process.

One file a kind of attack; the table they come from names the CVE of each. They
drive the command line of `migrate` and look at the host afterwards.
"""
