"""Asks for nodes and gives them back: the one writer of the sizes of a RayCluster's groups.

Called by the leader alone. What cannot be done now is done at a later call; a group that must not be sized is left
alone, and why is logged once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog

from orchestrator.adapters.capacity.kuberay.api import ConflictError, KubeApi
from orchestrator.adapters.capacity.kuberay.objects import Group, group_of
from orchestrator.adapters.capacity.kuberay.sizing import Resized, patch, resized, room
from orchestrator.adapters.capacity.kuberay.source import KubeRaySource, Look
from orchestrator.policy.queueing.wanted import Need, Room
from orchestrator.spec.cluster_pools import KubeRayCapacity
from orchestrator.spec.cluster_pools import Pool as PoolSpec
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)

TRIES = 3
"""Somebody else (the operator, which writes the status) may change the object between reading and patching."""


class WorkerGroups:
    """The groups of one RayCluster whose pools say `scale: true`; `path`: the RayCluster's own."""

    def __init__(self, pools: Iterable[PoolSpec], source: KubeRaySource, api: KubeApi, path: str) -> None:
        self._pools = tuple(pools)
        self.names = tuple(spec.name for spec in self._pools)
        self._source, self._api, self._path = source, api, path
        self._empty_since: dict[str, dict[str, float]] = {}
        self._told: dict[str, str] = {}

    def rooms(self) -> dict[str, Room]:
        """How far each pool could grow now; one that must not be sized is not named. Raises: UnreachableError."""
        found = {}
        for spec in self._pools:
            look = self._look(spec)
            if look is not None:
                more = room(look.group, len(look.nodes), count=spec.count, devices_per_node=spec.devices_per_node)
                place = tuple(spec.topology.split("/")) if spec.topology else ()
                found[spec.name] = Room(nodes=more, devices=spec.devices_per_node, place=place)
        return found

    def settle(self, needs: Mapping[str, Need], now_s: float) -> None:
        """Set every group that is named to what is needed. Raises: UnreachableError."""
        for spec in self._pools:
            look = self._look(spec) if spec.name in needs else None
            if look is not None:
                need = needs[spec.name]
                self._settle(spec, look, need.more, self._idle(spec, look, need.spare, now_s))

    def close(self) -> None:
        """Nothing is sized any more."""
        self._api.close()

    def _look(self, spec: PoolSpec) -> Look | None:
        try:
            look = self._source.look(spec)
        except UserError:
            return None  # the source says it
        if look.group.unsized != self._told.get(spec.name, ""):
            self._told[spec.name] = look.group.unsized
            log.warning("a worker group is not sized", pool=spec.name, why=look.group.unsized)
        return None if look.group.unsized else look

    def _settle(self, spec: PoolSpec, look: Look, more: int, spare: Iterable[str]) -> None:
        group = look.group
        for _ in range(TRIES):
            change = resized(group, look.pods, look.nodes.values(), more=more, spare=spare)
            if change is None:
                return
            try:
                self._api.patch(self._path, patch(group, change))
            except ConflictError:
                group = group_of(self._api.get(self._path), group.name)
                if group.unsized:
                    return
                continue
            self._done(spec.name, group, change)
            return
        log.warning("a worker group keeps changing; it is sized at the next look", pool=spec.name)

    def _idle(self, spec: PoolSpec, look: Look, empty: Iterable[str], now_s: float) -> list[str]:
        """Pods of nodes that were empty at every look for so long."""
        assert isinstance(spec.capacity, KubeRayCapacity), "only worker groups come here"
        before = self._empty_since.get(spec.name, {})
        since = {pod: before.get(pod, now_s) for pod in (look.nodes.get(node) for node in empty) if pod is not None}
        self._empty_since[spec.name] = since
        return sorted(pod for pod, at_s in since.items() if now_s - at_s >= spec.capacity.idle)

    def _done(self, pool: str, group: Group, change: Resized) -> None:
        self._source.removing |= set(change.remove)
        log.info(
            "sized a worker group", pool=pool, before=group.replicas, now=change.replicas, gives_back=change.remove
        )
