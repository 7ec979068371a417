"""Ray's own messages into our log: a driver would print them on stdout, where data goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import ray._private.worker as ray_worker
import structlog

_log = structlog.get_logger("ray")


@contextlib.contextmanager
def messages_to_log() -> Iterator[None]:
    """While open, what Ray's listener hears (dead nodes, retried tasks) is logged instead of printed.

    Ray 2.60 offers no switch for it: `log_to_driver=False` silences workers, not the listener.
    """
    before = ray_worker.print_to_stdstream

    def to_log(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        for line in data["lines"]:
            _log.info("message from Ray", line=str(line).strip(), source=str(data.get("pid", "")))

    ray_worker.print_to_stdstream = to_log
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before
