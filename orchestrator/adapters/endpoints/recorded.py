"""The `Endpoints` port over recorded demand: the lending policy decides as it would live, and devices come and go as
foreseen. For rehearsals and simulations; the clock is whoever's runs the cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.adapters.endpoints.demand import DemandSeries
from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.headroom import headroom_of
from orchestrator.policy.lending.standing import apply, settle
from orchestrator.policy.lending.values import Decision, Emergency, Standing, Terms
from orchestrator.ports import Clock, UnreachableError


@dataclass(slots=True)
class _Kept:
    standing: Standing
    memory: Memory = field(default_factory=Memory)
    last: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One endpoint: its terms, its demand, and the instant at which the series begins."""

    name: str
    terms: Terms
    demand: DemandSeries
    begins_s: float


class RecordedEndpoints:
    """Answers what endpoints need at the clock's time; each question is one evaluation of the policy."""

    def __init__(self, recordings: tuple[Recording, ...], clock: Clock) -> None:
        names = [one.name for one in recordings]
        if len(set(names)) != len(names):
            raise ValueError(f"endpoints {sorted(names)}: a name stands for one endpoint")
        self._recordings = recordings
        self._clock = clock
        self._kept = {one.name: _Kept(Standing(serving=one.terms.replicas)) for one in recordings}

    def headroom(self) -> Mapping[str, int]:
        """Devices to be kept free, by pool. Raises: UnreachableError before the begin and after the end of a series.

        Asked twice at the same time, it answers the same.
        """
        now_s = self._clock.now_s()
        samples = [(one, self._sample(one, now_s)) for one in self._recordings]
        for one, sample in samples:
            self._evaluate(one, sample, now_s)
        return headroom_of((one.terms, self._kept[one.name].standing) for one in self._recordings)

    def urgent(self) -> Mapping[str, int]:
        """Devices that the last question has called back at once, by pool."""
        found: dict[str, int] = {}
        for one in self._recordings:
            if isinstance(last := self._kept[one.name].last, Emergency):
                pool, devices = one.terms.pool, last.replicas * one.terms.devices_per_replica
                found[pool] = found.get(pool, 0) + devices
        return found

    def passing(self) -> Mapping[str, int]:
        """A recording rolls nothing out."""
        return {}

    def owed(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Endpoints hold no leases here: what serves is kept free."""
        return {}

    def standing(self, name: str) -> Standing:
        """Who holds an endpoint's devices since the last question."""
        return self._kept[name].standing

    def decision(self, name: str) -> Decision | None:
        """What was decided at the last question, with its reason; None before the first."""
        return self._kept[name].last

    def _sample(self, one: Recording, now_s: float) -> Sample:
        try:
            return Sample(at_s=now_s, rps=one.demand.at(now_s - one.begins_s))
        except ValueError as error:
            raise UnreachableError(f"endpoint {one.name}: {error}") from None

    def _evaluate(self, one: Recording, sample: Sample, now_s: float) -> None:
        kept = self._kept[one.name]
        standing = settle(kept.standing, now_s=now_s)
        kept.last, kept.memory = decide_lending(one.terms, standing, kept.memory, sample, now_s=now_s)
        kept.standing = apply(standing, kept.last, one.terms, now_s=now_s)
