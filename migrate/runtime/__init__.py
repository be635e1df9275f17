"""One container on one host, after the OCI runtime-spec; never starts a thread."""
