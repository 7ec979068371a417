"""The ports of a live control plane, wired."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cycle import Ports
from orchestrator.service.logs import FileLogArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePorts(Ports):
    """The ports of a cycle, and where logs of attempts are kept."""

    logs: FileLogArchive
