"""What `make demo` shows: a container moves between two hosts on this machine."""
