"""migrate: an OCI container runtime whose containers move between machines."""

__version__ = "0.1.0"
