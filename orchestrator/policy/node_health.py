"""When a node is held back from work, and when it is let go: repeated deaths of workers on it, or probes that fail.

Pure. Nodes that are held back get nothing new, and what runs on them goes elsewhere in order; see `NodeState.HELD`.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

MOST_FAILING = 0.5
"""Where more than this part of several nodes fails its probes at once, it is the way to them that fails."""


class HoldCause(enum.StrEnum):
    """Why a node is held back."""

    DEATHS = "worker_deaths"
    PROBES = "failed_probes"
    PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """See `spec.health` of a Cluster."""

    failed_probes: int
    worker_deaths: int
    within_s: float
    hold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A worker of a job has died by itself on a node."""

    node: str
    job: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What probes of a node say: how many have failed in a row, and whether one has ever been answered."""

    failed: int = 0
    has_answered: bool = False

    @property
    def fails(self) -> bool:
        """Whether the last probe failed on a node that can be reached from here at all."""
        return self.has_answered and self.failed > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHold:
    """A node that is held back. `until_s` None: until somebody lets it go."""

    node: str
    cause: HoldCause
    since_s: float
    until_s: float | None
    detail: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of nodes: those that are there, deaths on them, probes, holds, and when each was let go last."""

    nodes: Collection[str]
    deaths: Collection[Death]
    probes: Mapping[str, Probed]
    holds: Mapping[str, NodeHold]
    released_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A node is let go."""

    node: str
    detail: str


def judge_nodes(seen: Seen, rules: HealthRules, *, now_s: float) -> tuple[NodeHold | Release, ...]:
    """What changes now: nodes to hold back, and held ones whose time is over and whose probes do not fail."""
    far = _way_fails(seen)
    found: list[NodeHold | Release] = []
    for node in sorted(set(seen.nodes) | set(seen.holds)):
        hold, probed = seen.holds.get(node), seen.probes.get(node, Probed())
        if hold is not None:
            if hold.until_s is not None and hold.until_s <= now_s and (far or not probed.fails):
                found.append(Release(node=node, detail=_why_let_go(node, seen, probed)))
        elif (reason := _reason(node, seen, probed, rules, far, now_s)) is not None:
            cause, detail = reason
            until_s = now_s + rules.hold_s
            found.append(NodeHold(node=node, cause=cause, since_s=now_s, until_s=until_s, detail=detail))
    return tuple(found)


def _reason(
    node: str, seen: Seen, probed: Probed, rules: HealthRules, far: bool, now_s: float
) -> tuple[HoldCause, str] | None:
    since_s = max(now_s - rules.within_s, seen.released_s.get(node, float("-inf")))
    died = [one for one in _blamed(seen.deaths) if one.node == node and one.at_s > since_s]
    if len(died) >= rules.worker_deaths:
        jobs = ", ".join(sorted({one.job for one in died})[:5])
        return HoldCause.DEATHS, f"{len(died)} workers died on it within {rules.within_s:.0f} s ({jobs})"
    if not far and probed.has_answered and probed.failed >= rules.failed_probes:
        return HoldCause.PROBES, f"{probed.failed} probes in a row have failed"
    return None


def _blamed(deaths: Iterable[Death]) -> list[Death]:
    """Deaths for which a node may be the reason. A job whose workers die wherever it runs is its own reason, unless
    others die there, too: of such a job, one death counts on each node."""
    deaths = sorted(deaths, key=lambda one: (one.at_s, one.node, one.job))
    places = {one.job: {other.node for other in deaths if other.job == one.job} for one in deaths}
    counted: Counter[tuple[str, str]] = Counter()
    found = []
    for one in deaths:
        counted[one.job, one.node] += 1
        if len(places[one.job]) == 1 or counted[one.job, one.node] == 1:
            found.append(one)
    return found


def _way_fails(seen: Seen) -> bool:
    reachable = [seen.probes[node] for node in seen.nodes if node in seen.probes and seen.probes[node].has_answered]
    failing = sum(probed.fails for probed in reachable)
    return failing > 1 and failing > MOST_FAILING * len(reachable)


def _why_let_go(node: str, seen: Seen, probed: Probed) -> str:
    if node not in seen.nodes:
        return "its time is over, and the node is gone"
    return "its time is over, and it answers" if probed.has_answered and not probed.failed else "its time is over"
