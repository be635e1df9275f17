"""The systemd driver against a real systemd, which is process 1 of a machine of its own."""
