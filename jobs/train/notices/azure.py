"""Azure: scheduled events of this virtual machine, and the acknowledgement that lets one start early.

Source: Azure documentation, "Scheduled Events for Linux VMs" (api-version 2020-07-01). Preempt comes at least 30 s
before the end, Terminate 5 to 15 minutes, Reboot and Redeploy 10 to 15 minutes. The first question can take two
minutes while Azure turns the service on. An acknowledged event may start at once, so acknowledge only what is drained.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from jobs.train.notices.deadlines import seconds_until_rfc1123
from jobs.train.notices.metadata import MetadataClient, expect
from jobs.train.notices.values import Notice, NoticeKind, SourceError

NAME = "azure"
DEFAULT_URL = "http://169.254.169.254"
_PATH = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME_PATH = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_HEADERS = {"Metadata": "true"}
_KINDS = {
    "Preempt": NoticeKind.PREEMPT,
    "Terminate": NoticeKind.TERMINATE,
    "Reboot": NoticeKind.MAINTENANCE,
    "Redeploy": NoticeKind.MAINTENANCE,
    "Freeze": NoticeKind.MAINTENANCE,
}


class AzureSource:
    """Implements `NoticeSource`. `vm_name`: this machine's resource name ("": asked from the server once); events list
    those of its whole set.

    `clock` gives Unix time. A Freeze (a pause of seconds) is advisory.
    """

    name = NAME

    def __init__(self, client: MetadataClient, vm_name: str, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._vm_name = vm_name
        self._clock = clock

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """Raises: SourceError, SourceAbsentError."""
        self._vm_name = self._vm_name or expect(self._client.ask("GET", _NAME_PATH, _HEADERS), _NAME_PATH).text()
        answer = expect(self._client.ask("GET", _PATH, _HEADERS), _PATH)
        try:
            events = json.loads(answer.text())["Events"]
            found = [self._notice(event) for event in events if self._is_ours(event)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SourceError(f"events make no sense ({type(error).__name__}: {error})") from error
        return tuple(notice for notice in found if notice is not None)

    def acknowledge(self, notice: Notice) -> None:
        """Let Azure start the event now, before its time: this machine is drained. Raises: SourceError."""
        body = json.dumps({"StartRequests": [{"EventId": notice.id}]}).encode()
        expect(self._client.ask("POST", _PATH, {**_HEADERS, "Content-Type": "application/json"}, body=body), _PATH)

    def close(self) -> None:
        self._client.close()

    def _is_ours(self, event: dict[str, Any]) -> bool:
        return self._vm_name in event["Resources"] and event["EventStatus"] in ("Scheduled", "Started")

    def _notice(self, event: dict[str, Any]) -> Notice | None:
        kind = _KINDS.get(event["EventType"])
        if kind is None:
            return None
        return Notice(
            kind=kind,
            source=NAME,
            id=str(event["EventId"]),
            deadline_s=seconds_until_rfc1123(event["NotBefore"], self._clock()),
            detail=f"Azure: {event['EventType']} of {self._vm_name}, {event['EventStatus'].lower()}",
            advisory=event["EventType"] == "Freeze",
        )
