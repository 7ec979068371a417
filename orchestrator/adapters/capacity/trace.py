"""Devices as a recorded series had them, replayed from the moment when this process began to look: for rehearsals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.policy.queueing.from_spec import pool_of
from orchestrator.policy.queueing.places import Node, Pool
from orchestrator.sim.series import CapacitySeries, load_series
from orchestrator.spec.cluster_pools import Pool as PoolSpec
from orchestrator.spec.cluster_pools import TraceCapacity
from orchestrator.spec.errors import UserError


class TraceSource:
    """Pools that replay columns of series; after the last row the last count stays. `base`: what paths are relative to.

    Raises: UserError for a file that is no series, or a column that it does not have.
    """

    def __init__(self, pools: Iterable[PoolSpec], base: Path, now_s: Callable[[], float]) -> None:
        self._pools = tuple(pools)
        self._now_s = now_s
        self._began_s = now_s()
        self._series: dict[Path, CapacitySeries] = {}
        self._columns = {spec.name: self._column(spec, base) for spec in self._pools}
        self._seen: dict[str, tuple[int, Pool]] = {}

    def _column(self, spec: PoolSpec, base: Path) -> tuple[CapacitySeries, int, bool]:
        source = spec.capacity
        assert isinstance(source, TraceCapacity), "only pools that are read from a trace come here"
        path = base / source.trace
        if path not in self._series:
            self._series[path] = load_series(path)
        series = self._series[path]
        if source.column not in series.pools:
            problem = f"pool {spec.name!r} reads column {source.column!r}; there are {', '.join(series.pools)}"
            raise UserError(problem, where=str(path))
        return series, series.pools.index(source.column), source.loss == "debounced"

    def observe(self) -> tuple[Pool, ...]:
        """All pools as of the series' own time."""
        return tuple(self._pool(spec) for spec in self._pools)

    def _pool(self, spec: PoolSpec) -> Pool:
        """What has not changed is the same object as before."""
        count = self._count(spec)
        before = self._seen.get(spec.name)
        if before is None or before[0] != count:
            self._seen[spec.name] = before = (count, pool_of(spec, _nodes(spec, count)))
        return before[1]

    def _count(self, spec: PoolSpec) -> int:
        series, column, debounced = self._columns[spec.name]
        at = min(int((self._now_s() - self._began_s) // series.tick_s), series.num_ticks - 1)
        count = int(series.counts[at, column])
        if debounced and at > 0:
            count = max(count, int(series.counts[at - 1, column]))
        return count if spec.count is None else min(count, spec.count)


def _nodes(spec: PoolSpec, count: int) -> tuple[Node, ...]:
    """The last node may have fewer devices than the others."""
    return tuple(
        Node(name=f"{spec.name}-{number}", devices=min(spec.devices_per_node, count - first))
        for number, first in enumerate(range(0, count, spec.devices_per_node))
    )
