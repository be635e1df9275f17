"""What tests, demo and benchmarks stand on: hosts, bundles, payloads, leak checks.

Nothing here imports the package under test, so that it can also drive runc.
"""
