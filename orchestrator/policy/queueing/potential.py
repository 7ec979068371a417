"""The quantity that every preemption lowers: why the queues cannot chase each other's devices in circles.

Three layers, compared in this order, each from the highest class down: devices of minimums that are covered by what
their tenants brought; devices of minimums covered by nominal quotas; devices of minimums at all. A recall raises the
first layer; a reclaim raises the second and touches nothing owned; a priority claim raises its class in the second or
third layer and touches only lower classes; a fairness claim raises the third and stops nobody. Starts raise a layer,
growth and shrinking change none. So the negated tuple falls with every claim that is carried out, and a cluster of
finite size comes to rest (tests/policy/queueing/test_no_thrash.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.policy.queueing.board import Sitting, set_up
from orchestrator.policy.queueing.rights import rank_sittings
from orchestrator.policy.queueing.values import Snapshot


def potential(snapshot: Snapshot, classes: Sequence[int]) -> tuple[int, ...]:
    """The potential of who runs now; smaller is nearer to rest. `classes`: all priorities, also of those who wait."""
    board = set_up(snapshot)
    ranking, sittings = rank_sittings(board), board.sittings.values()
    owned = (one for one in sittings if one.job.id in ranking.owned)
    secured = (one for one in sittings if one.job.id in ranking.secured)
    return tuple(-layer for part in (owned, secured, sittings) for layer in _by_class(part, classes))


def _by_class(sittings: Iterable[Sitting], classes: Sequence[int]) -> list[int]:
    devices = dict.fromkeys(sorted(classes, reverse=True), 0)
    for sitting in sittings:
        devices[sitting.job.priority] += sitting.job.min_devices
    return list(devices.values())
