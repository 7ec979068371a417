"""Sends a node's parts to its peers: newest snapshot first, block by block, resumable, bounded.

Level-triggered: what is missing is worked out again from what is held, so nothing is lost when a peer, a connection or
this keeper dies. Each `pump` sends one block, so as many blocks are in flight as threads pump; `max_bytes_per_s` keeps
the pace where the network is shared with training.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import structlog

from jobs.train import wire
from jobs.train.keeper.faults import Faults, Point, no_faults
from jobs.train.keeper.landing import STALE
from jobs.train.keeper.store import PartStore, SealedPart
from jobs.train.keeper.transport import PeerGoneError, PeerRefusedError, PeerTransport
from jobs.train.keeper.values import AttemptPlan, PartKey

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Wait before a peer that failed is tried again: doubling from `first_s` to `most_s`."""

    first_s: float
    most_s: float

    def wait_s(self, failures: int) -> float:
        """After this many failures in a row (1 or more)."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))


def is_responsible(node: str, origin: str, plan: AttemptPlan) -> bool:
    """Whether `node` sees to the copies of parts from `origin`: its own, and those of nodes that are gone."""
    return origin == node or origin not in plan.nodes


def wanted_copies(
    node: str,
    parts: Collection[tuple[PartKey, str]],
    plan: AttemptPlan,
    copies: Mapping[PartKey, Collection[str]],
) -> list[tuple[PartKey, str]]:
    """Which parts (key, origin) should go to which peer, newest snapshot first. Pure.

    `copies`: nodes known to have a part, or to refuse it for good. A copy on a node that is leaving does not count, and
    none is sent there.
    """
    peers = [peer for peer in plan.mirrors.get(node, ()) if peer not in plan.leaving]
    staying = set(plan.nodes) - set(plan.leaving) - {node}
    wanted = []
    for key, origin in sorted(parts, reverse=True):
        have = set(copies.get(key, ())) | {origin}
        if is_responsible(node, origin, plan):
            lacking = len(plan.mirrors.get(node, ())) - len(have & staying)
            wanted += [(key, peer) for peer in peers if peer not in have][: max(0, lacking)]
    return wanted


@dataclass(eq=False)
class _Transfer:
    part: SealedPart
    peer: str
    missing: deque[int]
    in_flight: int = 0


@dataclass(slots=True)
class _Peer:
    failures: int = 0
    retry_at_s: float = 0.0
    error: str = ""


@dataclass
class _State:
    copies: dict[PartKey, set[str]] = field(default_factory=dict)
    transfers: dict[tuple[PartKey, str], _Transfer] = field(default_factory=dict)
    peers: dict[str, _Peer] = field(default_factory=dict)
    opening: set[tuple[PartKey, str]] = field(default_factory=set)


class Mirror:
    """One keeper's outgoing side. Thread-safe; network and hashing happen outside the lock."""

    def __init__(
        self,
        node: str,
        store: PartStore,
        transport: PeerTransport,
        plans: Callable[[], Collection[AttemptPlan]],
        *,
        retry: Retry,
        max_bytes_per_s: float,
        clock: Callable[[], float],
        faults: Faults = no_faults,
    ) -> None:
        """`plans`: the attempts under way; `max_bytes_per_s`: for one pumping thread, 0 is no limit; `clock`: monotonic
        seconds."""
        self._node = node
        self._store = store
        self._transport = transport
        self._plans = plans
        self._retry = retry
        self._max_bytes_per_s = max_bytes_per_s
        self._clock = clock
        self._faults = faults
        self._lock = threading.Lock()
        self._state = _State()
        self._error = ""

    @property
    def error(self) -> str:
        """Why some peer has no copy; "" while mirroring works. Takes no lock: others ask under theirs."""
        return self._error

    def forget(self, run: str) -> None:
        """The world of a run has changed: who has what is asked anew, and every peer gets a new chance."""
        with self._lock:
            for key in [key for key in self._state.copies if key.snapshot.run == run]:
                del self._state.copies[key]
            self._state.transfers = {k: t for k, t in self._state.transfers.items() if k[0].snapshot.run != run}
            self._state.peers.clear()
            self._error = ""

    def pump(self) -> float | None:
        """Send one block, or ask one peer what it lacks. Seconds until the next call; None: not before news."""
        started_s = self._clock()
        found = self._next_block()
        if found is not None:
            nbytes = self._send(*found)
            spent_s = self._clock() - started_s
            return max(0.0, nbytes / self._max_bytes_per_s - spent_s) if self._max_bytes_per_s else 0.0
        return 0.0 if self._open_next() else self._next_retry_s()

    def _next_retry_s(self) -> float | None:
        """Seconds until a peer that failed may be tried again; None if none has failed.

        A peer whose time has come without anything to send to it has nothing to make good any more.
        """
        now_s = self._clock()
        with self._lock:
            for node in [node for node, peer in self._state.peers.items() if peer.retry_at_s <= now_s]:
                self._recovered(node)
            return min((peer.retry_at_s - now_s for peer in self._state.peers.values()), default=None)

    def _recovered(self, node: str) -> None:
        """The peer works, or is not needed. Call with the lock."""
        self._state.peers.pop(node, None)
        self._error = next((peer.error for peer in self._state.peers.values()), "")

    def _wanted(self, plans: Collection[AttemptPlan]) -> list[tuple[PartKey, str]]:
        """Copies to make, of all runs, peers that are being left alone for now not among them. Call with the lock."""
        now_s = self._clock()
        found: list[tuple[PartKey, str]] = []
        for plan in plans:
            parts = [(part.meta.key, part.meta.origin) for part in self._store.sealed(plan.run)]
            found += wanted_copies(self._node, parts, plan, self._state.copies)
        return [w for w in found if self._state.peers.get(w[1], _Peer()).retry_at_s <= now_s]

    def _next_block(self) -> tuple[_Transfer, int] | None:
        """A block of the copy that matters most; None if its blocks are all under way, or it is not offered yet."""
        plans = self._plans()
        with self._lock:
            wanted = self._wanted(plans)
            for name in set(self._state.transfers) - set(wanted):
                del self._state.transfers[name]
            for name in wanted:
                transfer = self._state.transfers.get(name)
                if transfer is None:
                    return None
                if transfer.missing:
                    transfer.in_flight += 1
                    return transfer, transfer.missing.popleft()
                if not transfer.in_flight:
                    del self._state.transfers[name]  # all sent, yet not sealed there: offer it again
                    return None
            return None

    def _open_next(self) -> bool:
        """Offer the next part to its peer; False if there is none that nobody is offering already."""
        plans = self._plans()
        with self._lock:
            known = self._state.transfers.keys() | self._state.opening
            name = next((name for name in self._wanted(plans) if name not in known), None)
            part = self._store.get(name[0]) if name else None
            if name is None or part is None:
                return False
            self._state.opening.add(name)
        try:
            self._offer(name, part)
        finally:
            with self._lock:
                self._state.opening.discard(name)
        return True

    def _offer(self, name: tuple[PartKey, str], part: SealedPart) -> None:
        try:
            reply = self._transport.call(name[1], "offer", {"part": wire.dump(part.meta).decode()})
        except (PeerGoneError, PeerRefusedError) as error:
            self._failed(name, error)
            return
        transfer = _Transfer(part, name[1], deque(reply.fields["missing"]))
        with self._lock:
            self._recovered(name[1])
            if transfer.missing:
                self._state.transfers[name] = transfer
            else:
                self._done(name)

    def _send(self, transfer: _Transfer, index: int) -> int:
        """Send one block; returns its size."""
        key = transfer.part.meta.key
        name = (key, transfer.peer)
        start = index * self._store.block_bytes
        data = transfer.part.data()[start : start + self._store.block_bytes]
        self._faults(Point.MIRROR_BEFORE_BLOCK)
        try:
            reply = self._transport.call(transfer.peer, "block", {"key": wire.dump(key).decode(), "index": index}, data)
        except (PeerGoneError, PeerRefusedError) as error:
            self._failed(name, error)
            return len(data)
        self._faults(Point.MIRROR_AFTER_BLOCK)
        with self._lock:
            transfer.in_flight -= 1
            if reply.fields["sealed"]:
                self._done(name)
        return len(data)

    def _done(self, name: tuple[PartKey, str]) -> None:
        """The peer has the part. Call with the lock."""
        key, peer = name
        self._state.transfers.pop(name, None)
        self._state.copies.setdefault(key, set()).add(peer)
        held = {part.meta.key for part in self._store.sealed()}
        for gone in self._state.copies.keys() - held:
            del self._state.copies[gone]

    def _failed(self, name: tuple[PartKey, str], error: PeerGoneError | PeerRefusedError) -> None:
        """Leave the peer alone for a while; a later offer finds out what it still lacks."""
        key, node = name
        with self._lock:
            self._state.transfers.pop(name, None)
            if isinstance(error, PeerRefusedError) and error.code == STALE:
                # It will not take this part, ever: an older snapshot than it cares for.
                self._state.copies.setdefault(key, set()).add(node)
                return
            peer = self._state.peers.setdefault(node, _Peer())
            peer.failures += 1
            peer.retry_at_s = self._clock() + self._retry.wait_s(peer.failures)
            peer.error = self._error = f"node {node} has no copy of rank {key.rank}'s part: {error}"
        _log.warning("mirror failed", peer=node, error=str(error), failures=peer.failures)
