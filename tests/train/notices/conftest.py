from __future__ import annotations

import socket

import pytest

from tests.train.notices.servers import metadata

__all__ = ["metadata"]


@pytest.fixture
def unused_port_url() -> str:
    """An address at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"
