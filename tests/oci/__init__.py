"""An OCI runtime judged by its command line alone.

The runtime is named by the environment variable RUNTIME; the default is the
project's own command. With `RUNTIME=runc` the same tests pass against the
reference, less what `oracle.py` names.
"""
