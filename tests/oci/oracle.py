"""What the reference runtime is not asked to do, each by name and with its reason.

Lives here: the one list of tests that `RUNTIME=runc` skips. The reference is
runc 1.1.5 of Debian 12. Nothing else in tests/oci may skip a test.
"""

from __future__ import annotations

# Test name (without parameters, or with one parameter set in brackets) -> reason.
NOT_RUNC: dict[str, str] = {}
