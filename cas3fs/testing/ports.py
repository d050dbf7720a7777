# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of the loopback interface, for servers of tests."""

import socket


def free_port() -> int:
    """A port that nobody listens on now; somebody else may take it before you do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
