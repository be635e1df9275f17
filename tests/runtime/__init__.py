"""Tests of `migrate.runtime` against the kernel, by calling its functions."""
