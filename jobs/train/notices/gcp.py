"""Google Cloud: preemption and host maintenance from the metadata server, which holds the answer until there is news.

Source: Compute Engine documentation, "Spot VMs" (30 s from `preempted` to the end), "Monitor host maintenance events"
(60 s of notice; an hour for machines with accelerators, which cannot migrate), "Waiting for changes".
One source asks one key; waiting for two takes two of them.
"""

from __future__ import annotations

import enum
import math
from urllib.parse import quote

from jobs.train.notices.metadata import Answer, MetadataClient, expect
from jobs.train.notices.values import Notice, NoticeKind, SourceError

DEFAULT_URL = "http://169.254.169.254"
PREEMPTION_S = 30.0
MAINTENANCE_S = 60.0
MAINTENANCE_WITH_ACCELERATOR_S = 3600.0
_FLAVOR = {"Metadata-Flavor": "Google"}


class GcpKey(enum.StrEnum):
    """What the server is asked for, below `/computeMetadata/v1/instance/`."""

    PREEMPTED = "preempted"
    MAINTENANCE = "maintenance-event"


class GcpSource:
    """Implements `NoticeSource`. `maintenance_s`: how long before its end maintenance is announced for this machine."""

    def __init__(self, client: MetadataClient, key: GcpKey, *, maintenance_s: float = MAINTENANCE_S) -> None:
        self.name = f"gcp/{key}"
        self._client = client
        self._key = key
        self._maintenance_s = maintenance_s
        self._etag = ""

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """Raises: SourceError, SourceAbsentError."""
        path = f"/computeMetadata/v1/instance/{self._key}"
        wait_s = math.floor(timeout_s) if self._etag else 0
        if wait_s:
            path += f"?wait_for_change=true&timeout_sec={wait_s}&last_etag={quote(self._etag)}"
        answer = expect(self._client.ask("GET", path, _FLAVOR, wait_s=wait_s), path)
        if answer.headers.get("metadata-flavor") != "Google":
            raise SourceError("the answer does not come from Google's metadata server")
        notices = self._read(answer)
        # Only an answer that was understood is one whose change is worth waiting for.
        self._etag = answer.headers.get("etag", "")
        return notices

    def close(self) -> None:
        self._client.close()

    def _read(self, answer: Answer) -> tuple[Notice, ...]:
        value = answer.text()
        if value in ("FALSE", "NONE"):
            return ()
        if self._key is GcpKey.PREEMPTED and value == "TRUE":
            return (self._notice(NoticeKind.PREEMPT, value, PREEMPTION_S, "Google preempts this machine"),)
        if value.startswith("TERMINATE_ON_HOST_MAINTENANCE"):
            detail = "Google stops this machine for maintenance"
            return (self._notice(NoticeKind.MAINTENANCE, value, self._maintenance_s, detail),)
        if value.startswith("MIGRATE_ON_HOST_MAINTENANCE"):
            detail = "Google moves this machine to another host; it runs on, with a pause"
            return (self._notice(NoticeKind.MAINTENANCE, value, None, detail, advisory=True),)
        raise SourceError(f"{self._key} is {value[:40]!r}")

    def _notice(
        self, kind: NoticeKind, value: str, deadline_s: float | None, detail: str, *, advisory: bool = False
    ) -> Notice:
        return Notice(kind=kind, source=self.name, id=value, deadline_s=deadline_s, detail=detail, advisory=advisory)
