"""A chore of the leader: nodes on which workers die again and again, or that do not answer, are held back for a while.

Deaths are events in the books, and so are holds: a leader that begins knows all that the one before it knew, but for
probes, which it makes again. What follows from them, `policy.node_health` decides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import structlog

from orchestrator.ledger.node_holds import RELEASED
from orchestrator.ledger.repository import Ledger
from orchestrator.policy.node_health import Death, HealthRules, NodeHold, Probed, Release, Seen, judge_nodes
from orchestrator.policy.queueing.orders import NoteKind
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.ports import Capacity

log = structlog.get_logger(__name__)

_KINDS = frozenset({NoteKind.WORKER_DIED.value, RELEASED})
_PROBES_AT_ONCE = 8


class HeldCapacity:
    """Capacity as somebody else sees it, with nodes that are held back marked so: what runs there goes elsewhere."""

    def __init__(self, capacity: Capacity, holds: Callable[[], Mapping[str, NodeHold]]) -> None:
        self._capacity = capacity
        self._holds = holds
        self._known: dict[str, tuple[Pool, Mapping[str, NodeHold], Pool]] = {}
        self._seen: tuple[Pool, ...] = ()

    def observe(self) -> tuple[Pool, ...]:
        """All pools; what has not changed is the same object as before."""
        self._seen, holds = self._capacity.observe(), self._holds()
        fresh: dict[str, tuple[Pool, Mapping[str, NodeHold], Pool]] = {}
        for pool in self._seen:
            found = self._known.get(pool.name)
            if found is None or found[0] is not pool or found[1] is not holds:
                found = (pool, holds, _marked(pool, holds))
            fresh[pool.name] = found
        self._known = fresh
        return tuple(fresh[pool.name][2] for pool in self._seen)

    def nodes(self) -> frozenset[str]:
        """Names of the nodes that were seen last."""
        return frozenset(node.name for pool in self._seen for node in pool.nodes)


def _marked(pool: Pool, holds: Mapping[str, NodeHold]) -> Pool:
    if not any(node.name in holds for node in pool.nodes):
        return pool
    return replace(pool, nodes=tuple(_mark(node, holds.get(node.name)) for node in pool.nodes))


def _mark(node: Node, hold: NodeHold | None) -> Node:
    """A node that leaves anyway is more than held back."""
    if hold is None or node.state is NodeState.LEAVING:
        return node
    # Later than any grace: what runs there is given the usual one.
    return replace(node, state=NodeState.HELD, leaves_at_s=hold.since_s + 10 * 365 * 86_400.0)


class Probes:
    """Asks the daemons of nodes whether they live, on threads of its own. `targets`: node -> address."""

    def __init__(self, targets: Callable[[], Mapping[str, str]], ask: Callable[[str], bool]) -> None:
        self._targets = targets
        self._ask = ask
        self._lock = threading.Lock()
        self._known: dict[str, Probed] = {}
        self._asked_at_s = float("-inf")
        self._thread: threading.Thread | None = None

    def ask_if_due(self, now_s: float, every_s: float) -> None:
        """Begin a round if the last one is long enough ago and over; never blocks."""
        if 0 <= now_s - self._asked_at_s < every_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._asked_at_s = now_s
        targets = dict(self._targets())
        self._thread = threading.Thread(target=self._round, args=(targets,), name="probes", daemon=True)
        self._thread.start()

    def known(self) -> Mapping[str, Probed]:
        """What all rounds so far say, of nodes that were there in the last one."""
        with self._lock:
            return dict(self._known)

    def join(self) -> None:
        """Wait for the round that goes on."""
        if self._thread is not None:
            self._thread.join()

    def _round(self, targets: dict[str, str]) -> None:
        with ThreadPoolExecutor(_PROBES_AT_ONCE, thread_name_prefix="probe") as pool:
            answered = dict(zip(targets, pool.map(self._asked, targets.values()), strict=True))
        with self._lock:
            self._known = {node: _after(self._known.get(node, Probed()), ok) for node, ok in answered.items()}

    def _asked(self, address: str) -> bool:
        try:
            return self._ask(address)
        except Exception as error:
            log.warning("a probe failed by itself", address=address, error=str(error))
            return True  # our own fault is nobody's illness


def _after(before: Probed, ok: bool) -> Probed:
    return Probed(has_answered=True) if ok else replace(before, failed=before.failed + 1)


@dataclass(slots=True)
class NodeHealth:
    """Looks at every node before each cycle. `nodes`: those that were seen last. `probes` None: nobody is asked."""

    ledger: Ledger
    nodes: Callable[[], Collection[str]]
    probes: Probes | None = None
    _rules: tuple[int, HealthRules, float] | None = None
    _read_until: int | None = None
    _deaths: list[Death] = field(default_factory=list)
    _released_s: dict[str, float] = field(default_factory=dict)

    def __call__(self, now_s: float) -> float | None:
        """Hold back and let go what is due. Raises: what the ledger raises."""
        found = self._follow_rules()
        if found is None:
            return None
        rules, every_s = found
        self._read(now_s, rules)
        if self.probes is not None:
            self.probes.ask_if_due(now_s, every_s)
        seen = Seen(
            nodes=self.nodes(),
            deaths=tuple(self._deaths),
            probes={} if self.probes is None else self.probes.known(),
            holds=self.ledger.node_holds,
            released_s=self._released_s,
        )
        for change in judge_nodes(seen, rules, now_s=now_s):
            self._do(change)
        return None

    def _do(self, change: NodeHold | Release) -> None:
        if isinstance(change, NodeHold):
            self.ledger.hold_node(change)
            log.error("a node is held back", node=change.node, cause=change.cause, detail=change.detail)
        else:
            self.ledger.release_node(change.node, detail=change.detail)
            log.info("a node is let go", node=change.node, detail=change.detail)

    def _follow_rules(self) -> tuple[HealthRules, float] | None:
        """What the Cluster that holds says; None while there is none."""
        generation = self.ledger.read.generation()
        if self._rules is None or self._rules[0] != generation:
            found = self.ledger.read.cluster()
            if found is None:
                return None
            said = found[1].spec.health
            rules = HealthRules(
                failed_probes=said.failed_probes,
                worker_deaths=said.worker_deaths,
                within_s=said.within,
                hold_s=said.hold,
            )
            self._rules = (generation, rules, said.probe_every)
        return self._rules[1], self._rules[2]

    def _read(self, now_s: float, rules: HealthRules) -> None:
        """Deaths and releases since the last look; the first time, all that still matter."""
        read, until = self.ledger.read, self.ledger.read.last_event()
        if self._read_until is None:
            self._read_until = read.event_before(round((now_s - rules.within_s) * 1000))
        if until > self._read_until:
            for event in read.events_of(_KINDS, after=self._read_until, until=until):
                if event.kind == RELEASED:
                    self._released_s[event.data["node"]] = event.at_ms / 1000
                else:
                    died_s = event.data["happened_ms"] / 1000
                    self._deaths.append(Death(node=event.data["node"], job=event.job or "", at_s=died_s))
            self._read_until = until
        oldest_s = now_s - rules.within_s
        self._deaths = [one for one in self._deaths if one.at_s > oldest_s]
        self._released_s = {node: at_s for node, at_s in self._released_s.items() if at_s > oldest_s}
