"""The fingerprint of snapshots that follow each other: parts that are the same objects as before are not read again."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.policy.queueing.record import fingerprint
from orchestrator.policy.queueing.values import Snapshot


@dataclass(slots=True)
class Digest:
    """Remembers the fingerprints of parts by identity; what was not in the last snapshot is forgotten."""

    _known: dict[int, tuple[object, int]] = field(default_factory=dict)

    def of(self, snapshot: Snapshot) -> str:
        """As `fingerprint`."""
        fresh: dict[int, tuple[object, int]] = {}
        found = fingerprint(snapshot, known=self._known, seen=fresh)
        self._known = fresh
        return found
