"""Whose figures these are."""

import platform

from shmtransport import host


def machine() -> str:
    """In words; no name of the host."""
    return f"{host.cpu_model()}, {host.cpus()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
