"""AWS: spot interruption notices and rebalance recommendations from the instance metadata service, version 2.

Source: AWS EC2 user guide: "Spot Instance interruption notices", "EC2 instance rebalance recommendations", "IMDSv2".
A notice comes two minutes before the end; AWS recommends asking every 5 seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from jobs.train.notices.deadlines import seconds_until_iso
from jobs.train.notices.metadata import Answer, MetadataClient, expect
from jobs.train.notices.values import Notice, NoticeKind, SourceError

NAME = "aws"
DEFAULT_URL = "http://169.254.169.254"
_TOKEN_PATH = "/latest/api/token"  # noqa: S105  a path, not a secret
_ACTION_PATH = "/latest/meta-data/spot/instance-action"
_REBALANCE_PATH = "/latest/meta-data/events/recommendations/rebalance"
_TOKEN_LIFE_S = 21600
# A token is renewed this long before it ends, so that no question is lost to its end.
_TOKEN_MARGIN_S = 60

_KINDS = {"terminate": NoticeKind.PREEMPT, "stop": NoticeKind.PREEMPT, "hibernate": NoticeKind.PREEMPT}


class AwsSource:
    """Implements `NoticeSource`. `clock` gives Unix time."""

    name = NAME

    def __init__(self, client: MetadataClient, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._token = ""
        self._token_ends_s = 0.0

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """Raises: SourceError, SourceAbsentError."""
        return (*self._interruption(), *self._rebalance())

    def close(self) -> None:
        self._client.close()

    def _interruption(self) -> tuple[Notice, ...]:
        found = self._get(_ACTION_PATH)
        if found is None:
            return ()
        action, when = str(found.get("action", "")), str(found.get("time", ""))
        if action not in _KINDS:
            raise SourceError(f"{_ACTION_PATH}: unknown action {action!r}")
        return (
            Notice(
                kind=_KINDS[action],
                source=NAME,
                id=f"{action}@{when}",
                deadline_s=seconds_until_iso(when, self._clock()),
                detail=f"AWS will {action} this spot instance at {when}",
            ),
        )

    def _rebalance(self) -> tuple[Notice, ...]:
        found = self._get(_REBALANCE_PATH)
        if found is None:
            return ()
        noticed = str(found.get("noticeTime", ""))
        return (
            Notice(
                kind=NoticeKind.REBALANCE,
                source=NAME,
                id=f"rebalance@{noticed}",
                deadline_s=None,
                detail=f"AWS sees a higher risk of interruption since {noticed}",
                advisory=True,
            ),
        )

    def _get(self, path: str) -> dict[str, Any] | None:
        """The JSON object at a path; None if there is none (404), which is the usual answer."""
        answer = self._ask(path)
        if answer.status == 404:
            return None
        try:
            found = json.loads(expect(answer, path).text())
        except ValueError:
            raise SourceError(f"{path}: no JSON: {answer.body[:80]!r}") from None
        if not isinstance(found, dict):
            raise SourceError(f"{path}: no object: {answer.body[:80]!r}")
        return found

    def _ask(self, path: str) -> Answer:
        answer = self._client.ask("GET", path, {"X-aws-ec2-metadata-token": self._valid_token()})
        if answer.status == 401:  # the token ended before we thought: one fresh one, one more try
            self._token = ""
            answer = self._client.ask("GET", path, {"X-aws-ec2-metadata-token": self._valid_token()})
        return answer

    def _valid_token(self) -> str:
        if not self._token or self._clock() >= self._token_ends_s:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_LIFE_S)}
            self._token = expect(self._client.ask("PUT", _TOKEN_PATH, headers), _TOKEN_PATH).text()
            self._token_ends_s = self._clock() + _TOKEN_LIFE_S - _TOKEN_MARGIN_S
        return self._token
