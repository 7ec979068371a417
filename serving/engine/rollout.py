"""Which version answers a request, and what becomes of the one on trial. Engine thread only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from serving.policy.canary import CanaryRules, RollBack, RollbackReason, VersionCounts, judge, takes_canary

_log = structlog.get_logger(__name__)
_JUDGE_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A version on trial since `since_s`."""

    version: str
    rules: CanaryRules
    since_s: float


class Rollout:
    """The stable version, perhaps one on trial, and their counts."""

    def __init__(self, stable: str = "", on_rollback: Callable[[Trial, RollBack], None] = lambda *_: None) -> None:
        self.stable = stable
        self.trial: Trial | None = None
        self.rolled_back: RollBack | None = None
        self._on_rollback = on_rollback
        self._counts: defaultdict[str, VersionCounts] = defaultdict(VersionCounts)
        self._totals: dict[str, VersionCounts] = {}
        self._rollbacks: Counter[tuple[str, RollbackReason]] = Counter()

    def begin(self, trial: Trial | None) -> None:
        """Put a version on trial in the place of any other; None ends the trial."""
        self.trial, self.rolled_back = trial, None
        self._counts.clear()

    def choose(self, request_id: str) -> str:
        """The version that answers."""
        if self.trial and takes_canary(request_id, self.trial.rules.weight):
            return self.trial.version
        return self.stable

    def ended(self, version: str, *, failed: bool, missed_slo: bool, now_s: float) -> None:
        """Count a request; a version on trial that does worse than the stable one is taken back here."""
        total = self._totals.get(version, VersionCounts())
        self._totals[version] = total.plus(failed=failed, missed_slo=missed_slo)
        if self.trial is None:
            return
        self._counts[version] = self._counts[version].plus(failed=failed, missed_slo=missed_slo)
        if version == self.trial.version and self._counts[version].requests % _JUDGE_EVERY == 0:
            self._judge(self.trial, now_s)

    def counts(self, version: str) -> VersionCounts:
        """Requests of a version since the trial began."""
        return self._counts[version]

    def take_back(self, version: str, verdict: RollBack) -> None:
        """A version on trial gets no requests any more."""
        self.trial, self.rolled_back = None, verdict
        self._rollbacks[version, verdict.reason] += 1

    @property
    def totals(self) -> Mapping[str, VersionCounts]:
        """Requests by version since the start; "" before one was named. For any thread."""
        return dict(self._totals)

    @property
    def rollbacks(self) -> Mapping[tuple[str, RollbackReason], int]:
        """How often which version was taken back, and why. For any thread."""
        return dict(self._rollbacks)

    def _judge(self, trial: Trial, now_s: float) -> None:
        counts = self._counts[self.stable], self._counts[trial.version]
        verdict = judge(*counts, trial.rules, watched_s=now_s - trial.since_s)
        if isinstance(verdict, RollBack):
            _log.warning("canary rolled back", version=trial.version, reason=verdict.reason, detail=verdict.detail)
            self.take_back(trial.version, verdict)
            self._on_rollback(trial, verdict)
