"""The ports of a live control plane, wired."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cycle import Ports
from orchestrator.ledger.repository import Ledger
from orchestrator.service.logs import FileLogArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePorts(Ports):
    """The ports of a cycle, and where logs of attempts are kept."""

    logs: FileLogArchive
