"""Ports of the loopback device."""

from __future__ import annotations

import contextlib
import socket


def free_port() -> int:
    """A port on which nothing listens."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
