"""The port an endpoint listens on."""

from __future__ import annotations

import random
import socket

from orchestrator.spec.errors import ExitCode, UserError

# Below those that the kernel gives to outgoing connections, of which a cluster that starts makes hundreds.
_CHOSEN_PORTS = range(20_000, 30_000)
_MAX_CHOICES = 20


def free_port(host: str, port: int) -> int:
    """The port if nobody listens there, or any free one for 0. Raises: UserError.

    Serve's proxy binds it a moment later; one that is taken meanwhile makes the start fail.
    """
    candidates = [*random.sample(_CHOSEN_PORTS, _MAX_CHOICES), 0] if port == 0 else [port]
    for candidate in candidates:
        try:
            return _bound(host, candidate)
        except OSError as error:
            if candidate == candidates[-1]:
                raise UserError(
                    f"cannot listen on {host}:{port}: {error.strerror}",
                    code=ExitCode.CONFLICT,
                    next_step="Choose another listen.port; 0 takes any free one.",
                ) from error
    raise AssertionError("there is a last candidate")


def _bound(host: str, port: int) -> int:
    """The port, which can be bound. Raises: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        bound: int = probe.getsockname()[1]
        return bound
