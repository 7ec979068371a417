"""The `Endpoints` port over live ones: measures demand, lets the lending policy decide, and holds replicas to it.

What is lent is told to the endpoint at once; training gets it when replicas have let go, and an endpoint gets it back
when training has. Who holds what is observed at every look and never assumed. The clock is whoever's runs the cycle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.rates import Counter, demand_between
from orchestrator.policy.lending.standing import apply
from orchestrator.policy.lending.values import Decision, Return, Standing, Terms
from orchestrator.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at an endpoint and its devices. `counters`: requests that came, by replica; `answering`: replicas that
    take requests; `holding`: devices that replicas hold, those that start or drain included; `training`: devices that
    jobs hold."""

    counters: tuple[Counter, ...]
    answering: int
    holding: int
    training: int


class Around(Protocol):
    """A live endpoint, from outside."""

    def see(self) -> Seen:
        """How things are. Raises: UnreachableError."""
        ...

    def lease(self, replicas: int) -> None:
        """Hold the endpoint to so many replicas from now on; more start, or those too many drain."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lending:
    """One endpoint: its terms, where it is, what is known of earlier days, and over how long demand is measured."""

    name: str
    terms: Terms
    around: Around
    memory: Memory = field(default_factory=Memory)
    window_s: float = 30.0


class _Kept:
    def __init__(self, one: Lending) -> None:
        self.standing = Standing(serving=one.terms.replicas)
        self.memory = one.memory
        self.meter = _Meter(one.window_s)
        self.holding = 0
        self.last: Decision | None = None


class LiveEndpoints:
    """Answers what endpoints need now; each question is one look and one evaluation of the policy."""

    def __init__(self, endpoints: tuple[Lending, ...], clock: Clock) -> None:
        names = [one.name for one in endpoints]
        if len(set(names)) != len(names):
            raise ValueError(f"endpoints {sorted(names)}: a name stands for one endpoint")
        self._endpoints = endpoints
        self._clock = clock
        self._kept = {one.name: _Kept(one) for one in endpoints}

    def headroom(self) -> Mapping[str, int]:
        """Devices to be kept free, by pool: what serves, what was called back, what replicas have not let go of yet.

        Raises: UnreachableError; nothing is changed then, and demand grows stale until everything is called back.
        """
        found: dict[str, int] = {}
        for one in self._endpoints:
            self._evaluate(one)
            found[one.terms.pool] = found.get(one.terms.pool, 0) + self._kept_free(one)
        return found

    def standing(self, name: str) -> Standing:
        """Who holds an endpoint's devices since the last look."""
        return self._kept[name].standing

    def decision(self, name: str) -> Decision | None:
        """What was decided at the last look, with its reason; None before the first."""
        return self._kept[name].last

    def demand(self, name: str) -> Sample | None:
        """The newest measurement."""
        return self._kept[name].meter.sample

    def _evaluate(self, one: Lending) -> None:
        kept, now_s = self._kept[one.name], self._clock.now_s()
        seen = one.around.see()
        sample = kept.meter.read(seen.counters, now_s=now_s)
        kept.holding = seen.holding
        standing = observed(kept.standing, seen, one.terms)
        kept.last, kept.memory = decide_lending(one.terms, standing, kept.memory, sample, now_s=now_s)
        kept.standing = _carried_out(standing, kept.last, one.terms, now_s)
        one.around.lease(kept.standing.serving + sum(each.replicas for each in kept.standing.returns if each.left))

    def _kept_free(self, one: Lending) -> int:
        kept = self._kept[one.name]
        due = (kept.standing.serving + kept.standing.returning) * one.terms.devices_per_replica
        return max(due, min(kept.holding, one.terms.devices))


def observed(standing: Standing, seen: Seen, terms: Terms) -> Standing:
    """The standing after a look: of what was called back, what training has let go of, and what answers again.

    The oldest call is the first to be met.
    """
    overdue = max(0, -(-seen.training // terms.devices_per_replica) - standing.lent)
    let_go = standing.returning - min(overdue, standing.returning)
    back = min(max(0, seen.answering - standing.serving), let_go)
    returns: list[Return] = []
    for one in sorted(standing.returns, key=lambda each: (each.called_s, each.serves_at_s)):
        here, back = min(back, one.replicas), max(0, back - one.replicas)
        gone, let_go = min(let_go, one.replicas), max(0, let_go - one.replicas)
        returns.append(replace(one, replicas=gone - here, left=True))
        returns.append(replace(one, replicas=one.replicas - gone, left=False))
        standing = replace(standing, serving=standing.serving + here)
    return replace(standing, returns=tuple(one for one in returns if one.replicas))


def _carried_out(standing: Standing, decision: Decision, terms: Terms, now_s: float) -> Standing:
    """As `apply`, but what was called back has not left before that is seen."""
    after = apply(standing, decision, terms, now_s=now_s)
    left = [one.left for one in standing.returns] + [False] * (len(after.returns) - len(standing.returns))
    returns = tuple(replace(one, left=was) for one, was in zip(after.returns, left, strict=True))
    return replace(after, returns=returns)


class _Meter:
    """Demand over the last `window_s`: the mean of what single looks say, so that a replica that is new or gone is
    missed for one look and not for a window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._before: tuple[Counter, ...] = ()
        self._looks: deque[Sample] = deque()
        self.sample: Sample | None = None

    def read(self, counters: tuple[Counter, ...], *, now_s: float) -> Sample | None:
        """The newest measurement, this look included; None before there are two looks."""
        look, self._before = demand_between(self._before, counters), counters
        if look is not None:
            self._looks.append(look)
        while self._looks and self._looks[0].at_s <= now_s - self._window_s:
            self._looks.popleft()
        if self._looks:
            mean = sum(one.rps for one in self._looks) / len(self._looks)
            self.sample = Sample(at_s=self._looks[-1].at_s, rps=mean)
        return self.sample
