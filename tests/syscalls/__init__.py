"""Tests of `migrate.syscalls` against the kernel."""
