"""The fingerprint of snapshots that follow each other: parts that are the same objects as before are not read again."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.policy.queueing.record import Parts, fingerprint
from orchestrator.policy.queueing.values import Snapshot


@dataclass(slots=True)
class Digest:
    """Remembers the parts of the last snapshot; what was not in it is forgotten."""

    _known: dict[str, Parts] = field(default_factory=dict)

    def of(self, snapshot: Snapshot) -> str:
        """As `fingerprint`."""
        return fingerprint(snapshot, self._known)
