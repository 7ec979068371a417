"""One live endpoint's lending: measures demand, lets the lending policy decide, and sees what becomes of it.

A device changes hands when it is seen to have: replicas gone before training grows, training gone before they start.
Who holds what is observed at every look and never assumed. Refuses to know ledgers, Ray and clocks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.rates import Counter, demand_between
from orchestrator.policy.lending.standing import apply
from orchestrator.policy.lending.values import Decision, Emergency, Loan, Return, Standing, Terms

_KEPT_DRAINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at an endpoint and its devices. `counters`: requests that came, by replica; `answering`: replicas that
    take requests; `held`: devices in the endpoint's own hands, draining ones not counted."""

    counters: tuple[Counter, ...]
    answering: int
    held: int


class Lender:
    """What is known of one endpoint between two looks. `window_s`: over how long demand is measured; `drains_s`: how
    long training took to let go at earlier recalls."""

    def __init__(
        self, memory: Memory | None = None, *, window_s: float = 30.0, drains_s: tuple[float, ...] = ()
    ) -> None:
        self.memory = Memory() if memory is None else memory
        self.decision: Decision | None = None
        self.standing = Standing(serving=0)
        self.drains_s = drains_s
        self._meter = _Meter(window_s)
        self._left: set[float] = set()
        self._hurried: set[float] = set()

    @property
    def demand(self) -> Sample | None:
        """The newest measurement."""
        return self._meter.sample

    @property
    def owed(self) -> int:
        """Replicas that are the endpoint's own: those that serve and those that were called back."""
        return self.standing.serving + self.standing.returning

    @property
    def hurried(self) -> int:
        """Replicas that were called back at once, and of which training has not let go."""
        open_ones = (one for one in self.standing.returns if not one.left)
        return sum(one.replicas for one in open_ones if one.called_s in self._hurried)

    def look(self, terms: Terms, seen: Seen, *, now_s: float, wanted: int | None = None) -> None:
        """One look and one evaluation of the policy; what is decided shows in `owed`. `wanted`: replicas' worth of
        devices that training could use, None = any number."""
        sample = self._meter.read(seen.counters, now_s=now_s)
        standing = observed(self.standing, seen, terms)
        if standing.serving + standing.returning + standing.lent != terms.replicas:
            standing = found(seen, terms, now_s=now_s)  # the first look, or another size than before
            self._left = {one.called_s for one in standing.returns}  # nobody saw how long those took
        self._time_drains(standing, now_s)
        self.decision, self.memory = decide_lending(terms, standing, self.memory, sample, now_s=now_s, wanted=wanted)
        self.standing = _carried_out(standing, self.decision, terms, now_s)
        calls = {one.called_s for one in self.standing.returns}
        self._hurried = calls if isinstance(self.decision, Emergency) else self._hurried & calls

    def _time_drains(self, standing: Standing, now_s: float) -> None:
        """How long training took to let go of what was called back."""
        calls = {one.called_s for one in standing.returns}
        for called_s in calls - {one.called_s for one in standing.returns if not one.left} - self._left:
            self._left.add(called_s)
            # A clock that was set back meanwhile must not stop every cycle from now on.
            self.drains_s = (*self.drains_s, max(0.0, now_s - called_s))[-_KEPT_DRAINS:]
        self._left &= calls


def found(seen: Seen, terms: Terms, *, now_s: float) -> Standing:
    """The standing of an endpoint of which nothing is known: what it does not hold is lent, and what does not answer
    is on its way."""
    held = min(seen.held // terms.devices_per_replica, terms.replicas)
    serving = min(seen.answering, held)
    coming = Return(serves_at_s=now_s + terms.times.cold_start_s, replicas=held - serving, called_s=now_s, left=True)
    return Standing(
        serving=serving,
        loans=(Loan(now_s, terms.replicas - held),) if held < terms.replicas else (),
        returns=(coming,) if coming.replicas else (),
    )


def observed(standing: Standing, seen: Seen, terms: Terms) -> Standing:
    """The standing after a look: of what was called back, what training has let go of, and what answers again.

    The oldest call is the first to be met.
    """
    overdue = max(0, terms.replicas - seen.held // terms.devices_per_replica - standing.lent)
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
        if counters != self._before:
            look, self._before = demand_between(self._before, counters), counters
            if look is not None:
                self._looks.append(look)
        while len(self._looks) > 1 and self._looks[0].at_s <= now_s - self._window_s:
            self._looks.popleft()
        if self._looks:
            mean = sum(one.rps for one in self._looks) / len(self._looks)
            self.sample = Sample(at_s=self._looks[-1].at_s, rps=mean)
        return self.sample
